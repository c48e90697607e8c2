"""Labelled texts from a config to batches: classes, what is too long, and what may not leak."""

import collections
import dataclasses
import re

import numpy as np
import pytest

from tformer_jax.config import ConfigError, build
from tformer_jax.data.classes import load_classes
from tformer_jax.data.files import DataError
from tformer_jax.data.sources import LabelledText
from tformer_jax.data.splits import split_examples
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.tokenizers import BOS_ID, EOS_ID, MASK, MASK_ID, decode, encode_framed, save, train_bpe

FIELDS = dict(
    source="files", validation_size=6, test_size=8, vocab_size=300, batch_tokens=64, num_buckets=2
)  # fmt: skip
NAMES = ("red", "blue", "green")


@pytest.fixture
def corpus(write, sentences):
    """60 texts of three classes, 20 each."""
    return write("corpus.tsv", "".join(f"{NAMES[i % 3]}\t{text}\n" for i, (text, _) in enumerate(sentences)))


@pytest.fixture
def make(corpus, tmp_path):
    """`make(max_length, directory, **changes)`: the data of a config."""

    def make(max_length=60, directory="run", **changes):
        (tmp_path / directory).mkdir(exist_ok=True)
        config = TextClassificationDataConfig(**(FIELDS | {"path": str(corpus)} | changes))
        return TextClassificationData(config, max_length, tmp_path / directory)

    return make


# Splits ----------------------------------------------------------------------------------------


def grouped(count=60):
    return [LabelledText(f"text {i % 50}", "ab"[i % 2], f"document {i % 12}") for i in range(count)]


def test_whole_documents_are_held_out():
    """The sentences of one review would be trained on and tested."""
    splits = split_examples(grouped(), by=None, validation_size=10, test_size=10, seed=0)
    groups = [{text.group for text in part} for part in splits.values()]
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_texts_without_documents_are_held_out_one_by_one():
    """All of them would be one document called None."""
    texts = [text._replace(group=None) for text in grouped(50)]
    splits = split_examples(texts, by=None, validation_size=10, test_size=10, seed=0)
    assert [len(part) for part in splits.values()] == [30, 10, 10]


@pytest.mark.parametrize("group", [True, False])
def test_no_training_text_is_held_out(group):
    """The model would be tested on what it has seen: ten texts stand here twice, in other documents."""
    texts = grouped() if group else [text._replace(group=None) for text in grouped()]
    splits = split_examples(texts, by=None, validation_size=10, test_size=10, seed=0)
    held_out = {text.text for text in [*splits["validation"], *splits["test"]]}
    assert held_out.isdisjoint(text.text for text in splits["train"])
    assert min(map(len, splits.values())) > 0


def test_texts_keep_their_labels():
    """Labels would be shuffled among the texts."""
    splits = split_examples(grouped(50), by=None, validation_size=5, test_size=5, seed=0)
    found = [text for part in splits.values() for text in part]
    assert sorted(found) == sorted(grouped(50))


def test_the_seed_and_the_sizes_reach_the_split(make):
    """`data.seed`, `data.validation_size` or `data.test_size` would turn nothing."""
    data = make()
    assert [len(part) for part in data.splits.values()] == [46, 6, 8]
    assert set(data.splits["test"]) != set(make(directory="other", seed=1).splits["test"])


# Classes ---------------------------------------------------------------------------------------


def test_classes_are_the_sorted_labels(make):
    """The order of a set would number them: a checkpoint would mean other classes in every process."""
    assert make().classes == ["blue", "green", "red"]


def test_classes_are_kept(make, tmp_path):
    """A run could not say what it predicts."""
    make()
    assert load_classes(tmp_path / "run") == ["blue", "green", "red"]


def test_one_class_is_an_error(make, write):
    """A model that always says the same would be trained and called perfect."""
    file = write("one.tsv", "".join(f"only\ttext {i}\n" for i in range(60)))
    with pytest.raises(DataError, match="all training texts have the label 'only'"):
        make(path=str(file))


