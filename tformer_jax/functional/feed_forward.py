"""The position-wise feed-forward networks."""

from collections.abc import Callable

import jax
from jax import Array
from jaxtyping import Float

from .checks import as_array, check_function, check_shape, width
from .dropout import dropout
from .numbers import Number
from .products import as_weight, product
from .quantization import Weight


def feed_forward(
    x: Float[Array, "*batch D"],
    w1: Float[Weight, "D F"],
    b1: Float[Array, "F"] | None,
    w2: Float[Weight, "F D"],
    b2: Float[Array, "D"] | None,
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    dropout_rate: Number = 0.0,
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

    Raises:
      TypeError: what is no array, a rate that is no number, or an activation that is no function.
      ValueError: weights or biases that do not go with x or each other, or a rate as in `dropout`.
    """
    check_function("activation", activation)
    hidden = activation(_affine(as_array("x", x), w1, b1, "w1", "b1"))  # [*batch F]
    return _affine(dropout(hidden, dropout_rate, key), w2, b2, "w2", "b2")


def gated_feed_forward(
    x: Float[Array, "*batch D"],
    w_gate: Float[Weight, "D F"],
    w_up: Float[Weight, "D F"],
    w_down: Float[Weight, "F D"],
    *,
    b_gate: Float[Array, "F"] | None = None,
    b_up: Float[Array, "F"] | None = None,
    b_down: Float[Array, "D"] | None = None,
    activation: Callable[[Array], Array] = jax.nn.silu,
    dropout_rate: Number = 0.0,
    key: Array | None = None,
) -> Float[Array, "*batch D"]:
    """A feed-forward network whose hidden units are gated by a second projection.

        FFN(x) = (activation(x W_gate + b_gate) * (x W_up + b_up)) W_down + b_down

    SiLU makes it SwiGLU, GELU GEGLU, a sigmoid the original GLU.

    Source: Shazeer, 2020.

    Args:
      x: any leading shape, last axis D.
      w_gate, b_gate: the projection that goes through the activation; the bias may be None.
      w_up, b_up: the projection that it multiplies; the bias may be None.
      w_down, b_down: back to D; the bias may be None.
      activation: elementwise.
      dropout_rate: of the gated hidden activations; needs `key` (None means no dropout).

    Raises:
      TypeError, ValueError: as `feed_forward`.
    """
    check_function("activation", activation)
    x = as_array("x", x)
    gate = _affine(x, w_gate, b_gate, "w_gate", "b_gate")  # [*batch F]
    up = _affine(x, w_up, b_up, "w_up", "b_up")  # [*batch F]
    check_shape("w_up", w_up, w_gate.shape)
    return _affine(dropout(activation(gate) * up, dropout_rate, key), w_down, b_down, "w_down", "b_down")


def _affine(x: Array, w: Weight, b: Array | None, w_name: str, b_name: str) -> Array:
    """x W + b, from any width D to any width F."""
    w = as_weight(w_name, w, "D F")
    F = width(w_name, w)
    check_shape(w_name, w, (width("x", x), F))
    out = product(x, w)  # [*batch F]
    return out if b is None else out + as_array(b_name, b, "F", shape=(F,))
