"""The members of a sweep: a config each, from one config and a set of overrides, checked before anything runs."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from ..config import RUN, ConfigError, fields_of, merged, nearest, nested, plain_kinds
from ..training.experiment import Experiment, section_classes
from .space import Overrides

# Of a member that varies in these, the warm-up must be within the steps.
_LENGTHS = {"training.steps", "optimizer.warmup_steps"}
# What one name stands for.
_SHORT = {"seed": ("training.seed", "data.order_seed")}


@dataclasses.dataclass(frozen=True)
class Member:
    """One experiment of a sweep.

    Attributes:
      number: its place in the space, from 0.
      overrides: as the space has them.
      config: all of it, plain JSON values.
      experiment: the same, validated.
    """

    number: int
    overrides: Overrides
    config: Mapping[str, Any]
    experiment: Experiment


class Fields:
    """The fields of a config, by "section.field": which there are, and what values they may have."""

    def __init__(self, config: Mapping[str, Any]):
        experiment = Experiment.from_config(config)
        task = experiment.task_class
        follows = {f"model.{name}" for name in (*task.planned_fields(experiment.data), "precision")}
        self._classes = section_classes(task)
        self._hints: dict[str, Any] = {"precision": str}
        self._fixed: set[str] = {"task.name"}
        for section, cls in self._classes.items():
            for name, hint, kind in fields_of(cls, f"{section}."):
                if name not in follows:
                    self._hints.setdefault(name, hint)
                    self._fixed |= {name} if kind.part == RUN else set()

    def resolve(self, name: str) -> tuple[str, ...]:
        """The fields that a name of a space stands for.

        Raises:
          ConfigError: none, or several; or one that cannot be swept.
        """
        if name in self._fixed:
            raise ConfigError(
                f"{name} cannot be swept: it changes nothing that is computed, or makes another experiment; "
                f"set it for the whole sweep, with --config.{name}=..."
            )
        if name in _SHORT or name in self._hints:
            return _SHORT.get(name, (name,))
        ending = [full for full in self._hints if full.endswith(f".{name}")]
        depth = min((full.count(".") for full in ending), default=0)
        ending = [full for full in ending if full.count(".") == depth]  # model.dropout_rate, not that of a component
        if len(ending) > 1:
            raise ConfigError(f"{name!r} is ambiguous: write {' or '.join(ending)}")
        if not ending:
            known = [*self._hints, *_SHORT, *(full.rpartition(".")[2] for full in self._hints)]
            raise ConfigError(f"the config has no field {name!r}{nearest(name, known)}")
        return self.resolve(ending[0])

    def value(self, name: str, value: Any) -> Any:
        """The value as the field has it: 1 of a float is 1.0, 64.0 of an integer is 64.

        Raises:
          ConfigError: it is of another kind.
        """
        kinds = plain_kinds(self._hints[self.resolve(name)[0]])
        if kinds is None:
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise ConfigError(f"{name} must be made of numbers, texts, lists and tables, got {value!r}") from None
        if kinds is None or type(value) in kinds:
            return value
        if type(value) is int and float in kinds and abs(value) <= sys.float_info.max:
            return float(value)
        if type(value) is float and int in kinds and value.is_integer():
            return int(value)
        wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        raise ConfigError(f"{name} must be of type {wanted}, got {value!r}")

    def is_integer(self, name: str) -> bool:
        """Returns whether a field takes integers, and no other numbers."""
        kinds = plain_kinds(self._hints[self.resolve(name)[0]]) or ()
        return int in kinds and float not in kinds

    def applied(self, config: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
        """The config with overrides: a copy, of plain JSON values.

        Raises:
          ConfigError: see `resolve` and `value`; or one field is meant twice.
        """
        changed = json.loads(json.dumps(dict(config)))
        seen: dict[str, str] = {}
        values: dict[str, Any] = {}
        for name, value in overrides.items():
            for full in self.resolve(name):
                if full in seen:
                    raise ConfigError(f"{seen[full]} and {name} both set {full}: leave out one of them")
                seen[full], values[full] = name, self.value(name, value)
        for name, value in nested(values).items():
            changed[name] = merged(self._classes[name], changed[name], value) if name in self._classes else value
        return json.loads(json.dumps(changed))


def make_members(config: Mapping[str, Any], sets: Sequence[Overrides]) -> list[Member]:
    """The members that differ, in order: of several with the same config, the first.

    A field that has several names has the first of them in all overrides.

    Raises:
      ConfigError: an override cannot be: says of which member.
    """
    fields, members, seen, names = Fields(config), [], set(), {}
    for number, overrides in enumerate(sets):
        whole = fields.applied(config, overrides)
        overrides = {names.setdefault(fields.resolve(name), name): value for name, value in overrides.items()}
        try:
            experiment = Experiment.from_config(whole)
            if experiment.training.patience is not None:
                raise ConfigError("training.patience must be None in a sweep: its members train equally long")
            if experiment.remarks and _LENGTHS & {full for name in overrides for full in fields.resolve(name)}:
                raise ConfigError(experiment.remarks[0])  # the others' learning rate gets farther than this one's
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"member {number} ({describe(overrides)}) cannot be trained: {error}") from None
        if (text := json.dumps(whole, sort_keys=True)) not in seen:
            members.append(Member(number, overrides, whole, experiment))
        seen.add(text)
    return members


def describe(overrides: Overrides) -> str:
    """Describes overrides in a line: "optimizer.learning_rate=0.001, seed=2"."""
    return ", ".join(f"{name}={shown(value)}" for name, value in overrides.items()) or "the config as it is"


def shown(value: Any) -> str:
    """A value as a person reads it: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flags(config: Mapping[str, Any], overrides: Overrides) -> list[str] | None:
    """Returns the overrides as flags of a command that trains with this config; None if flags cannot express them.

    A flag sets a field that the config has to None, or to a value of the kind that it has there, or of any if it is
    None there.
    """
    fields = Fields(config)
    pairs = [(full, fields.value(name, value)) for name, value in overrides.items() for full in fields.resolve(name)]
    before = {name: _at(config, name) for name, _ in pairs}
    said = {name: value for name, value in pairs if not value is before[name] is None}
    plain = all(_is_said(value, before[name]) for name, value in said.items())
    return [f"--config.{name}={value}" for name, value in said.items()] if plain else None


def _is_said(value: Any, before: Any) -> bool:
    """Returns whether a flag can set a field to a value that has another one before."""
    if value is None:
        return type(before) in (int, float, str)
    return value != "None" and type(value) in (bool, int, float, str) and type(before) in (type(value), NoneType)


def _at(config: Mapping[str, Any], name: str) -> Any:
    """A field of a config; an ellipsis if it leaves it out."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part, ...) if isinstance(value, Mapping) else ...
    return value
