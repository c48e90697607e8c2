"""Batches from pairs of sentences. Batch i is a pure function of (seed, i)."""

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..config import ConfigError
from .files import DataError
from .sources import Pair
from .text import canonical

Batch = dict[str, np.ndarray]

# What a process asks for that has all the rows of a batch to itself.
ALL_ROWS = slice(None)

# Token slots of a batch that is evaluated, where no config says how many.
EVALUATION_TOKENS = 4096


Splits = dict[str, list[Pair]]

# Shape and dtype of each array of a batch.
BatchShapes = dict[str, tuple[tuple[int, ...], str]]


def split_pairs(
    pairs: Sequence[Pair], *, by: str, validation_size: int, test_size: int, seed: int, what: str = "pair"
) -> Splits:
    """Splits pairs into "train", "validation" and "test"; no training source is in the other two, in any Unicode form.

    Args:
      pairs: all of them.
      by: "group" holds out whole documents (components, books); "sentence" holds out single
        source sentences, with all their translations; "both" does the first and then, as splits
        "validation_sentences" and "test_sentences", the second: unseen documents beside unseen
        sentences of documents that were seen.
      validation_size, test_size: at least this many pairs each, as whole groups come.
      seed: decides the order in which groups are taken, by a hash, so that one more pair
        leaves the other groups where they were.
      what: people call a pair, for messages.

    Raises:
      DataError: no pair would be left to train on, or groups are asked of pairs without any.
    """
    if by == "both":
        sizes = {"validation_size": validation_size, "test_size": test_size, "what": what}
        splits = split_pairs(pairs, by="group", **sizes, seed=seed)
        sentences = split_pairs(splits.pop("train"), by="sentence", **sizes, seed=seed)
        return {"train": sentences.pop("train"), **splits} | {f"{n}_sentences": part for n, part in sentences.items()}
    if by == "group" and any(pair.group is None for pair in pairs):
        raise DataError("these pairs have no groups to split by; set data.split='sentence'")
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(canonical(pair.group if by == "group" else pair.source), []).append(pair)
    order = iter(sorted(groups, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()))
    splits: Splits = {"train": [], "validation": [], "test": []}
    for name, size in (("test", test_size), ("validation", validation_size)):
        while len(splits[name]) < size and (group := next(order, None)) is not None:
            splits[name] += groups[group]
    sources = {canonical(pair.source) for part in splits.values() for pair in part}
    splits["train"] = [pair for group in order for pair in groups[group] if canonical(pair.source) not in sources]
    if not splits["train"]:
        raise DataError(
            f"no {what} is left to train on: {len(pairs)} {what}s, test_size={test_size}, validation_size={validation_size}, "
            f"and what is alike ({len(groups)} different {by}s) stays together; lower these sizes of the data section, or "
            f"give more {what}s"
        )
    return splits


def order_seed(config: Any) -> int:
    """Returns the seed from which the order of a `data` section's training batches is drawn."""
    return config.seed if config.order_seed is None else config.order_seed


def in_order(data: Any, seed: int | None) -> Any:
    """Returns the same data, not read again, with training batches in the order of another `order_seed`."""
    other = copy.copy(data)
    other.config, other.report = dataclasses.replace(data.config, order_seed=seed), []
    return other


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the batches of a pass over a split, evenly spread: the first ones may all be short, or of one class.

    Attributes:
      batches: random-access, in order, all of the pass.
      count: of those that are taken.
    """

    batches: Any
    count: int

    def __len__(self) -> int:
        return self.count

    def _of_all(self, i: int) -> int:
        """The number of the batch in the middle of the i-th of `count` equal parts."""
        return (2 * i + 1) * len(self.batches) // (2 * self.count)

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Batch i of the part; `rows`: which of them to make."""
        return self.batches.batch(self._of_all(i), rows)

    def row_count(self, i: int) -> int:
        """The rows of batch i."""
        return self.batches.row_count(self._of_all(i))


def rows_in_batch(batch_tokens: int, row_length: int, multiple: int) -> int:
    """The most rows that fit, a multiple of `multiple`.

    Raises:
      ConfigError: none does.
    """
    rows = batch_tokens // row_length // multiple * multiple
    if rows == 0:
        raise ConfigError(
            f"data.batch_tokens={batch_tokens} must hold {multiple} row(s) of {row_length} tokens, "
            f"one for each part of training.accumulate={multiple}"
        )
    return rows


def picked(examples: np.ndarray, count: int, rows: slice) -> tuple[np.ndarray, int]:
    """The examples in some rows of a batch, and how many rows these are; of `count`, the last may be padding."""
    chosen = np.arange(count)[rows]
    return examples[chosen[chosen < len(examples)]], len(chosen)


