"""Training batches of several sources, each of which has its share of them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from ..files import DataError
from . import ALL_ROWS, Batch, Batches, RowBatches

# A share of one is this many steps: what is counted in them is exact up to 2**63 rows.
_STEPS = np.uint64(1 << 32)
_LOW = np.uint64((1 << 32) - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class MixedRows(Batches):
    """Batches whose rows are those of several sources by their weights, each source in its own order: see `mixed`.

    An epoch has as many batches as the rows of all sources fill.

    Attributes:
      sources: of one shape each, and of the same but for their number of rows.
      weights: shares of the rows, adding up to 1.
      rows: B, in a batch.
      seed: of which rows are whose.
    """

    sources: Sequence[RowBatches]
    weights: Sequence[float]
    rows: int
    seed: int

    one_shape = True
    filler = property(lambda self: self.sources[0].filler)

    def __len__(self) -> int:
        return max(1, sum(len(source) * source.rows for source in self.sources) // self.rows)

    def row_count(self, i: int) -> int:
        return self.rows

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        sources, within = mixed(self.seed, self.weights, i * self.rows + np.arange(self.rows)[rows])
        if not len(sources):
            return self.sources[0].batch(0, slice(0))
        arrays: Batch = {}
        for number, source in enumerate(self.sources):
            places = np.flatnonzero(sources == number)
            for at, part in _parts(source, within[places]):
                for name, values in part.items():
                    shape = (len(sources), *values.shape[1:])
                    arrays.setdefault(name, np.empty(shape, values.dtype))[places[at : at + len(values)]] = values
        return arrays

    def padding_share(self) -> float:
        """Returns the share of token slots that hold padding."""
        return _mean(self)


def _parts(source: RowBatches, numbers: np.ndarray) -> Iterator[tuple[int, Batch]]:
    """Yields the rows of a source with these numbers, which follow each other, in order, and which is the first of each."""
    at = 0
    while at < len(numbers):
        i, first = divmod(int(numbers[at]), source.rows)
        count = min(len(numbers) - at, source.rows - first)
        yield at, source.batch(i, slice(first, first + count))
        at += count


@dataclasses.dataclass(frozen=True, eq=False)
class MixedBatches(Batches):
    """Batches each of which is one of several sources', by their weights, each source in its own order: see `mixed`.

    Attributes:
      sources: batches of all.
      weights: shares of the batches, adding up to 1.
      seed: of which batches are whose.
    """

    sources: Sequence[Batches]
    weights: Sequence[float]
    seed: int

    filler = property(lambda self: self.sources[0].filler)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def _place(self, i: int) -> tuple[Batches, int]:
        """Returns the source of batch i, and which of its batches that is."""
        sources, within = mixed(self.seed, self.weights, np.array([i]))
        return self.sources[int(sources[0])], int(within[0])

    def row_count(self, i: int) -> int:
        source, number = self._place(i)
        return source.row_count(number)

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        source, number = self._place(i)
        return source.batch(number, rows)

    def padding_share(self) -> float:
        """Returns the share of token slots that hold padding."""
        return _mean(self)


def _mean(of: MixedRows | MixedBatches) -> float:
    return sum(w * source.padding_share() for w, source in zip(of.weights, of.sources, strict=True))


def as_many_rows(make: Callable[[int], RowBatches], rows: int) -> RowBatches:
    """Returns the batches that `make` gives of so many rows, or of half as many, and so on, as long as there are too few.

    Raises:
      DataError: there is no row at all.
    """
    while True:
        try:
            return make(rows)
        except DataError:
            if rows == 1:
                raise
            rows //= 2


def mixed(seed: int, weights: Sequence[float], positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the source of each row, and which of that source's rows it is, int64 [n] each, anywhere in an endless order.

    The rows 0, 1, 2, ... of a source come in this order, without gaps. Among the first t rows of all, the number of those
    of source k differs from t times its weight by less than k + 1, and never by more than there are other sources. Each
    position is computed by itself.

    The sources part the rows as cutting sequences: source 0 has those at which floor(w t + phase) grows, and
    the sources after it share the others in the same way (Morse and Hedlund, Symbolic Dynamics II, 1940).

    Args:
      seed: of the phases, which shift where the sources take turns.
      weights: positive, adding up to 1; kept to 2^-32.
      positions: of the rows, from 0, integers [n].
    """
    phases = np.random.default_rng(seed).integers(0, _STEPS, len(weights), dtype=np.uint64)
    sources = np.full(len(positions), len(weights) - 1)
    left, at = np.arange(len(positions)), positions.astype(np.uint64)  # rows that no source has yet; their numbers
    within, rest = np.empty(len(positions), np.int64), sum(map(Fraction, weights))
    for source, weight in enumerate(weights[:-1]):
        share = np.uint64(round(Fraction(weight) / rest * int(_STEPS)))
        before, after = (_grown(share, phases[source], t) for t in (at, at + np.uint64(1)))
        own = after > before
        sources[left[own]], within[left[own]] = source, before[own]
        left, at, rest = left[~own], (at - before)[~own], rest - Fraction(weight)
    within[left] = at
    return sources, within


def _grown(share: np.uint64, phase: np.uint64, at: np.ndarray) -> np.ndarray:
    """Returns floor((share t + phase) / 2^32), exactly: the upper and the lower half of t apart."""
    return (at >> np.uint64(32)) * share + ((at & _LOW) * share + phase) // _STEPS
