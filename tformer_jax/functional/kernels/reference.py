"""Attention as the formula says it: every score at once, O(T S) memory."""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from ..dropout import dropout
from ..masks import AttentionMask
from .scores import ScoreOptions


def attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    mask: AttentionMask,
    bias: Float[Array, "#B #N #T #S"] | None,
    options: ScoreOptions,
) -> Float[Array, "B N T S"]:
    """softmax(scores) over the keys that the mask allows, float32; zeros in a row without any.

    The scores are scale q kᵀ + bias, or cap tanh(scale q kᵀ / cap) + bias.
    """
    B, T, N, H = q.shape
    S, K = k.shape[1], k.shape[2]
    grouped = q.reshape(B, T, K, N // K, H)
    products = jnp.einsum("BTKGH,BSKH->BKGTS", grouped, k, preferred_element_type=jnp.float32)
    scores = options.scores(products.reshape(B, N, T, S), bias)
    if not mask.hides_nothing:
        scores = jnp.where(mask.to_array(T, S), scores, -jnp.inf)
    highest = lax.stop_gradient(scores.max(-1, keepdims=True))
    late = options.late_scale(bias)
    unnormalised = jnp.exp((scores - jnp.where(highest == -jnp.inf, 0.0, highest)) * late)
    total = unnormalised.sum(-1, keepdims=True)
    return unnormalised / jnp.where(total == 0.0, 1.0, total)


def reference_attention(q, k, v, mask: AttentionMask, bias, options: ScoreOptions, key) -> Array:
    B, T, N, H = q.shape
    S, K = k.shape[1], k.shape[2]
    weights = dropout(attention_probabilities(q, k, mask, bias, options), options.dropout_rate, key)
    weights = weights.astype(v.dtype).reshape(B, K, N // K, T, S)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v, preferred_element_type=jnp.float32)
    return out.reshape(B, T, N, H).astype(q.dtype)
