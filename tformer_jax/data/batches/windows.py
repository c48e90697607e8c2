"""Rows of one length from a stream of tokens."""

import dataclasses
import functools

import numpy as np

from ..ragged import Ragged, filled, ranges
from . import ALL_ROWS, Batch, RowBatches


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(RowBatches):
    """Rows cut from a stream, for predicting each token from those before it: `windows.batch(i)`.

    The stream is all documents one after another, each between start and end token, if there are any; nowhere does it lie
    as a whole.
    Neighbouring rows share one token, so that each token is a target in one row only. In training every epoch shifts
    all rows by an offset, drawn from (seed, epoch). In evaluation every token that has one before it (in its document,
    with segments) is a target exactly once.

    Attributes:
      documents: without start and end tokens.
      row_length: T, targets in a row.
      rows, seed: see `RowBatches`; the seed is of offsets, too.
      boundaries: "segments" (a batch tells the documents of a row apart) or "stream" (it does not).
      bos_id, eos_id: the start token and the end token; None: documents have their own, or need none.
      pad_id: what fills the rows.
    """

    documents: Ragged
    row_length: int
    rows: int
    seed: int | None
    boundaries: str
    bos_id: int | None
    eos_id: int | None
    pad_id: int = 0

    def __post_init__(self):
        framed = self.documents.lengths + (self.bos_id is not None) + (self.eos_id is not None)
        ends = np.cumsum(framed)  # [m], of documents in the stream
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
        begins = offset + row * self.row_length  # [B]
        ends = np.minimum(begins + self.row_length + 1, n)
        begins, ends = np.where(row >= 0, (begins, ends), 0)
        first = np.searchsorted(self._ends, begins, "right")  # the document of the first token of each row
        counts = np.where(row >= 0, np.searchsorted(self._ends, ends - 1, "right") - first + 1, 0)
        document, row_of = ranges(first, counts), np.repeat(np.arange(len(row)), counts)  # of each part of a row
        parts, sizes = self._parts(document, begins[row_of], ends[row_of])
        tokens = filled(parts, ends - begins, self.row_length + 1, self.pad_id)
        if self.boundaries == "stream":
            return {"tokens": tokens, "lengths": (ends - begins).astype(np.int32)}
        numbers = np.repeat(ranges(np.ones_like(counts), counts), sizes)
        return {"tokens": tokens, "segments": filled(numbers, ends - begins, self.row_length + 1, 0)}

    def _parts(self, document: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of documents between two places of the stream, one after another, and how many of each.

        Args:
          document: [R], numbers of documents.
          begins, ends: [R], places before or in each, and in or behind it.
        """
        from_value, lengths = self.documents.spans(document)
        last = self._ends[document]
        led, closed = self.bos_id is not None, self.eos_id is not None
        start = last - lengths - led - closed
        begins, ends = np.maximum(begins, start), np.minimum(ends, last)
        sizes = ends - begins
        until = np.cumsum(sizes)  # where among all that is returned a part ends
        tokens, text = np.empty(sizes.sum(), np.int32), np.ones(sizes.sum(), bool)
        for token, places in ((self.bos_id, (until - sizes)[begins == start]), (self.eos_id, until[ends == last] - 1)):
            if token is not None:
                text[places], tokens[places] = False, token
        tokens[text] = self.documents.values[ranges(from_value + begins - start - led, sizes)[text]]
        return tokens, sizes


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
