"""The small modules: each holds its parameters and calls one pure function."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import TransformerConfig
from .parametrization import divided_by_growth, growth, reference_width

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
}


def kernel(
    config: TransformerConfig,
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    inputs: int,
    *,
    residual: bool = False,
    grown: tuple[float, float] | None = None,
) -> nnx.Param:
    """A matrix whose first `inputs` axes are contracted, initialised as the config says.

    Glorot-uniform (Glorot & Bengio, 2010), or N(0, init_std²). `residual` marks what writes to the
    residual stream, for scale_residual_init (Radford et al., 2019, section 2.3). `grown`, of a matrix
    that is not hidden (see `parametrization`): how many times wider its sides are than at m = 1.

    Drawn in float32 and then rounded to the parameters' dtype: a normal draw in bfloat16 has 128 values.
    """
    scale = (2 * config.num_layers) ** -0.5 if residual and config.scale_residual_init else 1.0
    key, dtype = rngs.params(), config.dtypes.params
    if config.init_std is not None:
        scale = scale / math.sqrt(growth(config)) if grown is None else scale
        return nnx.Param((scale * config.init_std * jax.random.normal(key, shape, jnp.float32)).astype(dtype))
    grown_in, grown_out = (1.0, 1.0) if grown is None else grown
    fan_in, fan_out = math.prod(shape[:inputs]) / grown_in, math.prod(shape[inputs:]) / grown_out
    limit = scale * math.sqrt(6 / (fan_in + fan_out))
    return nnx.Param(jax.random.uniform(key, shape, jnp.float32, -limit, limit).astype(dtype))


def table(config: TransformerConfig, rngs: nnx.Rngs, rows: int) -> nnx.Param:
    """`rows` vectors of the model's width: N(0, init_std²), or N(0, 1/D) with the D of `reference_width`.

    Drawn in float32, as in `kernel`.
    """
    std = reference_width(config) ** -0.5 if config.init_std is None else config.init_std
    vectors = std * jax.random.normal(rngs.params(), (rows, config.d_model), jnp.float32)
    return nnx.Param(vectors.astype(config.dtypes.params))


def zeros(config: TransformerConfig, *shape: int) -> nnx.Param:
    """A bias (or a shift) that starts at zero."""
    return nnx.Param(jnp.zeros(shape, config.dtypes.params))


def split_key(key: Array | None, count: int) -> list[Array] | list[None]:
    """`count` keys from one, or `count` times None (deterministic)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class Norm(nnx.Module):
    """`functional.layer_norm` or `functional.rms_norm` over the last axis, by default the model's width."""

    def __init__(self, config: TransformerConfig, width: int | None = None, kind: str | None = None):
        width, kind = width or config.d_model, kind or config.norm
        self.gamma = nnx.Param(jnp.ones((width,), config.dtypes.params))
        self.beta = zeros(config, width) if kind == "layer" else None
        self.eps = config.norm_eps

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        if self.beta is None:
            return F.rms_norm(x, self.gamma[...], eps=self.eps)
        return F.layer_norm(x, self.gamma[...], self.beta[...], eps=self.eps)


class Linear(nnx.Module):
    """x W + b over the last axis, in x's dtype; `grown` as in `kernel`."""

    def __init__(
        self,
        config: TransformerConfig,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        grown: tuple[float, float] | None = None,
    ):
        self.w = kernel(config, rngs, (inputs, outputs), inputs=1, grown=grown)
        self.b = zeros(config, outputs)

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        return self._products(x, x.dtype) + self.b[...].astype(x.dtype)

    def _products(self, x: Array, dtype: Any) -> Array:
        return jnp.matmul(x, self.w[...].astype(x.dtype), preferred_element_type=dtype)


class Classifier(Linear):
    """x W / m + b, the logits of the classes in the policy's output dtype; for m, see `parametrization`."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, config.d_model, config.num_classes, rngs=rngs, grown=(growth(config), 1.0))
        self.config = config

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch C"]:
        logits = divided_by_growth(self.config, self._products(x, jnp.float32)) + self.b[...].astype(jnp.float32)
        return logits.astype(self.config.dtypes.output)


class FeedForward(nnx.Module):
    """`functional.feed_forward` or, with `gated`, `functional.gated_feed_forward`."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, width = config.d_model, config.d_ff
        self.w_gate = kernel(config, rngs, (D, width), inputs=1) if config.gated else None
        self.w1 = kernel(config, rngs, (D, width), inputs=1)
        self.w2 = kernel(config, rngs, (width, D), inputs=1, residual=True)
        self.b_gate = zeros(config, width) if config.gated and config.use_bias else None
        self.b1 = zeros(config, width) if config.use_bias else None
        self.b2 = zeros(config, D) if config.use_bias else None

    def __call__(self, x: Float[Array, "B T D"], *, key: Array | None = None) -> Float[Array, "B T D"]:
        held = (self.w_gate, self.b_gate, self.w1, self.b1, self.w2, self.b2)
        w_gate, b_gate, w1, b1, w2, b2 = (None if p is None else p[...].astype(x.dtype) for p in held)
        how = {
            "activation": ACTIVATIONS[self.config.activation],
            "dropout_rate": self.config.activation_dropout_rate,
            "key": key,
        }
        if w_gate is None:
            return F.feed_forward(x, w1, b1, w2, b2, **how)
        return F.gated_feed_forward(x, w_gate, w1, w2, b_gate=b_gate, b_up=b1, b_down=b2, **how)
