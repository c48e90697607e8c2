"""Mixtures of sources: how they are written, and which source each row of the training is from."""

import dataclasses
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, TypeVar

import numpy as np

from ..config import ConfigError
from .base import DataConfig

_Section = TypeVar("_Section", bound=DataConfig)

# Weights may be rounded to six digits, as 0.333333.
_ROUNDED = 1e-5
_FORM = "must read 'NAME:WEIGHT,NAME(field=value,...):WEIGHT', such as 'speeches:0.3,jsonl(path=books.jsonl):0.7'"
_PART = re.compile(
    r"\s*(?P<source>[^\s:(),]+)\s*(?:\((?P<given>[^()]*)\))?\s*:\s*(?P<weight>[^,()]*?)\s*(?:,(?=.)|$)", re.S
)
# A share of one is this many steps: what is counted in them is exact up to 2**63 rows.
_STEPS = np.uint64(1 << 32)
_LOW = np.uint64((1 << 32) - 1)


class Part(NamedTuple):
    """A source of a mixture: the `data` section that has it, and its share of the rows."""

    section: DataConfig
    weight: float


def parts_of(mixture: str, section: _Section) -> list[Part]:
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
    fields: dict[str, str | None] = {"source": source, "source_options": None} | dict.fromkeys(inputs)
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


def mixed(seed: int, weights: Sequence[float], positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the source of each row, and which of that source's rows it is, int64 [n] each, anywhere in an endless order.

    The rows 0, 1, 2, ... of a source come in this order, without gaps. Among the first t rows of all, the number of those
    of source k differs from t times its weight by less than k + 1, and never by more than there are other sources. Each
    position is computed by itself.

    The sources part the rows as cutting sequences: source 0 has those at which floor(w t + phase) grows, and
    the sources after it share the others in the same way (Morse and Hedlund, Symbolic Dynamics II, 1940).

    Args:
      seed: of the phases, which shift where the sources take turns.
      weights: positive, adding up to 1; kept to 2^-32.
      positions: of the rows, from 0, integers [n].
    """
    phases = np.random.default_rng(seed).integers(0, _STEPS, len(weights), dtype=np.uint64)
    sources = np.full(len(positions), len(weights) - 1)
    left, at = np.arange(len(positions)), positions.astype(np.uint64)  # rows that no source has yet; their numbers
    within, rest = np.empty(len(positions), np.int64), sum(map(Fraction, weights))
    for source, weight in enumerate(weights[:-1]):
        share = np.uint64(round(Fraction(weight) / rest * int(_STEPS)))
        before, after = (_grown(share, phases[source], t) for t in (at, at + np.uint64(1)))
        own = after > before
        sources[left[own]], within[left[own]] = source, before[own]
        left, at, rest = left[~own], (at - before)[~own], rest - Fraction(weight)
    within[left] = at
    return sources, within


def _grown(share: np.uint64, phase: np.uint64, at: np.ndarray) -> np.ndarray:
    """Returns floor((share t + phase) / 2^32), exactly: the upper and the lower half of t apart."""
    return (at >> np.uint64(32)) * share + ((at & _LOW) * share + phase) // _STEPS
