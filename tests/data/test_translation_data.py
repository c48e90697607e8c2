"""Sentence pairs from a config to batches: vocabularies, what is too long, and what may not leak."""

import dataclasses
import re

import numpy as np
import pytest

from tformer_jax.config import ConfigError, build
from tformer_jax.data.files import DataError
from tformer_jax.data.tokenizers import BOS_ID, EOS_ID, PAD_ID
from tformer_jax.data.translation import Tokenizers, TranslationData, TranslationDataConfig

FIELDS = dict(
    source="files",
    tsv_file="corpus.tsv",
    split="sentence",
    validation_size=6,
    test_size=8,
    vocab_size=300,
    batch_tokens=64,
    batching="buckets",
    num_buckets=2,
)
PACKED = dict(batching="packed", num_buckets=None, row_length=40)
SEPARATE = dict(source_vocab_size=290)


@pytest.fixture
def corpus(write, sentences):
    return write("corpus.tsv", "".join(f"{source}\t{target}\n" for source, target in sentences))


@pytest.fixture
def make(corpus, tmp_path):
    """`make(max_length, directory, **changes)`: the data of a config."""

    def make(max_length=60, directory="run", **changes):
        (tmp_path / directory).mkdir(exist_ok=True)
        config = TranslationDataConfig(**(FIELDS | {"tsv_file": str(corpus)} | changes))
        return TranslationData(config, max_length, tmp_path / directory)

    return make


def test_pairs_with_an_empty_side_are_left_out_and_counted(make, write, sentences):
    """Training would be on empty targets: blank lines are common where texts were aligned by hand."""
    lines = [f"{source}\t{target}\n" for source, target in sentences]
    blank = write("blank.tsv", "".join([*lines[:9], "a source alone\t \n", *lines[9:], "\ta target alone\n"]))
    data = make(directory="blank", tsv_file=str(blank))
    assert sum(map(len, data.splits.values())) == sum(map(len, make().splits.values()))
    assert f"2 of {len(lines) + 2:,} pairs have an empty side and are left out" in data.report


def test_packed_rows_are_no_longer_than_the_model_reads(make, write):
    """The padding of a row counts positions too, and beyond the last one they are NaN: so is the loss."""
    pairs = "".join(f"{'many more words than that ' * 2}{i}\tw{i}\n" for i in range(60))
    batches = make(40, tsv_file=str(write("long.tsv", pairs)), **PACKED | {"batch_tokens": 80}).train_batches()
    assert batches.batch(0)["source"].shape[1] <= 40


# Vocabularies ----------------------------------------------------------------------------------


def test_one_vocabulary_is_shared_by_default(make):
    """Shared embeddings would mix up the ids of two vocabularies."""
    data = make()
    assert data.tokenizers.source is data.tokenizers.target
    assert data.tokenizers.target.get_vocab_size() == 300


def test_a_shared_vocabulary_is_trained_on_both_sides(make):
    """Words of one language would fall apart into bytes."""
    data = make(vocab_size=340)
    for tokens in (data.tokenizers.encode_sources(["today"]), data.tokenizers.encode_sources(["TODAY"])):
        assert len(tokens[0]) == 1


def test_separate_vocabularies_have_their_own_sizes_and_sides(make):
    """`data.source_vocab_size` would turn nothing, or each side would be encoded with the other's words."""
    data = make(**SEPARATE | {"vocab_size": 310})
    assert (data.tokenizers.source.get_vocab_size(), data.tokenizers.target.get_vocab_size()) == (290, 310)
    assert len(data.tokenizers.encode_sources(["today"])[0]) < len(data.tokenizers.encode_sources(["TODAY"])[0])
    assert len(data.tokenizers.encode_targets(["TODAY"])[0]) < len(data.tokenizers.encode_targets(["today"])[0])


def test_targets_stand_between_start_and_end(make):
    """The decoder would have nothing to start from, or would never learn to stop."""
    tokens = make().tokenizers.encode_targets(["THE CAT", ""])
    assert all(ids[0] == BOS_ID and ids[-1] == EOS_ID for ids in tokens)
    assert not {BOS_ID, EOS_ID, PAD_ID} & set(tokens[0][1:-1])
    assert tokens[1] == [BOS_ID, EOS_ID]


