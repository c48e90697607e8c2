"""Files of tokens that other programs wrote: documents, and what is refused."""

import itertools
import mmap
import struct

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError
from tformer_jax.data.sources import token_files
from tformer_jax.data.sources.token_files import check_vocabulary, flat_tokens, indexed_tokens

END = 99
examples = settings(derandomize=True, deadline=None, max_examples=60)
tokens = st.lists(st.sampled_from([0, 1, 98, END]), min_size=1, max_size=60)


def is_mapped(array):
    """Says that an array is a file in place of memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(getattr(array, "obj", array), mmap.mmap)


def documents(found):
    """The documents of a file, as lists."""
    return [found.tokens[a:b].tolist() for a, b in itertools.pairwise(found.offsets)]


@examples
@given(tokens.filter(lambda ids: END in ids), st.sampled_from(["uint16", "uint32"]), st.integers(1, 9))
def test_documents_end_with_the_end_token(tmp_path_factory, ids, dtype, chunk):
    """Two documents would be one, or a token where two chunks meet be lost."""
    file = tmp_path_factory.mktemp("tokens") / "train.bin"
    np.array(ids, dtype).tofile(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_files, "_CHUNK", chunk)
        found = flat_tokens(file, dtype, END)
    expected = [[]]
    for token in ids:
        expected[-1].append(token)
        if token == END:
            expected.append([])
    assert documents(found) == [document for document in expected if document]


def test_without_an_end_token_a_file_is_one_document(write):
    """nanoGPT's files of characters, which have none, could not be read."""
    found = flat_tokens(write("train.bin", np.arange(10, dtype="<u2").tobytes()))
    assert documents(found) == [list(range(10))]


def test_tokens_are_mapped_and_not_read(write):
    """A file of 100 GB would have to fit into memory."""
    found = flat_tokens(write("train.bin", np.arange(10, dtype="<u2").tobytes()))
    assert is_mapped(found.tokens) and not found.tokens.flags.writeable


def ids(*values, dtype="<u2"):
    return np.array(values, dtype).tobytes()


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        (b"", {}, "train.bin has 0 bytes, which is no whole number of tokens of 2 bytes; fetch it again, or say its dtype$"),
        (b"abc", {}, "train.bin has 3 bytes, which is no whole number of tokens of 2 bytes"),
        (ids(1, 2, 3), {"dtype": "uint32"}, "train.bin has 6 bytes, .* of 4 bytes"),
        (ids(*range(9), 100, 5, 101), {}, "train.bin: token 11 is 101, beyond the vocabulary of 100; choose the tokenizer"),
        (ids(1, 2, 3, 4), {"dtype": "uint32"}, "token 1 is 262147, beyond the vocabulary of 100; .* or the dtype that it"),
        (ids(*[5] * 1000, dtype="<u4"), {}, r"every second token is 0, .*; set dtype='uint32'$"),
        (ids(1, 2), {"end": 3}, r"train.bin has no token 3, which should end each document; set end to the one that does$"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_such_tokens_is_refused(write, monkeypatch, content, given, message):
    """A model would be trained on noise, or read rows of the embedding that are not there."""
    monkeypatch.setattr(token_files, "_CHUNK", 4 if len(content) < 100 else 1 << 20)
    file = write("train.bin", content)
    with pytest.raises(DataError, match=message):
        check_vocabulary(file, flat_tokens(file, **given), 100)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    """A misspelt path would end in a traceback."""
    with pytest.raises(DataError, match="^cannot read .*train.bin: No such file or directory$"):
        flat_tokens(tmp_path / "train.bin")
    with pytest.raises(DataError, match="^cannot read .*train.idx: No such file or directory$"):
        indexed_tokens(tmp_path / "train.bin")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "int64"}, "dtype must be 'uint16' or 'uint32', got 'int64'$"),
        ({"end": -1}, "end must be a token, got -1$"),
    ],
)
def test_what_is_said_of_a_file_must_be_possible(write, given, message):
    """The fault would be looked for in the file."""
    with pytest.raises(ConfigError, match=message):
        token_files.token_files(write("train.bin", ids(1, 2)), **given)


# Files of splits ---------------------------------------------------------------------------------------------


def test_a_folder_has_a_file_for_each_split(write, tmp_path):
    """nanoGPT's val.bin would be passed over, or trained on."""
    files = {split: write(f"{name}.bin", ids(1, 2)) for name, split in (("train", "train"), ("val", "validation"))}
    assert token_files.token_files(tmp_path).splits == files
    assert token_files.token_files(files["train"]).splits == {"train": files["train"]}


