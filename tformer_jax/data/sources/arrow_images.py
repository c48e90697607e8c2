"""Images in Arrow files, as the package `datasets` keeps them: read where they lie, which is uncompressed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..encoded import Encoded, joined
from ..files import DataError
from .arrow_tables import batches_in, whole_file
from .optional import needed
from .shards import Shard


def images_in(files: Sequence[Path], image: str, label: str) -> Shard:
    """Returns the images of Arrow files, one file after the other, and the label of each.

    Args:
      files: in order.
      image: the column of the images, {bytes, path} each.
      label: that of the labels, numbers.

    Raises:
      DataError: pyarrow is not installed; a file is damaged, lacks a column, is compressed, or has an image without bytes.
    """
    found, labels = [], []
    for file in files:
        with whole_file(file), needed("pyarrow", file).memory_map(str(file)) as mapped:
            whole = mapped.read_buffer()  # without a copy, so that the addresses of its parts are their places
            mapped.seek(0)
            schema, batches = batches_in(mapped)
            _check_columns(file, schema, image, label)
            for batch in batches:
                found.append(_images(file, batch.column(image), whole))
                labels += batch.column(label).to_pylist()
    return Shard(joined(found), labels)


def _check_columns(file: Path, schema: Any, image: str, label: str) -> None:
    from pyarrow import types

    kinds = {field.name: field.type for field in schema}
    of = kinds.get(image)
    inner = (
        of.field("bytes").type if of is not None and types.is_struct(of) and of.get_field_index("bytes") >= 0 else None
    )
    if inner is None or not types.is_binary(inner):
        raise DataError(f"{file} must have a column {image!r} of images, each {{bytes, path}}; it holds {of}")
    if label not in kinds or not types.is_integer(kinds[label]):
        raise DataError(f"{file} must have a column {label!r} of numbers of classes; it holds {kinds.get(label)}")


def _images(file: Path, column: Any, whole: Any) -> Encoded:
    """Returns where the images of a record batch lie in the file; `whole`: all of that."""
    content = column.field("bytes")
    if content.null_count or column.null_count:
        raise DataError(f"{file} has an image without bytes: save the data set with the images in it, not their paths")
    _, offsets, data = content.buffers()
    places = np.frombuffer(offsets, np.int32)[content.offset : content.offset + len(content) + 1].astype(np.int64)
    first = data.address - whole.address
    if not 0 <= first <= whole.size - data.size:
        raise DataError(f"{file} is compressed, so that its images cannot be read where they lie: save it again")
    files = np.zeros(len(content), np.int32)
    return Encoded((str(file),), files, first + places[:-1], np.diff(places))
