"""Results of many files, remembered for as long as none of them changes: a million take minutes to read."""

import contextlib
import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .files import DataError, cache_dir, file_sha256, in_threads, reading, write_whole

# Fewer, of fewer bytes together, are read in a moment.
_FEWEST, _FEWEST_BYTES = 1_000, 256 << 20
# Of what was written so shortly before a look, the times may not tell it from what is written after.
_SETTLES_NS = 2_000_000_000


def remembered(files: Sequence[str], about: bytes, compute: Callable[[], Any]) -> Any:
    """`compute()`, or what it was the last time, for whatever run, if none of many files has changed since.

    A file has changed if its path, size, place on the disk, or one of its times is another. One of these is when the
    system last saw its content or its other times set (ctime): `touch -r`, `cp -p` and `rsync -t` hide nothing. What no
    time shows is not seen: bits that a disk loses, writes past the file system, and, for as long as a network's file
    system keeps what it knew of a file, those of another machine. Delete `digests` in `cache_dir()`, where it is
    remembered, and everything is read again.

    Args:
      files: their paths, in order; of fewer than 1,000 that have less than 256 MiB in all nothing is remembered.
      about: what else the value follows from.
      compute: the value, which JSON can hold, from the content of the files.

    Raises:
      DataError: a file is not there.
      Whatever `compute` raises.
    """
    now = time.time_ns()
    fingerprint, newest, size = fingerprint_of(files, about)
    if len(files) < _FEWEST and size < _FEWEST_BYTES:
        return compute()
    file = cache_dir() / "digests" / f"{fingerprint}.json"
    if (found := _load(file)) is not None:
        return found
    value = compute()
    if newest < now - _SETTLES_NS:
        with contextlib.suppress(OSError):  # a full disk, say: it is read again
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps({"value": value, "sha256": _sum_of(value)}))
    return value


def contents(files: Sequence[Path | str]) -> str:
    """Returns a digest of the contents of files, in order, which of many is `remembered`.

    Of pipes, and what else can be read but once, it is a digest of their paths, sizes and times, for which none is read.

    Raises:
      DataError: a file is not there, or cannot be read.
    """
    files = [str(file) for file in files]
    if not all(map(os.path.isfile, files)):
        return fingerprint_of(files, b"")[0]
    of_all = lambda: hashlib.sha256("".join(in_threads(file_sha256, files)).encode()).hexdigest()
    return remembered(files, b"contents", of_all)


def code_of(function: Callable[..., Any]) -> str:
    """Returns a digest of the file that a function is from; where there is none, as in a notebook, of its own code."""
    function = inspect.unwrap(getattr(function, "func", function))
    try:
        return file_sha256(Path(inspect.getsourcefile(function)))
    except (TypeError, DataError):
        code = function.__code__
        return hashlib.sha256(repr((code.co_code, code.co_consts, code.co_names)).encode()).hexdigest()


def fingerprint_of(files: Sequence[str], about: bytes) -> tuple[str, int, int]:
    """Returns a sum of all that tells whether files are what they were, the newest of their times in ns, and their bytes.

    Raises:
      DataError: a file is not there.
    """
    whole, newest, size = hashlib.sha256(about), 0, 0
    for text, times, bytes_there in in_threads(_stat, files):
        whole.update(text)
        newest = max(newest, *times)
        size += bytes_there
    return whole.hexdigest(), newest, size


def _stat(file: str) -> tuple[bytes, tuple[int, int], int]:
    with reading(file):
        found = os.stat(file)
    times = (found.st_mtime_ns, found.st_ctime_ns)
    told = repr((os.path.abspath(file), found.st_size, found.st_dev, found.st_ino, *times))
    return told.encode("utf-8", "surrogatepass"), times, found.st_size


def _load(file: Path) -> Any:
    """Loads the remembered value; None if there is none, or not as it was written."""
    try:
        found = json.loads(file.read_text("utf-8"))
        return found["value"] if found["sha256"] == _sum_of(found["value"]) else None
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None


def _sum_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
