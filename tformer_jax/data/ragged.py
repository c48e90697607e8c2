"""Sequences of different lengths that lie one after another in one flat array, which may be a file mapped into memory."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences that lie one after another: sequence i is `values[offsets[i] : offsets[i + 1]]`.

    What is asked of a few sequences reads the values of those alone: they may be 100 GB on a disk.

    Attributes:
      values: integers of any kind, [n].
      offsets: int64 [m + 1], ascending, from 0.
      chosen: int [k], which sequences these are, in order; None: all m.
    """

    values: np.ndarray
    offsets: np.ndarray
    chosen: np.ndarray | None = None

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int]]) -> "Ragged":
        """Returns sequences of tokens one after another in memory, as int32."""
        offsets = np.zeros(len(sequences) + 1, np.int64)
        np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
        return cls(np.fromiter(itertools.chain.from_iterable(sequences), np.int32, int(offsets[-1])), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.chosen is None else len(self.chosen)

    def __getitem__(self, i: int) -> np.ndarray:
        """Returns sequence i, a view; the last is -1."""
        (begin,), (length,) = self.spans(np.array([range(len(self))[i]]))
        return self.values[begin : begin + length]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """The length of each sequence, int64 [m]."""
        lengths = np.diff(self.offsets)
        return lengths if self.chosen is None else lengths[self.chosen]

    def take(self, numbers: np.ndarray) -> "Ragged":
        """Returns some of the sequences, in that order, without a copy of their values."""
        return dataclasses.replace(self, chosen=numbers if self.chosen is None else self.chosen[numbers])

    def spans(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns where in `values` some sequences begin, and their lengths, int64 [B] each."""
        numbers = numbers if self.chosen is None else self.chosen[numbers]
        begins = self.offsets[numbers]
        return begins, self.offsets[numbers + 1] - begins

    def joined(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the values of some sequences, one after another, [N], and the lengths of these, int64 [B]."""
        begins, lengths = self.spans(numbers)
        return self.values[ranges(begins, lengths)], lengths

    def rows(self, numbers: np.ndarray, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns some sequences as rows, filled up with `pad`, and their lengths: int32 [B T] and int32 [B].

        Args:
          numbers: of the sequences, [B]; -1 for a row that is empty.
          length: T, at least that of the longest of them.
          pad: stands behind the end of each.
        """
        real = numbers >= 0
        values, found = self.joined(numbers[real])
        lengths = np.zeros(len(numbers), np.int32)
        lengths[real] = found
        return filled(values, lengths, length, pad), lengths


def longest_sides(sequences: Sequence[Ragged]) -> np.ndarray:
    """Returns the length of each example's longest side, int64 [n].

    Raises:
      ValueError: sides do not have as many examples.
    """
    return np.stack([side.lengths for side in sequences]).max(0)


def ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns begins[0], begins[0] + 1, ..., `lengths[0]` numbers, and after them those of the others; int64 [N]."""
    shift = begins - (np.cumsum(lengths) - lengths)
    return np.arange(lengths.sum()) + np.repeat(shift, lengths)


def filled(values: np.ndarray, lengths: np.ndarray, length: int, pad: int) -> np.ndarray:
    """Returns values [N], the first `lengths[0]` of which are in row 0 and so on, as int32 [B T], with `pad` behind."""
    rows = np.full((len(lengths), length), pad, np.int32)
    rows[np.arange(length) < lengths[:, None]] = values
    return rows
