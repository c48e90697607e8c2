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
