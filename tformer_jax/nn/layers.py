"""The small modules: each holds its parameters and calls one pure function."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import TransformerConfig
from .parameters import kernel, ones, zeros
from .parametrization import divided_by_growth


def split_key(key: Array | None, count: int) -> list[Array] | list[None]:
    """`count` keys from one, or `count` times None (deterministic)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class Norm(nnx.Module):
    """`functional.layer_norm` or `functional.rms_norm` over the last axis, by default the model's width."""

    def __init__(self, config: TransformerConfig, axes: Mapping[str, int] | None = None, kind: str | None = None):
        axes, kind = axes or {"model": config.d_model}, kind or config.norm
        self.gamma = ones(config, axes)
        self.beta = zeros(config, axes) if kind == "layer" else None
        self.eps = config.norm_eps

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        if self.beta is None:
            return F.rms_norm(x, self.gamma[...], eps=self.eps)
        return F.layer_norm(x, self.gamma[...], self.beta[...], eps=self.eps)


class Linear(nnx.Module):
    """x W + b over the last axis, in x's dtype; the axes and the role of W as in `kernel`."""

    def __init__(
        self,
        config: TransformerConfig,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        *,
        rngs: nnx.Rngs,
        role: str = "hidden",
    ):
        self.w = kernel(config, rngs, {**inputs, **outputs}, contracted=list(inputs), role=role)
        self.b = zeros(config, outputs)

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        return self._products(x, x.dtype) + self.b[...].astype(x.dtype)

    def _products(self, x: Array, dtype: Any) -> Array:
        return jnp.matmul(x, self.w[...].astype(x.dtype), preferred_element_type=dtype)


class Classifier(Linear):
    """x W / m + b, the logits of the classes in the policy's output dtype; for m, see `parametrization`."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        inputs, outputs = {"model": config.d_model}, {"classes": config.num_classes}
        super().__init__(config, inputs, outputs, rngs=rngs, role="output")
        self.config = config

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch C"]:
        logits = divided_by_growth(self.config, self._products(x, jnp.float32)) + self.b[...].astype(jnp.float32)
        return logits.astype(self.config.dtypes.output)


class FeedForward(nnx.Module):
    """`functional.feed_forward` or, with `gated`, `functional.gated_feed_forward`."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        model, ff = {"model": config.d_model}, {"ff": config.d_ff}
        self.w_gate = kernel(config, rngs, model | ff, contracted=["model"]) if config.gated else None
        self.w1 = kernel(config, rngs, model | ff, contracted=["model"])
        self.w2 = kernel(config, rngs, ff | model, contracted=["ff"], residual=True)
        self.b_gate = zeros(config, ff) if config.gated and config.use_bias else None
        self.b1 = zeros(config, ff) if config.use_bias else None
        self.b2 = zeros(config, model) if config.use_bias else None

    def __call__(self, x: Float[Array, "B T D"], *, key: Array | None = None) -> Float[Array, "B T D"]:
        held = (self.w_gate, self.b_gate, self.w1, self.b1, self.w2, self.b2)
        w_gate, b_gate, w1, b1, w2, b2 = (None if p is None else p[...].astype(x.dtype) for p in held)
        how = {
            "activation": F.ACTIVATIONS[self.config.activation],
            "dropout_rate": self.config.activation_dropout_rate,
            "key": key,
        }
        if w_gate is None:
            return F.feed_forward(x, w1, b1, w2, b2, **how)
        return F.gated_feed_forward(x, w_gate, w1, w2, b_gate=b_gate, b_up=b1, b_down=b2, **how)
