"""A config as a tree of components: how each checks itself, and how trees are built, compared and changed."""

import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, ClassVar, Self, TypeVar

from .values import (  # noqa: F401  (what an author of a component needs is here)
    COUNT,
    INSIDE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    UNSIGNED,
    ConfigError,
    Precision,
    Wanted,
    check_choice,
    check_plain,
    check_positive,
    in_words,
    literals,
    nearest,
    one_of,
    options,
    plain_kinds,
    plain_number,
    up_to,
)

_T = TypeVar("_T")

# What a field is for: a part of the function that a model computes, which a model that starts from another one's
# parameters must share; of training alone (a start, a regularisation); what stands before and after a model's layers,
# whose parameters fit or do not by their shapes; a way to run, which changes no result; the order of training batches,
# which leaves the data that they are made of as they are.
FUNCTION, TRAINING, ENDS, RUN, ORDER = "function", "training", "ends", "run", "order"


@dataclasses.dataclass(frozen=True)
class Kind:
    """The kind of a field of a component, beside its type: the only place that says so.

    Attributes:
      wanted: what its value must be, where it is not None; None: its type says all.
      among: the names that it may have, of which an error suggests the nearest.
      part: FUNCTION, TRAINING, ENDS, RUN or ORDER.
      traced: a number that a compiled program may take as an argument, unless it is 0 or None, which turns
        something off.
      may_change: a run that goes on may have another value, although it is no mere way to run; see `training.changes`.
      help: what `--help` says of a flag for it.
    """

    wanted: Wanted | None = None
    among: Mapping[str, Any] | Sequence[str] | None = None
    part: str = FUNCTION
    traced: bool = False
    may_change: bool = False
    help: str = ""


def field(
    default: Any = dataclasses.MISSING,
    wanted: Wanted | None = None,
    *,
    among: Mapping[str, Any] | Sequence[str] | None = None,
    part: str = FUNCTION,
    traced: bool = False,
    may_change: bool = False,
    help: str = "",
) -> Any:
    """Makes a field of a component; see `Kind`. A `default` that is a function of nothing is called for each one.

    `among`, such as a registry, is looked at when a value is checked: plugins may add to it.
    """
    metadata = {"kind": Kind(wanted, among, part, traced, may_change, help)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def kind_of(of: dataclasses.Field) -> Kind:
    """Returns what a field is; one that was not made by `field` is of its type, and no more is known."""
    return of.metadata.get("kind", Kind())


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Component:
    """A part of a config. A subclass is a frozen dataclass with keywords alone, whose instances check themselves.

        class Rotary(PositionScheme):
            base: float = field(10_000.0, POSITIVE)

    Each value must be of the field's type and what its `field` wants, and a table becomes a component; `check` says
    what fields must be beside each other. Two are equal if they are of one class and have the same values, of which a
    traced number equals itself alone.

    Attributes:
      registry: of a family whose members a config chooses by name; None: there is one class alone.
      name: in the registry, where each class has one of its own; of a family, that of its usual member.
    """

    registry: ClassVar[Mapping[str, type] | None] = None
    name: ClassVar[str | None] = None

    def __init_subclass__(cls, **how: Any):
        super().__init_subclass__(**how)
        if cls.registry is not None and "name" not in vars(cls):
            cls.name = None  # not that of the class that it is made from: it is another component
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)
        typing.no_type_check(cls.__init__)  # tables become components, and integers are numbers: see `__post_init__`

    def __post_init__(self):
        if self.registry is not None and self.registry.get(self.name) is not type(self):
            raise ConfigError(f"{type(self).__name__} is not registered: a config could not name it")
        hints = hints_of(type(self))
        for of in dataclasses.fields(self):
            value, family = getattr(self, of.name), component_of(hints[of.name])
            if family is not None and isinstance(value, Mapping):
                value = build(family, _completed(of, family, value), of.name)
            value = plain_number(value, plain_kinds(hints[of.name]) or ())
            object.__setattr__(self, of.name, value)
            _check_value(of.name, value, hints[of.name], kind_of(of))
        self.check()

    def check(self) -> None:
        """Raises a ConfigError, which begins with the name of a field, where fields do not go together."""

    @classmethod
    def choices_of(cls, name: str) -> tuple[Any, ...]:
        """Returns the values that a field may have, where these are few; none: they are many."""
        (kind,) = (kind_of(of) for of in dataclasses.fields(cls) if of.name == name)
        wanted = kind.wanted.choices if kind.wanted else ()
        return tuple(kind.among or literals(hints_of(cls)[name]) or wanted)

    @classmethod
    def said_of_choices(cls, name: str) -> Mapping[str, str]:
        """Returns what the values are that a field may have, as far as that is said of each."""
        return {}

    def changed(self, **changes: Any) -> Self:
        """Returns the same with other values; a table changes some fields of a component: `attention={"window": 8}`.

        A field that another component would have is refused, see `build`. Naming another component of a family keeps
        those fields that it has too.
        """
        return build(type(self), merged(type(self), to_dict(self), changes), self.name or type(self).__name__)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return all(_same(a, b) for a, b in pairs)

    def __hash__(self) -> int:
        if "_hash" not in self.__dict__:  # of a model's config, asked for once for each of its modules
            values = (_hashable(getattr(self, f.name)) for f in dataclasses.fields(self))
            self.__dict__["_hash"] = hash((type(self), *values))
        return self.__dict__["_hash"]

    def __repr__(self) -> str:
        """Expression that makes an equal one: the fields that are not as they are by default."""
        of = {f.name: (getattr(self, f.name), _default(f)) for f in dataclasses.fields(self)}
        said = [f"{name}={value!r}" for name, (value, usual) in of.items() if not _same(value, usual)]
        return f"{type(self).__qualname__}({', '.join(said)})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}  # another process has others


