"""The SHA-256 of every file of a checkpoint, beside them: written before it has its name, compared before it is read."""

import hashlib
import json
from pathlib import Path

from ..data.files import write_whole

# In the format of `sha256sum`.
SUMS = "SHA256SUMS"
# What Orbax writes when the sums are there already, the time of the commit; no array depends on it.
_TIMES = "_CHECKPOINT_METADATA"
_LATER = (_TIMES, "commit_success.txt")


def write_sums(folder: Path) -> None:
    """Lists the files of a checkpoint that is complete but for what Orbax writes later."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / _TIMES]
    lines = (f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    write_whole(folder / SUMS, "".join(lines))


def first_damage(folder: Path, called: Path) -> str | None:
    """Returns what is wrong with the first damaged file of a checkpoint; `called`: where it says it is."""
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return f"{called / SUMS} cannot be read"
    if not lines:
        return f"{called / SUMS} is empty"
    for line in lines:
        wanted, _, name = line.partition("  ")
        file = folder / name
        if not name:
            return f"{called / SUMS} is damaged"
        if not file.is_file():
            return f"{called / name} is missing"
        if sha256(file) != wanted:
            return f"{called / name} is not what was written"
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    if unlisted := sorted(there - {line.partition("  ")[2] for line in lines} - {SUMS, *_LATER}):
        return f"{called / SUMS} lacks {unlisted[0]}"
    return None if _has_times(folder) else f"{called / _TIMES} cannot be read"


def _has_times(folder: Path) -> bool:
    try:
        return isinstance(json.loads((folder / _TIMES).read_text("utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        return False


def drop_unreadable_times(folder: Path) -> None:
    """Deletes the one damaged file that keeps Orbax from opening all checkpoints, not only this one, which lacks it."""
    if (folder / _TIMES).is_file() and not _has_times(folder):
        (folder / _TIMES).unlink(missing_ok=True)


def sha256(file: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
