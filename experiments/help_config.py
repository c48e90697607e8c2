"""The fields of a config, as `--help_config` lists them: what each is for, its value, and what else it may be."""

import dataclasses
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

from tformer_jax.config import (
    Component,
    ConfigError,
    Precision,
    chosen,
    component_of,
    hints_of,
    in_words,
    kind_of,
    nearest,
    plain_kinds,
)
from tformer_jax.config.documentation import sentence_of, summary
from tformer_jax.tasks import TASKS
from tformer_jax.training.experiment import section_classes

from .help import entry, width

_NOTHING = dataclasses.MISSING


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a config, or a component in it.

    Attributes:
      name: its place, such as "optimizer.learning_rate".
      flag: how it is set, with its present value; its name where no flag sets it.
      sentence: what it is for.
      note: what it may be, and its default.
      choices: components that it may name; what each is, and which fields it has beyond those of the present one.
      is_there: whether the config has it; else another choice of a component has.
    """

    name: str
    flag: str
    sentence: str
    note: str = ""
    choices: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    is_there: bool = True

    def says(self, word: str) -> bool:
        """Returns whether a word is in its name, its choices or what is said of them and it."""
        choices = (f"{name} {what}" for name, (what, _) in self.choices.items())
        return word.casefold() in " ".join((self.name, self.sentence, self.note, *choices)).casefold()

    def __str__(self) -> str:
        said = entry(self.flag, self.sentence, f"[{self.note}]" if self.note else "")
        return "\n".join((said, *(entry(name, *said, indent=" " * 8) for name, said in self.choices.items())))


def fields_page(config: Mapping[str, Any], word: str = "") -> str:
    """Returns the list of a config's fields; with a word, those that have it, also of components that are not chosen.

    Raises:
      ConfigError: no field has it, or a component of the config is none that there is.
    """
    sections = [(title, list(found)) for title, found in _sections(config)]
    everything = [one for _, found in sections for one in found]
    if word and not any(one.says(word) for one in everything):
        names = [part for one in everything for part in one.name.split(".")]
        raise ConfigError(f"no field has {word!r} in its name or in what is said of it{nearest(word, names)}")
    parts = []
    for title, found in sections:
        if shown := [one for one in found if (one.says(word) if word else one.is_there)]:
            parts.append("\n".join((textwrap.fill(title, width()), *map(str, shown))))
    return "\n\n".join(parts)


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Iterator[Field]]]:
    """The title and the fields of each section."""
    tables = {name: table if isinstance(table, Mapping) else {} for name, table in config.items()}
    task = TASKS.named(tables.get("task", {}).get("name"), "task.name")
    for name, cls in section_classes(task).items():
        yield f"{name}: {summary(cls)}", _within(cls, tables.get(name, {}), name)
    usual = ",".join(f"{of.name}={of.default}" for of in dataclasses.fields(Precision))
    yield "precision", iter([_field("precision", summary(Precision), config.get("precision", usual), usual)])


def _within(
    cls: type, table: Mapping[str, Any], where: str, usual: Any = None, sentence: str = "", chosen_by: str = ""
) -> Iterator[Field]:
    """The fields of a component, and of those within it.

    Args:
      cls: its class, or a family of which `table` names one; the fields that others have beyond those come last.
      table: its values, as far as they are known.
      where: its place.
      usual: the component that stands there unless anything is said, if there is one.
      sentence: what is said of it there.
      chosen_by: the flag that chooses the component that has it; "" if this is chosen.
    """
    registry = getattr(cls, "registry", None)
    if registry is None:
        if sentence:
            yield Field(name=where, flag=where, sentence=sentence, is_there=not chosen_by)
        yield from _own(cls, table, where, usual, chosen_by)
        return
    one, values = chosen(cls, ({} if usual is None else {"name": usual.name}) | table, where)
    known = {of.name for of in dataclasses.fields(one)}
    more = {name: [of.name for of in dataclasses.fields(o) if of.name not in known] for name, o in registry.items()}
    has = {name: f"Has {', '.join(fields)}." if fields else "" for name, fields in more.items()}
    choices = {name: (summary(registry[name]), said) for name, said in has.items()}
    default = (usual or cls).name or _NOTHING
    family = [base for base in cls.__mro__ if getattr(base, "registry", None) is registry][-1]
    yield _field(f"{where}.name", sentence or summary(family), one.name, default, choices=choices, chosen_by=chosen_by)
    yield from _own(one, values, where, usual, chosen_by)
    for name, fields in more.items():
        by = chosen_by or f"--config.{where}.name={name}"
        start = len(f"{where}.")
        found = _own(registry[name], None, where, None, by)
        yield from (one for one in found if one.name[start:].partition(".")[0] in fields)


def _own(cls: type, table: Mapping[str, Any] | None, where: str, usual: Any, chosen_by: str) -> Iterator[Field]:
    """The fields of a component that is no family; without a table, with their defaults."""
    for of in dataclasses.fields(cls):
        default = getattr(usual, of.name) if isinstance(usual, cls) else _default(of)
        value = default if table is None else table.get(of.name, _NOTHING)
        name, sentence, family = f"{where}.{of.name}", sentence_of(cls, of.name), component_of(hints_of(cls)[of.name])
        if family is not None and isinstance(value, Mapping | Component):
            inner = value if isinstance(value, Mapping) else {}
            yield from _within(family, inner, name, default, sentence, chosen_by)
        elif table is not None and value is _NOTHING:
            yield Field(name=name, flag=name, sentence=sentence, note="follows from the rest of the config")
        else:
            choices = {choice: (said, "") for choice, said in cls.said_of_choices(of.name).items()}
            yield _field(name, sentence, value, default, _wanted(cls, of), chosen_by=chosen_by, choices=choices)


def _default(of: dataclasses.Field) -> Any:
    return of.default if of.default_factory is _NOTHING else of.default_factory()


def _wanted(cls: type[Component], of: dataclasses.Field) -> str:
    """Words for what a field may be; none where its value shows that."""
    kinds, wanted = plain_kinds(hints_of(cls)[of.name]) or (), kind_of(of).wanted
    or_none = ", or None" if NoneType in kinds else ""
    if choices := cls.choices_of(of.name):
        return f"one of {', '.join(map(str, choices))}{or_none}"
    if wanted is not None:
        return f"must {wanted.text}{or_none}"
    return in_words(kinds) if or_none else ""


def _field(
    name: str, sentence: str, value: Any, default: Any = _NOTHING, wanted: str = "", chosen_by: str = "", **how: Any
) -> Field:
    """A field that a flag sets, after the flag that chooses its component."""
    flag = f"--config.{name}={'...' if value is _NOTHING else _written(value)}"
    notes = [wanted] if wanted else []
    if _NOTHING not in (value, default) and _as_list(value) != _as_list(default):
        notes.append(f"default: {_written(default)}")
    flag, is_there = " ".join(filter(None, (chosen_by, flag))), not chosen_by
    return Field(name=name, flag=flag, sentence=sentence, note="; ".join(notes), is_there=is_there, **how)


def _as_list(value: Any) -> Any:
    """A tuple as a list, which it is after a way through JSON."""
    return list(value) if isinstance(value, tuple) else value


def _written(value: Any) -> str:
    """A value as a flag has it."""
    return shlex.quote(value if isinstance(value, str) else repr(value))
