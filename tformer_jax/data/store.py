"""Stores: flat arrays on the disk, made once and then mapped into memory, under `cache_dir()`.

A store is a folder of arrays, each a file of its numbers one after another, and `manifest.json`, which is written last: what
has none is not believed. It is named by a digest of its key, all that its content follows from. One process makes it, and
those that ask for it meanwhile wait; killed, the next one goes on from what was committed.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..config import ConfigError
from ..progress import SILENT, Progress
from .files import DataError, WriteError, cache_dir, is_at, write_whole, writing

MANIFEST = "manifest.json"
_VERSION = 1  # of what a key stands for: another one where the same key would give other arrays
_JOURNAL, _LOCK, _UNFINISHED = "journal.json", "lock", ".unfinished"
_HASHED_BYTES = 16 << 20
_MAPPED: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


class Store:
    """Arrays that were written, and what was said of them.

    Attributes:
      directory: of the files.
      about: what its maker wrote beside the arrays: anything that JSON can hold.
    """

    def __init__(self, directory: Path, files: Mapping[str, Mapping[str, Any]], about: Any):
        """`files`: dtype, bytes and SHA-256 of each array, by name."""
        self.directory, self.about, self._files = directory, about, files

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns an array by name, [n], mapped into memory and read-only."""
        return self._mapped(name)

    def at_random(self, name: str) -> np.ndarray:
        """Returns an array whose parts are asked for at random: the system need not read on behind each, megabytes here."""
        return self._mapped(name, mmap.MADV_RANDOM)

    def _mapped(self, name: str, advice: int | None = None) -> np.ndarray:
        dtype = np.dtype(self._files[name]["dtype"])
        if not self._files[name]["bytes"]:  # which nothing can map
            return np.zeros(0, dtype)
        return map_file(self.directory / name, dtype, advice)

    def check_sums(self) -> None:
        """Reads every array, and compares its SHA-256 with that of the manifest.

        Raises:
          DataError: one is another (says which).
        """
        for name, file in self._files.items():
            if _sum(self.directory / name).hexdigest() != file["sha256"]:
                raise DataError(f"{self.directory / name} is damaged; delete {self.directory}, and it is made again")


