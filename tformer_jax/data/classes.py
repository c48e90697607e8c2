"""The names of the classes of a run, kept with it: label c is the c-th."""

import json
from collections.abc import Iterable
from pathlib import Path

from .files import DataError, write_whole
from .text import canonical

_FILE = "classes.json"


def keep_classes(classes: Iterable[str], directory: Path) -> None:
    """Writes the names of the classes, in canonical form; a run that goes on must find those that it started with.

    Raises:
      DataError: other ones are there (names the differences), or two have one name.
    """
    file, classes = Path(directory) / _FILE, [canonical(name) for name in classes]
    if not file.exists():
        write_whole(file, json.dumps(classes, ensure_ascii=False))
    if (kept := load_classes(directory)) != classes:
        less, more = sorted({*kept} - {*classes}), sorted({*classes} - {*kept})
        differ = f"{less} are missing, {more} are new" if less or more else f"the file has the order {kept}"
        raise DataError(
            f"the classes of the data are not those in {file}: {differ}; put the data back, or choose another --workdir"
        )


def load_classes(directory: Path) -> list[str]:
    """Loads the names that `keep_classes` wrote.

    Raises:
      DataError: it is not there, or is not a list of names that differ.
    """
    file = Path(directory) / _FILE
    try:
        classes = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the classes from {file}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise DataError(f"{file} must hold a list of names")
    classes = [canonical(name) for name in classes]
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise DataError(f"{file} must hold each name once, but repeats {twice}")
    return classes
