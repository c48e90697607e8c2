"""Rows of one length from a stream of tokens."""

import dataclasses
import functools

import numpy as np

from ..ragged import Ragged
from . import ALL_ROWS, Batch, RowBatches


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(RowBatches):
    """Rows cut from a stream, for predicting each token from those before it: `windows.batch(i)`.

    The stream is all documents one after another, each between start and end token; nowhere does it lie as a whole.
    Neighbouring rows share one token, so that each token is a target in one row only. In training every epoch shifts
    all rows by an offset, drawn from (seed, epoch). In evaluation every token that has one before it (in its document,
    with segments) is a target exactly once.

    Attributes:
      documents: without start and end tokens.
      row_length: T, targets in a row.
      rows, seed: see `RowBatches`; the seed is of offsets, too.
      boundaries: "segments" (a batch tells the documents of a row apart) or "stream" (it does not).
      bos_id, eos_id, pad_id: the start token, the end token, and what fills the rows.
    """

    documents: Ragged
    row_length: int
    rows: int
    seed: int | None
    boundaries: str
    bos_id: int
    eos_id: int
    pad_id: int = 0

    def __post_init__(self):
        ends = np.cumsum(self.documents.lengths + 2)  # [m], of documents in the stream
        length, n = self.row_length, int(ends[-1]) if len(ends) else 0
        # In training, one less than there could be, which leaves room for offsets.
        count = -(-(n - 1) // length) if self.seed is None else n // length - 1
        self._number_rows(count, f"{n} tokens in rows of {length}")
        object.__setattr__(self, "_ends", ends)

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns "tokens" int32 [B T+1], and what `boundaries` says.

        With it "segments" int32 [B T+1], numbered from 1 in each row, 0 for padding; or "lengths"
        int32 [B], without the padding.
        """
        row, offset, n = self._numbers(i, rows), 0, int(self._ends[-1])
        if self.seed is not None:
            room = n - self._count * self.row_length
            offset = int(np.random.default_rng((self.seed, i // len(self), 1)).integers(room))
        at = offset + row[:, None] * self.row_length + np.arange(self.row_length + 1)  # [B T+1]
        inside = (at < n) & (row >= 0)[:, None]
        number = np.zeros(at.shape, np.int64)  # of the document
        number[inside] = np.searchsorted(self._ends, at[inside], "right")
        tokens = np.full(at.shape, self.pad_id, np.int32)
        tokens[inside] = self._tokens(at[inside], number[inside])
        if self.boundaries == "stream":
            return {"tokens": tokens, "lengths": inside.sum(1, dtype=np.int32)}
        segments = np.where(inside, number - number[:, :1] + 1, 0).astype(np.int32)
        return {"tokens": tokens, "segments": segments}

    def _tokens(self, at: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Returns the tokens at some places of the stream, int32 [N], from the numbers of their documents."""
        begins, lengths = self.documents.spans(number)
        place = at - self._ends[number] + lengths + 1  # in the document: -1 for the start, its length for the end
        tokens = np.where(place < 0, np.int32(self.bos_id), np.int32(self.eos_id))
        text = (place >= 0) & (place < lengths)
        tokens[text] = self.documents.values[begins[text] + place[text]]
        return tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces(RowBatches):
    """Rows that hold a piece of one document each, between start and end token: `pieces.batch(i)`.

    For predicting tokens from both sides. A document of at most T-2 tokens is one piece. In training every epoch cuts
    longer ones at another offset, drawn from (seed, epoch); in evaluation they are cut from their beginning on.

    Attributes:
      documents: without start and end tokens.
      words: int32, as many as `documents.values`, equal for the tokens of one word; None: batches tell no words.
      row_length: T, start and end token included.
      rows, seed: see `RowBatches`; the seed is of offsets, too.
      bos_id, eos_id, pad_id: the start token, the end token, and what fills the rows.
    """

    documents: Ragged
    words: np.ndarray | None
    row_length: int
    rows: int
    seed: int | None
    bos_id: int
    eos_id: int
    pad_id: int = 0

    def __post_init__(self):
        # Cut from the beginning on there are fewest pieces: as many as there are in every epoch.
        count = int((-(-self.documents.lengths // (self.row_length - 2))).sum())
        self._number_rows(count, f"{count} row(s) of {self.row_length} tokens")
        # The latest epoch is kept, because every batch of it asks for the same cuts.
        object.__setattr__(self, "_cuts", functools.lru_cache(maxsize=1)(self._cut))

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns "tokens" int32 [B T], "lengths" int32 [B].

        And "word_ids" int32 [B T] in [0, T) if there are `words`: equal for the tokens of one word;
        start, end and each slot of padding have their own.
        """
        offset, last = self._cuts(i // len(self))
        chosen = self._numbers(i, rows, int(last[-1]))  # [B]
        real = chosen >= 0
        begins, sizes = np.zeros_like(chosen), np.full_like(chosen, -2)  # [B]
        begins[real], sizes[real] = self._pieces(chosen[real], offset, last)
        lengths, column = sizes[:, None] + 2, np.arange(self.row_length)
        inside = (column > 0) & (column < lengths - 1)  # [B T]
        at = (begins[:, None] + column - 1)[inside]
        tokens = np.full(inside.shape, self.pad_id, np.int32)
        tokens[inside] = self.documents.values[at]
        tokens[real, 0] = self.bos_id
        tokens[column == lengths - 1] = self.eos_id
        arrays = {"tokens": tokens, "lengths": lengths[:, 0].astype(np.int32)}
        if self.words is not None:
            words = np.zeros(inside.shape, self.words.dtype)
            words[inside] = self.words[at]
            new = np.ones(inside.shape, bool)
            new[:, 1:] = ~(inside[:, 1:] & inside[:, :-1] & (words[:, 1:] == words[:, :-1]))
            arrays["word_ids"] = np.cumsum(new, 1, dtype=np.int32) - 1
        return arrays

    def _cut(self, epoch: int) -> tuple[int, np.ndarray]:
        """Returns the offset of an epoch, and how many pieces there are up to the end of each document, int64 [m]."""
        piece, sizes = self.row_length - 2, self.documents.lengths
        offset = 0 if self.seed is None else int(np.random.default_rng((self.seed, epoch, 1)).integers(piece))
        return offset, np.cumsum(-(-(sizes + _lead(sizes, offset, piece)) // piece))

    def _pieces(self, numbers: np.ndarray, offset: int, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns where in the values some pieces of an epoch begin, and their lengths, int64 [B] each."""
        piece = self.row_length - 2
        document = np.searchsorted(last, numbers, "right")
        begins, sizes = self.documents.spans(document)
        lead = _lead(sizes, offset, piece)
        # Counted from where the last piece of the document ends, if it were a whole one.
        end = (numbers - last[document] + 1 - (-(sizes + lead) // piece)) * piece - lead
        first = np.maximum(end - piece, 0)
        return begins + first, np.minimum(end, sizes) - first


def _lead(sizes: np.ndarray, offset: int, piece: int) -> np.ndarray:
    """Returns how many tokens stand before each document, as it were: its first piece is shorter by as many."""
    return np.where(sizes > piece, offset, 0)
