"""Values of a config's fields: what they must be, and how an error says so."""

import dataclasses
import difflib
import math
import numbers
import sys
import typing
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import Any, Self

_LARGEST = sys.float_info.max
_CALLED = {int: "an integer", float: "a number", str: "a text", bool: "True or False", NoneType: "None"}
_DTYPES = ("float32", "bfloat16", "float16")


class ConfigError(ValueError):
    """An invalid config; the message names the field, what it got and what it wants."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns '; did you mean ...?' with the known name closest to `name`, or nothing."""
    match = difflib.get_close_matches(name, [x for x in known if isinstance(x, str)], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the value of a field must be, in words that follow "must", and whether a value is that.

    `choices`: the values, where these are few; an error suggests the nearest.
    """

    text: str
    holds: Callable[[Any], bool]
    choices: tuple = ()

    def check(self, name: str, value: Any) -> None:
        """Raises a ConfigError unless a value is that; `holds` may raise a TypeError for one of another type."""
        try:
            held = self.holds(value)
        except TypeError:
            held = False
        if not held:
            raise ConfigError(f"{name} must {self.text}, got {value!r}{nearest(str(value), map(str, self.choices))}")


POSITIVE = Wanted("be positive and finite", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Wanted("be finite and not negative", lambda x: 0 <= x < math.inf)
SHARE = Wanted("be in [0, 1)", lambda x: 0 <= x < 1)
INSIDE = Wanted("be in (0, 1)", lambda x: 0 < x < 1)
UNSIGNED = Wanted("not be negative", lambda x: x >= 0)
COUNT = Wanted("be a positive integer", lambda x: type(x) is int and x > 0)
SEED = Wanted("be an integer in [0, 2^32)", lambda x: type(x) is int and 0 <= x < 2**32)


def up_to(most: int) -> Wanted:
    """Wants a count that is not above another."""
    return Wanted(f"be a positive integer, at most {most:,}", lambda x: type(x) is int and 0 < x <= most)


def one_of(*choices: Any) -> Wanted:
    """Wants one of some values."""
    return Wanted(f"be one of {list(choices)}", lambda x: x in choices, choices)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ConfigError that lists the choices and names the nearest one."""
    one_of(*choices).check(name, value)


def check_positive(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Raises a ConfigError unless a number is finite and positive, or 0 where that is allowed."""
    if not (0 < value < math.inf or (or_zero and value == 0)):
        wanted = "be finite" if not value <= 0 else "not be negative" if or_zero else "be positive"
        raise ConfigError(f"{name} must {wanted}, got {value}")


def options(hint: Any) -> tuple[Any, ...]:
    """Returns what a union allows, also one that is written as `Optional[X]`; of another annotation, that alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (UnionType, typing.Union) else (hint,)


def literals(hint: Any) -> tuple[Any, ...]:
    """Returns the values that an annotation allows by a `Literal`; none: it has no such."""
    return tuple(x for of in options(hint) if typing.get_origin(of) is typing.Literal for x in typing.get_args(of))


def plain_kinds(hint: Any) -> tuple[type, ...] | None:
    """Returns the plain types that a field may have, by its annotation; None for a field of tables and lists."""
    others = [of for of in options(hint) if typing.get_origin(of) is not typing.Literal]
    kinds = tuple(dict.fromkeys([*map(type, literals(hint)), *others]))
    return kinds if all(kind in _CALLED for kind in kinds) else None


def plain_number(value: Any, kinds: tuple[type, ...]) -> Any:
    """Returns a number of NumPy as Python's, and an integer of a field of floats as a float; another value as it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    value = int(value) if isinstance(value, numbers.Integral) else float(value)
    return float(value) if float in kinds and int not in kinds and abs(value) <= _LARGEST else value


def in_words(kinds: tuple[type, ...]) -> str:
    """Returns what values of some types are called: "an integer or None"."""
    return " or ".join(_CALLED.get(kind, kind.__name__) for kind in kinds)


def check_plain(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    """Raises a ConfigError for what no field of these types can be."""
    of_kind = isinstance(value, (*kinds, int) if float in kinds else kinds) and not (
        isinstance(value, bool) and bool not in kinds
    )
    if not of_kind:
        raise ConfigError(f"{name} must be {in_words(kinds)}, got {value!r}")
    if value == "":
        raise ConfigError(f"{name} must not be empty")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{name} must not contain a NUL character, got {value!r}")
    if float in kinds and isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST:
        raise ConfigError(f"{name} must be finite, got {value}")
    if int in kinds and isinstance(value, int) and abs(value) >= 2**31 and not name.endswith("seed"):
        raise ConfigError(f"{name} must be below 2^31, because counts are int32, got {value}")


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtypes of parameters, computation and logits; softmax, norms and losses stay float32.

    So does all that training accumulates: gradients in parts, the optimiser's memory, the moving average. A parameter
    of 16 bits is rounded after every update, though: one that is smaller than half a unit in its last place (in
    bfloat16, 1/512 to 1/256 of the parameter) is lost. To train, keep "params=float32,compute=bfloat16".
    """

    params: str = "float32"
    compute: str = "float32"
    output: str = "float32"

    def __post_init__(self):
        for name, dtype in vars(self).items():
            check_choice(f"precision: {name}", dtype, _DTYPES)

    @classmethod
    def parse(cls, policy: str) -> Self:
        """Parses a policy such as "params=float32,compute=bfloat16,output=float32"; what is left out is float32."""
        if not isinstance(policy, str):
            raise ConfigError(f"precision must be a string, got {policy!r}")
        pairs = [part.split("=") for part in policy.replace(" ", "").split(",") if part]
        names = [pair[0] for pair in pairs]
        if not names or any(len(pair) != 2 for pair in pairs):
            raise ConfigError(f"precision must read 'params=...,compute=...,output=...', got {policy!r}")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"precision must name {twice} once, got {policy!r}")
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := next((name for name in names if name not in known), None):
            raise ConfigError(f"precision has no field {unknown!r}{nearest(unknown, known)}")
        return cls(**dict(pairs))