def _is_traced(value: Any) -> bool:
    """Returns whether only the running program knows a value."""
    return hasattr(value, "aval")


def _same(a: Any, b: Any) -> bool:
    return a is b if _is_traced(a) or _is_traced(b) else a == b


def _default(of: dataclasses.Field) -> Any:
    """The value of a field that nobody sets; `MISSING`: it must be set."""
    return of.default if of.default_factory is dataclasses.MISSING else of.default_factory()


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(x)) for key, x in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return id(value) if _is_traced(value) else value


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """Returns the annotations of a class's fields, by name."""
    return typing.get_type_hints(cls)


def component_of(hint: Any) -> type[Component] | None:
    """Returns the class or family of components that an annotation asks for; None if it asks for something else."""
    found = [kind for kind in options(hint) if isinstance(kind, type) and issubclass(kind, Component)]
    return found[0] if found else None


def _check_value(name: str, value: Any, hint: Any, kind: Kind) -> None:
    if kind.traced and _is_traced(value):
        return
    if (cls := component_of(hint)) is not None:
        if not isinstance(value, cls) and not (value is None and NoneType in options(hint)):
            raise ConfigError(_no_table(cls, name, value))
        return
    kinds = plain_kinds(hint)
    if value is None and (kinds is None or NoneType in kinds):
        return
    if kind.wanted is not None:  # "must be a positive integer" says more than "must be an integer"
        kind.wanted.check(name, value)
    if kinds is not None:
        check_plain(name, value, kinds)
    if choices := literals(hint):
        check_choice(name, value, choices)
    if kind.among is not None:
        check_choice(name, value, kind.among)


def build(cls: type[_T], fields: Mapping[str, Any], where: str, whole: tuple[type, str] | None = None) -> _T:
    """Returns `cls(**fields)` for a dataclass, its components built too, or raises an error that names what is wrong.

    Args:
      cls: a dataclass. Of a family of components, `fields["name"]` says which.
      fields: its values by name; tables for components.
      where: what the user calls this group of fields, for the message.
      whole: the class of the component that it is within, and its `where`: a field may be meant for another part of it.

    Raises:
      ConfigError: a field that `cls` does not have (the nearest one is suggested), a required one that is missing,
        or a value of another type than the field's, an empty text, or a number that is not finite or too large.
    """
    if isinstance(fields, cls):
        return fields
    if not isinstance(fields, Mapping):
        raise ConfigError(_no_table(cls, where, fields))
    cls, fields = chosen(cls, fields, where)
    whole = whole or (cls, where)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in fields:
        if name not in known:
            raise ConfigError(f"{where} has no field {name!r}{meant(cls, str(name), whole)}")
    required = (n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING)
    missing = [name for name in required if name not in fields]
    if missing:
        raise ConfigError(f"{where} needs {', '.join(missing)}")
    hints, values = hints_of(cls), {}
    for name, value in fields.items():
        inner = component_of(hints[name])
        if inner is not None and value is not None:
            value = build(inner, _completed(known[name], inner, value), f"{where}.{name}", whole)
        elif not issubclass(cls, Component) and (kinds := plain_kinds(hints[name])) is not None:
            check_plain(f"{where}.{name}", value, kinds)
        values[name] = value
    if not issubclass(cls, Component):
        return cls(**values)
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None


def chosen(cls: type[_T], fields: Mapping[str, Any], where: str) -> tuple[type[_T], Mapping[str, Any]]:
    """Returns the class that `fields["name"]` means, if `cls` is a family of components, and the other fields."""
    registry = getattr(cls, "registry", None)
    if registry is None:
        return cls, fields
    if "name" not in fields and cls.name is None:
        raise ConfigError(f"{where} needs name")
    chosen = registry.named(fields.get("name", cls.name), f"{where}.name")
    return chosen, {name: value for name, value in fields.items() if name != "name"}


def _completed(of: dataclasses.Field, family: type[Component], value: Any) -> Any:
    """A table that says no name, of a family: one of the default's name, with the default's fields."""
    if not isinstance(value, Mapping) or of.default_factory is dataclasses.MISSING:
        return value
    return merged(family, to_dict(of.default_factory()), value)


