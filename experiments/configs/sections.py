"""Config sections from their dataclasses: every field is there, with its default, and can be set by a flag."""

import dataclasses
import types
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict


def section(cls: type, *, without: tuple[str, ...] = (), **values: Any) -> ConfigDict:
    """The fields of a dataclass as a ConfigDict: `values`, else the defaults.

    Args:
      cls: a section's dataclass.
      without: fields that the section does not have.
      values: by field name.

    Raises:
      TypeError: a value for a field that is not there, or none for one without a default.
    """
    result, hints = ConfigDict(), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        value = values.pop(field.name, field.default)
        if value is dataclasses.MISSING:
            raise TypeError(f"{cls.__name__}.{field.name} needs a value")
        result[field.name] = config_dict.placeholder(_type_of(hints[field.name])) if value is None else value
    if values:
        raise TypeError(f"{cls.__name__} has no field(s) {', '.join(values)}")
    return result


def _type_of(hint: Any) -> type:
    """X of `X | None`: a flag for a field that is None must know what it may become."""
    if isinstance(hint, types.UnionType):
        return next(option for option in typing.get_args(hint) if option is not types.NoneType)
    return hint
