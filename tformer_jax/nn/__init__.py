"""Flax NNX modules: they hold parameters and call `tformer_jax.functional`.

A module is a pytree; `jax.jit`, `jax.grad`, `jax.vmap` and `optax` take it as it is. Nothing
is mutated in `__call__`, and randomness is an argument.
"""

from .adapters import Adapter, init_adapter, with_adapter
from .attention import Attended, Attention, MultiHeadAttention
from .blocks import DecoderLayer, EncoderLayer, LayerOutput, TransformerLayerConfig
from .cache import Cache, DecoderCache, KVCache
from .config import (
    ATTENTIONS,
    FEED_FORWARDS,
    LAYERS,
    NORMS,
    POSITIONS,
    AttentionConfig,
    FeedForwardConfig,
    InitConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    PositionScheme,
)  # fmt: skip
from .embeddings import Embedding, Output, OutputConfig, Positions, TextModelConfig
from .feed_forward import DenseConfig, FeedForward
from .layers import Classifier, Linear
from .module import Module
from .norms import Norm
from .parameters import kernel, ones, table, zeros
from .pooling import AttentionPooling
from .positions import Patches
from .quantized import WEIGHTS, with_weights
from .stack import Beside, Stack, apart

__all__ = [
    "ATTENTIONS",
    "FEED_FORWARDS",
    "LAYERS",
    "NORMS",
    "POSITIONS",
    "WEIGHTS",
    "Adapter",
    "Attended",
    "Attention",
    "AttentionConfig",
    "AttentionPooling",
    "Beside",
    "Cache",
    "Classifier",
    "DecoderCache",
    "DecoderLayer",
    "DenseConfig",
    "Embedding",
    "EncoderLayer",
    "FeedForward",
    "FeedForwardConfig",
    "InitConfig",
    "KVCache",
    "LayerConfig",
    "LayerOutput",
    "Linear",
    "ModelConfig",
    "Module",
    "MultiHeadAttention",
    "Norm",
    "NormConfig",
    "Output",
    "OutputConfig",
    "Patches",
    "PositionScheme",
    "Positions",
    "Stack",
    "TextModelConfig",
    "apart",
    "TransformerLayerConfig",
    "init_adapter",
    "kernel",
    "ones",
    "table",
    "with_adapter",
    "with_weights",
    "zeros",
]
