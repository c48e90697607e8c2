"""The Transformer as pure functions: arrays in, arrays out. Needs jax alone.

Axis letters, here and in every annotation: B batch, T query length, S key length, N query
heads, K key/value heads, H head width, D model width, F feed-forward width, V vocabulary, P patches.
"""

from . import kernels
from .activations import ACTIVATIONS
from .attention import (
    AttentionParams,
    attention_scores,
    attention_weights,
    combine_heads,
    explain_attention,
    multi_head_attention,
    project_heads,
    project_qkv,
    scaled_dot_product_attention,
)
from .augmentation import mixup, random_flip, random_shift
from .corruption import mask_tokens
from .dropout import dropout
from .feed_forward import feed_forward, gated_feed_forward
from .fused_losses import fused_cross_entropy
from .losses import causal_lm_loss, cross_entropy, masked_lm_loss, output_log_probs, output_logits, weighted_mean
from .masks import AttentionMask, Mask
from .normalization import layer_norm, rms_norm
from .patches import patchify
from .positions import interpolate_positions, positions_in_segments, sinusoidal_positions, sinusoidal_positions_2d
from .quantization import Int8Matrix, quantize_int8
from .relations import causal_mask, mask_to_bias
from .relative import alibi_bias, alibi_slopes, relative_position_buckets
from .rotary import apply_rotary, rotary_tables, rotate

__all__ = [
    "ACTIVATIONS",
    "AttentionMask",
    "AttentionParams",
    "Int8Matrix",
    "Mask",
    "alibi_bias",
    "alibi_slopes",
    "apply_rotary",
    "attention_scores",
    "attention_weights",
    "explain_attention",
    "causal_lm_loss",
    "causal_mask",
    "combine_heads",
    "cross_entropy",
    "dropout",
    "feed_forward",
    "fused_cross_entropy",
    "gated_feed_forward",
    "interpolate_positions",
    "kernels",
    "layer_norm",
    "mask_to_bias",
    "mask_tokens",
    "masked_lm_loss",
    "mixup",
    "multi_head_attention",
    "output_log_probs",
    "output_logits",
    "patchify",
    "positions_in_segments",
    "project_heads",
    "project_qkv",
    "quantize_int8",
    "random_flip",
    "random_shift",
    "relative_position_buckets",
    "rms_norm",
    "rotary_tables",
    "rotate",
    "scaled_dot_product_attention",
    "sinusoidal_positions",
    "sinusoidal_positions_2d",
    "weighted_mean",
]
