"""Mixtures of sources: how they are written."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from ..config import Component, ConfigError

_Section = TypeVar("_Section", bound=Component)

# What `data.source` says of a mixture.
MIXTURE = "mixture"

# Weights may be rounded to six digits, as 0.333333.
_ROUNDED = 1e-5
_FORM = "must read 'NAME:WEIGHT,NAME(field=value,...):WEIGHT', such as 'speeches:0.3,jsonl(path=books.jsonl):0.7'"
_PART = re.compile(
    r"\s*(?P<source>[^\s:(),]+)\s*(?:\((?P<given>[^()]*)\))?\s*:\s*(?P<weight>[^,()]*?)\s*(?:,(?=.)|$)", re.S
)


class Part(NamedTuple, Generic[_Section]):
    """A source of a mixture: the `data` section that has it, and its share of the rows that are trained on."""

    section: _Section
    weight: float


def parts_of(mixture: str, section: _Section) -> list[Part[_Section]]:
    """Returns the sources of a mixture: "speeches:0.3,jsonl(path=books.jsonl,field=text):0.7".

    What stands between parentheses are the inputs of the section, such as `path`, and options of the source. There are
    no parentheses in it, and no commas within a value.

    Args:
      mixture: as above; the weights add up to 1, up to 1e-5, and are taken so that they do exactly.
      section: what the sections of all sources have, but for `source`, `source_options` and the inputs.

    Raises:
      ConfigError: it reads otherwise, a weight is not positive, they do not add up to 1, or a source is not there or
        not given what it needs.
    """
    parts, at = [], 0
    while at < len(mixture) or not parts:
        if not (found := _PART.match(mixture, at)):
            raise ConfigError(f"mixture {_FORM}, got {mixture!r}")
        at, (source, given, weight) = found.end(), found.groups()
        try:
            changes = _fields(source, given, section.inputs)
            parts.append(Part(dataclasses.replace(section, **changes), _weight(weight)))
        except ConfigError as error:
            raise ConfigError(f"mixture has {source!r}, of which {error}") from None
    if abs((total := math.fsum(part.weight for part in parts)) - 1) > _ROUNDED:
        raise ConfigError(f"mixture must have weights that add up to 1, got {total:.6g} of {mixture!r}")
    return [Part(part.section, part.weight / total) for part in parts]


def _fields(source: str, given: str | None, inputs: Sequence[str]) -> dict[str, str | None]:
    """Returns the fields of a section that say a source, and what it is given."""
    fields: dict[str, str | None] = {"source": source, "source_options": None, MIXTURE: None} | dict.fromkeys(inputs)
    options = []
    for text in given.split(",") if given else ():
        name, equals, value = (x.strip() for x in text.partition("="))
        if name not in inputs:
            options.append(text)
        elif not value or fields[name] is not None:
            raise ConfigError(f"{name} must be given once, as {name}=..., got {given!r}")
        else:
            fields[name] = value
    return fields | {"source_options": ",".join(options) if options else None}


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= 1:
        raise ConfigError(f"the weight must be a number above 0 and at most 1, got {text!r}")
    return weight
