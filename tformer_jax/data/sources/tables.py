"""Sources that read tables: each format, for each kind of text.

| format | `data.path`, or options |
|---|---|
| jsonl | a file, a folder or a pattern of `.jsonl`, and of `.jsonl` and `.json` that end in `.gz` or `.zst` |
| parquet | a file, a folder or a pattern of `.parquet` |
| arrow | a file, a folder or a pattern of `.arrow`; a folder that `save_to_disk` wrote |
| huggingface | a folder that `save_to_disk` wrote; or `name`, and `subset` and `part` where there are several |

`data.source_options` says which fields are what: of documents `field` and `name_field`, of pairs `source_field`,
`target_field` and `group_field`, of labelled texts `text_field`, `label_field` and `group_field`. A field within another
one has a dot: `source_field=translation.de`. All but `jsonl` that is not Zstandard needs the extra `datasets`.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from ..text import canonical
from .arrow_tables import arrow, parquet
from .documents import DOCUMENTS, Document
from .hugging_face import huggingface
from .json_lines import json_lines
from .labelled_texts import LABELLED_TEXTS, LabelledText
from .pairs import PAIRS, Pair
from .rows import Column, Rows
from .streams import Stream


def documents_of(rows: Rows, field: str = "text", name_field: str | None = None) -> Iterator[Document]:
    columns = _columns(field=(field, False), name_field=(name_field, True))
    for name, (text, *own) in rows.texts(*columns):
        yield Document(canonical(own[0]) if own else name, text)


def pairs_of(rows: Rows, source_field: str, target_field: str, group_field: str | None = None) -> Iterator[Pair]:
    columns = _columns(
        source_field=(source_field, False), target_field=(target_field, False), group_field=(group_field, True)
    )
    for _, (source, target, *group) in rows.texts(*columns):
        yield Pair(source, target, *group)


def labelled_of(
    rows: Rows, text_field: str = "text", label_field: str = "label", group_field: str | None = None
) -> Iterator[LabelledText]:
    columns = _columns(text_field=(text_field, False), label_field=(label_field, True), group_field=(group_field, True))
    for _, (text, label, *group) in rows.texts(*columns):
        yield LabelledText(canonical(text), canonical(label.strip()), *group)


def _columns(**asked: tuple[str | None, bool]) -> list[Column]:
    return [Column(field, numbers, option) for option, (field, numbers) in asked.items() if field is not None]


FORMATS = {"jsonl": json_lines, "parquet": parquet, "arrow": arrow, "huggingface": huggingface}
KINDS = ((DOCUMENTS, documents_of), (PAIRS, pairs_of), (LABELLED_TEXTS, labelled_of))


def _source(read: Callable[..., Rows], make: Callable[..., Iterator[Any]]) -> Callable[..., Stream[Any]]:
    """Returns a source that has the parameters of a format and those of a kind of text."""
    of_format = inspect.signature(read, eval_str=True).parameters
    _, *of_kind = inspect.signature(make, eval_str=True).parameters.values()

    def source(**given: Any) -> Stream[Any]:
        rows = read(**{name: value for name, value in given.items() if name in of_format})
        fields = {name: value for name, value in given.items() if name not in of_format}
        return Stream(lambda: make(rows, **fields), rows.files)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*of_format.values(), *of_kind)]
    source.__signature__ = inspect.Signature(parameters)
    source.__doc__ = read.__doc__
    return source


for _kind, _make in KINDS:
    for _format, _read in FORMATS.items():
        _kind.register(_format)(_source(_read, _make))
