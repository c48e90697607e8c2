"""Files: reading the user's own, by name where they cannot be read, and writing that leaves a whole file or none."""

import codecs
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

# A text is held in memory as bytes, lines, documents and tokens, about ten times its size in all.
MOST_TEXT_BYTES = 2 << 30
_PIECE_BYTES = 16 << 20
# So many files are one task of a thread: to hand over one by one takes longer than to look at it.
_TOGETHER = 500
# In bytes: with what is put around it, 255 at most.
_LONGEST_NAME = 200
_Given, _Made = TypeVar("_Given"), TypeVar("_Made")

# Folders that programs leave beside people's files; what begins with a dot is hidden too.
_LEFT_BEHIND = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


class DataError(ValueError):
    """The data is not what it must be; the message names the file and what is wrong with it."""


@contextlib.contextmanager
def reading(file: Path | str, *others: type[Exception]) -> Iterator[None]:
    """Within the context, turns errors of the system, and `others`, into a DataError that names the file."""
    try:
        yield
    except (OSError, *others) as error:
        named, reason = (getattr(error, name, None) for name in ("filename", "strerror"))
        raise DataError(f"cannot read {named or file}: {reason or error}") from None


def read_json(file: Path) -> dict[str, Any]:
    """Returns the table in a JSON file.

    Raises:
      DataError: it cannot be read, is no JSON, or holds something else.
    """
    with reading(file, ValueError, RecursionError):
        table = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(table, dict):
        raise DataError(f"{file} must hold a table, got {type(table).__name__}")
    return table


def cache_dir() -> Path:
    """Returns `$TFORMER_DATA`, or ~/.cache/tformer_jax."""
    return Path(os.environ.get("TFORMER_DATA") or Path.home() / ".cache" / "tformer_jax")


def file_sha256(file: Path) -> str:
    """Returns the SHA-256 of a file's content.

    Raises:
      DataError: it cannot be read.
    """
    with reading(file), open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


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
        with reading(folder):
            raise error

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


def in_threads(work: Callable[[_Given], _Made], things: Sequence[_Given]) -> Iterator[_Made]:
    """Yields `work(thing)` of each of many files, or parts of files, in order, on all cores."""
    parts = (things[at : at + _TOGETHER] for at in range(0, len(things), _TOGETHER))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for found in pool.map(lambda part: [work(thing) for thing in part], parts):
            yield from found


def cores() -> int:
    """Returns how many cores this process may run on: of a machine that many share, those that it was given."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    with reading(file), open(file, "rb") as opened:
        size, pieces = os.fstat(opened.fileno()).st_size, []  # 0 of a pipe
        while size <= most and (piece := opened.read(_PIECE_BYTES)):
            pieces.append(piece)
            size = max(size, sum(map(len, pieces)))
    if size > most:
        raise DataError(f"{file} holds more than {most:,} bytes, the limit for one file: give a smaller one")
    return b"".join(pieces)


def read_lines(file: Path) -> list[str]:
    """Reads the lines of a UTF-8 file, without their ends.

    Raises:
      DataError: the file cannot be read, is empty, is larger than `MOST_TEXT_BYTES`, or is not UTF-8 (says the line).
    """
    content = read_bytes(file, MOST_TEXT_BYTES).removeprefix(codecs.BOM_UTF8)
    if not content.strip():
        raise DataError(f"{file} is empty")
    lines = content.removesuffix(b"\n").split(b"\n")
    return [decoded(line.removesuffix(b"\r"), file, number) for number, line in enumerate(lines, 1)]


def decoded(line: bytes, file: Path, number: int) -> str:
    """Returns the text of a line in UTF-8.

    Raises:
      DataError: it is not valid (says which line of which file it is).
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"line {number}: not valid UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        raise DataError(f"{file}, {where}") from None


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

    What is no ordinary file, such as /dev/stdout, is written to as it is. See `whole`.

    Raises:
      WriteError: it cannot be written; nothing is left of the attempt.
    """
    content = content.encode("utf-8") if isinstance(content, str) else content
    with writing(file):
        if file.exists() and not file.is_file():
            file.write_bytes(content)
            return
        with whole(file) as opened:
            opened.write(content)


@contextlib.contextmanager
def whole(file: Path) -> Iterator[BinaryIO]:
    """Opens a file to be written, which others see when all of it is there; nobody else writes it meanwhile.

    Of a writer that was killed, `.NAME.unfinished` is left, which the next one takes over; of an error, nothing is.
    """
    to = Path(os.path.realpath(file))
    unfinished = to.with_name(f".{os.fsdecode(os.fsencode(to.name)[:_LONGEST_NAME])}.unfinished")
    with _taken(unfinished) as opened:
        try:
            yield opened
            opened.flush()
            os.replace(unfinished, to)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _taken(file: Path) -> Iterator[BinaryIO]:
    """Opens an empty file, which nobody else writes meanwhile, where the file system has locks."""
    while True:
        with open(file, "ab") as opened:
            with contextlib.suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_EX)
            if is_at(opened, file):  # else who had it before has given it its name
                opened.truncate(0)
                yield opened
                return


def is_at(opened: BinaryIO, file: Path) -> bool:
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
