"""Arguments that would be broadcast, or fail far from here: refused in one line, by their names."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_KINDS = {"floats": jnp.floating, "integers": jnp.integer}
_SHOWN = 80  # characters


def shown(value: Any) -> str:
    """Returns what an error says of a value, in one line: of an array its dtype and shape, else its `repr`, cut."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (Array, np.ndarray)) and (value.ndim or not isinstance(value.dtype, np.dtype)):
        return f"the shape {value.shape} of {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def as_array(
    name: str,
    x: Any,
    axes: str | None = None,
    kind: Literal["floats", "integers"] | None = None,
    shape: tuple[int, ...] | None = None,
) -> Array:
    """Any array, NumPy's too, as JAX's.

    Args:
      name: the argument's.
      x: what was given.
      axes: a letter each, such as "B T D", where their number is fixed.
      kind: "floats" refuses integers, which what is computed in their dtype would be rounded to.
      shape: see `check_shape`.

    Raises:
      TypeError: no array of real numbers or booleans (lists, None, texts, keys, NumPy's masked arrays), or numbers of
        another kind.
      ValueError: another number of axes, or another shape.
    """
    if not isinstance(x, (Array, np.ndarray, np.generic)) and not hasattr(x, "__jax_array__"):
        got = "None" if x is None else f"a {type(x).__name__}"
        raise TypeError(f"{name} must be an array, got {got}")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask of its own: pass its .filled(value)")
    if getattr(getattr(x, "dtype", None), "kind", "") in (*"OSUmM", "") and not hasattr(x, "__jax_array__"):
        raise TypeError(f"{name} must be an array of numbers, got {x.dtype}")
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got {x.dtype}")
    if axes is not None and x.ndim != len(axes.split()):
        raise ValueError(f"{name} must be [{axes}], got the shape {x.shape}")
    if kind is not None and not jnp.issubdtype(x.dtype, _KINDS[kind]):
        raise TypeError(f"{name} must be {kind}, got {x.dtype}")
    if shape is not None:
        check_shape(name, x, shape)
    return x


def check_shape(name: str, x: Any, wanted: tuple[int, ...]) -> None:
    """Refuses what would be broadcast, and so counted several times or paired with what it is not for.

    Raises:
      ValueError: another shape.
    """
    if x.shape != tuple(wanted):
        raise ValueError(f"{name} must have the shape {tuple(wanted)}, got {x.shape}")


def check_integers(name: str, x: Any, *shapes: tuple[int, ...]) -> None:
    """Refuses what is neither None nor integers of one of some shapes.

    Raises:
      TypeError, ValueError: that.
    """
    if x is not None and as_array(name, x, kind="integers").shape not in shapes:
        raise ValueError(f"{name} must have one of the shapes {list(shapes)}, got {np.shape(x)}")


def check_below(name: str, x: Array, size: int) -> None:
    """Refuses indices outside [0, size), as far as they are known here: not traced, nor on other machines.

    Raises:
      ValueError: one is outside (says which).
    """
    if isinstance(x, jax.core.Tracer) or not x.is_fully_addressable:
        return
    known = np.asarray(x)
    if (outside := known[(known < 0) | (known >= size)]).size:
        raise ValueError(f"{name} must be in [0, {size}), got {outside[0]}")


def as_flag(name: str, value: Any) -> bool:
    """Takes True or False, NumPy's and JAX's too.

    Raises:
      TypeError: anything else, or traced: the program depends on it.
    """
    known = not isinstance(value, jax.core.Tracer)
    if known and (isinstance(value, (bool, np.bool_)) or getattr(value, "shape", None) == () and value.dtype == bool):
        return bool(value)
    wanted = "True or False" if known else "True or False, known when the program is traced"
    raise TypeError(f"{name} must be {wanted}, got {shown(value)}")


def as_key(name: str, key: Any) -> Array:
    """The key of one draw: typed, or raw as `jax.random.PRNGKey` makes them.

    Raises:
      TypeError: no key.
      ValueError: several.
    """
    typed = isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and not (isinstance(key, (Array, np.ndarray)) and key.dtype == np.uint32 and key.ndim):
        raise TypeError(f"{name} must be a key, as jax.random.key(seed) makes them, got {shown(key)}")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"{name} must be one key, got the shape {key.shape}")
    return key


def check_function(name: str, function: Callable) -> None:
    """Refuses what cannot be called.

    Raises:
      TypeError: that.
    """
    if not callable(function):
        raise TypeError(f"{name} must be a function, got {shown(function)}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuses what is none of the texts that an argument may be.

    Raises:
      ValueError: that.
    """
    if not isinstance(value, str) or value not in choices:
        *first, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}, got {shown(value)}")


def width(name: str, x: Any) -> int:
    """The size of the last axis.

    Raises:
      ValueError: there is none, or nothing in it.
    """
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{name} must have a last axis of at least 1, got the shape {x.shape}")
    return x.shape[-1]
