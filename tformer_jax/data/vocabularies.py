"""Where the tokenizer of an experiment on text comes from: the training split, or a file."""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..config import Component, ConfigError
from ..progress import SILENT, Progress
from . import tokenizers
from .files import DataError, write_whole

# Fields that say how a tokenizer is trained, with the values that say nothing of it.
_OF_TRAINING = {"vocab_size": None, "source_vocab_size": None, "tokenizer": "bpe"}


def check_untrained(section: Component, names: Iterable[str], instead: str) -> None:
    """Refuses fields that say how a tokenizer is trained, beside what comes with one: `instead`, in words."""
    for name in names:
        usual = _OF_TRAINING[name]
        if (value := getattr(section, name, usual)) != usual:
            raise ConfigError(f"{name} must be {usual!r} with {instead}, which has a tokenizer already; got {value!r}")


def learnt(
    file: Path, path: str | None, roles: Sequence[str], train: Callable[[], Tokenizer], progress: Progress = SILENT
) -> Tokenizer:
    """Returns the tokenizer in `file`, of a run's directory; if there is none, puts it there first.

    Args:
      file: in the run's directory; beside `tokenizers.FILE` is kept what is said of special tokens.
      path: where it comes from, a file or a folder that has one; None: `train` makes it.
      roles: of the special tokens that are needed, see `tokenizers.special`.
      train: makes a tokenizer.
      progress: is told of the training.

    Raises:
      ConfigError: there is no tokenizer at the path, it lacks a special token, or is not that which the run began with.
      DataError: a file beside it is damaged.
    """
    if path is None:
        return tokenizers.kept(file, train, progress)
    given = file_at(path)
    if not file.exists():
        tokenizers.special(tokenizers.load(given), *roles)
        if file.name == tokenizers.FILE:
            tokenizers.take_over(given, file.parent)
        else:
            write_whole(file, given.read_bytes())
    elif given.exists() and not _same(given, file):
        raise ConfigError(f"{given} is not the tokenizer in {file}: put that one back, or choose another --workdir")
    return tokenizers.load(file)


def _same(given: Path, file: Path) -> bool:
    said = lambda of: tokenizers.read_said(of.parent) if file.name == tokenizers.FILE else None
    return given.read_bytes() == file.read_bytes() and said(given) == said(file)


def file_at(path: str) -> Path:
    """Returns the file of a tokenizer that a path stands for: itself, or that in a folder."""
    return Path(path) / tokenizers.FILE if Path(path).is_dir() else Path(path)


def check_there(*paths: str | None) -> None:
    """Raises a ConfigError if there is no tokenizer at a path; None is none."""
    for path in paths:
        if path is not None:
            _size(file_at(path))


def planned_size(vocab_size: int | None, path: str | None) -> int | None:
    """Returns the size of a vocabulary, as far as a config tells: of a tokenizer that is trained, or of that at a path.

    None: nobody knows before the data are read. Of a run whose tokenizer's file has gone since it began, its own tells.
    """
    if path is None:
        return vocab_size
    try:
        return _size(file_at(path))
    except (ConfigError, DataError):
        return None


def _size(file: Path) -> int:
    times = file.stat() if file.exists() else None
    return _size_of(file, times and (times.st_mtime_ns, times.st_size))


@functools.lru_cache(maxsize=16)
def _size_of(file: Path, as_it_was: Any) -> int:
    """The size of the vocabulary in a file; `as_it_was`: when it was looked at last."""
    return tokenizers.room(tokenizers.load(file))
