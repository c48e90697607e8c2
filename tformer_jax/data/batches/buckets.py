"""Sequences in batches of like length, each padded to the longest length of its bucket."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from ..files import DataError
from ..ragged import Ragged, longest_sides
from . import ALL_ROWS, Batch, ExampleBatches, filled_up
from .order import shuffled

# Token slots of a batch that is evaluated, where no config says how many.
EVALUATION_TOKENS = 4096


def least_rows(batch_tokens: int, length: int, multiple: int) -> int:
    """Returns the rows of a bucket: as many as fit, a multiple of `multiple`, but one multiple at least."""
    return max(1, batch_tokens // length // multiple) * multiple


def padded(tokens: Sequence[int] | np.ndarray, limit: int) -> np.ndarray:
    """Returns tokens, int32, with 0 behind them up to the next power of two, or `limit`: few lengths, few programs."""
    length = min(1 << (len(tokens) - 1).bit_length(), limit)
    return np.pad(np.asarray(tokens, np.int32), (0, length - len(tokens)))


def choose_buckets(lengths: Sequence[int] | np.ndarray, count: int) -> list[int]:
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
      sequences: the tokens of each side; example e is the e-th of each.
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

    sequences: tuple[Ragged, ...]
    names: tuple[str, ...]
    lengths: list[int]
    batch_tokens: int
    seed: int | None
    pad_id: int = 0
    rows_multiple: int = 1

    def __post_init__(self):
        longest = longest_sides(self.sequences)
        if (longest_of_all := longest.max(initial=0)) > self.lengths[-1]:
            raise DataError(
                f"an example of {longest_of_all} tokens does not fit the longest bucket, {self.lengths[-1]}"
            )
        bucket = np.searchsorted(self.lengths, longest)
        members = [np.flatnonzero(bucket == b) for b in range(len(self.lengths))]
        # No more rows than there are examples, up to a power of two: splits of a like size share programs.
        most = [1 << max(0, len(group) - 1).bit_length() for group in members]
        rows = [least_rows(min(self.batch_tokens, length * n), length, self.rows_multiple)
                for length, n in zip(self.lengths, most, strict=True)]  # fmt: skip
        batches = [-(-len(group) // n) for group, n in zip(members, rows, strict=True)]
        # Before they are shuffled, the batches of bucket b are those from _firsts[b] to _firsts[b + 1].
        for name, value in (("_members", members), ("_rows", rows), ("_firsts", np.cumsum([0, *batches]))):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def one_shape(self) -> bool:
        return len(self.lengths) == 1

    def _place(self, i: int) -> tuple[int, int]:
        """Returns the bucket of batch i, and which of the batches of that bucket it is."""
        epoch, position = divmod(i, len(self))
        if self.seed is not None:
            position = int(shuffled((self.seed, epoch), len(self), position))
        bucket = int(np.searchsorted(self._firsts, position, "right")) - 1
        return bucket, position - int(self._firsts[bucket])

    def _chosen(self, i: int) -> tuple[int, np.ndarray]:
        """Returns the bucket of batch i and the examples in it."""
        bucket, number = self._place(i)
        members, rows = self._members[bucket], self._rows[bucket]
        positions = np.arange(number * rows, min((number + 1) * rows, len(members)))
        if self.seed is not None:
            positions = shuffled((self.seed, i // len(self), bucket), len(members), positions)
        return bucket, members[positions]

    def indices(self, i: int) -> np.ndarray:
        return self._chosen(i)[1]

    def row_count(self, i: int) -> int:
        return self._rows[self._place(i)[0]]

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns `name` int32 [B T] and `name_lengths` int32 [B] for each side."""
        bucket, examples = self._chosen(i)
        return self._arrays(filled_up(examples, self._rows[bucket])[rows], self.lengths[bucket])

    def _arrays(self, examples: np.ndarray, length: int) -> Batch:
        """Returns the rows of some examples, -1 for an empty one."""
        arrays: Batch = {}
        for name, side in zip(self.names, self.sequences, strict=True):
            arrays[name], arrays[f"{name}_lengths"] = side.rows(examples, length, self.pad_id)
        return arrays

    def padding_share(self) -> float:
        """Returns the share of an epoch's token slots, over all sides, that hold padding."""
        slots = len(self.sequences) * int((np.diff(self._firsts) * self._rows * self.lengths).sum())
        return 1 - sum(int(side.lengths.sum()) for side in self.sequences) / slots


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
