"""Sequences packed several to a row."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..files import DataError
from ..ragged import Ragged, filled, ranges
from . import ALL_ROWS, Batch, RowBatches
from .order import shuffled

# Of a group, while it is packed: more leave less padding, and take longer.
_OPEN_ROWS = 64
# Packed side by side: more take fewer steps, until their open rows outgrow the processor's cache.
_MOST_GROUPS = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class Packed(RowBatches):
    """Parallel sequences packed several to a row, so that almost nothing is padding: `packed.batch(i)`.

    Which examples share a row is decided once, from the seed. One shape, so one compiled program.

    Attributes:
      sequences, names, pad_id: as in `Buckets`.
      lengths: of a row, for each side.
      rows, seed: see `RowBatches`; the seed is of both orders.
    """

    sequences: tuple[Ragged, ...]
    names: tuple[str, ...]
    lengths: tuple[int, ...]
    rows: int
    seed: int
    pad_id: int = 0

    def __post_init__(self):
        sizes = np.stack([side.lengths for side in self.sequences]).astype(np.int32)  # [sides n]
        for name, longest, length in zip(self.names, sizes.max(1, initial=0), self.lengths, strict=True):
            if longest > length:
                raise DataError(f"a {name} of {longest} tokens does not fit a row of {length}")
        plan = packed_rows(sizes, self.lengths, self.seed)
        self._number_rows(len(plan), f"{len(plan)} packed rows")
        object.__setattr__(self, "_plan", plan)

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns `name` int32 [B T] and `name_segments` int32 [B T] for each side.

        The segments of a row are numbered from 1 and the same on all sides; 0 is padding.
        """
        examples, counts = self._plan.joined(self._numbers(i, rows))  # [n] of all rows, [B]
        row = np.repeat(np.arange(len(counts)), counts)  # [n]
        segments = ranges(np.ones_like(counts), counts)  # [n]
        arrays: Batch = {}
        for name, side, length in zip(self.names, self.sequences, self.lengths, strict=True):
            tokens, sizes = side.joined(examples)
            used = np.bincount(row, sizes, len(counts))  # [B]
            arrays[name] = filled(tokens, used, length, self.pad_id)
            arrays[f"{name}_segments"] = filled(np.repeat(segments, sizes), used, length, 0)
        return arrays

    def padding_share(self) -> float:
        """Returns the share of token slots, over all rows and sides, that hold padding."""
        used = sum(int(side.lengths.sum()) for side in self.sequences)
        return 1 - used / (sum(self.lengths) * len(self._plan))


def packed_rows(sizes: np.ndarray, capacity: Sequence[int], seed: int) -> Ragged:
    """Returns the examples of each row: each goes, in a random order, into the fullest open row that still holds it.

    That is best fit with a bounded number of open bins (Csirik & Johnson, 2001, "Bounded space on-line bin packing: best
    is better than first"), of many groups of examples at the same time. What lies in rows that are still open in the
    end is packed again, in fewer groups, so that only rows of the last group remain that may be far from full.

    Args:
      sizes: of the examples, int32 [sides n], none above the capacity.
      capacity: of a row, for each side.
      seed: of the order.
    """
    count = sizes.shape[1]
    order = shuffled((seed,), count, np.arange(count)) if count else np.arange(0)
    sizes, row_of = sizes[:, order], np.empty(count, np.int64)  # in that order, as all below
    left, rows, groups = np.arange(count), 0, 2 * _MOST_GROUPS
    while len(left):
        # At most a quarter of the rows is open in the end.
        least_rows = max(int(side.sum()) // room for side, room in zip(sizes[:, left], capacity, strict=True))
        groups = max(1, min(groups // 2, least_rows // (4 * _OPEN_ROWS)))
        found, open_rows = _packed_groups(sizes[:, left], np.asarray(capacity, np.int32), groups)
        row_of[left] = rows + found
        rows += groups * _OPEN_ROWS + len(left)  # more than there are: numbers may be left out
        left = left[np.isin(found, open_rows)] if groups > 1 else left[:0]
    by_row = np.argsort(row_of, kind="stable")
    firsts = np.flatnonzero(np.diff(row_of[by_row], prepend=-1))
    return Ragged(order[by_row], np.append(firsts, count))


def _packed_groups(sizes: np.ndarray, capacity: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of a row for each example, [n], and the numbers of the rows that are open in the end.

    Example i is in group i % groups.
    """
    room = np.tile(capacity[:, None, None], (groups, _OPEN_ROWS))  # [sides groups open]
    rows = np.arange(groups * _OPEN_ROWS).reshape(groups, _OPEN_ROWS)
    row_of, opened = np.empty(sizes.shape[1], np.int64), rows.size
    for first in range(0, sizes.shape[1], groups):
        size = sizes[:, first : first + groups]
        group = np.arange(size.shape[1])
        left = (room[:, : len(group)] - size[:, :, None]).min(0)  # [groups open]
        place = left.view(np.uint32).argmin(1)  # what is below 0 is above all else without its sign
        none = np.flatnonzero(left[group, place] < 0)
        if len(none):
            # The fullest row is closed, and a new one opened in its place.
            place[none] = room[:, none].sum(0).argmin(1)
            rows[none, place[none]] = np.arange(opened, opened + len(none))
            room[:, none, place[none]] = capacity[:, None]
            opened += len(none)
        room[:, group, place] -= size
        row_of[first : first + groups] = rows[group, place]
    return row_of, rows.ravel()
