"""Rows of one length from a stream of tokens."""

import dataclasses
import functools

import numpy as np

from . import ALL_ROWS, Batch, RowBatches


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(RowBatches):
    """Rows cut from a stream, for predicting each token from those before it: `windows.batch(i)`.

    Neighbouring rows share one token, so that each token is a target in one row only. In training every epoch shifts
    all rows by an offset, drawn from (seed, epoch). In evaluation every token that has one before it (in its document,
    with segments) is a target exactly once.

    Attributes:
      tokens: int32 [n], all documents one after another, each from start to end token.
      documents: int32 [n], the number of each token's document, counted up by one.
      row_length: T, targets in a row.
      rows, seed: see `RowBatches`; the seed is of offsets, too.
      boundaries: "segments" (a batch tells the documents of a row apart) or "stream" (it does not).
      pad_id: fills the rows.
    """

    tokens: np.ndarray
    documents: np.ndarray
    row_length: int
    rows: int
    seed: int | None
    boundaries: str
    pad_id: int = 0

    def __post_init__(self):
        length, n = self.row_length, len(self.tokens)
        # In training, one less than there could be, which leaves room for offsets.
        count = -(-(n - 1) // length) if self.seed is None else n // length - 1
        self._number_rows(count, f"{n} tokens in rows of {length}")

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns "tokens" int32 [B T+1], and what `boundaries` says.

        With it "segments" int32 [B T+1], numbered from 1 in each row, 0 for padding; or "lengths"
        int32 [B], without the padding.
        """
        row, offset = self._numbers(i, rows), 0  # [B]
        if self.seed is not None:
            room = len(self.tokens) - self._count * self.row_length
            offset = int(np.random.default_rng((self.seed, i // len(self), 1)).integers(room))
        at = offset + row[:, None] * self.row_length + np.arange(self.row_length + 1)  # [B T+1]
        inside = (at < len(self.tokens)) & (row >= 0)[:, None]
        at = np.clip(at, 0, len(self.tokens) - 1)
        arrays = {"tokens": np.where(inside, self.tokens[at], np.int32(self.pad_id))}
        if self.boundaries == "stream":
            return arrays | {"lengths": inside.sum(1, dtype=np.int32)}
        documents = self.documents[at]
        return arrays | {"segments": np.where(inside, documents - documents[:, :1] + 1, np.int32(0))}


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces(RowBatches):
    """Rows that hold a piece of one document each, between start and end token: `pieces.batch(i)`.

    For predicting tokens from both sides. A document of at most T-2 tokens is one piece. In training every epoch cuts
    longer ones at another offset, drawn from (seed, epoch); in evaluation they are cut from their beginning on.

    Attributes:
      tokens: int32 [n], all documents one after another, without start and end tokens.
      documents: int32 [n], the number of each token's document, ascending.
      words: int32 [n], equal for the tokens of one word; None: batches tell no words.
      row_length: T, start and end token included.
      rows, seed: see `RowBatches`; the seed is of offsets, too.
      bos_id, eos_id, pad_id: the start token, the end token, and what fills the rows.
    """

    tokens: np.ndarray
    documents: np.ndarray
    words: np.ndarray | None
    row_length: int
    rows: int
    seed: int | None
    bos_id: int
    eos_id: int
    pad_id: int = 0

    def __post_init__(self):
        begins = np.flatnonzero(np.diff(self.documents, prepend=-1))
        sizes = np.diff(begins, append=len(self.documents))
        # Cut from the beginning on there are fewest pieces: as many as there are in every epoch.
        count = int((-(-sizes // (self.row_length - 2))).sum())
        self._number_rows(count, f"{count} row(s) of {self.row_length} tokens")
        # The latest epoch is kept, because every batch of it asks for the same pieces.
        pieces = functools.lru_cache(maxsize=1)(lambda epoch: self._cut(begins, sizes, epoch))
        object.__setattr__(self, "_pieces", pieces)

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns "tokens" int32 [B T], "lengths" int32 [B].

        And "word_ids" int32 [B T] in [0, T) if there are `words`: equal for the tokens of one word;
        start, end and each slot of padding have their own.
        """
        begins, sizes = self._pieces(i // len(self))
        chosen = self._numbers(i, rows, len(begins))  # [B]
        begin, real = begins[chosen, None], (chosen >= 0)[:, None]  # [B 1]
        lengths = np.where(real, sizes[chosen, None] + 2, 0)
        column = np.arange(self.row_length)
        inside = (column > 0) & (column < lengths - 1)  # [B T]
        at = np.clip(begin + column - 1, 0, len(self.tokens) - 1)
        tokens = np.where(inside, self.tokens[at], np.int32(self.pad_id))
        tokens[chosen >= 0, 0] = self.bos_id
        tokens[column == lengths - 1] = self.eos_id
        arrays = {"tokens": tokens, "lengths": lengths[:, 0].astype(np.int32)}
        if self.words is not None:
            words = self.words[at]
            new = np.ones(tokens.shape, bool)
            new[:, 1:] = ~(inside[:, 1:] & inside[:, :-1] & (words[:, 1:] == words[:, :-1]))
            arrays["word_ids"] = np.cumsum(new, 1, dtype=np.int32) - 1
        return arrays

    def _cut(self, begins: np.ndarray, sizes: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the beginnings of the pieces of an epoch, and the number of tokens of each."""
        piece = self.row_length - 2
        offset = 0 if self.seed is None else int(np.random.default_rng((self.seed, epoch, 1)).integers(piece))
        # As if `lead` tokens stood before the document: its first piece is shorter by as many.
        lead = np.where(sizes > piece, offset, 0)
        counts = -(-(sizes + lead) // piece)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        begins, sizes, lead = (np.repeat(array, counts) for array in (begins, sizes, lead))
        first = np.maximum(number * piece - lead, 0)
        last = np.minimum((number + 1) * piece - lead, sizes)
        return begins + first, last - first
