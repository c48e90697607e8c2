"""Sequences packed several to a row."""

import dataclasses

import numpy as np

from ..files import DataError
from . import ALL_ROWS, Batch, RowBatches


@dataclasses.dataclass(frozen=True, eq=False)
class Packed(RowBatches):
    """Parallel sequences packed several to a row, so that almost nothing is padding: `packed.batch(i)`.

    Which examples share a row is decided once, from the seed. One shape, so one compiled program.

    Attributes:
      sequences, names, pad_id: as in `Buckets`.
      lengths: of a row, for each side.
      rows, seed: see `RowBatches`; the seed is of both orders.
    """

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
        self._number_rows(len(plan), f"{len(plan)} packed rows")
        object.__setattr__(self, "_plan", plan)

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns `name` int32 [B T] and `name_segments` int32 [B T] for each side.

        The segments of a row are numbered from 1 and the same on all sides; 0 is padding.
        """
        chosen = self._numbers(i, rows)
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
        """Returns the share of token slots, over all rows and sides, that hold padding."""
        return 1 - sum(len(tokens) for side in self.sequences for tokens in side) / (
            sum(self.lengths) * len(self._plan)
        )


def _pack(lengths: list[list[int]], capacity: tuple[int, ...], seed: int, open_rows: int = 64) -> list[list[int]]:
    """Returns examples by row: each goes, in a random order, into the fullest open row that still holds it."""
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
