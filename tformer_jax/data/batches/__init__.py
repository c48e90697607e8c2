"""Batches, and how data are cut into them. Batch i is a pure function of (seed, i)."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from ...config import ConfigError
from ..files import DataError
from .order import shuffled

Batch = dict[str, np.ndarray]

# Shape and dtype of each array of a batch.
BatchShapes = dict[str, tuple[tuple[int, ...], str]]

# What a process asks for that has all the rows of a batch to itself.
ALL_ROWS = slice(None)


@runtime_checkable
class Batches(Protocol):
    """Random-access batches: batch i is a function of i alone, counted on through the epochs.

    A class of one's own may be a subclass, which then has the defaults of `one_shape` and `filler`.

    Attributes:
      one_shape: whether all batches have the same shapes.
      filler: what rows have that only fill up a batch, by the array's name; 0 of those that are not named.
    """

    one_shape: bool = False
    filler: Mapping[str, int] = MappingProxyType({})

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""

    def row_count(self, i: int) -> int:
        """Returns the number of rows of batch i."""

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns arrays [B ...] by name; `rows`: which of them, as several processes need not all make every one."""


@runtime_checkable
class ExampleBatches(Batches, Protocol):
    """Batches with an example in each row."""

    def indices(self, i: int) -> np.ndarray:
        """Returns which examples batch i has, in the order of its rows, of which the last may only fill up."""


def checked(batches: Any, whose: str) -> Any:
    """Returns the batches, unless they lack something that is asked of batches.

    Raises:
      ConfigError: they do (names what, and `whose` they are).
    """
    inherited = lambda name: getattr(type(batches), name, None) in (None, getattr(Batches, name))  # empty ones
    missing = [f"{name}()" for name in ("__len__", "row_count", "batch") if inherited(name)]
    missing += [name for name in ("one_shape", "filler") if not hasattr(batches, name)]
    if missing:
        hint = "make it a subclass of tformer_jax.data.batches.Batches, which says what they are"
        raise ConfigError(f"{whose} lack {', '.join(missing)}: {type(batches).__name__} must have them; {hint}")
    return batches


@dataclasses.dataclass(frozen=True)
class Part(Batches):
    """A part of the batches of a pass over a split, evenly spread: the first ones may all be short, or of one class.

    Attributes:
      batches: in order, all of the pass.
      count: of those that are taken.
    """

    batches: Batches
    count: int

    one_shape = property(lambda self: self.batches.one_shape)
    filler = property(lambda self: self.batches.filler)

    def __len__(self) -> int:
        return self.count

    def _of_all(self, i: int) -> int:
        """Returns the number of the batch in the middle of the i-th of `count` equal parts."""
        return (2 * i + 1) * len(self.batches) // (2 * self.count)

    def row_count(self, i: int) -> int:
        return self.batches.row_count(self._of_all(i))

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        return self.batches.batch(self._of_all(i), rows)


class RowBatches(Batches):
    """Batches of so many rows each, of one shape, taken from numbered rows.

    With a seed, to train on: the order is drawn from (seed, epoch); rows that do not fill a batch sit out an epoch,
    other ones each time. Without one, to evaluate: in order, and the last batch is filled up.

    Attributes:
      rows: B, in a batch.
      seed: of the order, or None.

    Raises:
      DataError: rows to train on that do not fill a batch.
    """

    one_shape: ClassVar[bool] = True

    rows: int
    seed: int | None

    def _number_rows(self, count: int, what: str, field: str = "batch_tokens") -> None:
        """Sets how many rows an epoch has at least; refuses too few: `what` they are, and the `field` to lower."""
        if count < (1 if self.seed is None else self.rows):
            raise DataError(f"{what} do not fill a batch of {self.rows}; lower data.{field}")
        object.__setattr__(self, "_count", count)

    def __len__(self) -> int:
        return -(-self._count // self.rows) if self.seed is None else self._count // self.rows

    def row_count(self, i: int) -> int:
        return self.rows

    def _numbers(self, i: int, rows: slice = ALL_ROWS, count: int | None = None) -> np.ndarray:
        """Returns the numbers of some rows of batch i, [B]; -1: it only fills up. `count`: of its epoch, or the least."""
        (epoch, position), count = divmod(i, len(self)), self._count if count is None else count
        first = position * self.rows
        positions = filled_up(np.arange(first, min(first + self.rows, count)), self.rows)[rows]
        return positions if self.seed is None else shuffled((self.seed, epoch), count, positions)


def filled_up(examples: np.ndarray, rows: int) -> np.ndarray:
    """Returns the numbers of examples, one for each of so many rows; -1 in those that only fill up."""
    missing = rows - len(examples)
    return np.concatenate([examples, np.full(missing, -1)]) if missing else examples


def rows_in_batch(batch_tokens: int, row_length: int, multiple: int) -> int:
    """Returns the most rows that fit, a multiple of `multiple`.

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
