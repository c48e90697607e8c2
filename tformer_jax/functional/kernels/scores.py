"""What the kernels agree on: from the products q kᵀ to the scores that the softmax sees."""

import dataclasses
import math

import jax.numpy as jnp
from jax import Array

from ..numbers import Number, check_share


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """The numbers of one attention: scale, cap of the scores, dropout rate of the weights. The last may be traced.

    Raises:
      ValueError: a cap that is not a positive number, or a rate known to be outside [0, 1).
    """

    scale: float
    softcap: float | None = None
    dropout_rate: Number = 0.0

    def __post_init__(self):
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise ValueError(f"logit_softcap must be a positive number, got {self.softcap}")
        check_share("dropout rate", self.dropout_rate)

    def scores(self, products: Array, bias: Array | None) -> Array:
        """scale * products, or cap * tanh(scale * products / cap), plus bias; not scaled where `late_scale` will."""
        if self.softcap is not None:
            products = self.softcap * self._tanh(products)
        elif self.late_scale(bias) != self.scale:
            products = products * self.scale
        return products if bias is None else products + bias

    def slope(self, products: Array) -> Array | float:
        """d score / d product."""
        return self.scale if self.softcap is None else self.scale * (1 - jnp.square(self._tanh(products)))

    def late_scale(self, bias: Array | None) -> float:
        """What is left to multiply by after the maximum is subtracted: the scale itself where that is the same.

        Subtracting first matters: a compiler may fuse `scores * scale - highest` into one rounding, while
        `highest` had two, and at scores of 1e9 the difference overflows exp. Capped scores have their scale
        inside of the tanh, and are too small for that.
        """
        return self.scale if bias is None and self.softcap is None and self.scale > 0 else 1.0

    def _tanh(self, products: Array) -> Array:
        return jnp.tanh(products * (self.scale / self.softcap))
