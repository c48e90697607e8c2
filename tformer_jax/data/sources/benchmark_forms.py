"""The forms of benchmarks: what examples are made of a data set of Hugging Face's hub, a copy of it, or one file of text."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import DataError, reading
from .arrow_images import images_in
from .documents import Document, Yardstick
from .hugging_face import files_of, load_parts, rows_of
from .images import ImageSource
from .lines import check_there
from .registered import SPLITS, Say, Sources
from .rows import Column, Rows
from .shards import source_of
from .streams import Stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set of the literature.

    Attributes:
      kind: of its examples.
      says: what it is, which splits it has, and what is compared.
      hub: its name on Hugging Face's hub.
      columns: those that are read.
      parts: what the hub calls each split that the source has; None: all parts in order are one text, cut by position.
      make: makes the examples, given all parts; see `each`, `cut` and `images`.
      subset, folder, revision: of that, where there are several; see `datasets.load_dataset`.
      gated: whether one must log in to the hub.
      yardstick: how its text is measured; None: as any other.
      size: bytes of the one text that it is.
    """

    kind: Sources
    says: str
    hub: str
    columns: tuple[str, ...]
    parts: Mapping[str, str] | None
    make: Callable[["Loaded", Say], Any]
    subset: str | None = None
    folder: str | None = None
    revision: str | None = None
    gated: bool = False
    yardstick: Yardstick | None = None
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A benchmark and where it is taken from.

    `name`: its own.
    `of`: what it is.
    `path`: of a copy, or of its file; None: the hub.
    """

    name: str
    of: Benchmark
    path: Path | None

    def parts(self) -> dict[str, Any]:
        """Loads the parts, by what the hub calls them.

        Raises:
          DataError: see `load_parts`; or one that is needed, or a column, is not there.
        """
        of, source = self.of, f"{self.name} ({self.path or self.of.hub})"
        copy = "a folder that save_to_disk wrote" if of.parts else "its text file, or a folder that save_to_disk wrote"
        login = "accept its terms on its page, log in by `hf auth login`, and " if of.gated else ""
        hint = f"{login}run this where there is a network, or set data.path to a copy: {copy}"
        found = load_parts(
            source, self.path, hint, path=of.hub, name=of.subset, data_dir=of.folder, revision=of.revision
        )
        if missing := [part for part in (of.parts or {}).values() if part not in found]:
            raise DataError(f"{source} has the parts {', '.join(found)}, but not {missing[0]}; {hint}")
        for part, rows in found.items():
            if missing := [column for column in of.columns if column not in rows.column_names]:
                has = ", ".join(rows.column_names)
                raise DataError(f"{source} has the columns {has} in {part}, but not {missing[0]}; {hint}")
        return found


def each(make: Callable[[Rows], Iterator[Any]]) -> Callable[[Loaded, Say], dict[str, Stream[Any]]]:
    """Makes examples of the rows of each part."""

    def streams(loaded: Loaded, say: Say) -> dict[str, Stream[Any]]:
        found = loaded.parts()

        def stream(part: str) -> Stream[Any]:
            rows = rows_of(found[part], f"{loaded.name}, {part}", part)
            return Stream(lambda: make(rows), rows.files)

        return {split: stream(part) for split, part in loaded.of.parts.items()}

    return streams


def images(image: str) -> Callable[[Loaded, Say], ImageSource]:
    """Makes images, which are decoded when they are asked for; `image`: their column."""

    def images(loaded: Loaded, say: Say) -> ImageSource:
        found = loaded.parts()
        names = found["train"].features["label"].names
        shards = {s: [images_in(files_of(found[p]), image, "label")] for s, p in loaded.of.parts.items()}
        return source_of(loaded.path or Path(loaded.of.hub), shards, names)

    return images


def cut(loaded: Loaded, say: Say) -> dict[str, Stream[Document]]:
    """Makes a document of the first 90 % of the bytes of a text, and one of each 5 % behind them.

    A cut within a character is moved before it.
    """
    if loaded.path is not None and not loaded.path.is_dir():
        check_there(loaded.path)
        files = (loaded.path,)
        with reading(loaded.path):
            content = loaded.path.read_bytes()
    else:
        found, (column,) = loaded.parts(), loaded.of.columns
        files = tuple(itertools.chain.from_iterable(map(files_of, found.values())))
        content = "".join(row for part in found.values() for row in part[column]).encode("utf-8")
    if not content.strip():
        raise DataError(f"{loaded.path or loaded.of.hub} is empty")
    if len(content) != loaded.of.size:
        wanted = f"{loaded.name} has {loaded.of.size:,} bytes, this text {len(content):,}"
        say(f"{wanted}: its numbers do not compare with those of the literature")
    edges = [0, *(_whole(content, len(content) * share // 100, say) for share in (90, 95)), len(content)]

    def stream(split: str, first: int, last: int) -> Stream[Document]:
        return Stream(lambda: iter([Document(split, _text(content[first:last], loaded, first))]), files)

    return {split: stream(split, *ends) for split, ends in zip(SPLITS, itertools.pairwise(edges), strict=True)}


def _whole(content: bytes, at: int, say: Say) -> int:
    """The last place up to `at` where a character begins."""
    first = next((n for n in range(at, max(at - 4, -1), -1) if n == len(content) or content[n] & 0xC0 != 0x80), at)
    if first != at:
        say(f"the split at byte {at:,} is within a character: it is made at byte {first:,}")
    return first


def _text(content: bytes, loaded: Loaded, first: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"not valid UTF-8 ({error.reason} at byte {first + error.start:,})"
        raise DataError(f"{loaded.path or loaded.of.hub}: {where}; fetch it again") from None


_TITLE = re.compile(r" = [^=\n](.*[^=\n])? = \n?")


def articles(rows: Rows) -> Iterator[Document]:
    """Yields the articles of WikiText, which begin with a title between blank lines; rows are lines."""
    lines = (text for _, (text,) in rows.texts(Column("text", False, "field")))
    title, article, number, before = "", [], 0, ""
    for line, after in itertools.pairwise(itertools.chain(lines, [""])):
        if _TITLE.fullmatch(line) and not before.strip() and not after.strip():
            if number:  # what is before the first title is of the first article
                yield Document(f"{number} {title}", "".join(article))
                article = []
            title, number = line.strip(" =\n"), number + 1
        article.append(line if line.endswith("\n") else line + "\n")
        before = line
    yield Document(f"{number} {title}", "".join(article))


def words(text: str) -> int:
    """The words between blanks, and the ends of lines, of which each is one."""
    return len(re.findall(r"[^ \n]+", text)) + text.count("\n")


def benchmark_source(name: str, benchmark: Benchmark) -> Callable[..., Any]:
    """Returns the source of a benchmark, which has its splits and its yardstick."""

    def source(path: str | None = None, say: Say = lambda line: None) -> Any:
        return benchmark.make(Loaded(name, benchmark, None if path is None else Path(path)), say)

    source.__doc__ = f"""{benchmark.says}

    Args:
      path: of a copy of {benchmark.hub}; None: it is fetched from the hub, or taken from the cache of `datasets`.
      say: is told where numbers do not compare with published ones.

    Raises:
      DataError: it is not there and cannot be fetched, or is something else.
    """
    source.splits = tuple(SPLITS if benchmark.parts is None else benchmark.parts)
    source.yardstick = benchmark.yardstick
    return source
