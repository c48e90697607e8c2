"""Language models on files of tokens: what is trained on against NumPy, what is held out, and what is found again."""

import dataclasses
import itertools
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tformer_jax.config import ConfigError
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.digest import OtherData
from tformer_jax.data.file_tokens import read_token_files, split_tokens
from tformer_jax.data.files import DataError
from tformer_jax.data.masked_lm import MaskedLMData, MaskedLMDataConfig
from tformer_jax.data.ragged import Ragged
from tformer_jax.data.sources import token_files

END, T = 0, 8
WORDS = "the red cat saw a small dog on that old green hill today".split()
TEXTS = [" ".join(WORDS[(i * 5 + j * (1 + i % 3)) % 13] for j in range(3 + i % 8)) + f", é {i}.\n" for i in range(60)]
FIELDS = dict(source="tokens", source_options=f"end={END}", row_length=T, batch_tokens=4 * T)


@pytest.fixture(scope="module")
def tokenizer():
    """One like GPT-2's, whose only special token starts and ends a text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how = dict(special_tokens=["<|endoftext|>"], vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(**how))
    return made


@pytest.fixture(scope="module")
def documents(tokenizer):
    """The tokens of each text, with the end that nanoGPT's `prepare.py` puts behind it."""
    return [[*tokenizer.encode(text).ids, END] for text in TEXTS]


@pytest.fixture
def folder(tmp_path, tokenizer, documents, monkeypatch):
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))
    (tmp_path / "gpt2").mkdir()
    tokenizer.save(str(tmp_path / "gpt2" / "tokenizer.json"))
    np.array(sum(documents, []), "<u2").tofile(tmp_path / "train.bin")
    return tmp_path


@pytest.fixture
def make(folder):
    """`make(kind, directory, **changes)`: the data of a config."""

    def make(kind=CausalLMData, directory="run", **changes):
        (folder / directory).mkdir(exist_ok=True)
        config = {CausalLMData: CausalLMDataConfig, MaskedLMData: MaskedLMDataConfig}[kind]
        fields = FIELDS | dict(path=str(folder / "train.bin"), tokenizer_path=str(folder / "gpt2")) | changes
        return kind(config(**fields), folder / directory)

    return make


def own_splits(folder, **files):
    """A folder with a file of tokens for each of these."""
    (folder / "splits").mkdir()
    for name, ids in files.items():
        np.array(ids, "<u2").tofile(folder / "splits" / f"{name}.bin")
    return str(folder / "splits")


def rows_of(batches, pad=0):
    """The rows of an epoch, without padding."""
    epoch = [batches.batch(i) for i in range(len(batches))]
    return [row[:n].tolist() for b in epoch for row, n in zip(b["tokens"], b["lengths"], strict=True) if n]


# What is trained on ------------------------------------------------------------------------------------------


def test_a_stream_is_the_file_token_by_token(make, folder, documents):
    """Tokens would be added to those that somebody prepared, or be lost; ends would stand there twice."""
    stream = sum(documents, [])
    path = own_splits(folder, train=stream, val=stream[: 3 * T + 2], test=stream[40:75])
    data = make(path=path, boundaries="stream", validation_share=None, test_share=None)
    for split, ids in (("train", stream), ("validation", stream[: 3 * T + 2]), ("test", stream[40:75])):
        rows = rows_of(data.evaluation_batches(split))
        assert rows[0][0] == ids[0] and sum((row[1:] for row in rows), []) == ids[1:]
    batches = data.train_batches()
    trained = [
        row for e in range(2) for i in range(len(batches)) for row in batches.batch(e * len(batches) + i)["tokens"]
    ]
    windows = {tuple(stream[i : i + T + 1]) for i in range(len(stream) - T)}
    assert all(tuple(row) in windows for row in trained)


def test_documents_apart_stand_between_start_and_end_once(make, folder, documents):
    """The model would be trained to write an end after an end, or never see what a text begins with."""
    plain = [ids[:-1] for ids in documents]
    # with a start of their own, an end of their own, both, neither, and nothing
    with_ends = [[END, *plain[0]], [*plain[1], END], [END, *plain[2], END], [], [END]]
    (folder / "a.bin").write_bytes(b"".join(np.array(ids, "<i4").tobytes() for ids in with_ends))
    write_index(folder / "a.idx", [len(ids) for ids in with_ends])
    data = make(path=str(folder / "a.bin"), source_options=None, split="tail", validation_share=0.2, test_share=0.2)
    whole = data.splits["train"]
    found = dataclasses.replace(whole, ids=Ragged(whole.ids.values, whole.read.offsets))
    assert [ids.tolist() for ids in found.without_ends(END, END)] == [*plain[:3], [], []]


