"""Attention as the formula says it: every score at once, O(T S) memory."""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from ..dropout import dropout
from ..masks import AttentionMask


def attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    mask: AttentionMask,
    bias: Float[Array, "#B #N #T #S"] | None,
    scale: float,
) -> Float[Array, "B N T S"]:
    """softmax(scale q kᵀ + bias) over the keys that the mask allows, float32; zeros in a row without any."""
    B, T, N, H = q.shape
    S, K = k.shape[1], k.shape[2]
    grouped = q.reshape(B, T, K, N // K, H)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(B, N, T, S)
    factor = late_scale(scale, bias)
    if factor != scale:
        scores *= scale
    if bias is not None:
        scores += bias
    if not mask.hides_nothing:
        scores = jnp.where(mask.to_array(T, S), scores, -jnp.inf)
    highest = lax.stop_gradient(scores.max(-1, keepdims=True))
    unnormalised = jnp.exp((scores - jnp.where(highest == -jnp.inf, 0.0, highest)) * factor)
    total = unnormalised.sum(-1, keepdims=True)
    return unnormalised / jnp.where(total == 0.0, 1.0, total)


def late_scale(scale: float, bias: Array | None) -> float:
    """What is left to multiply by after the maximum is subtracted: the scale itself where that is the same.

    Subtracting first matters: a compiler may fuse `scores * scale - highest` into one rounding, while
    `highest` had two, and at scores of 1e9 the difference overflows exp.
    """
    return scale if bias is None and scale > 0 else 1.0


def reference_attention(q, k, v, mask: AttentionMask, bias, scale: float, dropout_rate: float, key) -> Array:
    B, T, N, H = q.shape
    S, K = k.shape[1], k.shape[2]
    weights = dropout(attention_probabilities(q, k, mask, bias, scale), dropout_rate, key)
    weights = weights.astype(v.dtype).reshape(B, K, N // K, T, S)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(B, T, N, H).astype(q.dtype)
