"""Running text from a config to batches: the tokenizer, what may not leak, and what the report promises."""

import dataclasses

import numpy as np
import pytest

from tformer_jax.config import ConfigError, build
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.files import DataError
from tformer_jax.data.masked_lm import MaskedLMData, MaskedLMDataConfig
from tformer_jax.data.sources import read_documents
from tformer_jax.data.splits import split_documents
from tformer_jax.data.tokenizers import BOS_ID, EOS_ID, MASK, MASK_ID, decode

FIELDS = dict(
    source="files", validation_share=0.1, test_share=0.1, vocab_size=300, row_length=16, batch_tokens=64
)  # fmt: skip
CHARACTERS = dict(tokenizer="characters", vocab_size=None)
BYTES = dict(tokenizer="bytes", vocab_size=None)


@pytest.fixture
def folder(tmp_path, sentences):
    """30 documents of two lines."""
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.txt").write_text("\n".join(sentences[number]) + "\n")
    return tmp_path / "texts"


@pytest.fixture
def make(folder, tmp_path, monkeypatch):
    """`make(kind, directory, **changes)`: the data of a config; kind is CausalLMData or MaskedLMData."""

    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))

    def make(kind=CausalLMData, directory="run", **changes):
        (tmp_path / directory).mkdir(exist_ok=True)
        config = {CausalLMData: CausalLMDataConfig, MaskedLMData: MaskedLMDataConfig}[kind]
        return kind(config(**(FIELDS | {"path": str(folder)} | changes)), tmp_path / directory)

    return make


BOTH = pytest.mark.parametrize("kind", [CausalLMData, MaskedLMData])
TOKENIZERS = pytest.mark.parametrize("changes", [{}, CHARACTERS, BYTES], ids=["bpe", "characters", "bytes"])


def texts_of(data, split):
    return [document.text for document in data.splits[split]]


def epoch_of(batches):
    return [batches.batch(i) for i in range(len(batches))]


# Tokenizers ------------------------------------------------------------------------------------


@TOKENIZERS
def test_only_masked_language_models_have_a_mask(make, changes):
    """A language model would carry a token it never sees, or a masked one could not mask."""
    assert make(CausalLMData, "a", **changes).tokenizer.token_to_id(MASK) is None
    assert make(MaskedLMData, "b", **changes).tokenizer.token_to_id(MASK) == MASK_ID


def test_the_bpe_has_the_asked_size(make):
    """`data.vocab_size` would turn nothing."""
    assert make(vocab_size=310).tokenizer.get_vocab_size() == 310


def test_characters_are_those_of_the_text(make):
    """A whole alphabet of rows in the embedding table would never be trained."""
    data = make(**CHARACTERS)
    assert data.tokenizer.get_vocab_size() == 4 + len(set("".join(texts_of(data, "train"))))


@BOTH
@TOKENIZERS
def test_the_tokenizer_is_reused_from_the_directory(make, kind, changes, tmp_path, write):
    """A run that starts from another would train a vocabulary of its own: other text must change nothing."""
    before = make(kind, **changes).tokenizer
    (tmp_path / "run" / "data.json").unlink()
    other = write("other.txt", "".join(f"völlig anders {i}\n" for i in range(40)))
    after = make(kind, **changes | {"path": str(other), "split": "tail"}).tokenizer
    assert after.to_str() == before.to_str()
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["data.json", "tokenizer.json"]


def test_held_out_text_does_not_reach_the_tokenizer(make, tmp_path):
    """The vocabulary would know the test set: every document has its own character."""
    own = [chr(0x4E00 + number) for number in range(20)]
    (tmp_path / "own").mkdir()
    for number, character in enumerate(own):
        (tmp_path / "own" / f"{number}.txt").write_text(character * 9, "utf-8")
    data = make(directory="other", path=str(tmp_path / "own"), **CHARACTERS)
    known = {text[0] for text in texts_of(data, "train")}
    assert set(data.tokenizer.get_vocab()) & set(own) == known
    assert len(known) < 20


def test_a_vocabulary_without_room_for_merges_is_a_config_error(make):
    """A user who asks for 200 tokens would see a traceback instead of the field's name."""
    with pytest.raises(ConfigError, match="vocab_size must exceed 259"):
        make(vocab_size=200)


# Splits and batches ----------------------------------------------------------------------------


def test_the_splits_are_those_of_the_config(make, folder):
    """`data.split`, `data.seed` or the shares would turn nothing."""
    for changes in ({}, {"seed": 1}, {"split": "tail"}, {"test_share": 0.3}, {"validation_share": 0.3}):
        how = dict(by="document", validation_share=0.1, test_share=0.1, seed=0)
        how |= {"by" if name == "split" else name: value for name, value in changes.items()}
        splits = make(directory=str(changes), **changes).splits, split_documents([*read_documents(folder)], **how)
        found, wanted = ({name: list(part) for name, part in of.items()} for of in splits)
        assert found == wanted