def write_index(file, lengths):
    """Megatron's index of 32-bit tokens, a sequence a document."""
    starts = 4 * (np.cumsum(lengths) - lengths)
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, len(lengths), len(lengths) + 1)
    arrays = np.array(lengths, "<i4"), starts.astype("<i8"), np.arange(len(lengths) + 1, dtype="<i8")
    file.write_bytes(head + b"".join(array.tobytes() for array in arrays))


def test_rows_of_segments_are_those_of_the_texts(make, folder, tokenizer):
    """Trained on tokens or on the text that they are of, a model would be another one."""
    (folder / "texts").mkdir()
    for i, text in enumerate(TEXTS):
        (folder / "texts" / f"{i:02}.txt").write_text(text)
    of_text = make(directory="of text", source="files", source_options=None, path=str(folder / "texts"))
    texts = [document.text for document in of_text.splits["train"]]
    ids = [[*tokenizer.encode(text).ids, END] for text in texts]
    held_out = [*tokenizer.encode("a small dog").ids, END] * 9
    path = own_splits(folder, train=sum(ids, []), val=held_out, test=held_out)
    of_tokens = make(path=path, validation_share=None, test_share=None)
    ours, theirs = (data.train_batches() for data in (of_tokens, of_text))
    assert len(ours) == len(theirs)
    for i in range(2 * len(ours)):
        a, b = ours.batch(i), theirs.batch(i)
        assert all(np.array_equal(a[name], b[name]) for name in ("tokens", "segments"))


def test_masked_language_models_read_documents_from_start_to_end(folder, tmp_path):
    """Pieces of documents would have two ends, or lack the start that a prediction has."""
    vocabulary = {name: i for i, name in enumerate(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *WORDS])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "bert.json"))
    plain = [[5 + (i * 3 + j) % 13 for j in range(1 + i % 9)] for i in range(40)]
    np.array(sum(([*ids, 2] for ids in plain), []), "<u4").tofile(folder / "ids.bin")
    fields = FIELDS | dict(path=str(folder / "ids.bin"), tokenizer_path=str(folder / "bert.json"))
    (folder / "masked").mkdir()
    how = dict(source_options="end=2,dtype=uint32", validation_share=0.2, test_share=0.2)
    data = MaskedLMData(MaskedLMDataConfig(**fields | how), folder / "masked")
    pieces = [row[1:-1] for name in data.splits for row in rows_of(data.evaluation_batches(name))]
    wanted = [ids[at : at + T - 2] for ids in plain for at in range(0, len(ids), T - 2)]
    assert sorted(pieces) == sorted(wanted)
    with pytest.raises(ConfigError, match="whole_words needs texts: of data.source='tokens' there are no words"):
        MaskedLMDataConfig(**fields, whole_words=True)


# What is held out --------------------------------------------------------------------------------------------


def tokens_of(part):
    return [ids.tolist() for ids in part.ids]


def test_whole_documents_are_held_out(make, documents):
    """A model would be tested on what it was trained on, or tokens be lost."""
    splits = make(validation_share=0.2, test_share=0.1).splits
    found = [tokens_of(part) for part in splits.values()]
    assert sorted(itertools.chain(*found)) == sorted(documents)
    total = sum(map(len, documents))
    for name, share in (("validation", 0.2), ("test", 0.1)):
        assert share * total <= splits[name].token_count < share * total + max(map(len, documents))
        order = [documents.index(ids) for ids in tokens_of(splits[name])]
        assert order == sorted(order) != list(range(len(order)))
    assert tokens_of(make(directory="other", seed=1).splits["test"]) != tokens_of(splits["test"])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=9), share=st.sampled_from([0.1, 0.34, 0.5]))
def test_tails_are_held_out(sizes, share, tmp_path_factory):
    """The end of a document would be trained on, or tokens be lost between the parts."""
    place = tmp_path_factory.mktemp("tails")
    numbers = iter(range(1, 400))
    ids = [[*itertools.islice(numbers, size - 1), 500] for size in sizes]
    np.array(sum(ids, []), "<u2").tofile(place / "a.bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFORMER_DATA", str(place / "cache"))
        found = read_token_files(token_files.token_files(place / "a.bin", end=500), print)
    wanted = {"train": [], "validation": [], "test": []}
    for document in ids:
        test = len(document) - int(share * len(document))
        validation = test - int(0.3 * len(document))
        edges = itertools.pairwise((0, validation, test, len(document)))
        for name, (begin, end) in zip(wanted, edges, strict=True):
            wanted[name] += [document[begin:end]] if end > begin else []
    how = dict(by="tail", validation_share=0.3, test_share=share, seed=0)
    if all(wanted.values()):
        assert {name: tokens_of(part) for name, part in split_tokens(found, **how).items()} == wanted
    else:
        with pytest.raises(DataError, match="are too few for a "):
            split_tokens(found, **how)


