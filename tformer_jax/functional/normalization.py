"""Normalisation, in float32 whatever the input's dtype."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
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
    gain, x32 = _gain(gamma, x, unit_offset), x.astype(jnp.float32)
    out = _divided_by_size(x32 - x32.mean(-1, keepdims=True), eps) * gain
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
    gain = _gain(gamma, x, unit_offset)
    return (_divided_by_size(x.astype(jnp.float32), eps) * gain).astype(x.dtype)


@jax.custom_jvp
def _divided_by_size(x: Float[Array, "*batch D"], eps: Number) -> Float[Array, "*batch D"]:
    """y = x r, r = 1 / sqrt(mean(x²) + eps)."""
    return x * _inverse_size(x, eps)


@functools.partial(_divided_by_size.defjvp, symbolic_zeros=True)
def _divided_by_size_jvp(primals, tangents):
    """dy = r (dx - y mean(y dx)) - y r² deps / 2: linear in dx with y and r alone, which is what its transpose keeps.

    Written by the chain rule, backward would keep the mean square and its root as well, and go over x once more.
    """
    (x, eps), (dx, deps) = primals, tangents
    r = _inverse_size(x, eps)  # [*batch 1]
    y = x * r
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):
        dy += r * (dx - y * (y * dx).mean(-1, keepdims=True))
    if not isinstance(deps, SymbolicZero):
        dy -= y * (jnp.square(r) * deps / 2)
    return y, dy


def _inverse_size(x: Array, eps: Number) -> Float[Array, "*batch 1"]:
    return lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


def _gain(gamma: Array, x: Array, unit_offset: bool) -> Float[Array, "D"]:
    gain = _vector("gamma", gamma, x)
    return 1 + gain if as_flag("unit_offset", unit_offset) else gain


def _vector(name: str, vector: Array, x: Array) -> Float[Array, "D"]:
    """gamma or beta in float32: one number for each of x's last axis."""
    return as_array(name, vector, kind="floats", shape=(width("x", x),)).astype(jnp.float32)