def test_a_held_out_label_that_is_not_trained_on_is_named(make, tmp_path, sentences, write):
    """It would be counted as some other class, or stop evaluation after a long training."""
    text = make().splits["test"][0].text
    lines = (f"{'odd' if t == text else NAMES[i % 3]}\t{t}\n" for i, (t, _) in enumerate(sentences))
    file = write("odd.tsv", "".join(lines))
    with pytest.raises(DataError, match=rf"no training text has the label 'odd' of the test text '{text[:40]}'"):
        make(directory="odd", path=str(file))
    assert list((tmp_path / "odd").iterdir()) == []


def test_other_classes_than_the_kept_ones_are_named(make, tmp_path):
    """A model with two outputs would be trained on three classes."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "classes.json").write_text('["blue", "red"]')
    with pytest.raises(DataError, match=r"not those in .*classes.json: .*, \['green'\] are new"):
        make()


# The tokenizer ---------------------------------------------------------------------------------


def test_an_own_tokenizer_is_laid_out_like_a_pre_trained_one(make):
    """A classifier could not be compared with one that was pre-trained: it would have other special tokens."""
    tokenizer = make().tokenizer
    assert (tokenizer.get_vocab_size(), tokenizer.token_to_id(MASK)) == (300, MASK_ID)


def test_held_out_text_does_not_reach_the_tokenizer(make, write):
    """The vocabulary would know the test set: every text has its own character, three bytes in UTF-8."""
    own = [chr(0x4E00 + 97 * i) for i in range(24)]
    file = write("own.tsv", "".join(f"{'ab'[i % 2]}\t{c * 30}\n" for i, c in enumerate(own)))
    data = make(directory="own", path=str(file), vocab_size=420)
    for name, texts in data.splits.items():
        for text in texts:
            merged = len(encode_framed(data.tokenizer, [text.text[0]])[0]) < 2 + 3
            assert merged == (name == "train"), text


@pytest.mark.parametrize("vocab_size", [None, 320])
def test_a_pre_trained_tokenizer_is_taken_as_it_is(make, tmp_path, vocab_size):
    """Fine-tuning would read other token ids than pre-training did."""
    (tmp_path / "run").mkdir()
    own = train_bpe(["völlig anders"] * 30 + ["something else"] * 20, 290, lossless=True)
    save(own, tmp_path / "run" / "tokenizer.json")
    assert make(vocab_size=vocab_size).tokenizer.to_str() == own.to_str()


def test_a_tokenizer_must_come_from_somewhere(make):
    """A fine-tuning run without what it is to fine-tune would end in a traceback."""
    with pytest.raises(ConfigError, match=r"data\.vocab_size is needed .*there is none in .*run"):
        make(vocab_size=None)


def test_a_tokenizer_larger_than_asked_is_refused(make):
    """`data.vocab_size` would be ignored where a pre-trained tokenizer is taken."""
    make(vocab_size=320)
    with pytest.raises(ConfigError, match=r"data\.vocab_size=310, but the tokenizer in .* has 320; leave it None"):
        make(vocab_size=310)


# Batches ---------------------------------------------------------------------------------------


def rows_of(data, batches):
    """(text, label) of every row that is one, decoded."""
    for i in range(len(batches)):
        batch = batches.batch(i)
        for tokens, length, label in zip(*(batch[name] for name in ("tokens", "lengths", "labels")), strict=True):
            assert (length == 0) == (label == -1)
            if length:
                assert (tokens[0], tokens[length - 1]) == (BOS_ID, EOS_ID)
                yield decode(data.tokenizer, tokens[:length], strip=False), data.classes[label]


def test_training_batches_hold_the_training_texts(make):
    """Texts would be lost, cut, or have another text's label."""
    data = make()
    expected = sorted((text.text, text.label) for text in data.splits["train"])
    assert sorted(rows_of(data, data.train_batches())) == expected


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluation_batches_hold_their_split(make, split):
    """The accuracy would be that of another split, or of part of it."""
    data = make()
    batches = data.evaluation_batches(split)
    assert sorted(rows_of(data, batches)) == sorted((text.text, text.label) for text in data.splits[split])
    order = [e for i in range(len(batches)) for e in batches.indices(i)]
    assert [(data.splits[split][e].text, data.splits[split][e].label) for e in order] == list(rows_of(data, batches))