@TOKENIZERS
@pytest.mark.parametrize("by", ["document", "tail"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluation_batches_hold_their_split(make, split, by, changes):
    """The loss would be that of another split, or of part of it; every document stands between start and end."""
    data = make(**changes, boundaries="stream", split=by)
    for other in data.splits:  # whose tokens are kept beside its own
        data.tokens(other)
    rows = [row[:n] for b in epoch_of(data.evaluation_batches(split)) for row, n in zip(*b.values(), strict=True) if n]
    stream = np.concatenate([row[1:] if at else row for at, row in enumerate(rows)])
    found = np.split(stream, np.flatnonzero(stream == BOS_ID)[1:])
    unknown = data.tokenizer.token_to_id("<unk>")
    assert all(ids[0] == BOS_ID and ids[-1] == EOS_ID for ids in found)
    if unknown is None or unknown not in stream:
        assert [decode(data.tokenizer, ids, strip=False) for ids in found] == texts_of(data, split)


def test_masked_evaluation_batches_hold_their_split(make):
    """The loss would be that of another split, or of part of it."""
    data = make(MaskedLMData)
    rows = [
        row[1 : n - 1].tolist()
        for b in epoch_of(data.evaluation_batches("test"))
        for row, n in zip(b["tokens"], b["lengths"], strict=True)
        if n
    ]
    assert decode(data.tokenizer, sum(rows, []), strip=False) == "".join(texts_of(data, "test"))


def test_training_batches_hold_training_text(make):
    """The model would be trained on what it is tested on."""
    for kind in (CausalLMData, MaskedLMData):
        data = make(kind, kind.__name__, batch_tokens=16)
        train = "\0".join(texts_of(data, "train"))
        for batch in epoch_of(data.train_batches()):
            for row in batch["tokens"]:
                # A row may begin or end within a document, and within a character no text here has more bytes for.
                for part in np.split(row, np.flatnonzero(row == BOS_ID)):
                    assert decode(data.tokenizer, part, strip=False) in train


def test_boundaries_reach_the_batches(make):
    """`data.boundaries` would turn nothing."""
    for boundaries, name in (("segments", "segments"), ("stream", "lengths")):
        data = make(boundaries=boundaries)
        for batches in (data.train_batches(), data.evaluation_batches("test")):
            assert sorted(batches.batch(0)) == sorted(["tokens", name])


def test_whole_words_reach_the_batches(make):
    """`data.whole_words` would turn nothing, or words would be counted that are none."""
    assert "word_ids" not in make(MaskedLMData).train_batches().batch(0)
    data = make(MaskedLMData, whole_words=True, row_length=64)
    batch = data.evaluation_batches("test").batch(0)
    text = texts_of(data, "test")[0]
    words = batch["word_ids"][0, 1 : batch["lengths"][0] - 1]
    assert len(set(words)) == len(text.replace("\n", " \n").split(" ")) - 1 + text.count("\n")  # line ends are words


@BOTH
def test_batches_have_the_asked_slots(make, kind):
    """`data.row_length` or `data.batch_tokens` would turn nothing, or memory would not suffice."""
    tokens = make(kind, row_length=12, batch_tokens=50).train_batches().batch(0)["tokens"]
    assert tokens.shape == (4, 12 + (kind is CausalLMData))  # the last token is only a target, never read


@BOTH
def test_training_batches_can_be_split_evenly(make, kind):
    """Gradient accumulation would fail on a batch that does not divide."""
    data = make(kind)
    assert data.train_batches(rows_multiple=3).batch(0)["tokens"].shape[0] == 3


@BOTH
def test_a_batch_that_cannot_be_split_is_refused(make, kind):
    """A batch would be larger than `batch_tokens` says, and with it memory and the meaning of the learning rate."""
    data = make(kind)
    with pytest.raises(ConfigError, match=r"data\.batch_tokens=\d+ must hold 5 row\(s\) of 16 tokens, .*accumulate=5"):
        data.train_batches(rows_multiple=5)


@BOTH
def test_the_seed_reaches_the_shuffle(make, kind):
    """Runs with different seeds would see their data in the same order: the same documents, split apart by hand."""
    first, second = make(kind), make(kind)
    second.config = dataclasses.replace(second.config, seed=1)
    assert not (first.train_batches().batch(0)["tokens"] == second.train_batches().batch(0)["tokens"]).all()


@BOTH
def test_too_little_text_is_an_error(make, kind):
    """Training would start on nothing: the data is in order, but a batch is larger than all of it."""
    with pytest.raises(DataError, match="do not fill a batch"):
        make(kind, batch_tokens=100_000).train_batches()


def test_a_split_is_encoded_once(make, monkeypatch):
    """Every evaluation would encode millions of characters again."""
    wanted = [*epoch_of(make().evaluation_batches("test"))]
    monkeypatch.setattr("tformer_jax.data.tokens.encode_pieces", lambda *_, **__: pytest.fail("encoded again"))
    found = [*epoch_of(make().evaluation_batches("test"))]  # of another process
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours["tokens"], theirs["tokens"])


# What is said ----------------------------------------------------------------------------------


def test_bytes_are_counted_in_utf8(make, write):
    """Bits per byte would be bits per character."""
    data = make(path=str(write("a.txt", "üé" * 50)), split="tail", **CHARACTERS)
    assert [data.byte_count(split) for split in ("train", "validation", "test")] == [
        162,
        20,
        19,
    ]  # the last is the newline


def test_the_report_tells_the_sizes_of_the_splits(make, write):
    """A user would not see that the corpus is smaller than thought."""
    data = make(path=str(write("a.txt", "x" * 1999)), split="tail", **CHARACTERS)
    assert data.report == [
        "1 train (1,600 characters), 1 validation (200 characters), 1 test (200 characters) documents "
        "(files, split by tail)"
    ]


@BOTH
def test_the_report_tells_tokens_and_batches(make, kind):
    """A user would not see how long an epoch is, or how well the tokenizer fits the text."""
    data = make(kind)
    batches = data.train_batches()
    text = "".join(texts_of(data, "train"))
    tokens = sum(map(len, data.tokens("train").ids))
    assert data.report[-1] == (
        f"{tokens:,} training tokens of {len(text) / tokens:.2f} bytes, vocabulary of 300; "
        f"{len(batches):,} batches an epoch"
    )


# The configs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "speech"}, r"data\.source .*did you mean 'speeches'"),
        ({"split": "tails"}, r"data\.split .*did you mean 'tail'"),
        ({"tokenizer": "character"}, r"data\.tokenizer .*did you mean 'characters'"),
        ({"path": None}, r"data\.path goes with data\.source='files', and is needed there"),
        ({"source": "speeches"}, r"data\.path goes with data\.source='files'"),
        ({"vocab_size": None}, r"data\.vocab_size goes with data\.tokenizer='bpe', and is needed there"),
        ({"tokenizer": "characters"}, r"data\.vocab_size goes with data\.tokenizer='bpe'"),
        ({"vocab_size": 0}, r"data\.vocab_size must be from 1 to 1,000,000, got 0"),
        ({"row_length": 0}, r"data\.row_length must be a positive integer, got 0"),
        ({"batch_tokens": -1}, r"data\.batch_tokens must be a positive integer, got -1"),
        ({"batch_tokens": 15}, r"data\.batch_tokens must be at least data\.row_length=16, got 15"),
        ({"validation_share": 0.0}, r"data\.validation_share must be in \(0, 1\), got 0\.0"),
        ({"test_share": 1.0}, r"data\.test_share must be in \(0, 1\), got 1\.0"),
        ({"validation_share": 0.5, "test_share": 0.5}, r"data\.validation_share and data\.test_share must add up to"),
    ],
)
@pytest.mark.parametrize("config", [CausalLMDataConfig, MaskedLMDataConfig])
def test_a_config_that_cannot_be_names_the_field(config, changes, message):
    """A wrong value would be ignored, or surface far away."""
    with pytest.raises(ConfigError, match=message):
        build(config, FIELDS | {"path": "a.txt"} | changes, "data")


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (CausalLMDataConfig, {"boundaries": "segment"}, r"data\.boundaries .*did you mean 'segments'"),
        (MaskedLMDataConfig, CHARACTERS | {"whole_words": True}, r"data\.whole_words needs data\.tokenizer='bpe'"),
        (MaskedLMDataConfig, BYTES | {"whole_words": True}, r"whole_words needs .*: with 'bytes' there are no words"),
        (MaskedLMDataConfig, {"whole_words": 1}, r"data\.whole_words must be True or False, got 1"),
        (MaskedLMDataConfig, {"row_length": 2}, r"data\.row_length must exceed 2 .*got 2"),
    ],
)
def test_what_only_one_config_has_is_checked_too(config, changes, message):
    """A wrong value would be ignored, or surface far away."""
    with pytest.raises(ConfigError, match=message):
        build(config, FIELDS | {"path": "a.txt"} | changes, "data")