def class_at(cls: type, tables: Mapping[str, Any], path: Sequence[str]) -> type | None:
    """Returns the class of a component within tables of a `cls`, by the names of the fields on the way.

    None, if a field on the way is no component but a table whose names are free.
    """
    cls, _ = chosen(cls, tables, cls.__name__)
    if not path:
        return cls
    inner = component_of(hints_of(cls)[path[0]])
    return None if inner is None else class_at(inner, tables[path[0]], path[1:])


def meant(cls: type, name: str, whole: tuple[type, str]) -> str:
    """Returns which field may be meant by one that a class does not have.

    It is one of another of its family, or of another part of the `whole`, a class and what the user calls it; else the
    nearest.
    """
    registry = getattr(cls, "registry", None) or {}
    others = [n for n, other in registry.items() if name in {f.name for f in dataclasses.fields(other)}]
    if others:
        return f", which goes with name={' or '.join(map(repr, others))}; this is name={cls.name!r}"
    if "." in name:
        outer, _, inner = name.partition(".")
        return f"; did you mean {{{outer!r}: {{{inner!r}: ...}}}}?"
    paths: dict[str, list[str]] = {}
    for path, _, _ in fields_of(whole[0], f"{whole[1]}."):
        last = path.rpartition(".")[2]
        if path not in paths.setdefault(last, []):
            paths[last].append(path)
    if near := name not in paths and nearest(name, [f.name for f in dataclasses.fields(cls)]):
        return near
    found = paths.get((difflib.get_close_matches(name, paths, n=1, cutoff=0.7) or [name])[0], [])
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _no_table(cls: type, where: str, value: Any) -> str:
    names = getattr(cls, "registry", None) or ()
    fix = f"; did you mean {{'name': {value!r}}}?" if isinstance(value, str) and value in names else ""
    return f"{where} must be a table of fields, those of {cls.__name__}, got {value!r}{fix}"


def fields_of(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Kind]]:
    """Yields the dotted name, the annotation and the kind of every field within a class; of a family, those of any."""
    registry = getattr(cls, "registry", None)
    if registry is not None:
        yield f"{prefix}name", str, Kind()
    for one in [cls] if registry is None else registry.values():
        for of in dataclasses.fields(one):
            hint = hints_of(one)[of.name]
            if (inner := component_of(hint)) is not None:
                yield from fields_of(inner, f"{prefix}{of.name}.")
            else:
                yield f"{prefix}{of.name}", hint, kind_of(of)


def to_dict(component: Component) -> dict[str, Any]:
    """Returns a component as nested tables, `build`'s argument; of a family, "name" comes first."""
    named = {} if component.registry is None else {"name": component.name}
    values = {f.name: getattr(component, f.name) for f in dataclasses.fields(component)}
    return named | {n: to_dict(x) if isinstance(x, Component) else x for n, x in values.items()}


def merged(cls: type, base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns tables of fields with changes, component by component.

    Where a change names another component of a family, those fields of the old one go that the new one does not have,
    or whose values are of a kind that it does not take.
    """
    registry, result = getattr(cls, "registry", None), dict(base)
    if registry is not None:
        old, new = base.get("name", cls.name), changes.get("name", base.get("name", cls.name))
        cls = registry.get(new, cls) if isinstance(new, str) else cls  # `build` refuses another name
        if new != old:
            taken, known = hints_of(cls), {f.name for f in dataclasses.fields(cls)}
            kept = {name for name, value in base.items() if name in known and _is_of_kind(value, taken[name])}
            result = {name: value for name, value in base.items() if name in kept | {"name"}}
    hints = hints_of(cls)
    for name, value in changes.items():
        inner = component_of(hints.get(name))
        if inner is not None and isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            value = merged(inner, result[name], value)
        result[name] = value
    return result


def _is_of_kind(value: Any, hint: Any) -> bool:
    """Returns whether a field of this annotation may have a value, as far as its type says."""
    kinds = plain_kinds(hint)
    return kinds is None or type(value) in kinds or type(value) is int and float in kinds or _is_traced(value)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested tables from dotted names: {"attention.window": 8} is {"attention": {"window": 8}}."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        *outer, name = path.split(".")
        table = result
        for part in outer:
            table = table.setdefault(part, {})
        table[name] = value
    return result


def leaves(component: Any, prefix: str = "") -> Iterator[tuple[str, Any, Kind]]:
    """Yields every value within a component, with its dotted name and what it is; a family's choice is "....name"."""
    if getattr(component, "registry", None) is not None:
        yield f"{prefix}name", component.name, Kind()
    for of in dataclasses.fields(component):
        value = getattr(component, of.name)
        if isinstance(value, Component):
            yield from leaves(value, f"{prefix}{of.name}.")
        else:
            yield f"{prefix}{of.name}", value, kind_of(of)
