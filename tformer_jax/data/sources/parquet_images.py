"""Images in Parquet files, as Hugging Face's datasets have them."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..encoded import Encoded
from ..files import DataError, cache_dir, reading, whole, write_whole, writing
from ..unchanged import fingerprint_of
from .images import IMAGES, ImageSource
from .optional import needed
from .registered import Say
from .shards import Shard, shards_in, source_of

# Images are unpacked so many at a time, from pieces of so many bytes: a group of rows may be as large as the file.
_TOGETHER, _BUFFER = 64, 1 << 20
_FOLDER, _LONGEST_STEM = "images", 40


@IMAGES.register("parquet")
def read_parquet(
    path: Path | str, image: str = "image", label: str = "label", say: Say = lambda line: None
) -> ImageSource:
    """Reads *.parquet files with a column of images, {bytes, path} each, and one of labels, numbers or names of classes.

    In these files many images are compressed together: to read one at random would mean to read hundreds. So each file
    is unpacked once, to images that lie one after the other in a file of `images` in `cache_dir()`, which is there for
    every run until the Parquet file changes; delete the folder, and they are unpacked again. The names of classes are
    those of a `ClassLabel` in the metadata of the first file, if there is one.

    Args:
      path: of a file, or of a folder of them: see `shards.shards_in`.
      image: the column of the images.
      label: that of the labels.
      say: is told which files are not read, and where images are unpacked.

    Raises:
      DataError: pyarrow is not installed; a file that is not Parquet or lacks a column; an image without bytes; a disk
        without room for them; see `shards.source_of`.
      WriteError: they cannot be written.
    """
    path, columns = Path(path), (image, label)
    files = shards_in(path, ".parquet", say)
    shards = {split: [_shard(file, columns) for file in found] for split, found in files.items()}
    say(f"images are unpacked in {cache_dir() / _FOLDER}")
    return source_of(path, shards, _class_names(files["train"][0], label))


def _opened(file: str) -> Any:
    parquet = needed("pyarrow.parquet", file)
    with _reading(file):
        return parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


def _reading(file: str) -> contextlib.AbstractContextManager[None]:
    """A context in which the file is named by its errors, pyarrow's among them."""
    import pyarrow

    return reading(file, pyarrow.ArrowException)


def _class_names(file: str, label: str) -> list[str] | None:
    with _opened(file) as opened:
        metadata = opened.schema_arrow.metadata or {}
    try:
        return [str(name) for name in json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]]
    except (ValueError, LookupError, TypeError):
        return None


def _shard(file: str, columns: tuple[str, str]) -> Shard:
    """The images of a file, unpacked now if they have not been before, and its labels."""
    image, label = columns
    with _opened(file) as opened:
        _check_columns(file, opened.schema_arrow, columns)
        with _reading(file):
            labels = opened.read([label]).column(label).to_pylist()
        if (missing := next((n for n, x in enumerate(labels) if x is None), None)) is not None:
            raise DataError(f"{file}, row {missing}: has no {label}; take the row out")
        images = _unpacked(file, opened, image)
    return Shard(images, labels)


def _check_columns(file: str, schema: Any, columns: tuple[str, str]) -> None:
    import pyarrow.types as kinds

    image, label = columns
    if missing := [name for name in columns if name not in schema.names]:
        hint = "name them by data.source_options, as image=img,label=fine_label"
        raise DataError(f"{file} has no column {missing[0]!r}, but {', '.join(schema.names)}; {hint}")
    kind = schema.field(image).type
    if not kinds.is_struct(kind) or kind.get_field_index("bytes") < 0 or not _is_bytes(kind.field("bytes").type):
        raise DataError(f"{file}: column {image!r} must hold images, each {{bytes, path}}; it holds {kind}")
    kind = schema.field(label).type
    if not (kinds.is_integer(kind) or kinds.is_string(kind) or kinds.is_large_string(kind)):
        raise DataError(f"{file}: column {label!r} must hold numbers or names of classes; it holds {kind}")


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as kinds

    return kinds.is_binary(kind) or kinds.is_large_binary(kind)


def _unpacked(file: str, opened: Any, column: str) -> Encoded:
    """The images of a Parquet file, where they lie one after the other, in the order of its rows."""
    fingerprint, _, _ = fingerprint_of([file], f"parquet images 1, {column}".encode())
    # Begins as the file is called, by which errors of its images name it.
    images = cache_dir() / _FOLDER / f"{Path(file).stem[:_LONGEST_STEM]}-{fingerprint}"
    sizes_file = images.with_name(f"{images.name}.npy")
    if not images.exists():
        _unpack(file, opened, column, images, sizes_file)
    with reading(sizes_file, ValueError):
        sizes, there = np.load(sizes_file), images.stat().st_size
    if sizes.sum() != there:
        raise DataError(f"{images} is damaged: delete it, and {file} is unpacked again")
    starts = np.cumsum(sizes) - sizes
    return Encoded((str(images),), np.zeros(len(sizes), np.int32), starts, sizes)


def _unpack(file: str, opened: Any, column: str, images: Path, sizes_file: Path) -> None:
    """Writes the images of a file one after the other, and then their sizes; the images are there whole or not at all."""
    needed, sizes = _unpacked_size(opened, column), []
    with writing(images):
        images.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(images.parent).free) < needed:
            hint = "make room, or set TFORMER_DATA to a folder on another disk"
            raise DataError(f"{file} unpacks to {needed:,} bytes, but {images.parent} has room for {free:,}; {hint}")
        with whole(images) as unfinished:  # which a process that comes second waits for, and writes once more
            for content in _contents(file, opened, column):
                sizes.append(unfinished.write(content))
            np.save(array := io.BytesIO(), np.array(sizes, np.int64))
            write_whole(sizes_file, array.getvalue())


def _contents(file: str, opened: Any, column: str) -> Iterator[Any]:
    """The bytes of each image, in order."""
    row = 0
    with _reading(file):
        # Threads would read a whole group of rows ahead.
        for batch in opened.iter_batches(_TOGETHER, columns=[f"{column}.bytes"], use_threads=False):
            for content in batch.column(0).field("bytes"):
                if not content.is_valid:
                    raise DataError(f"{file}, row {row}: the image has no bytes; take the row out")
                yield content.as_buffer()
                row += 1


def _unpacked_size(opened: Any, column: str) -> int:
    """The bytes of a column before they are compressed, of all that images have."""
    groups = (opened.metadata.row_group(n) for n in range(opened.metadata.num_row_groups))
    chunks = (group.column(n) for group in groups for n in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == f"{column}.bytes")
