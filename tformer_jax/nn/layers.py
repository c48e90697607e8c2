"""Linear maps beside the layers: of transforms, poolers and patches, and onto classes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from ..functional.products import product
from .config import ModelConfig
from .parameters import kernel, zeros
from .parametrization import divided_by_growth


def split_key(key: Array | None, count: int) -> list[Array] | list[None]:
    """Returns `count` keys from one, or `count` times None (deterministic)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class Linear(nnx.Module):
    """x W + b over the last axis, in x's dtype, from one axis, as (name, size), to another."""

    def __init__(
        self, model: ModelConfig, inputs: tuple[str, int], outputs: tuple[str, int], *, role: str = "hidden",
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.w = kernel(model, rngs, dict((inputs, outputs)), contracted=(inputs[0],), role=role)
        self.b = zeros(model, dict((outputs,)))

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        return self._products(x, x.dtype) + self.b[...].astype(x.dtype)

    def _products(self, x: Array, dtype: Any) -> Array:
        return product(x, self.w[...].astype(x.dtype), dtype=dtype)


class Classifier(Linear):
    """x W / m + b, the logits of classes in the policy's output dtype; for m, see `parametrization`."""

    def __init__(self, model: ModelConfig, num_classes: int, *, rngs: nnx.Rngs):
        super().__init__(model, ("model", model.d_model), ("classes", num_classes), role="output", rngs=rngs)
        self.model = model

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch C"]:
        logits = divided_by_growth(self.model, self._products(x, jnp.float32)) + self.b[...].astype(jnp.float32)
        return logits.astype(self.model.dtypes.output)