@pytest.mark.parametrize("changes", [{}, SEPARATE], ids=["shared", "separate"])
def test_tokenizers_are_reused_from_the_directory(make, write, changes, tmp_path):
    """Tokenizers that were put there would be trained again: other text must change nothing."""
    before = make(**changes).tokenizers
    (tmp_path / "run" / "data.json").unlink()
    other = write("other.tsv", "".join(f"völlig anders {i}\tGANZ VERSCHIEDEN {i}\n" for i in range(40)))
    after = make(**changes | {"tsv_file": str(other)}).tokenizers
    assert after.source.to_str() == before.source.to_str()
    assert after.target.to_str() == before.target.to_str()


@pytest.mark.parametrize(
    ("changes", "files"), [({}, ["tokenizer.json"]), (SEPARATE, ["source_tokenizer.json", "tokenizer.json"])]
)
def test_tokenizers_are_kept_in_the_directory(make, tmp_path, changes, files):
    """A run could not be evaluated later."""
    make(**changes)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == sorted(["data.json", *files])


def test_a_run_stopped_between_its_two_tokenizers_does_not_share_one(make, tmp_path):
    """Killed after the first file, the run would go on with the target's vocabulary on the source side."""
    make(**SEPARATE | {"vocab_size": 310})
    (tmp_path / "run" / "source_tokenizer.json").unlink()
    data = make(**SEPARATE | {"vocab_size": 310})
    assert data.tokenizers.source.get_vocab_size() == 290


def test_missing_tokenizers_are_a_config_error(tmp_path):
    """Evaluating a run that lost its tokenizer would end in a traceback."""
    with pytest.raises(ConfigError, match="tokenizer.json"):
        Tokenizers.load(tmp_path)


def test_a_vocabulary_without_room_for_merges_is_a_config_error(make):
    """A user who asks for 200 tokens would see a traceback instead of the field's name."""
    with pytest.raises(ConfigError, match="vocab_size must exceed 259"):
        make(vocab_size=200)


def test_held_out_text_does_not_reach_the_tokenizer(make, write):
    """The vocabulary would know the test set: every pair has its own character, three bytes in UTF-8.

    Those of the training pairs are merged into fewer tokens, those of the others must not be.
    """
    own = [chr(0x4E00 + 97 * i) for i in range(24)]
    file = write("own.tsv", "".join(f"pair {i} {c * 30}\tPAIR {i} {c * 30}\n" for i, c in enumerate(own)))
    data = make(directory="own", tsv_file=str(file), vocab_size=420)
    tokens = dict(zip(own, data.tokenizers.encode_sources([f"a{c}" for c in own]), strict=True))
    for name, pairs in data.splits.items():
        for pair in pairs:
            merged = len(tokens[pair.source[-1]]) < 1 + 1 + 3  # the blank before it, the letter, the three bytes
            assert merged == (name == "train"), pair


# Splits and batches ----------------------------------------------------------------------------


def test_the_splits_have_the_asked_sizes(make, sentences):
    """`data.validation_size` and `data.test_size` would turn nothing, or each other."""
    splits = make().splits
    assert (len(splits["train"]), len(splits["validation"]), len(splits["test"])) == (46, 6, 8)
    assert sorted((p.source, p.target) for part in splits.values() for p in part) == sorted(sentences)


def test_the_seed_reaches_the_split(make):
    """`data.seed` would turn nothing."""
    assert set(make().splits["test"]) != set(make(directory="other", seed=1).splits["test"])


def rows_of(data, batches):
    """The pairs in an epoch of bucket batches, decoded."""
    for i in range(len(batches)):
        batch = batches.batch(i)
        for s, m, t, n in zip(*(batch[f"{a}{b}"] for a in ("source", "target") for b in ("", "_lengths")), strict=True):
            if n:
                assert t[0] == BOS_ID
                assert t[n - 1] == EOS_ID
                yield tuple(
                    tok.decode(list(x)).strip() for tok, x in zip(data.tokenizers[:2], (s[:m], t[:n]), strict=True)
                )


