"""Sequences in batches of like length, each padded to the longest length of its bucket."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from ..files import DataError
from . import ALL_ROWS, Batch, ExampleBatches, filled_up, permutation

# Token slots of a batch that is evaluated, where no config says how many.
EVALUATION_TOKENS = 4096


def least_rows(batch_tokens: int, length: int, multiple: int) -> int:
    """Returns the rows of a bucket: as many as fit, a multiple of `multiple`, but one multiple at least."""
    return max(1, batch_tokens // length // multiple) * multiple


def padded(tokens: Sequence[int] | np.ndarray, limit: int) -> np.ndarray:
    """Returns tokens, int32, with 0 behind them up to the next power of two, or `limit`: few lengths, few programs."""
    length = min(1 << (len(tokens) - 1).bit_length(), limit)
    return np.pad(np.asarray(tokens, np.int32), (0, length - len(tokens)))


def choose_buckets(lengths: Sequence[int], count: int) -> list[int]:
    """Returns the at most `count` bucket lengths that pad the fewest tokens, ascending; by dynamic programming.

    Each example goes into the shortest bucket that holds it; the last is the longest example.
    """
    sizes, number = np.unique(np.asarray(lengths), return_counts=True)
    before = np.concatenate([[0], np.cumsum(number)])
    # cost[j]: tokens, padding included, when the first j sizes are covered by the buckets so far.
    cost, choice = np.where(np.arange(len(sizes) + 1) == 0, 0.0, np.inf), []
    for _ in range(min(count, len(sizes))):
        total = cost[:, None] + (before[None, 1:] - before[:, None]) * sizes[None, :]
        total[np.tril_indices(len(sizes), -1, len(sizes))] = np.inf
        choice.append(total.argmin(0))
        cost = np.concatenate([[0.0], total.min(0)])
    buckets, end = [], len(sizes)
    for start in reversed(choice):
        if end == 0:
            break
        buckets.append(int(sizes[end - 1]))
        end = int(start[end - 1])
    return buckets[::-1]


def ladder(longest: int, limit: int, first: int = 16, factor: int = 4) -> list[int]:
    """Returns bucket lengths that do not depend on the data: first, first * factor, ..., at last `limit`.

    For evaluation and decoding, where few programs matter more than little padding. Those beyond
    the first that holds `longest` are left out.
    """
    lengths = [limit]
    while (step := first * factor ** (len(lengths) - 1)) < limit:
        lengths.insert(-1, step)
    return lengths[: 1 + sum(length < longest for length in lengths)]


@dataclasses.dataclass(frozen=True, eq=False)
class Buckets(ExampleBatches):
    """Parallel sequences in batches of like length, random-access: `buckets.batch(i)`.

    An epoch holds every example once. Example order, and the order of batches, are drawn from
    (seed, epoch), so batch i follows from (seed, i) alone and a run resumes from its step number.
    The last batch of a bucket may have rows of length 0: padding like any other.

    Attributes:
      sequences: one list of token lists per side; example e is the e-th of each.
      names: what a batch calls the sides: `name` [B T] and `name + "_lengths"` [B].
      lengths: of the buckets, ascending (`choose_buckets`).
      batch_tokens: about how many tokens, padding included, one side of a batch has; more where the least number
        of rows has more.
      seed: of the shuffle; None keeps the examples in order, for evaluation.
      pad_id: fills the rows.
      rows_multiple: the rows of every batch are a multiple of this.

    Raises:
      DataError: an example is longer than the longest bucket.
    """

    sequences: tuple[list[list[int]], ...]
    names: tuple[str, ...]
    lengths: list[int]
    batch_tokens: int
    seed: int | None
    pad_id: int = 0
    rows_multiple: int = 1

    def __post_init__(self):
        longest = [max(map(len, example)) for example in zip(*self.sequences, strict=True)]
        if max(longest, default=0) > self.lengths[-1]:
            raise DataError(f"an example of {max(longest)} tokens does not fit the longest bucket, {self.lengths[-1]}")
        bucket = np.searchsorted(self.lengths, longest)
        members = [np.flatnonzero(bucket == b) for b in range(len(self.lengths))]
        # No more rows than there are examples, up to a power of two: splits of a like size share programs.
        most = [1 << max(0, len(group) - 1).bit_length() for group in members]
        rows = [least_rows(min(self.batch_tokens, length * n), length, self.rows_multiple)
                for length, n in zip(self.lengths, most, strict=True)]  # fmt: skip
        # The (bucket, first row) of each batch of an epoch, before it is shuffled.
        plan = [(b, at) for b in range(len(rows)) for at in range(0, len(members[b]), rows[b])]
        for name, value in (("_members", members), ("_rows", rows), ("_plan", plan)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self._plan)

    @property
    def one_shape(self) -> bool:
        return len(self.lengths) == 1

    def _chosen(self, i: int) -> tuple[int, np.ndarray]:
        """Returns the bucket of batch i and the examples in it."""
        epoch, position = divmod(i, len(self))
        if self.seed is None:
            b, at = self._plan[position]
            return b, self._members[b][at : at + self._rows[b]]
        b, at = self._plan[permutation((self.seed, epoch), len(self))[position]]
        members = self._members[b]
        return b, members[permutation((self.seed, epoch, b), len(members))[at : at + self._rows[b]]]

    def indices(self, i: int) -> np.ndarray:
        return self._chosen(i)[1]

    def row_count(self, i: int) -> int:
        return self._rows[self._chosen(i)[0]]

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns `name` int32 [B T] and `name_lengths` int32 [B] for each side."""
        b, examples = self._chosen(i)
        return self._arrays(filled_up(examples, self._rows[b])[rows], self.lengths[b])

    def _arrays(self, examples: np.ndarray, length: int) -> Batch:
        """Returns the rows of some examples, -1 for an empty one."""
        arrays: Batch = {}
        for name, side in zip(self.names, self.sequences, strict=True):
            tokens = np.full((len(examples), length), self.pad_id, np.int32)
            lengths = np.zeros(len(examples), np.int32)
            for row, example in enumerate(examples):
                if example >= 0:
                    lengths[row] = len(side[example])
                    tokens[row, : lengths[row]] = side[example]
            arrays |= {name: tokens, f"{name}_lengths": lengths}
        return arrays

    def padding_share(self) -> float:
        """Returns the share of an epoch's token slots, over all sides, that hold padding."""
        slots = len(self.sequences) * sum(self._rows[b] * self.lengths[b] for b, _ in self._plan)
        return 1 - sum(len(tokens) for side in self.sequences for tokens in side) / slots


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledBuckets(Buckets):
    """Buckets of one side, "tokens", whose examples have a class, or another number, each.

    Attributes:
      labels: int32 [n], the class of each example, or of another dtype.
    """

    filler: ClassVar[Mapping[str, int]] = MappingProxyType({"labels": -1})

    labels: np.ndarray = dataclasses.field(kw_only=True)

    def _arrays(self, examples: np.ndarray, length: int) -> Batch:
        """Returns "tokens" int32 [B T], "lengths" int32 [B], "labels" [B]; rows that fill up have 0 and -1."""
        batch = super()._arrays(examples, length)
        labels = np.where(examples < 0, self.labels.dtype.type(-1), self.labels[examples])
        return {"tokens": batch["tokens"], "lengths": batch["tokens_lengths"], "labels": labels}
