"""Documents of files that are tokens already: read once, split, and looked at in place."""

import dataclasses
import hashlib
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..progress import SILENT, Progress
from .digest import Digest
from .files import DataError
from .ragged import Ragged
from .sources.token_files import TokenFile, TokenFiles, check_vocabulary, mapped
from .splits import dealt_out, tails
from .store import Writer, stored
from .unchanged import code_of, contents

_BLOCK = 1 << 16  # documents that are looked at together
_Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class FileDocuments:
    """Some documents of a file of tokens.

    Attributes:
      file: its path.
      contents: a digest of what is in it.
      read: what is known of it.
      ids: the tokens of each document as they are in the file, start and end tokens of its own included.
    """

    file: Path
    contents: str
    read: TokenFile
    ids: Ragged

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def token_count(self) -> int:
        """The number of tokens, of all documents."""
        return int(self.ids.lengths.sum())

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises a DataError if the file has a token beyond a vocabulary (says where)."""
        check_vocabulary(self.file, self.read, vocab_size)

    def digest(self) -> Digest:
        """Returns the digest of the documents: of the whole file, and of which of it they are."""
        whole = hashlib.sha256(self.contents.encode())
        for numbers in (self.ids.offsets, *([] if self.ids.chosen is None else [self.ids.chosen])):
            whole.update(np.ascontiguousarray(numbers, "<i8"))
        sums = dict.fromkeys(("in_order", "in_any_order"), whole.hexdigest())
        return {"documents": len(self), "tokens": self.token_count} | sums

    def without_ends(self, start: int, end: int, say: _Say = lambda line: None, progress: Progress = SILENT) -> Ragged:
        """Returns the tokens of each document without the start token and the end token that it has, from a store.

        Args:
          start, end: the tokens, which may be the same.
          say, progress: see `stored`.
        """

        def make(writer: Writer) -> None:
            with progress.phase("looking for the ends of documents", len(self), "documents") as advance:
                for at in range(0, len(self), _BLOCK):
                    numbers = np.arange(at, min(at + _BLOCK, len(self)))
                    writer.append("spans", self._inner(numbers, start, end).reshape(-1))
                    advance(len(numbers))

        key = {"documents": self.digest()["in_order"], "start": start, "end": end}
        found = stored("ends", key, make, say, progress)
        return Ragged(self.ids.values, found["spans"], 2 * np.arange(len(self)))

    def _inner(self, numbers: np.ndarray, start: int, end: int) -> np.ndarray:
        """Returns where some documents begin and end in the file, without their start and end tokens, int64 [B 2]."""
        values, (begins, lengths) = self.ids.values, self.ids.spans(numbers)
        ends = begins + lengths
        some = np.flatnonzero(lengths)
        begins[some] += values[begins[some]] == start
        some = np.flatnonzero(ends > begins)
        ends[some] -= values[ends[some] - 1] == end
        return np.stack([begins, ends], 1)


def read_token_files(files: TokenFiles, say: _Say, progress: Progress = SILENT) -> dict[str, FileDocuments]:
    """Returns the documents of the file of each split that has one. A file is read once, and then only mapped.

    Args:
      files: which, and how they are read.
      say, progress: see `stored`.

    Raises:
      ConfigError, DataError: see `TokenFiles.read`.
    """
    return {split: _documents(files, split, say, progress) for split in files.splits}


def _documents(files: TokenFiles, split: str, say: _Say, progress: Progress) -> FileDocuments:
    file = files.splits[split]
    index = file.with_suffix(".idx")

    def make(writer: Writer) -> dict[str, Any]:
        with progress.phase(f"reading {file}", file.stat().st_size, "bytes") as advance:
            found = files.read(split, advance)
        writer.append("offsets", found.offsets)
        return {"dtype": found.tokens.dtype.str, "largest": found.largest, "at": found.at}

    with progress.phase(f"looking whether {file} has changed"):
        key = {"files": contents([file, *([index] if index.exists() else [])])}
    key |= {"dtype": files.dtype, "end": files.end, "code": code_of(TokenFiles.read)}
    kept = stored("token_files", key, make, say, progress)
    facts = dict(kept.about)
    tokens = mapped(file, facts.pop("dtype"), mmap.MADV_RANDOM)  # batches read here and there
    read = TokenFile(tokens, kept["offsets"], **facts)
    return FileDocuments(file, key["files"], read, Ragged(read.tokens, read.offsets))


def split_tokens(
    found: Mapping[str, FileDocuments], *, by: str, validation_share: float, test_share: float, seed: int
) -> dict[str, FileDocuments]:
    """Returns "train", "validation" and "test" documents: those of their own files, the others held out of training.

    All are in the order of their file.

    Args:
      found: the documents of each file, see `read_token_files`.
      by: "document" holds out whole documents, drawn from the seed; "tail" cuts the last shares off every document,
        validation before test.
      validation_share, test_share: of the tokens to train on; 0 of a split that has a file.
      seed: decides which documents are taken.

    Raises:
      DataError: a split would have no tokens.
    """
    shares, train = {"test": test_share, "validation": validation_share}, found["train"]
    cut = _by_document(train.ids, shares, seed) if by == "document" else _by_tail(train.ids, shares)
    splits = {name: dataclasses.replace(train, ids=ids) for name, ids in cut.items()}
    splits |= {name: part for name, part in found.items() if name != "train"}
    for name, part in splits.items():
        if not part.token_count:
            hint = "; hold out the tail of every document (data.split='tail')" if by == "document" else ""
            size = f"{len(train):,} document(s) of {train.token_count:,} tokens"
            raise DataError(f"{part.file}: {size} are too few for a {name} split{hint}")
    return splits


def _by_document(ids: Ragged, shares: Mapping[str, float], seed: int) -> dict[str, Ragged]:
    lengths, order = ids.lengths, np.random.default_rng(seed).permutation(len(ids))
    dealt = dealt_out(lengths[order], {name: share * lengths.sum() for name, share in shares.items()})
    return {name: ids.take(np.sort(order[slice(*dealt[name])])) for name in ("train", "validation", "test")}


def _by_tail(ids: Ragged, shares: Mapping[str, float]) -> dict[str, Ragged]:
    begins, lengths = ids.spans(np.arange(len(ids)))
    edges = begins[:, None] + np.concatenate([0 * begins[:, None], tails(lengths, shares), lengths[:, None]], 1)
    parts = {}
    for i, name in enumerate(("train", "validation", "test")):
        some = np.flatnonzero(edges[:, i + 1] > edges[:, i])
        parts[name] = Ragged(ids.values, edges[some, i : i + 2].reshape(-1), 2 * np.arange(len(some)))
    return parts