@pytest.mark.parametrize("changes", [{}, SEPARATE], ids=["shared", "separate"])
def test_training_batches_hold_the_training_pairs(make, changes):
    """Pairs would be lost, cut, or encoded with the wrong side's tokenizer."""
    data = make(**changes)
    assert sorted(rows_of(data, data.train_batches())) == sorted((p.source, p.target) for p in data.splits["train"])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluation_batches_hold_their_split(make, split):
    """The loss would be that of another split, or of part of it."""
    data = make()
    pairs = [(p.source, p.target) for p in data.splits[split]]
    assert sorted(rows_of(data, data.evaluation_batches(split))) == sorted(pairs)


def test_packed_batches_fit_the_rows(make):
    """Rows would be longer than `data.row_length`, or a batch would have more slots than `data.batch_tokens`."""
    batch = make(**PACKED | {"batch_tokens": 80}).train_batches().batch(0)
    assert batch["target"].shape == (2, 40 + 1)  # the last token is only a target, never read
    assert batch["source"].shape[0] == 2


def test_evaluation_batches_keep_their_order(make):
    """The loss would depend on the shuffle, and its batches would not be the same at every evaluation."""
    first, second = make().evaluation_batches("test"), make(seed=0).evaluation_batches("test")
    for i in range(len(first)):
        assert first.batch(i)["target"].tobytes() == second.batch(i + len(first))["target"].tobytes()


@pytest.mark.parametrize("changes", [{}, PACKED | {"batch_tokens": 140}], ids=["buckets", "packed"])
def test_training_batches_can_be_split_evenly(make, changes):
    """Gradient accumulation would fail on a batch that does not divide."""
    batches = make(**changes).train_batches(rows_multiple=3)
    assert {len(batches.batch(i)["target"]) % 3 for i in range(len(batches))} == {0}


def test_packed_rows_that_cannot_be_split_are_refused(make):
    """A batch would be larger than `batch_tokens` says, and with it memory and the meaning of the learning rate."""
    with pytest.raises(ConfigError, match=r"data\.batch_tokens=100 must hold 3 row\(s\) of 40 tokens"):
        make(**PACKED | {"batch_tokens": 100}).train_batches(rows_multiple=3)


@pytest.mark.parametrize("changes", [{}, PACKED], ids=["buckets", "packed"])
def test_the_seed_reaches_the_shuffle(make, changes):
    """Runs with different seeds would see their data in the same order: the same pairs, split apart by hand."""
    first, second = make(**changes), make(**changes)
    second.config = dataclasses.replace(second.config, seed=1)
    assert not np.array_equal(first.train_batches().batch(0)["target"], second.train_batches().batch(0)["target"])


# What is too long ------------------------------------------------------------------------------


