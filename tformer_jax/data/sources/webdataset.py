"""Images in the tar files of WebDataset."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from ..encoded import Encoded
from ..files import DataError, reading
from ..unchanged import remembered
from .images import IMAGES, ImageSource
from .registered import Say
from .shards import Shard, shards_in, source_of

_IMAGES = ("jpg", "jpeg", "png", "webp")
_MOST_LABEL_BYTES = 1 << 20


@IMAGES.register("webdataset")
def read_webdataset(path: Path | str, say: Say = lambda line: None) -> ImageSource:
    """Reads *.tar files: of each KEY an image, KEY.jpg, .jpeg, .png or .webp, and its label, KEY.cls or KEY.json.

    A label is a number from 0 on or the name of a class; that of a .json is its field "label". Images stay where they
    are: what is in memory is where each begins, an index that is made once and remembered, see `unchanged.remembered`.

    Args:
      path: of a tar, or of a folder of them: see `shards.shards_in`.
      say: is told which files are not read.

    Raises:
      DataError: a file that is no tar or cut, an image without a label; see `shards.source_of`.
    """
    path = Path(path)
    files = shards_in(path, ".tar", say)
    every = [file for split in files.values() for file in split]
    index = dict(zip(every, remembered(every, b"webdataset 1", lambda: [_index(file) for file in every]), strict=True))
    return source_of(path, {split: [_shard(file, index[file]) for file in found] for split, found in files.items()})


def _shard(file: str, index: list[list[Any]]) -> Shard:
    labels, start, size = index
    where = np.array(start, np.int64), np.array(size, np.int64)
    return Shard(Encoded((file,), np.zeros(len(labels), np.int32), *where), labels)


def _index(file: str) -> list[list[Any]]:
    """Labels, first bytes and sizes of the images of a tar, in order."""
    images: dict[str, tuple[int, int]] = {}  # of each key: first byte, size
    labels: dict[str, int | str] = {}
    # Of a compressed one, no image could be read by itself.
    with reading(file, tarfile.TarError), tarfile.open(file, "r:") as archive:
        length = os.path.getsize(file)
        while (member := archive.next()) is not None:
            archive.members.clear()  # which would grow with the file
            folder, _, name = member.name.rpartition("/")
            key, _, kind = name.partition(".")
            if not member.isreg() or not key:
                continue
            if member.offset_data + member.size > length:
                raise DataError(f"{file} is cut within {member.name}; copy it again")
            key, kind = f"{folder}/{key}", kind.lower()
            if kind in _IMAGES:
                if key in images:
                    raise DataError(f"{file} has two images called {key.removeprefix('/')}; rename one of them")
                images[key] = member.offset_data, member.size
            elif kind in ("cls", "json"):
                content = archive.extractfile(member).read(_MOST_LABEL_BYTES)
                label = _label(content, kind)
                if kind == "cls" and label is None:
                    raise DataError(f"{file}, {member.name} must hold a number or a name; got {content[:40]!r}")
                if label is not None and (kind == "cls" or key not in labels):
                    labels[key] = label
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # which is no error to tarfile
            raise DataError(f"{file} has no end, after {len(images):,} images: it is cut or damaged; copy it again")
    if unlabelled := next((key for key in images if key not in labels), None):
        raise DataError(f"{file} has no label of {unlabelled.removeprefix('/')}: add a .cls, or a .json with a label")
    places = [images[key] for key in images]
    return [[labels[key] for key in images], [start for start, _ in places], [size for _, size in places]]


def _label(content: bytes, kind: str) -> int | str | None:
    """The label in a file; None: there is none."""
    try:
        if kind == "json":
            label = json.loads(content)["label"]
            return label if type(label) in (int, str) and label != "" else None
        text = content.decode("utf-8").strip()
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return int(text) if text.isdecimal() and text.isascii() else text or None
