"""Files of tokens that other programs wrote, mapped into memory as they are: nanoGPT's and Megatron's."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...config import ConfigError
from ..files import DataError, reading
from ..store import let_go, map_file
from .images import SPLIT_NAMES

DTYPES = {"uint16": "<u2", "uint32": "<u4"}
# So many tokens are looked at at a time.
_CHUNK = 1 << 22

# Megatron's index: this, the version, a code of the dtype, how many sequences, and how many marks of documents.
_MAGIC, _HEADER = b"MMIDIDX\0\0", struct.Struct("<9sQBQQ")
_MEGATRON_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}

_Advance = Callable[[int], None]
_SILENT: _Advance = lambda count: None


class TokenFile(NamedTuple):
    """What is known of a file of tokens once all of it was read, and the tokens, [n], mapped from it.

    Attributes:
      tokens: mapped.
      offsets: document d is `tokens[offsets[d] : offsets[d + 1]]`, int64 [documents + 1].
      largest, at: the largest token, and the first place where it stands.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    largest: int
    at: int


class TokenFiles(NamedTuple):
    """Files of tokens, not read yet: what a source gives in place of documents.

    Attributes:
      splits: the file of each split that has one; "train" is there.
      dtype, end: see `flat_tokens`; of files with an index neither is said.
    """

    splits: Mapping[str, Path]
    dtype: str | None
    end: int | None

    def read(self, split: str, advance: _Advance = _SILENT) -> TokenFile:
        """Reads all of a file; `advance` is told of so many bytes more.

        Raises:
          ConfigError, DataError: see `flat_tokens` and `indexed_tokens`.
        """
        file = self.splits[split]
        if not file.with_suffix(".idx").exists():
            return flat_tokens(file, self.dtype or "uint16", self.end, advance)
        if said := [name for name in ("dtype", "end") if getattr(self, name) is not None]:
            raise ConfigError(f"source_options must not say {said[0]}: {file.with_suffix('.idx')} does, beside {file}")
        return indexed_tokens(file, advance)


