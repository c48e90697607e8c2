"""Dropout as a pure function: the key is an argument, and no key means no dropout."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

_LEVELS = 1 << 16


def dropout(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    16 random bits an element (half the cost of a float32 draw): `rate` is rounded to the
    nearest multiple of 2^-16 and the scale uses the rounded rate, so the mean is exactly kept.

    Source: Srivastava et al., 2014.

    Args:
      x: any shape.
      rate: in [0, 1).
      key: a typed key (`jax.random.key`), or None for no dropout.

    Raises:
      ValueError: `rate` outside [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate must be in [0, 1), got {rate}")
    dropped = min(round(rate * _LEVELS), _LEVELS - 1)
    if key is None or dropped == 0:
        return x
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= dropped
    return jnp.where(keep, x * (_LEVELS / (_LEVELS - dropped)), 0).astype(x.dtype)
