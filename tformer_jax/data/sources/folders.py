"""The files that a path of a `data` section stands for."""

import glob
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from ..files import DataError, files_in, passed_over
from ..text import file_name
from .lines import check_there
from .registered import Say


def files_at(path: Path, suffixes: Sequence[str], say: Say) -> tuple[Path, tuple[Path, ...]]:
    """Finds the files that a path stands for; returns the folder that their names are from, and them, sorted.

    Args:
      path: of a file; of a folder, of which all files with one of the suffixes are; or a pattern: "train-*.parquet".
      suffixes: in lower case.
      say: is told which files of a folder are not read.

    Raises:
      DataError: nothing is there.
    """
    if path.is_dir():
        names = files_in(path, say)
        if not (chosen := sorted((n for n in names if n.lower().endswith(tuple(suffixes))), key=file_name)):
            raise DataError(f"{path} holds no {' or '.join('*' + suffix for suffix in suffixes)} file")
        for line in passed_over(path, {*names} - {*chosen}):
            say(line)
        return path, tuple(path / name for name in chosen)
    if glob.has_magic(str(path)) and not path.exists():
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = sorted(glob.glob(str(path), recursive=True), key=file_name)
        if not (files := tuple(Path(file) for file in found if os.path.isfile(file))):
            raise DataError(f"no file is called {path}: correct data.path")
        return root, files
    check_there(path)
    return path.parent, (path,)
