"""Normalisation, in float32 whatever the input's dtype."""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from .checks import as_array, as_flag, width
from .numbers import NOT_NEGATIVE, Number, as_number


def layer_norm(
    x: Float[Array, "*batch D"],
    gamma: Float[Array, "D"],
    beta: Float[Array, "D"] | None = None,
    *,
    eps: Number = 1e-5,
    unit_offset: bool = False,
) -> Float[Array, "*batch D"]:
    """Layer normalisation over the last axis (equation 12).

        y = (x - mean) / sqrt(variance + eps) * gamma + beta

    The variance is the biased one (divides by D) and eps stands inside the root.

    Source: Ba, Kiros, Hinton, 2016.

    Args:
      x: any leading shape, last axis D; computed in float32, returned in x's dtype.
      gamma: scale; ones for none.
      beta: shift; None for none.
      eps: added to the variance; may be traced (below 0 it makes the result NaN).
      unit_offset: multiply by 1 + gamma instead, as Gemma does: zeros for none.

    Raises:
      TypeError: x, gamma or beta that are no arrays of floats, or a `unit_offset` that is not True or False.
      ValueError: gamma or beta that are not [D], or a negative eps.
    """
    x, eps = as_array("x", x, kind="floats"), as_number("eps", eps, NOT_NEGATIVE)
    x32 = x.astype(jnp.float32)
    gain = _gain(gamma, x, unit_offset)
    centred = x32 - x32.mean(-1, keepdims=True)  # [*batch D]
    variance = jnp.square(centred).mean(-1, keepdims=True)  # [*batch 1]
    out = centred * lax.rsqrt(variance + eps) * gain
    return (out if beta is None else out + _vector("beta", beta, x)).astype(x.dtype)


def rms_norm(
    x: Float[Array, "*batch D"], gamma: Float[Array, "D"], *, eps: Number = 1e-6, unit_offset: bool = False
) -> Float[Array, "*batch D"]:
    """Root-mean-square normalisation over the last axis: no mean is subtracted, nothing is added.

        y = x / sqrt(mean(x^2) + eps) * gamma

    Source: Zhang & Sennrich, 2019.

    Args:
      x: any leading shape, last axis D; computed in float32, returned in x's dtype.
      gamma: scale; ones for none.
      eps: added to the mean square, inside the root; as in `layer_norm`.
      unit_offset: as in `layer_norm`.

    Raises:
      TypeError, ValueError: as `layer_norm`.
    """
    x, eps = as_array("x", x, kind="floats"), as_number("eps", eps, NOT_NEGATIVE)
    x32 = x.astype(jnp.float32)
    gain = _gain(gamma, x, unit_offset)
    mean_square = jnp.square(x32).mean(-1, keepdims=True)  # [*batch 1]
    return (x32 * lax.rsqrt(mean_square + eps) * gain).astype(x.dtype)


def _gain(gamma: Array, x: Array, unit_offset: bool) -> Float[Array, "D"]:
    gain = _vector("gamma", gamma, x)
    return 1 + gain if as_flag("unit_offset", unit_offset) else gain


def _vector(name: str, vector: Array, x: Array) -> Float[Array, "D"]:
    """gamma or beta in float32: one number for each of x's last axis."""
    return as_array(name, vector, kind="floats", shape=(width("x", x),)).astype(jnp.float32)
