"""Tables of Apache Arrow: Parquet, Arrow's own files, and data sets of Hugging Face's; batch by batch."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...config import ConfigError
from ..files import DataError, read_json, reading
from .folders import files_at
from .optional import needed
from .registered import Say
from .rows import Column, Row, Rows, rows_of_files

# So many rows are Python objects at a time.
_ROWS = 1024


def parquet(path: str, say: Say = lambda line: None) -> Rows:
    """Returns the rows of a Parquet file, of a folder of them, or of those that a pattern names.

    Args:
      path: of the file or folder, or the pattern.
      say: is told which files of a folder are not read.

    Raises:
      DataError: see `files_at`; while they are read, a file that is damaged or empty, or lacks a column.
    """

    def read(file: Path, columns: Sequence[Column]) -> Iterator[list[Any]]:
        with _whole(file), needed("pyarrow.parquet", file).ParquetFile(file) as opened:
            names = [".".join(_path(opened.schema_arrow, column, file)) for column in columns]
            for group in range(opened.num_row_groups):  # of all at once, pyarrow keeps what it has read
                batches = opened.iter_batches(_ROWS, row_groups=[group], columns=names)
                yield from _values(batches, opened.schema_arrow, columns, file)

    return rows_of_files(*files_at(Path(path), (".parquet",), say), "row", read)


def arrow(path: str, say: Say = lambda line: None) -> Rows:
    """Returns the rows of an Arrow file or stream, of a folder of them, or of those that a pattern names.

    Of a folder that `save_to_disk` of the package `datasets` wrote, the files that it names are read. A stream that was cut
    off between two batches cannot be told from a whole one: its format asks for no end.

    Args:
      path: of the file or folder, or the pattern.
      say: is told which files of a folder are not read.

    Raises:
      DataError: as `parquet`, or a folder holds several splits (names them).
    """

    def read(file: Path, columns: Sequence[Column]) -> Iterator[list[Any]]:
        pyarrow = needed("pyarrow", file)
        with _whole(file), pyarrow.OSFile(str(file)) as raw:
            is_file = raw.read(6) == b"ARROW1"
            raw.seek(0)
            opened = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(raw)
            batches = map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened
            yield from _values(batches, opened.schema, columns, file)

    return rows_of_files(*_arrow_files(Path(path), say), "row", read)


def _arrow_files(path: Path, say: Say) -> tuple[Path, tuple[Path, ...]]:
    if (splits := path / "dataset_dict.json").is_file():
        names = ", ".join(map(str, read_json(splits).get("splits", [])))
        raise DataError(f"{path} holds the splits {names}: name the folder of one, data.path={path}/...")
    if not (state := path / "state.json").is_file():
        return files_at(path, (".arrow",), say)
    with reading(state, KeyError, TypeError):  # beside what it names may lie what `map` left
        names = [data["filename"] for data in read_json(state)["_data_files"]]
    if not names:
        raise DataError(f"{path} has no rows: name another folder")
    return path, tuple(path / name for name in names)


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
    with _loaded(source):
        found = datasets.load_from_disk(path) if name is None else datasets.load_dataset(name, subset, split=part)
    if isinstance(found, dict):
        if part not in found:
            raise DataError(
                f"{source} has the parts {', '.join(found)}: set data.source_options=part=... to one of them"
            )
        found = found[part]
    elif name is None and part is not None:
        raise DataError(f"{source} has no parts: leave part={part} out of data.source_options")
    files = tuple(Path(file["filename"]) for file in found.cache_files)
    return Rows(lambda columns: _rows(found, source, name or Path(path).name, columns), files, "row")


def _rows(dataset: Any, source: str, name: str, columns: Sequence[Column]) -> Iterator[Row]:
    schema = dataset.features.arrow_schema
    tops = {_path(schema, column, source)[0] for column in columns}
    tables = dataset.select_columns(sorted(tops)).with_format("arrow").iter(_ROWS)
    batches = (batch for table in tables for batch in table.to_batches())
    classes = [_class_names(dataset.features, _path(schema, column, source)) for column in columns]
    number = 0
    with _loaded(source):
        for number, values in enumerate(_values(batches, schema, columns, source), 1):
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
def _loaded(source: str) -> Iterator[None]:
    """Within the context, an error of the package `datasets`, which has many kinds, becomes one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        offline = "; without a network only what was loaded before is there, at once with HF_HUB_OFFLINE=1"
        hint = offline if isinstance(error, ConnectionError) else ""
        raise DataError(f"cannot load {source}: {' '.join(str(error).split())}{hint}") from None


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Within the context, an error of pyarrow names the file."""
    errors = needed("pyarrow", file).ArrowException, OSError
    try:
        yield
    except errors as error:
        hint = "it is damaged, not whole, or of another format: fetch it again"
        raise DataError(f"cannot read {file}: {' '.join(str(error).split())}; {hint}") from None


def _values(batches: Iterable, schema: Any, columns: Sequence[Column], where: Path | str) -> Iterator[list[Any]]:
    """Yields the values of each row of record batches, once it is known that the columns are of types that fit."""
    import pyarrow.compute

    paths = [_path(schema, column, where) for column in columns]
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            part, values = batch.slice(start, _ROWS), []
            for top, *inner in paths:
                array = part.column(top)
                for name in inner:
                    array = pyarrow.compute.struct_field(array, name)
                values.append(array.to_pylist())
            yield from map(list, zip(*values, strict=True))


def _path(schema: Any, column: Column, where: Path | str) -> list[str]:
    """The names on the way to a column, from the outermost.

    Raises:
      DataError: there is no such column, or it is of a type that does not fit.
    """
    from pyarrow import types

    path = [column.field] if column.field in schema.names else column.field.split(".")
    fields, of = {field.name: field.type for field in schema}, None
    for name in path:
        if name not in fields:
            raise column.missing(f"{where}", _names(schema))
        of = fields[name]
        fields = {of.field(i).name: of.field(i).type for i in range(of.num_fields)} if types.is_struct(of) else {}
    of = of.value_type if types.is_dictionary(of) else of
    is_text = types.is_string(of) or types.is_large_string(of) or types.is_string_view(of)
    is_number = types.is_integer(of) or types.is_floating(of) or types.is_boolean(of)
    if not (is_text or column.numbers and is_number):
        raise column.wrong(f"{where}", f"{of}")
    return path


def _names(fields: Iterable[Any], before: str = "") -> Iterator[str]:
    """The names of columns, and of those within them."""
    from pyarrow import types

    for field in fields:
        if types.is_struct(field.type):
            inner = (field.type.field(i) for i in range(field.type.num_fields))
            yield from _names(inner, f"{before}{field.name}.")
        else:
            yield before + field.name