def test_a_path_without_tokens_is_refused(write, tmp_path):
    """An empty folder, or an index, would end in a traceback, or be read as tokens."""
    with pytest.raises(DataError, match="has no train.bin: let data.path be a file of tokens, or a folder with"):
        token_files.token_files(tmp_path)
    with pytest.raises(DataError, match="a.idx is the index of .*a.bin: let data.path be that$"):
        token_files.token_files(write("a.idx", b""))
    with pytest.raises(DataError, match="^cannot read .*no.bin: No such file or directory$"):
        token_files.token_files(tmp_path / "no.bin")


def test_an_index_says_the_dtype_alone(write):
    """A dtype that somebody sets would be passed over in silence."""
    file = write("a.bin", np.arange(5, dtype="<i4").tobytes())
    write("a.idx", index([2, 3], [0, 1, 2]))
    assert documents(token_files.token_files(file).read("train")) == [[0, 1], [2, 3, 4]]
    for said in ({"dtype": "uint32"}, {"end": 4}):
        with pytest.raises(ConfigError, match=f"source_options must not say {[*said][0]}: .*a.idx does, beside"):
            token_files.token_files(file, **said).read("train")


# Megatron's index, written by its description ----------------------------------------------------------------

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float32": 7, "uint16": 8}


def index(lengths, marks, dtype="int32", magic=b"MMIDIDX\0\0", version=1, modes=b""):
    """The content of an index of sequences of these lengths; `marks`: where documents begin, and the end."""
    starts = [np.dtype(dtype).itemsize * sum(lengths[:i]) for i in range(len(lengths))]
    head = magic + struct.pack("<QBQQ", version, CODES[dtype], len(lengths), len(marks))
    arrays = np.array(lengths, "<i4"), np.array(starts, "<i8"), np.array(marks, "<i8")
    return head + b"".join(array.tobytes() for array in arrays) + modes


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16"])
@pytest.mark.parametrize("modes", [b"", b"\0\0\0\0"])
def test_documents_of_an_index_are_runs_of_its_sequences(write, dtype, modes):
    """A document would be cut into its sentences, or tokens be read with another width."""
    file = write("a.bin", np.arange(10, dtype=dtype).tobytes())
    write("a.idx", index([2, 3, 0, 5], [0, 2, 2, 4], dtype, modes=modes))
    found = indexed_tokens(file)
    assert documents(found) == [[0, 1, 2, 3, 4], [], [5, 6, 7, 8, 9]]
    assert is_mapped(found.tokens)


NOT_IN_ORDER = "a.idx is damaged: its documents do not follow each other; make it anew$"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.idx is no index of Megatron's: make it anew$"),
        (index([5], [0, 1], magic=b"MMIDIDX\0\1"), "a.idx is no index of Megatron's"),
        (index([5], [0, 1], version=2), "a.idx is of version 2, but only 1 can be read"),
        (index([5], [0, 1], "float32"), r"a.idx says that tokens are no integers \(code 7\): tokenize the text anew$"),
        (index([5], [0, 1])[:-1], "a.idx is not whole: fetch it again$"),
        (index([4], [0, 1]), r"a.idx is of 4 tokens, but .*a.bin has 5; put its own beside it$"),
        (index([2, 3], [0, 1]), NOT_IN_ORDER),
        (index([2, 3], [1, 2]), NOT_IN_ORDER),
        (index([2, 3], [0, 2, 1, 2]), NOT_IN_ORDER),
        (index([2, 3], []), NOT_IN_ORDER),
        (index([6, -1], [0, 2]), NOT_IN_ORDER),
        (index([2, 3], [0, 2], "uint16")[:17] + b"\4" + index([2, 3], [0, 2], "uint16")[18:], NOT_IN_ORDER),
        (index([5], [0, 1]), "a.bin: token 4 is 4, beyond the vocabulary of 4; choose the tokenizer that made it"),
    ],
)
def test_an_index_that_is_not_of_the_file_is_refused(write, content, message):
    """Documents would begin somewhere in the middle of others."""
    file = write("a.bin", np.arange(5, dtype="<i4").tobytes())
    write("a.idx", content)
    with pytest.raises(DataError, match=message):
        check_vocabulary(file, indexed_tokens(file), 4)


def test_a_negative_token_is_refused_by_position(write):
    """It would stand for a row from the end of the embedding."""
    file = write("a.bin", np.array([1, 2, -1], "<i4").tobytes())
    write("a.idx", index([3], [0, 1]))
    with pytest.raises(DataError, match="a.bin: token 2 is -1, which no token is; tokenize it anew$"):
        indexed_tokens(file)
