"""The Transformer as pure functions: arrays in, arrays out. Needs jax alone.

Axis letters, here and in every annotation: B batch, T query length, S key length, N query
heads, K key/value heads, H head width, D model width, F feed-forward width, V vocabulary.
"""

from .attention import (
    AttentionParams,
    attention_weights,
    combine_heads,
    multi_head_attention,
    project_heads,
    project_qkv,
    scaled_dot_product_attention,
)
from .dropout import dropout
from .feed_forward import feed_forward
from .losses import causal_lm_loss, cross_entropy, masked_lm_loss, output_log_probs, weighted_mean
from .masks import AttentionMask, causal_mask, mask_to_bias, padding_mask
from .normalization import layer_norm
from .positions import positions_in_segments, sinusoidal_positions

__all__ = [
    "AttentionMask",
    "AttentionParams",
    "attention_weights",
    "causal_lm_loss",
    "causal_mask",
    "combine_heads",
    "cross_entropy",
    "dropout",
    "feed_forward",
    "layer_norm",
    "mask_to_bias",
    "masked_lm_loss",
    "multi_head_attention",
    "output_log_probs",
    "padding_mask",
    "positions_in_segments",
    "project_heads",
    "project_qkv",
    "scaled_dot_product_attention",
    "sinusoidal_positions",
    "weighted_mean",
]