def least_rows(batch_tokens: int, length: int, multiple: int) -> int:
    """The rows of a bucket: as many as fit, a multiple of `multiple`, but one multiple at least."""
    return max(1, batch_tokens // length // multiple) * multiple


def padded_length(length: int, limit: int) -> int:
    """The next power of two, or `limit`: few lengths, few programs."""
    return min(1 << (length - 1).bit_length(), limit)


def choose_buckets(lengths: Sequence[int], count: int) -> list[int]:
    """The at most `count` bucket lengths that pad the fewest tokens, ascending; by dynamic programming.

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
    """Bucket lengths that do not depend on the data: first, first * factor, ..., at last `limit`.

    For evaluation and decoding, where few programs matter more than little padding. Those beyond
    the first that holds `longest` are left out.
    """
    lengths = [limit]
    while (step := first * factor ** (len(lengths) - 1)) < limit:
        lengths.insert(-1, step)
    return lengths[: 1 + sum(length < longest for length in lengths)]


@dataclasses.dataclass(frozen=True)
class Buckets:
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
        """Batches in an epoch."""
        return len(self._plan)

    def indices(self, i: int) -> tuple[int, np.ndarray]:
        """The bucket of batch i and the examples in it."""
        epoch, position = divmod(i, len(self))
        if self.seed is None:
            b, at = self._plan[position]
            return b, self._members[b][at : at + self._rows[b]]
        b, at = self._plan[permutation((self.seed, epoch), len(self))[position]]
        members = self._members[b]
        return b, members[permutation((self.seed, epoch, b), len(members))[at : at + self._rows[b]]]

    @property
    def one_shape(self) -> bool:
        """Returns whether all batches have the same shapes."""
        return len(self.lengths) == 1

    def row_count(self, i: int) -> int:
        """The rows of batch i."""
        return self._rows[self.indices(i)[0]]

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Batch i, counted on through the epochs: `name` int32 [B T], `name_lengths` int32 [B] for each side.

        `rows`: which of them to make.
        """
        b, examples = self.indices(i)
        examples, count = picked(examples, self._rows[b], rows)
        arrays: Batch = {}
        for name, side in zip(self.names, self.sequences, strict=True):
            tokens = np.full((count, self.lengths[b]), self.pad_id, np.int32)
            lengths = np.zeros(count, np.int32)
            for row, example in enumerate(examples):
                lengths[row] = len(side[example])
                tokens[row, : lengths[row]] = side[example]
            arrays |= {name: tokens, f"{name}_lengths": lengths}
        return arrays

    def padding_share(self) -> float:
        """The share of an epoch's token slots, over all sides, that hold padding."""
        slots = len(self.sequences) * sum(self._rows[b] * self.lengths[b] for b, _ in self._plan)
        return 1 - sum(len(tokens) for side in self.sequences for tokens in side) / slots


@dataclasses.dataclass(frozen=True)
class Packed:
    """Parallel sequences packed several to a row, so that almost nothing is padding: `packed.batch(i)`.

    Which examples share a row is decided once, from the seed; the order of the rows is drawn from
    (seed, epoch), so batch i follows from (seed, i) alone. Rows that do not fill a batch sit out an
    epoch, other ones each time. One shape, so one compiled program.

    Attributes:
      sequences, names, pad_id: as in `Buckets`.
      lengths: of a row, for each side.
      rows: in a batch.
      seed: of both orders.
    """

    one_shape: ClassVar[bool] = True

    sequences: tuple[list[list[int]], ...]
    names: tuple[str, ...]
    lengths: tuple[int, ...]
    rows: int
    seed: int
    pad_id: int = 0

    def __post_init__(self):
        for name, side, length in zip(self.names, self.sequences, self.lengths, strict=True):
            if (longest := max(map(len, side), default=0)) > length:
                raise DataError(f"a {name} of {longest} tokens does not fit a row of {length}")
        plan = _pack([list(map(len, side)) for side in self.sequences], self.lengths, self.seed)
        if len(plan) < self.rows:
            raise DataError(f"{len(plan)} packed rows do not fill a batch of {self.rows}; lower data.batch_tokens")
        object.__setattr__(self, "_plan", plan)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._plan) // self.rows

    def row_count(self, i: int) -> int:
        """The rows of batch i: the same of all."""
        return self.rows

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Batch i, counted on through the epochs: `name` int32 [B T] and `name_segments` int32 [B T].

        The segments of a row are numbered from 1 and the same on all sides; 0 is padding. `rows`: which to make.
        """
        epoch, position = divmod(i, len(self))
        order = permutation((self.seed, epoch), len(self._plan))
        chosen = order[position * self.rows : (position + 1) * self.rows][rows]
        arrays: Batch = {}
        for name, side, length in zip(self.names, self.sequences, self.lengths, strict=True):
            tokens = np.full((len(chosen), length), self.pad_id, np.int32)
            segments = np.zeros((len(chosen), length), np.int32)
            for row, examples in enumerate(self._plan[r] for r in chosen):
                at = 0
                for segment, example in enumerate(examples, 1):
                    end = at + len(side[example])
                    tokens[row, at:end], segments[row, at:end] = side[example], segment
                    at = end
            arrays |= {name: tokens, f"{name}_segments": segments}
        return arrays

    def padding_share(self) -> float:
        """The share of token slots, over all rows and sides, that hold padding."""
        return 1 - sum(len(tokens) for side in self.sequences for tokens in side) / (
            sum(self.lengths) * len(self._plan)
        )


@functools.lru_cache(maxsize=32)
def permutation(seed: tuple[int, ...], count: int) -> np.ndarray:
    """Kept, because every batch of an epoch asks for the same one (or for one for each bucket)."""
    return np.random.default_rng(seed).permutation(count)


def _pack(lengths: list[list[int]], capacity: tuple[int, ...], seed: int, open_rows: int = 64) -> list[list[int]]:
    """Examples by row: each goes, in a random order, into the fullest open row that still holds it."""
    sizes = np.asarray(lengths).T
    room = np.tile(np.asarray(capacity), (open_rows, 1))
    rows: list[list[int]] = [[] for _ in range(open_rows)]
    done = []
    for example in np.random.default_rng(seed).permutation(len(sizes)):
        left = (room - sizes[example]).min(1)
        if (left >= 0).any():
            row = int(np.where(left >= 0, left, np.iinfo(left.dtype).max).argmin())
        else:
            row = int(room.sum(1).argmin())  # close the fullest row and open a new one in its place
            done.append(rows[row])
            rows[row], room[row] = [], capacity
        rows[row].append(int(example))
        room[row] -= sizes[example]
    return done + [row for row in rows if row]
