"""Dropout as a pure function: the key is an argument, and no key means no dropout."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .numbers import Number, check_share, is_known

_LEVELS = 1 << 16


def dropout(x: Float[Array, "..."], rate: Number, key: Array | None) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    16 random bits an element (half the cost of a float32 draw): `rate` is rounded to the
    nearest multiple of 2^-16 and the scale uses the rounded rate, so the mean is exactly kept.

    Source: Srivastava et al., 2014.

    Args:
      x: any shape.
      rate: in [0, 1); may be an argument of the program, which then draws whatever the rate is.
      key: a typed key (`jax.random.key`), or None for no dropout.

    Raises:
      ValueError: `rate` outside [0, 1), where it is known.
    """
    check_share("dropout rate", rate)
    if is_known(rate):
        dropped = min(round(float(rate) * _LEVELS), _LEVELS - 1)
    else:
        dropped = jnp.clip(jnp.round(rate * _LEVELS), 0, _LEVELS - 1).astype(jnp.int32)
    if key is None or (is_known(rate) and dropped == 0):
        return x
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.asarray(dropped, jnp.uint16)
    scale = jnp.asarray(_LEVELS / (_LEVELS - dropped), x.dtype)
    return jnp.where(keep, x * scale, 0).astype(x.dtype)
