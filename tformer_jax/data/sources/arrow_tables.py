"""Tables of Apache Arrow: Parquet and Arrow's own files, batch by batch."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files import DataError, read_json, reading
from .folders import files_at
from .optional import needed
from .registered import Say
from .rows import Column, Rows, rows_of_files

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
        with whole_file(file), needed("pyarrow.parquet", file).ParquetFile(file) as opened:
            names = [".".join(path_of(opened.schema_arrow, column, file)) for column in columns]
            for group in range(opened.num_row_groups):  # of all at once, pyarrow keeps what it has read
                batches = opened.iter_batches(_ROWS, row_groups=[group], columns=names)
                yield from values_of(batches, opened.schema_arrow, columns, file)

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
        with whole_file(file), needed("pyarrow", file).OSFile(str(file)) as raw:
            schema, batches = batches_in(raw)
            yield from values_of(batches, schema, columns, file)

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


def batches_in(raw: Any) -> tuple[Any, Iterable[Any]]:
    """Returns the schema and the record batches of an open Arrow file or stream."""
    import pyarrow.ipc

    is_file = raw.read(6) == b"ARROW1"
    raw.seek(0)
    opened = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(raw)
    return opened.schema, map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[None]:
    """Within the context, an error of pyarrow names the file."""
    errors = needed("pyarrow", file).ArrowException, OSError
    try:
        yield
    except errors as error:
        hint = "it is damaged, not whole, or of another format: fetch it again"
        raise DataError(f"cannot read {file}: {' '.join(str(error).split())}; {hint}") from None


def values_of(batches: Iterable, schema: Any, columns: Sequence[Column], where: Path | str) -> Iterator[list[Any]]:
    """Yields the values of each row of record batches, once it is known that the columns are of types that fit."""
    import pyarrow.compute

    paths = [path_of(schema, column, where) for column in columns]
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            part, values = batch.slice(start, _ROWS), []
            for top, *inner in paths:
                array = part.column(top)
                for name in inner:
                    array = pyarrow.compute.struct_field(array, name)
                values.append(array.to_pylist())
            yield from map(list, zip(*values, strict=True))


def path_of(schema: Any, column: Column, where: Path | str) -> list[str]:
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