def too_long(data, split, limit):
    """The pairs of a split with more than `limit` tokens on a side; a target has a start and an end besides."""
    pairs = data.splits[split]
    sources, targets = (
        [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
        for tokenizer, texts in zip(
            data.tokenizers[:2], ([p.source for p in pairs], [p.target for p in pairs]), strict=True
        )
    )
    return [p for p, s, t in zip(pairs, sources, targets, strict=True) if s > limit or t + 2 > limit]


def test_pairs_that_are_too_long_are_left_out_whole_and_counted(make):
    """Long sentences would be cut in the middle, or vanish without a word."""
    data = make(max_length=20)
    long = too_long(data, "train", 20)
    assert 0 < len(long) < len(data.splits["train"])
    kept = sorted(rows_of(data, data.train_batches()))
    assert kept == sorted((p.source, p.target) for p in data.splits["train"] if p not in long)
    line = f"{len(long)} of 46 train pairs exceed 20 tokens a side and are left out"
    assert data.report.count(line) == 1


def test_a_row_is_a_limit_too(make):
    """A pair longer than a packed row would be cut or would overflow it."""
    data = make(**PACKED | {"row_length": 20})
    long = too_long(data, "train", 20)
    data.train_batches()
    assert any(line.startswith(f"{len(long)} of 46 train pairs exceed 20 tokens") for line in data.report)


def test_a_source_row_has_its_share_and_longer_sources_are_left_out(make, write):
    """One long source would make every source row as long as itself, most of it padding."""
    long = "qwertzuiopasdfghjklyxcvbnm"
    lines = [f"{i:02}\tein Satz mit Wort {i:02}\n" for i in range(60)]
    file = write("long.tsv", "".join(lines) + f"{long}\tkurz\n")
    data = make(tsv_file=str(file), row_length=60, batching="packed", num_buckets=None, test_size=1, validation_size=1)
    assert long in [pair.source for pair in data.splits["train"]]
    batches = data.train_batches()
    assert batches.lengths[0] < len(long)
    assert len(batches.sequences[0]) == len(batches.sequences[1]) == 58
    assert f"1 of 59 train pairs exceed {batches.lengths[0]} source tokens and are left out" in data.report


def test_what_is_too_long_is_reported_once(make):
    """Every evaluation would repeat the line."""
    data = make(max_length=20)
    for _ in range(2):
        data.evaluation_batches("test")
    assert sum("test pairs exceed" in line for line in data.report) == 1


def test_nothing_that_fits_is_an_error(make):
    """Training would start on nothing: the data is in order, but the model is too short for it."""
    with pytest.raises(DataError, match="none of the 46 train pairs fits into 3 tokens"):
        make(max_length=3).train_batches()


def test_the_report_tells_the_sizes_of_the_splits(make):
    """A user would not see that the corpus is smaller than thought."""
    assert make().report == ["46 train, 6 validation, 8 test pairs (files, split by sentence)"]


@pytest.mark.parametrize("changes", [{}, PACKED], ids=["buckets", "packed"])
def test_the_report_tells_batches_and_padding(make, changes):
    """A user would not see how long an epoch is or how much of it is padding."""
    data = make(**changes)
    batches = data.train_batches()
    found = re.fullmatch(r"(\d+) training batches an epoch, ([\d.]+) % padding", data.report[-1])
    assert int(found[1]) == len(batches)
    assert float(found[2]) == pytest.approx(100 * batches.padding_share(), abs=0.05)


def test_files_are_read_side_by_side(write):
    """Source and target file would be swapped."""
    a, b = write("a.txt", "one\ntwo\n"), write("b.txt", "eins\nzwei\n")
    fields = FIELDS | {"tsv_file": None, "source_file": str(a), "target_file": str(b)}
    assert [tuple(p) for p in TranslationDataConfig(**fields).read()] == [("one", "eins", None), ("two", "zwei", None)]


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "interface_de"}, r"data\.source .*did you mean 'interface_en_de'"),
        ({"split": "groups"}, r"data\.split .*did you mean 'group'"),
        ({"batching": "bucket"}, r"data\.batching .*did you mean 'buckets'"),
        ({"num_buckets": None}, r"data\.num_buckets .*needed"),
        ({"row_length": 40}, r"data\.row_length goes with data\.batching='packed'"),
        (PACKED | {"row_length": None}, r"data\.row_length .*needed"),
        (PACKED | {"num_buckets": 2}, r"data\.num_buckets goes with data\.batching='buckets'"),
        ({"validation_size": 0}, r"data\.validation_size must be a positive integer, got 0"),
        ({"test_size": -1}, r"data\.test_size must be a positive integer, got -1"),
        ({"batch_tokens": 0}, r"data\.batch_tokens must be a positive integer, got 0"),
        ({"num_buckets": 0}, r"data\.num_buckets must be a positive integer, got 0"),
        (PACKED | {"row_length": 0}, r"data\.row_length must be a positive integer, got 0"),
        ({"source": "verses_en_fr"}, r"tsv_file goes with data\.source='files'; got .* with source='verses_en_fr'"),
        ({"tsv_file": None}, "needs source_file and target_file, or tsv_file"),
        ({"tsv_file": None, "source_file": "a"}, "needs source_file and target_file, or tsv_file"),
        ({"source_file": "a", "target_file": "b"}, "needs source_file and target_file, or tsv_file"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(changes, message):
    """A wrong value would be ignored, or surface far away."""
    with pytest.raises(ConfigError, match=message):
        build(TranslationDataConfig, FIELDS | changes, "data")
