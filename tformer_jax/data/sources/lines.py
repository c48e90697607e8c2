"""Lines of files, one after the other, whatever the size of the file."""

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..files import MOST_TEXT_BYTES, DataError, decoded, reading


def check_there(*files: Path) -> None:
    """Raises a DataError where a file is not there, before it is read."""
    for file in files:
        with reading(file):
            os.stat(file)


def byte_lines(opened: BinaryIO, file: Path) -> Iterator[bytes]:
    """Yields the lines of an open file as they are, with their ends, without a byte order mark.

    Raises:
      DataError: one is larger than `MOST_TEXT_BYTES` (says which).
    """
    number = 0
    while line := opened.readline(MOST_TEXT_BYTES + 1):
        number += 1
        if len(line) > MOST_TEXT_BYTES:
            raise DataError(f"{file}, line {number} has more than {MOST_TEXT_BYTES:,} bytes: cut it into several")
        yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def text_lines(file: Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 file, without their ends.

    Raises:
      DataError: the file cannot be read, or a line is not UTF-8 or too large (says which); at its end, it is empty.
    """
    empty = True
    with reading(file), open(file, "rb") as opened:
        for number, line in enumerate(byte_lines(opened, file), 1):
            empty = empty and not line.strip()
            yield decoded(line.removesuffix(b"\n").removesuffix(b"\r"), file, number)
    if empty:
        raise DataError(f"{file} is empty")


def text_rows(file: Path) -> Iterator[str]:
    """Yields the lines of a table, one row each: as `text_lines`, without the blank ones at the end."""
    blank = []
    for line in text_lines(file):
        blank.append(line)
        if line.strip():
            yield from blank
            blank = []