def map_file(file: Path, dtype: np.dtype | str, advice: int | None = None) -> np.ndarray:
    """Maps a file of numbers, one at least, into memory, read-only; what was read of it is let go of by `let_go`.

    `advice`: to the system, such as `mmap.MADV_RANDOM`.
    """
    with open(file, "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if advice is not None:
        mapped.madvise(advice)
    _MAPPED.add(mapped)
    return np.frombuffer(mapped, dtype)


def let_go() -> None:
    """Lets go of what was read of all mapped arrays, so that the process holds no memory for it; it can be read again.

    The system keeps it as long as nobody else needs the memory, but counts it as this process's: of a pass over 40 GB, most
    of what the machine has.
    """
    for mapped in list(_MAPPED):
        mapped.madvise(mmap.MADV_DONTNEED)


class Writer:
    """Arrays that grow by pieces, until they are a store.

    Attributes:
      state: of the last `commit`, of whatever process; None: there was none. What was appended after it is gone.
    """

    def __init__(self, directory: Path):
        self._directory, self._open = directory, {}
        self.state, sizes = _journal(directory)
        for name, (dtype, size) in sizes.items():
            self._open[name] = _Growing(directory / name, np.dtype(dtype), size)

    def append(self, name: str, values: np.ndarray) -> None:
        """Appends values to an array, which has the dtype of the first.

        Raises:
          WriteError: the disk is full, say.
        """
        if name not in self._open:
            self._open[name] = _Growing(self._directory / name, values.dtype, 0)
        self._open[name].write(values)

    def commit(self, state: Any) -> None:
        """Keeps what has been appended so far, and a state that JSON can hold, for whoever goes on after a kill."""
        for file in self._open.values():
            file.settle()
        sizes = {name: (file.dtype.str, file.size) for name, file in self._open.items()}
        write_whole(self._directory / _JOURNAL, json.dumps({"state": state, "sizes": sizes}))

    def close(self) -> None:
        for file in self._open.values():
            file.close()

    def finish(self, of: str, key: Any, about: Any) -> None:
        """Writes the manifest; arguments: see `stored`."""
        for file in self._open.values():
            file.settle()
        files = {n: {"dtype": f.dtype.str, "bytes": f.size, "sha256": f.sum()} for n, f in self._open.items()}
        manifest = {"version": _VERSION, "of": of, "key": key, "files": files, "about": about}
        write_whole(self._directory / MANIFEST, json.dumps(manifest, indent=1))
        (self._directory / _JOURNAL).unlink(missing_ok=True)


class _Growing:
    """A file of numbers that grows, and the SHA-256 of its bytes."""

    def __init__(self, file: Path, dtype: np.dtype, size: int):
        """`size`: bytes that are there already; what is behind them goes."""
        self.dtype, self.size, self._file = dtype.newbyteorder("<"), size, file
        self._sum = _sum(file, size) if size else hashlib.sha256()
        with writing(file):
            self._opened = open(file, "r+b" if size else "wb")
            self._opened.truncate(size)
            self._opened.seek(size)

    def write(self, values: np.ndarray) -> None:
        piece = np.ascontiguousarray(values, self.dtype).tobytes()
        with writing(self._file):
            self._opened.write(piece)
        self._sum.update(piece)
        self.size += len(piece)

    def settle(self) -> None:
        with writing(self._file):
            self._opened.flush()
            os.fsync(self._opened.fileno())

    def sum(self) -> str:
        return self._sum.hexdigest()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which `write` has told of
            self._opened.close()


def stored(
    kind: str,
    key: Any,
    make: Callable[[Writer], Any],
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = SILENT,
    of: str = "",
) -> Store:
    """Returns the store of a key, made now if there is none.

    Args:
      kind: of the content, the folder of `cache_dir()` that it is in.
      key: all that the content follows from, which JSON can hold.
      make: writes the arrays, from `Writer.state` on; returns what is said about them.
      say: is told of a store that was there, and is made again, and of another one of the same thing.
      progress: is told of waiting for another process that makes it.
      of: what people call what it is made of, such as "train of speeches"; "": nobody asks whether there was another one.

    Raises:
      WriteError: it cannot be written; what has been committed stays for the next one.
      Whatever `make` raises.
    """
    key = json.loads(json.dumps(key))  # as it will be read
    name = hashlib.sha256(json.dumps([_VERSION, key], sort_keys=True).encode()).hexdigest()[:32]
    directory = cache_dir() / kind / name
    if (store := _whole(directory, key, lambda line: None)) is not None:
        return store
    unfinished = directory.with_name(name + _UNFINISHED)
    with _alone(unfinished, progress):
        if (store := _whole(directory, key, say)) is not None:  # another process has made it meanwhile
            shutil.rmtree(unfinished, ignore_errors=True)
            return store
        shutil.rmtree(directory, ignore_errors=True)
        if of:
            _say_what_changed(directory.parent, of, key, say)
        writer = Writer(unfinished)
        try:
            writer.finish(of, key, make(writer))
        except (DataError, ConfigError):  # nobody will go on
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        finally:
            writer.close()
        with writing(directory):
            os.rename(unfinished, directory)
    let_go()
    _give_back()
    return _whole(directory, key, say)


def _give_back() -> None:
    """Gives memory that is free already back to the system, which the C library of Linux keeps between what is in use."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _whole(directory: Path, key: Any, say: Callable[[str], None]) -> Store | None:
    """The store in a directory; None if there is none, or no whole one of this key."""
    if not directory.exists():
        return None
    try:
        found = json.loads((directory / MANIFEST).read_bytes())
        files = {name: {"dtype": np.dtype(f["dtype"]).str, **f} for name, f in found["files"].items()}
        wrong = "is of something else" if found["version"] != _VERSION or found["key"] != key else None
        for name, file in files.items():
            if (size := (directory / name).stat().st_size) != file["bytes"]:
                wrong = f"has {size:,} bytes in {name} in place of {file['bytes']:,}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found, wrong = {}, f"is damaged ({type(error).__name__}: {error})"
    if wrong:
        say(f"{directory} {wrong}, and is made again")
        return None
    return Store(directory, files, found["about"])


def _say_what_changed(folder: Path, of: str, key: Any, say: Callable[[str], None]) -> None:
    """Says in what the newest store of the same thing differs, if there is one."""
    stores = [(x.stat().st_mtime_ns, x.parent) for x in folder.glob(f"*/{MANIFEST}") if x.parent.suffix != _UNFINISHED]
    for _, directory in sorted(stores, reverse=True):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            found = json.loads((directory / MANIFEST).read_bytes())
            if found["of"] == of:
                differing = [name for name in key if found["key"].get(name) != key[name]]
                changed = f"changed in {', '.join(differing)}" if differing else "is of another version"
                say(f"the {folder.name} of {of} are made anew: {directory} {changed}; delete it if no run needs it")
                return


def _journal(directory: Path) -> tuple[Any, Mapping[str, tuple[str, int]]]:
    """State and sizes of the last commit; nothing, if what it tells of is not there."""
    try:
        found = json.loads((directory / _JOURNAL).read_bytes())
        sizes = {str(name): (np.dtype(dtype).str, int(size)) for name, (dtype, size) in found["sizes"].items()}
        if all((directory / name).stat().st_size >= size for name, (_, size) in sizes.items()):
            return found["state"], sizes
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return None, {}


@contextlib.contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Has a folder to itself, of all processes of all hosts that share the disk."""
    while True:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = open(folder / _LOCK, "ab")
        except FileNotFoundError:  # it has just got its name
            continue
        with lock:
            _take(lock, folder, progress)
            if is_at(lock, folder / _LOCK):  # else who had it has finished, and there is another folder or none
                yield
                return


def _take(lock: BinaryIO, folder: Path, progress: Progress) -> None:
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        with progress.phase(f"waiting for the process that makes {folder.with_suffix('').name}"):
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        what = f"cannot be locked ({error.strerror}): let $TFORMER_DATA be a folder of a disk that has locks"
        raise WriteError(error.errno, what, str(folder)) from None


def _sum(file: Path, size: int | None = None) -> Any:
    """The SHA-256 of a file, or of its first bytes."""
    found, left = hashlib.sha256(), file.stat().st_size if size is None else size
    with writing(file), open(file, "rb") as opened:
        while left and (piece := opened.read(min(left, _HASHED_BYTES))):
            found.update(piece)
            left -= len(piece)
    return found
