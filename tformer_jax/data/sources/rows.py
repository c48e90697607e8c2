"""Rows of a table, as formats give them: chosen fields of one row after the other, each known to be what is asked for."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..files import DataError
from ..text import file_name

_MOST_NAMES = 12


class Column(NamedTuple):
    """A field that is asked for, and what its values must be.

    `field`: its name; of a field within another one, with a dot: "translation.de".
    `numbers`: whether a value may be a number as well as a text, as labels and names are.
    `option`: of `source_options` that says which field it is, for messages.
    """

    field: str
    numbers: bool
    option: str

    @property
    def kind(self) -> str:
        return "a text or a number" if self.numbers else "a text"

    def missing(self, where: str, names: Iterable[str]) -> DataError:
        """Returns the error that a row or a table has other fields."""
        names = sorted(map(str, names))
        has = ", ".join(map(repr, names[:_MOST_NAMES])) + ", ..." * (len(names) > _MOST_NAMES)
        hint = f"set data.source_options={self.option}=... to one that it has: {has or 'none'}"
        return DataError(f"{where} has no field {self.field!r}; {hint}")

    def wrong(self, where: str, got: str) -> DataError:
        """Returns the error that a value or a column is of another type."""
        hint = f"mend it, or set data.source_options={self.option}=... to another field"
        return DataError(f"{where}: the field {self.field!r} must be {self.kind}, got {got}; {hint}")

    def text(self, value: Any, where: Callable[[], str]) -> str:
        """Returns a value as a text; numbers are written as in JSON.

        Raises:
          DataError: it is something else, a number that is none, or has half a character, which no file can hold.
        """
        if self.numbers and (isinstance(value, int) or isinstance(value, float) and math.isfinite(value)):
            return json.dumps(value)
        if not isinstance(value, str) or self.numbers and not value.strip():
            raise self.wrong(where(), repr(value)[:60])
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.wrong(where(), f"half a character, {value[error.start]!r}") from None
        return value


class Row(NamedTuple):
    """Values of the columns that were asked for.

    `file`: where it is, for messages; `name`: of that file, from the folder that is read; `number`: in it, from 1.
    """

    file: Path | str
    name: str
    number: int
    values: Sequence[Any]


class Rows(NamedTuple):
    """All rows of files of a format.

    `read`: begins a pass over them, given the columns that are needed; `files`: see `Stream`; `unit`: what one is
    called, "line" or "row".
    """

    read: Callable[[Sequence[Column]], Iterator[Row]]
    files: tuple[Path, ...]
    unit: str

    def texts(self, *columns: Column) -> Iterator[tuple[str, list[str]]]:
        """Yields the name of each row, which no other one has, and the texts in some columns of it.

        Raises:
          DataError: see `Column`, or what the format cannot read.
        """
        for row in self.read(columns):
            where = lambda: f"{row.file}, {self.unit} {row.number:d}"
            values = [column.text(value, where) for column, value in zip(columns, row.values, strict=True)]
            yield f"{row.name}:{row.number}", values


def rows_of_files(root: Path, files: Sequence[Path], unit: str, read: Callable) -> Rows:
    """Returns the rows of files, one file after the other.

    Args:
      root: of the folder that their names are from.
      files: in order.
      unit: see `Rows`.
      read: yields the values of each row of a file, given the file and the columns, and None of what does not count.

    Raises:
      DataError: while they are read, a file has no rows.
    """

    def rows(columns: Sequence[Column]) -> Iterator[Row]:
        for file in files:
            name, number, empty = file_name(os.path.relpath(file, root)), 0, True
            for number, values in enumerate(read(file, columns), 1):
                if values is not None:
                    empty = False
                    yield Row(file, name, number, values)
            if empty:
                raise DataError(f"{file} has no {unit}s: fetch it again, or move it away")

    return Rows(rows, tuple(files), unit)
