"""Flax NNX modules: they hold parameters and call `tformer_jax.functional`.

A module is a pytree; `jax.jit`, `jax.grad`, `jax.vmap` and `optax` take it as it is. Nothing
is mutated in `__call__`, and randomness is an argument.
"""

from .attention import Attention
from .blocks import DecoderLayer, EncoderLayer, Stack
from .cache import DecoderCache, KVCache
from .embeddings import Embedding, Output, PositionBias, Positions
from .layers import Classifier, FeedForward, Linear, Norm

__all__ = [
    "Attention",
    "Classifier",
    "DecoderCache",
    "DecoderLayer",
    "Embedding",
    "EncoderLayer",
    "FeedForward",
    "KVCache",
    "Linear",
    "Norm",
    "Output",
    "PositionBias",
    "Positions",
    "Stack",
]
