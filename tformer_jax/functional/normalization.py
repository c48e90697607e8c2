"""Normalisation, in float32 whatever the input's dtype."""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


def layer_norm(
    x: Float[Array, "*batch D"],
    gamma: Float[Array, "D"],
    beta: Float[Array, "D"],
    *,
    eps: float = 1e-5,
) -> Float[Array, "*batch D"]:
    """Layer normalisation over the last axis (equation 12).

        y = (x - mean) / sqrt(variance + eps) * gamma + beta

    The variance is the biased one (divides by D) and eps stands inside the root.

    Source: Ba, Kiros, Hinton, 2016.

    Args:
      x: any leading shape, last axis D; computed in float32, returned in x's dtype.
      gamma: scale.
      beta: shift.
      eps: added to the variance.
    """
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * lax.rsqrt(variance + eps) * gamma + beta).astype(x.dtype)


def rms_norm(x: Float[Array, "*batch D"], gamma: Float[Array, "D"], *, eps: float = 1e-6) -> Float[Array, "*batch D"]:
    """Root-mean-square normalisation over the last axis: no mean is subtracted, nothing is added.

        y = x / sqrt(mean(x^2) + eps) * gamma

    Source: Zhang & Sennrich, 2019.

    Args:
      x: any leading shape, last axis D; computed in float32, returned in x's dtype.
      gamma: scale.
      eps: added to the mean square, inside the root.
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.square(x32).mean(-1, keepdims=True)
    return (x32 * lax.rsqrt(mean_square + eps) * gamma).astype(x.dtype)
