"""Dropout as a pure function: the key is an argument, and no key means no dropout."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .checks import as_array, as_key
from .numbers import SHARE, Number, as_number, is_off

_LEVELS = 1 << 16


def dropout(x: Float[Array, "..."], rate: Number, key: Array | None) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    16 random bits an element (half the cost of a float32 draw): `rate` is rounded to the
    nearest multiple of 2^-16 and the scale uses the rounded rate, so the mean is exactly kept.

    Source: Srivastava et al., 2014.

    Args:
      x: any shape; scaled in float32, returned in its dtype.
      rate: in [0, 1); may be traced, and then elements are drawn whatever it is, its gradient is 0 (as that of
        the mean), and one out of its range makes the result NaN.
      key: a typed key (`jax.random.key`), or None for no dropout.

    Raises:
      TypeError: x is no array of floats, the rate no number, or the key none.
      ValueError: `rate` outside [0, 1), where it is known, or several keys.
    """
    x = as_array("x", x, kind="floats")
    rate = as_number("dropout rate", rate, SHARE)
    dropped = jnp.clip(jnp.round(rate * _LEVELS), 0, _LEVELS - 1) if isinstance(rate, Array) else _rounded(rate)
    if key is None or is_off(dropped):
        return x
    keep = jax.random.bits(as_key("key", key), x.shape, jnp.uint16) >= jnp.asarray(jnp.nan_to_num(dropped), jnp.uint16)
    scale = jnp.asarray(_LEVELS / (_LEVELS - dropped), jnp.promote_types(x.dtype, jnp.float32))
    return jnp.where(keep, (x.astype(scale.dtype) * scale).astype(x.dtype), 0)


def _rounded(rate: float) -> int:
    return min(round(rate * _LEVELS), _LEVELS - 1)
