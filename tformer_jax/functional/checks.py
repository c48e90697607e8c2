"""Arguments that would be broadcast, or fail far from here: refused in one line, by their names."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

_KINDS = {"floats": jnp.floating, "integers": jnp.integer}


def as_array(
    name: str, x: Any, axes: str | None = None, kind: Literal["floats", "integers"] | None = None
) -> Array:
    """Any array, NumPy's too, as JAX's.

    Args:
      name: the argument's.
      x: what was given.
      axes: a letter each, such as "B T D", where their number is fixed.
      kind: "floats" refuses integers, which what is computed in their dtype would be rounded to.

    Raises:
      TypeError: no array (lists, None), or numbers of another kind.
      ValueError: another number of axes.
    """
    if not isinstance(x, (Array, np.ndarray, np.generic)) and not hasattr(x, "__jax_array__"):
        got = "None" if x is None else f"a {type(x).__name__}"
        raise TypeError(f"{name} must be an array, got {got}")
    x = jnp.asarray(x)
    if axes is not None and x.ndim != len(axes.split()):
        raise ValueError(f"{name} must be [{axes}], got the shape {x.shape}")
    if kind is not None and not jnp.issubdtype(x.dtype, _KINDS[kind]):
        raise TypeError(f"{name} must be {kind}, got {x.dtype}")
    return x


def check_shape(name: str, x: Array, wanted: tuple[int, ...]) -> None:
    """Refuses what would be broadcast, and so counted several times or paired with what it is not for.

    Raises:
      ValueError: another shape.
    """
    if x.shape != tuple(wanted):
        raise ValueError(f"{name} must have the shape {tuple(wanted)}, got {x.shape}")


def width(name: str, x: Array) -> int:
    """The size of the last axis.

    Raises:
      ValueError: there is none, or nothing in it.
    """
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{name} must have a last axis of at least 1, got the shape {x.shape}")
    return x.shape[-1]
