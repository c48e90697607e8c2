"""Files of tokens that other programs wrote, mapped into memory as they are: nanoGPT's and Megatron's."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...config import ConfigError
from ..files import DataError, reading

DTYPES = {"uint16": "<u2", "uint32": "<u4"}
# So many tokens are looked at at a time.
_CHUNK = 1 << 22

# Megatron's index: this, the version, a code of the dtype, how many sequences, and how many marks of documents.
_MAGIC, _HEADER = b"MMIDIDX\0\0", struct.Struct("<9sQBQQ")
_MEGATRON_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


class TokenFile(NamedTuple):
    """Tokens, [n], mapped from a file, and documents: d is `tokens[offsets[d] : offsets[d + 1]]`, int64 [documents + 1].

    The offsets are in memory, 8 bytes a document.
    """

    tokens: np.ndarray
    offsets: np.ndarray


def flat_tokens(file: Path, vocab_size: int, dtype: str = "uint16", end: int | None = None) -> TokenFile:
    """Maps a file that is tokens and nothing else, as nanoGPT's `prepare.py` writes it.

    Args:
      file: its path.
      vocab_size: of the tokenizer that made them.
      dtype: of a token, "uint16" or "uint32", little-endian.
      end: the token that ends each document, and belongs to it; None: the whole file is one document.

    Raises:
      ConfigError: `dtype` is another one, or `end` is no token.
      DataError: the file cannot be read, is empty, does not hold whole tokens, has one beyond the vocabulary (says where),
        or has no `end`.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be 'uint16' or 'uint32', got {dtype!r}")
    if end is not None and not 0 <= end < vocab_size:
        raise ConfigError(f"end must be a token, from 0 to {vocab_size - 1}, got {end}")
    tokens = _mapped(file, DTYPES[dtype])
    ends = []
    for start, chunk in _checked(file, tokens, vocab_size):
        if dtype == "uint16" and start == 0 and len(chunk) >= 1000 and not chunk[1::2].any():
            raise DataError(f"{file}: every second token is 0, as if each had four bytes; set dtype='uint32'")
        if end is not None:
            ends.append(np.flatnonzero(chunk == end) + (start + 1))
    found = np.concatenate(ends) if ends else np.empty(0, np.int64)
    if end is not None and not len(found):
        raise DataError(f"{file} has no token {end}, which should end each document; set end to the one that does")
    last = [] if len(found) and found[-1] == len(tokens) else [len(tokens)]
    return TokenFile(tokens, np.concatenate([[0], found, last]).astype(np.int64))


def indexed_tokens(file: Path, vocab_size: int) -> TokenFile:
    """Maps a file of tokens that has Megatron's index, of the same name but for the end `.idx`, beside it.

    The format is that of `IndexedDataset` in `megatron/core/datasets` (version 1); sequences of one document run on.

    Args:
      file: of the tokens, `NAME.bin`.
      vocab_size: of the tokenizer that made them.

    Raises:
      DataError: a file cannot be read, the index is damaged or not of this file, or a token is beyond the vocabulary (says
        where).
    """
    index = file.with_suffix(".idx")
    code, lengths, pointers, marks = _index(index)
    if code not in _MEGATRON_DTYPES:
        raise DataError(f"{index} says that tokens are no integers (code {code}): tokenize the text anew")
    tokens = _mapped(file, _MEGATRON_DTYPES[code])
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    in_order = len(marks) > 0 and marks[0] == 0 and marks[-1] == len(lengths) and (np.diff(marks) >= 0).all()
    if not in_order or (lengths < 0).any() or not np.array_equal(pointers, starts[:-1] * tokens.itemsize):
        raise DataError(f"{index} is damaged: its documents do not follow each other; make it anew")
    if starts[-1] != len(tokens):
        raise DataError(f"{index} is of {starts[-1]:,} tokens, but {file} has {len(tokens):,}; put its own beside it")
    for _ in _checked(file, tokens, vocab_size):
        pass
    return TokenFile(tokens, starts[marks])


def _index(file: Path) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """The code of the dtype, the lengths of the sequences, where they begin in bytes, and the first of each document."""
    with reading(file):
        content = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
    if len(content) < _HEADER.size or content[: len(_MAGIC)].tobytes() != _MAGIC:
        raise DataError(f"{file} is no index of Megatron's: make it anew")
    _, version, code, sequences, documents = _HEADER.unpack(content[: _HEADER.size].tobytes())
    if version != 1:
        raise DataError(f"{file} is of version {version}, but only 1 can be read: make it anew")
    if len(content) < _HEADER.size + 12 * sequences + 8 * documents:  # what may follow are modes of sequences
        raise DataError(f"{file} is not whole: fetch it again")
    parts, at = [], _HEADER.size
    for dtype, count in (("<i4", sequences), ("<i8", sequences), ("<i8", documents)):
        parts.append(np.frombuffer(content, dtype, count, at))
        at += parts[-1].nbytes
    return code, *parts


def _mapped(file: Path, dtype: str) -> np.ndarray:
    with reading(file):
        size = file.stat().st_size
    item = np.dtype(dtype).itemsize
    if not size or size % item:
        raise DataError(
            f"{file} has {size:,} bytes, which is no whole number of tokens of {item} bytes; fetch it again"
        )
    with reading(file):
        return np.memmap(file, dtype, "r")


def _checked(file: Path, tokens: np.ndarray, vocab_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the tokens by chunks, and where each starts, once it is known that all are in the vocabulary."""
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        if chunk.min() < 0 or chunk.max() >= vocab_size:
            at = int(np.flatnonzero((chunk < 0) | (chunk >= vocab_size))[0])
            hint = "choose the tokenizer that made it, or the dtype that it has"
            raise DataError(
                f"{file}: token {start + at:,} is {chunk[at]}, beyond the vocabulary of {vocab_size:,}; {hint}"
            )
        yield start, chunk
