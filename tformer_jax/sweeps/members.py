"""The members of a sweep: a config each, from one config and a set of overrides, checked before anything runs."""

import dataclasses
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from ..config import ConfigError, TransformerConfig, nearest, plain_kinds
from ..training.experiment import Experiment
from ..training.program import TrainingConfig
from .space import Overrides

# Where and how often something is written, or runs, changes no result; and another task has other fields.
_NOT_SWEPT = {"parallel", "checkpoint", "training.log_every", "training.evaluate_every",
              "training.validation_batches", "task.name"}  # fmt: skip
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

    def __str__(self) -> str:
        return describe(self.overrides)


class Fields:
    """The fields of a config, by "section.field": which there are, and what values they may have."""

    def __init__(self, config: Mapping[str, Any]):
        experiment = Experiment.from_config(config)
        task = experiment.task_class
        follows = {*task.planned_fields(experiment.data), "precision"}
        model = set(TransformerConfig.fields_of(task.Model.__name__)) - follows
        classes = {"task": task.Config, "data": task.DataConfig, "model": TransformerConfig,
                   "optimizer": type(experiment.optimizer), "training": TrainingConfig}  # fmt: skip
        self._hints: dict[str, Any] = {"precision": str}
        for section, cls in classes.items():
            hints = typing.get_type_hints(cls)
            names = (f.name for f in dataclasses.fields(cls) if section != "model" or f.name in model)
            self._hints |= {f"{section}.{name}": hints[name] for name in names}
        self._hints["optimizer.name"] = str
        self._fixed = [name for name in config if name in _NOT_SWEPT]

    def resolve(self, name: str) -> tuple[str, ...]:
        """The fields that a name of a space stands for.

        Raises:
          ConfigError: none, or several; or one that cannot be swept.
        """
        if name in _NOT_SWEPT or name.partition(".")[0] in self._fixed:
            raise ConfigError(
                f"{name} cannot be swept: it changes nothing that is computed, or makes another experiment; "
                f"set it for the whole sweep, with --config.{name}=..."
            )
        if name in _SHORT or name in self._hints:
            return _SHORT.get(name, (name,))
        ending = [full for full in self._hints if full.endswith(f".{name}")]
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
        if kinds is None and _is_json(value) or type(value) in (kinds or ()):
            return value
        if kinds is None:
            raise ConfigError(f"{name} must be made of numbers, texts, lists and tables, got {value!r}")
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
        for name, value in overrides.items():
            for full in self.resolve(name):
                if full in seen:
                    raise ConfigError(f"{seen[full]} and {name} both set {full}: leave out one of them")
                seen[full] = name
                section, _, field = full.rpartition(".")
                (changed[section] if section else changed)[field] = self.value(name, value)
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
    section, _, field = name.rpartition(".")
    return (config[section] if section else config).get(field, ...)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
