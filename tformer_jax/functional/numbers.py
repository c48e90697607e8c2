"""Numbers that may be traced: one compiled program can then serve many of their values.

Every number of a public function may be Python's, NumPy's or JAX's, inside and outside of `jax.jit`, or traced:
then the result can be differentiated by it. What is known and out of its range is refused. What is traced cannot
be: it becomes NaN, and so does what is computed from it.
"""

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Real

from .checks import shown

Number = Real[ArrayLike, ""]


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a number may have: in words, as a test of a float or a scalar, and what else an error says."""

    words: str
    holds: Callable[[Any], Any]
    hint: str = ""


FINITE = Range("finite", lambda x: (-math.inf < x) & (x < math.inf))
POSITIVE = Range("positive", lambda x: (0 < x) & (x < math.inf))
NOT_NEGATIVE = Range("at least 0", lambda x: (0 <= x) & (x < math.inf))
SHARE = Range("in [0, 1)", lambda x: (0 <= x) & (x < 1))
CAP = dataclasses.replace(POSITIVE, hint="; None means no cap")
RATE = Range("in (0, 1]", lambda x: (0 < x) & (x <= 1))


def is_known(number: Any) -> bool:
    """Returns whether a number has its value already, rather than being traced."""
    return not isinstance(number, jax.core.Tracer)


def is_off(number: Number) -> bool:
    """Returns whether a number is known to be 0, so that what it turns on is left out of the program."""
    return is_known(number) and float(number) == 0


def as_number(name: str, number: Number, within: Range = FINITE, *, double: bool = False) -> float | Array:
    """Returns the number to compute with: a float where it is known, a float32 scalar where it is traced.

    `double`: a traced float64 number stays float64, for what is computed in that where its inputs are. A comparison of
    an array that a traced function closes over is itself traced: its value is taken here.

    Raises:
      TypeError: no real number, by the argument's name.
      ValueError: a known number out of its range.
    """
    if callable(getattr(number, "__jax_array__", None)):  # a parameter of a module
        number = number.__jax_array__()
    if not _is_number(number):
        raise TypeError(f"{name} must be a number, got {shown(number)}")
    if not is_known(number):
        number = number.astype(jnp.float64 if double and number.dtype == jnp.float64 else jnp.float32)
        return jnp.where(within.holds(number), number, jnp.nan)
    value = _as_float(number)
    if not within.holds(value):
        raise ValueError(f"{name} must be {within.words}, got {value}{within.hint}")
    return value


def as_integer(name: str, value: Any, *, least: int | None = None) -> int:
    """Any known integer, NumPy's and JAX's too.

    Raises:
      TypeError: none, True or False, or traced: shapes depend on it.
      ValueError: one below `least`.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        known = "" if is_known(value) else ", known when the program is traced"
        raise TypeError(f"{name} must be an integer{known}, got {shown(value)}") from None
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(value)}")
    return value


def as_size(name: str, value: Any, most: int = np.iinfo(np.int32).max, *, least: int | None = None) -> int:
    """Any known integer that something can have as its size: by default, one whose indices are int32.

    Raises:
      TypeError: as `as_integer`.
      ValueError: a greater one, or one below `least`.
    """
    value = as_integer(name, value, least=least)
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(value)}")
    return value


def _as_float(number: Number) -> float:
    """The float of a known number; of an integer beyond all floats, an infinity."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _is_number(x: Any) -> bool:
    if isinstance(x, (int, float)):
        return not isinstance(x, bool)
    if not isinstance(x, (np.generic, np.ndarray, Array)) or x.ndim:
        return False
    return any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.floating, jnp.integer))
