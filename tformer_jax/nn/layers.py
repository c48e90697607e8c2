"""Linear maps beside the layers: of transforms, poolers and patches, and onto classes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from ..functional.products import product
from .config import ModelConfig
from .module import Module
from .parameters import kernel, zeros
from .parametrization import divided_by_growth


def split_key(key: Array | None, count: int) -> list[Array] | list[None]:
    """Returns `count` keys from one, or `count` times None (deterministic)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class Linear(Module):
    """x W + b over the last axis, in x's dtype, from one axis, as (name, size), to another; without bias x W.

    In the role of an output it is x W / m + b; for m, see `parametrization`.
    """

    def __init__(
        self, model: ModelConfig, inputs: tuple[str, int], outputs: tuple[str, int], *, role: str = "hidden",
        bias: bool = True, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.model, self.divided_by = model, inputs[0] if role == "output" else None
        self.w = kernel(model, rngs, dict((inputs, outputs)), contracted=(inputs[0],), role=role)
        self.b = zeros(model, dict((outputs,))) if bias else None

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        return self._mapped(x, x.dtype)

    def _mapped(self, x: Array, dtype: Any) -> Array:
        y = product(x, self.w[...].astype(x.dtype), dtype=dtype)
        y = y if self.divided_by is None else divided_by_growth(self.model, y, self.divided_by)
        return y if self.b is None else y + self.b[...].astype(dtype)


class Classifier(Linear):
    """The logits of classes of vectors, in the policy's output dtype; `width` is that of the vectors, None: d_model."""

    def __init__(self, model: ModelConfig, num_classes: int, *, width: int | None = None, rngs: nnx.Rngs):
        inputs = ("model", width or model.d_model)
        super().__init__(model, inputs, ("classes", num_classes), role="output", rngs=rngs)

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch C"]:
        return self._mapped(x, jnp.float32).astype(self.model.dtypes.output)