def test_batches_are_int32(make):
    """Another type would compile another program."""
    batch = make().train_batches().batch(0)
    assert {name: array.dtype for name, array in batch.items()} == dict.fromkeys(
        ("tokens", "lengths", "labels"), np.dtype(np.int32)
    )


def test_training_batches_have_few_shapes_of_the_asked_size(make):
    """`data.num_buckets` or `data.batch_tokens` would turn nothing."""
    batches = make().train_batches()
    shapes = {batches.batch(i)["tokens"].shape for i in range(len(batches))}
    assert len(shapes) == 2
    assert all(rows * length <= 64 for rows, length in shapes)


def test_training_batches_can_be_split_evenly(make):
    """Gradient accumulation would fail on a batch that does not divide."""
    batches = make().train_batches(rows_multiple=3)
    assert {len(batches.batch(i)["labels"]) % 3 for i in range(len(batches))} == {0}


def test_the_seed_reaches_the_shuffle(make):
    """Runs with different seeds would see their data in the same order: the same texts, split apart by hand."""
    first, second = make(), make()
    second.config = dataclasses.replace(second.config, seed=1)
    batches = [[data.train_batches().batch(i)["labels"].tolist() for i in range(4)] for data in (first, second)]
    assert batches[0] != batches[1]


# What is too long, and what is said ------------------------------------------------------------


def test_texts_that_are_too_long_are_left_out_whole_and_counted_once(make):
    """Long texts would be cut in the middle, or vanish without a word."""
    data = make(max_length=12)
    long = [text for text in data.splits["train"] if len(data.tokenizer.encode(text.text).ids) + 2 > 12]
    assert 0 < len(long) < 46
    for batches in (data.train_batches(), data.evaluation_batches("train")):
        kept = sorted((text.text, text.label) for text in data.splits["train"] if text not in long)
        assert sorted(rows_of(data, batches)) == kept
    assert data.report.count(f"{len(long)} of 46 train texts exceed 12 tokens and are left out") == 1


def test_nothing_that_fits_is_an_error(make):
    """Training would start on nothing: the data is in order, but the model is too short for it."""
    with pytest.raises(DataError, match="none of the 46 train texts fits into 3 tokens"):
        make(max_length=3).train_batches()


def test_the_report_tells_splits_and_classes(make):
    """A user would not see that the corpus is smaller, or more lopsided, than thought."""
    data = make()
    counts = collections.Counter(text.label for text in data.splits["train"])
    assert data.report == [
        "46 train, 6 validation, 8 test texts (files)",
        f"training texts by class: {counts['blue']} blue, {counts['green']} green, {counts['red']} red",
    ]


def test_the_report_tells_batches_and_padding(make):
    """A user would not see how long an epoch is or how much of it is padding."""
    data = make()
    batches = data.train_batches()
    found = re.fullmatch(r"(\d+) training batches an epoch, ([\d.]+) % padding", data.report[-1])
    epoch = [batches.batch(i) for i in range(len(batches))]
    padding = 1 - sum(b["lengths"].sum() for b in epoch) / sum(b["tokens"].size for b in epoch)
    assert (int(found[1]), float(found[2])) == (len(batches), pytest.approx(100 * padding, abs=0.05))


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "movie"}, r"data\.source .*did you mean 'movies'"),
        ({"path": None}, r"data\.path goes with data\.source='files', and is needed there"),
        ({"source": "movies"}, r"data\.path goes with data\.source='files'"),
        ({"validation_size": 0}, r"data\.validation_size must be a positive integer, got 0"),
        ({"test_size": -1}, r"data\.test_size must be a positive integer, got -1"),
        ({"vocab_size": 0}, r"data\.vocab_size must be from 1 to 1,000,000, got 0"),
        ({"batch_tokens": 0}, r"data\.batch_tokens must be a positive integer, got 0"),
        ({"num_buckets": 0}, r"data\.num_buckets must be a positive integer, got 0"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(changes, message):
    """A wrong value would be ignored, or surface far away."""
    with pytest.raises(ConfigError, match=message):
        build(TextClassificationDataConfig, FIELDS | {"path": "a.tsv"} | changes, "data")