def test_a_file_of_its_own_is_a_split(make, folder, documents):
    """What somebody set apart to validate on would not be used, or another part of training be lost to it."""
    path = own_splits(folder, train=sum(documents, []), val=[5, 6, END])
    with pytest.raises(
        ConfigError, match="data.validation_share must be None, as the source has its own validation split"
    ):
        make(path=path)
    data = make(path=path, validation_share=None)
    assert tokens_of(data.splits["validation"]) == [[5, 6, END]]
    assert len(data.splits["train"]) + len(data.splits["test"]) == len(documents)


def test_one_document_is_too_few_to_hold_one_out(make):
    """A test split would be empty, and its loss no number."""
    with pytest.raises(DataError, match="1 document.* too few for a train.*hold out the tail.*data.split='tail'"):
        make(source_options=None)


# What is said of them ----------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_text(make):
    """Bits per byte of tokens could not be compared with those of texts."""
    data = make(validation_share=0.2, test_share=0.2)
    for split, part in data.splits.items():
        texts = [data.tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in part.ids]
        assert set(texts) <= set(TEXTS) and data.byte_count(split) == len("".join(texts).encode())
        assert data.beginnings(split, 3, 20) == [text[:20] for text in texts[:3]]


def test_a_tokenizer_whose_tokens_do_not_tell_bytes_counts_none(make, folder):
    """A number of bytes would be made up, and bits per byte with it."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(300)}, unk_token="w1"))
    words.save(str(folder / "words.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "w0", "eos_token": "w0"}))
    assert make(tokenizer_path=str(folder / "words.json")).byte_count("test") is None


# What is found again, and what is refused --------------------------------------------------------------------


def test_a_file_is_read_once(make, monkeypatch):
    """Every start would read 40 GB."""
    before = make()
    monkeypatch.setattr(token_files, "_read", lambda *of: pytest.fail("read again"))
    after = make()
    assert [tokens_of(part) for part in after.splits.values()] == [tokens_of(part) for part in before.splits.values()]


def test_a_run_goes_on_with_the_same_tokens_alone(make, folder, documents):
    """A run that goes on would be trained on other tokens than it began with; or a copy of the file would not do."""
    make()
    content = (folder / "train.bin").read_bytes()
    (folder / "train.bin").unlink()
    (folder / "train.bin").write_bytes(content)
    os.utime(folder / "train.bin", (1, 1))
    make()
    with pytest.raises(OtherData, match="train has the same number of documents, but other ones"):
        changed = np.frombuffer(content, "<u2").copy()
        changed[3] = 7
        changed.tofile(folder / "train.bin")
        make()
    with pytest.raises(OtherData, match="the data are not those of .*data.json"):
        np.array(sum(documents[1:], []), "<u2").tofile(folder / "train.bin")
        make()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokenizer_path": None}, ConfigError, "^data.tokenizer_path is needed with data.source='tokens', or task.init_"),
        ({"vocab_size": 300}, ConfigError, "^vocab_size must be None with data.tokenizer_path=.*; got 300$"),
        ({"vocab_size": 300, "tokenizer_path": None}, ConfigError, "^vocab_size must be None with data.source='tokens'"),
        ({"source_options": "end=301"}, DataError, "train.bin has no token 301, which should end each document"),
        ({"source_options": "dtype=uint32"}, DataError, "train.bin has .* of 4 bytes"),
        ({"source_options": "ends=0"}, ConfigError, "source_options.ends|no field 'ends'"),
        ({"path": "nowhere.bin"}, DataError, "^cannot read nowhere.bin: No such file"),
        ({"path": None}, ConfigError, "^path goes with data.source="),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(make, changes, error, message):
    """A user's slip would end in a traceback, or a model be trained on noise."""
    with pytest.raises(error, match=message):
        make(**changes)


def test_tokens_are_not_mixed_with_texts(make, folder):
    """A mixture would end in a traceback, or have the one and not the other."""
    (folder / "a.txt").write_text("the cat\n")
    mixture = f"tokens(path={folder / 'train.bin'},end=0):0.5,files(path={folder / 'a.txt'}):0.5"
    with pytest.raises(ConfigError, match="^data.mixture must be of sources of texts: files of tokens cannot be mixed"):
        make(source="mixture", mixture=mixture, source_options=None, path=None)


def test_a_token_beyond_the_vocabulary_is_refused(make, folder):
    """Rows of the embedding that are not there would be read."""
    np.array([5, 6, 300, END] * 20, "<u2").tofile(folder / "beyond.bin")
    with pytest.raises(
        DataError, match="beyond.bin: token 2 is 300, beyond the vocabulary of 300; choose the tokenizer"
    ):
        make(path=str(folder / "beyond.bin"))
