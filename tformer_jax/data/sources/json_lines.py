"""Files of JSON Lines, one table a line, as they are or compressed by gzip or Zstandard."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..files import DataError, decoded
from .folders import files_at
from .lines import byte_lines
from .optional import needed
from .registered import Say
from .rows import Column, Rows, rows_of_files

_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
_DAMAGED = {
    ".gz": "; it is damaged or not whole: fetch it again",
    ".zst": "; it is damaged or not whole: fetch it again; or it was packed with --long: pack it without",
}


def json_lines(path: str, say: Say = lambda line: None) -> Rows:
    """Returns the rows of a file of JSON Lines, of a folder of them, or of those that a pattern names.

    What is compressed ends in .gz or .zst. Blank lines do not count.

    Args:
      path: of the file or folder, or the pattern.
      say: is told which files of a folder are not read.

    Raises:
      DataError: see `files_at`; while they are read, a file that is damaged or empty, a line that is no table, or
        too large (says which).
    """
    return rows_of_files(*files_at(Path(path), _SUFFIXES, say), "line", _read)


def _read(file: Path, columns: Sequence[Column]) -> Iterator[list[Any] | None]:
    fields = [column.field.split(".") for column in columns]
    for number, line in enumerate(_lines(file), 1):
        where = f"{file}, line {number}"
        table = _table(decoded(line, file, number), where)
        yield None if table is None else [_value(table, *both, where) for both in zip(columns, fields, strict=True)]


def _table(line: str, where: str) -> dict[str, Any] | None:
    """The table that is a line; None: it is blank."""
    try:
        table = json.loads(line) if line.strip() else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}; write one table a line") from None
    if table is not None and not isinstance(table, dict):
        raise DataError(f'{where} must be a table, such as {{"text": "..."}}, got {line.strip()[:40]}')
    return table


def _value(table: dict[str, Any], column: Column, path: Sequence[str], where: str) -> Any:
    if column.field in table:  # before its dots say that it is within another one
        return table[column.field]
    value: Any = table
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise column.missing(where, _names(table))
        value = value[name]
    return value


def _names(table: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, value in table.items():
        inner = list(_names(value, f"{before}{name}.")) if isinstance(value, dict) and not before else []
        yield from inner or [before + name]


def _lines(file: Path) -> Iterator[bytes]:
    """Yields the lines of a file, unpacked, with their ends."""
    number = 0
    try:
        with _opened(file) as opened:
            for number, line in enumerate(byte_lines(opened, file), 1):
                yield line
    except (OSError, EOFError, zlib.error) as error:
        after = f" after line {number}" if number else ""
        hint = _DAMAGED.get(file.suffix.lower(), "")
        raise DataError(f"cannot read {file}{after}: {getattr(error, 'strerror', None) or error}{hint}") from None


def _opened(file: Path) -> BinaryIO:
    if file.suffix.lower() == ".gz":
        return gzip.open(file)
    if file.suffix.lower() == ".zst":  # the package zstandard does not notice that the end of a file is missing
        arrow = needed("pyarrow", file)
        return io.BufferedReader(arrow.CompressedInputStream(arrow.OSFile(str(file)), "zstd"))
    return open(file, "rb")
