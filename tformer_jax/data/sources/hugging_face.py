"""Data sets of Hugging Face's: of the hub, or a folder that the package `datasets` wrote; row by row."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...config import ConfigError
from ..files import DataError
from .arrow_tables import path_of, values_of
from .lines import check_there
from .optional import needed
from .rows import Column, Row, Rows

# So many rows are Python objects at a time.
_ROWS = 1024


def huggingface(
    path: str | None = None, name: str | None = None, subset: str | None = None, part: str | None = None
) -> Rows:
    """Returns the rows of a data set of Hugging Face's.

    Labels that have names (`ClassLabel`) are these. Without a network, `HF_HUB_OFFLINE=1` spares the attempts to reach it.

    Args:
      path: of a folder that `save_to_disk` wrote.
      name: of a data set that `datasets.load_dataset` finds, instead of `path`.
      subset: of that, such as "de-en", where there are several.
      part: "train", for example, where there are several; what is held out of it, `data.split` says.

    Raises:
      ConfigError: not one of `path` and `name` is given.
      DataError: the data set is not there and cannot be fetched, or has no such subset or part (names them).
    """
    if (path is None) == (name is None) or (subset is not None and name is None):
        raise ConfigError(
            "source='huggingface' needs data.path, a folder that save_to_disk wrote, or else name=... (and "
            "subset=..., where there are several) in data.source_options"
        )
    source = f"the data set {name or path}"
    datasets = needed("datasets", source)
    with loaded(source):
        found = datasets.load_from_disk(path) if name is None else datasets.load_dataset(name, subset, split=part)
    if isinstance(found, dict):
        if part not in found:
            raise DataError(
                f"{source} has the parts {', '.join(found)}: set data.source_options=part=... to one of them"
            )
        found = found[part]
    elif name is None and part is not None:
        raise DataError(f"{source} has no parts: leave part={part} out of data.source_options")
    return rows_of(found, source, name or Path(path).name)


def rows_of(dataset: Any, source: str, name: str) -> Rows:
    """Returns the rows of a `datasets.Dataset`.

    Args:
      dataset: of one split.
      source: what errors call it.
      name: that the names of rows begin with.
    """
    return Rows(lambda columns: _read(dataset, source, name, columns), files_of(dataset), "row")


def files_of(dataset: Any) -> tuple[Path, ...]:
    """Returns the Arrow files that a `datasets.Dataset` lies in, in order."""
    return tuple(Path(file["filename"]) for file in dataset.cache_files)


def load_parts(source: str, copy: Path | None, hint: str, **where: str | None) -> dict[str, Any]:
    """Loads every part of a data set of the hub, or of a copy of it.

    Args:
      source: what errors call it.
      copy: a folder that `DatasetDict.save_to_disk` wrote, or one of files as the hub has it; None: the data set is taken
        from the cache of `datasets`, or fetched.
      hint: what to do where it cannot be loaded.
      where: it is on the hub, as `datasets.load_dataset` is told.

    Raises:
      DataError: the package `datasets` is not installed; the copy is not there; it cannot be loaded.
    """
    datasets = needed("datasets", source)
    with loaded(source, hint):
        if copy is None:
            return dict(datasets.load_dataset(**where))
        check_there(copy)
        if (copy / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(str(copy)))
        # The page of a repository says which of its files are which subset.
        return dict(datasets.load_dataset(str(copy), where["name"] if (copy / "README.md").is_file() else None))


def _read(dataset: Any, source: str, name: str, columns: Sequence[Column]) -> Iterator[Row]:
    schema = dataset.features.arrow_schema
    tops = {path_of(schema, column, source)[0] for column in columns}
    tables = dataset.select_columns(sorted(tops)).with_format("arrow").iter(_ROWS)
    batches = (batch for table in tables for batch in table.to_batches())
    classes = [_class_names(dataset.features, path_of(schema, column, source)) for column in columns]
    number = 0
    with loaded(source):
        for number, values in enumerate(values_of(batches, schema, columns, source), 1):
            pairs = zip(values, classes, strict=True)
            yield Row(source, name, number, [value if of is None else of.get(value) for value, of in pairs])
    if not number:
        raise DataError(f"{source} has no rows: choose another part")


def _class_names(features: Any, path: Sequence[str]) -> dict[int, str] | None:
    """The names of the values of a column, where it is one of classes; -1 stands for none."""
    for part in path:
        features = features.get(part) if isinstance(features, dict) else None
    return dict(enumerate(features.names)) if hasattr(features, "names") else None


@contextlib.contextmanager
def loaded(source: str, hint: str = "") -> Iterator[None]:
    """Within the context, an error of the package `datasets`, which has many kinds, becomes one line that ends with `hint`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if isinstance(error, ConnectionError) and not hint:
            hint = "without a network only what was loaded before is there, at once with HF_HUB_OFFLINE=1"
        said = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"cannot load {source}: {said}{'; ' * bool(hint)}{hint}") from None
