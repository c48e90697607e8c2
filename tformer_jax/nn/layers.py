"""The small modules: each holds its parameters and calls one pure function."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import TransformerConfig

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
}


def glorot(config: TransformerConfig, rngs: nnx.Rngs, shape: tuple[int, ...], inputs: int) -> nnx.Param:
    """A Glorot-uniform kernel whose first `inputs` axes are contracted (Glorot & Bengio, 2010)."""
    fan_in, fan_out = math.prod(shape[:inputs]), math.prod(shape[inputs:])
    limit = math.sqrt(6 / (fan_in + fan_out))
    return nnx.Param(jax.random.uniform(rngs.params(), shape, config.dtypes.params, -limit, limit))


def zeros(config: TransformerConfig, *shape: int) -> nnx.Param:
    """A bias (or a shift) that starts at zero."""
    return nnx.Param(jnp.zeros(shape, config.dtypes.params))


def split_key(key: Array | None, count: int) -> list[Array] | list[None]:
    """`count` keys from one, or `count` times None (deterministic)."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class LayerNorm(nnx.Module):
    """`functional.layer_norm` over the model width."""

    def __init__(self, config: TransformerConfig):
        self.gamma = nnx.Param(jnp.ones((config.d_model,), config.dtypes.params))
        self.beta = zeros(config, config.d_model)
        self.eps = config.norm_eps

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return F.layer_norm(x, self.gamma[...], self.beta[...], eps=self.eps)


class FeedForward(nnx.Module):
    """`functional.feed_forward` with the config's activation."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.w1 = glorot(config, rngs, (config.d_model, config.d_ff), inputs=1)
        self.w2 = glorot(config, rngs, (config.d_ff, config.d_model), inputs=1)
        self.b1 = zeros(config, config.d_ff) if config.use_bias else None
        self.b2 = zeros(config, config.d_model) if config.use_bias else None

    def __call__(self, x: Float[Array, "B T D"], *, key: Array | None = None) -> Float[Array, "B T D"]:
        w1, b1, w2, b2 = (None if p is None else p[...].astype(x.dtype) for p in (self.w1, self.b1, self.w2, self.b2))
        activation = ACTIVATIONS[self.config.activation]
        rate = self.config.activation_dropout_rate
        return F.feed_forward(x, w1, b1, w2, b2, activation=activation, dropout_rate=rate, key=key)


class Embedding(nnx.Module):
    """A table of token vectors, N(0, 1/D), scaled by √D on the way out if the config says so."""

    def __init__(self, vocab_size: int, config: TransformerConfig, *, rngs: nnx.Rngs):
        shape = (vocab_size, config.d_model)
        std = config.d_model**-0.5
        self.table = nnx.Param(std * jax.random.normal(rngs.params(), shape, config.dtypes.params))
        self.scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
        self.compute_dtype = config.dtypes.compute

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return self.table[...][tokens].astype(self.compute_dtype) * self.scale


class Positions(nnx.Module):
    """A [max_length, D] table added to the embeddings: sinusoidal (equation 6) or learned."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        table = None
        if config.positions == "learned":
            shape = (config.max_length, config.d_model)
            # As large as the embeddings that it is added to.
            std = 1.0 if config.scale_embeddings else config.d_model**-0.5
            table = nnx.Param(std * jax.random.normal(rngs.params(), shape, config.dtypes.params))
        self.table = table

    def __call__(self, x: Float[Array, "B T D"], positions: Int[Array, "T"] | Int[Array, "B T"] | None = None):
        """x plus the vectors of its positions, by default 0 .. T-1.

        Raises:
          ValueError: T exceeds max_length. Positions themselves are not checked: see to it that
            they are smaller than max_length.
        """
        length, limit = x.shape[1], self.config.max_length
        if positions is None and length > limit:
            raise ValueError(f"a sequence of {length} tokens does not fit max_length={limit}")
        table = F.sinusoidal_positions(limit, self.config.d_model) if self.table is None else self.table[...]
        return x + table[jnp.arange(length) if positions is None else positions].astype(x.dtype)
