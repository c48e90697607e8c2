"""The position-wise feed-forward network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .dropout import dropout


def feed_forward(
    x: Float[Array, "*batch D"],
    w1: Float[Array, "D F"],
    b1: Float[Array, "F"] | None,
    w2: Float[Array, "F D"],
    b2: Float[Array, "D"] | None,
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    dropout_rate: float = 0.0,
    key: Array | None = None,
) -> Float[Array, "*batch D"]:
    """Two projections around a nonlinearity (equation 5).

        FFN(x) = activation(x W_1 + b_1) W_2 + b_2

    Source: Vaswani et al., 2017, section 3.3.

    Args:
      x: any leading shape, last axis D.
      w1, b1: the first projection, D to F; the bias may be None.
      w2, b2: the second projection, F to D; the bias may be None.
      activation: elementwise; the paper's is ReLU.
      dropout_rate: of the hidden activations; needs `key` (None means no dropout).
    """
    hidden = jnp.einsum("...D,DF->...F", x, w1)
    hidden = activation(hidden if b1 is None else hidden + b1)
    hidden = dropout(hidden, dropout_rate, key)
    out = jnp.einsum("...F,FD->...D", hidden, w2)
    return out if b2 is None else out + b2