def token_files(path: Path | str, dtype: str | None = None, end: int | None = None) -> TokenFiles:
    """Finds files of tokens: that of a path, or `train.bin` of a folder, and `val.bin` and `test.bin` if it has them.

    Args:
      path: of a file or a folder.
      dtype: of a token, "uint16" (by default) or "uint32"; Megatron's index, `NAME.idx` beside `NAME.bin`, says it itself.
      end: the token that ends each document, as 50256 does where GPT-2's tokenizer was used; None: each file is one
        document. An index says where documents end.

    Raises:
      ConfigError: `dtype` or `end` cannot be.
      DataError: nothing is there.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"source_options: dtype must be 'uint16' or 'uint32', got {dtype!r}")
    if end is not None and end < 0:
        raise ConfigError(f"source_options: end must be a token, got {end}")
    if (path := Path(path)).suffix == ".idx":
        raise DataError(f"{path} is the index of {path.with_suffix('.bin')}: let data.path be that")
    if not path.is_dir():
        with reading(path):
            path.stat()
        return TokenFiles({"train": path}, dtype, end)
    found = {split: path / f"{name}.bin" for name, split in SPLIT_NAMES.items() if (path / f"{name}.bin").is_file()}
    if "train" not in found:
        raise DataError(f"{path} has no train.bin: let data.path be a file of tokens, or a folder with train.bin in it")
    return TokenFiles(found, dtype, end)


def flat_tokens(file: Path, dtype: str = "uint16", end: int | None = None, advance: _Advance = _SILENT) -> TokenFile:
    """Maps a file that is tokens and nothing else, as nanoGPT's `prepare.py` writes it.

    Args:
      file: its path.
      dtype: of a token, "uint16" or "uint32", little-endian.
      end: the token that ends each document, and belongs to it; None: the whole file is one document.
      advance: is told of so many bytes more.

    Raises:
      DataError: the file cannot be read, is empty, does not hold whole tokens, seems to have another dtype, or has no `end`.
    """
    tokens, ends = mapped(file, DTYPES[dtype]), []

    def look(start: int, chunk: np.ndarray) -> None:
        if dtype == "uint16" and start == 0 and len(chunk) >= 1000 and not chunk[1::2].any():
            raise DataError(f"{file}: every second token is 0, as if each had four bytes; set dtype='uint32'")
        if end is not None:
            ends.append(np.flatnonzero(chunk == end) + (start + 1))

    facts = _read(file, tokens, look, advance)
    found = np.concatenate(ends) if ends else np.empty(0, np.int64)
    if end is not None and not len(found):
        raise DataError(f"{file} has no token {end}, which should end each document; set end to the one that does")
    last = [] if len(found) and found[-1] == len(tokens) else [len(tokens)]
    return TokenFile(tokens, np.concatenate([[0], found, last]).astype(np.int64), *facts)


def indexed_tokens(file: Path, advance: _Advance = _SILENT) -> TokenFile:
    """Maps a file of tokens that has Megatron's index, of the same name but for the end `.idx`, beside it.

    The format is that of `IndexedDataset` in `megatron/core/datasets` (version 1); sequences of one document run on.

    Args:
      file: of the tokens, `NAME.bin`.
      advance: is told of so many bytes more.

    Raises:
      DataError: a file cannot be read, the index is damaged or not of this file, or a token is negative (says where).
    """
    index = file.with_suffix(".idx")
    code, lengths, pointers, marks = _index(index)
    if code not in _MEGATRON_DTYPES:
        raise DataError(f"{index} says that tokens are no integers (code {code}): tokenize the text anew")
    tokens = mapped(file, _MEGATRON_DTYPES[code])
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    in_order = len(marks) > 0 and marks[0] == 0 and marks[-1] == len(lengths) and (np.diff(marks) >= 0).all()
    if not in_order or (lengths < 0).any() or not np.array_equal(pointers, starts[:-1] * tokens.itemsize):
        raise DataError(f"{index} is damaged: its documents do not follow each other; make it anew")
    if starts[-1] != len(tokens):
        raise DataError(f"{index} is of {starts[-1]:,} tokens, but {file} has {len(tokens):,}; put its own beside it")
    return TokenFile(tokens, starts[marks], *_read(file, tokens, lambda start, chunk: None, advance))


def check_vocabulary(file: Path, found: TokenFile, vocab_size: int) -> None:
    """Raises a DataError if a file has a token beyond a vocabulary (says where)."""
    if found.largest >= vocab_size:
        hint = "choose the tokenizer that made it, or the dtype that it has"
        raise DataError(
            f"{file}: token {found.at:,} is {found.largest}, beyond the vocabulary of {vocab_size:,}; {hint}"
        )


def mapped(file: Path, dtype: str, advice: int | None = None) -> np.ndarray:
    """Maps a file of numbers into memory, read-only; `advice`: see `map_file`.

    Raises:
      DataError: it cannot be read, is empty, or does not hold whole numbers.
    """
    with reading(file):
        size = file.stat().st_size
    item = np.dtype(dtype).itemsize
    if not size or size % item:
        raise DataError(
            f"{file} has {size:,} bytes, which is no whole number of tokens of {item} bytes; fetch it again, or say its dtype"
        )
    with reading(file):
        return map_file(file, dtype, advice)


def _read(file: Path, tokens: np.ndarray, look: Callable[[int, np.ndarray], Any], advance: _Advance) -> tuple[int, int]:
    """The largest token and its place; `look` is given each chunk of tokens and where it starts."""
    largest, at = -1, 0
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        if chunk.min() < 0:
            place = int(np.argmax(chunk < 0))
            raise DataError(f"{file}: token {start + place:,} is {chunk[place]}, which no token is; tokenize it anew")
        look(start, chunk)
        if (highest := int(chunk.max())) > largest:
            largest, at = highest, start + int(chunk.argmax())
        advance(chunk.nbytes)
        let_go()
    return largest, at


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
