"""Attention as the formula says it: every score at once, O(T S) memory."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ..dropout import dropout
from ..masks import AttentionMask
from .scores import ScoreOptions, divided, matrix_products, split_heads, wide


def attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    mask: AttentionMask,
    bias: Float[Array, "#B #N #T #S"] | None,
    options: ScoreOptions,
) -> Float[Array, "B N T S"]:
    """softmax(scores) over the keys that the mask allows; zeros in a row without any."""
    weights = options.weights(*_seen(q, k, mask, bias))
    return _merged(divided(weights, weights.sum(-1, keepdims=True)))


def masked_scores(q, k, mask: AttentionMask, bias, options: ScoreOptions) -> Float[Array, "B N T S"]:
    """The scores that the softmax is of, -inf where the mask hides."""
    products, bias, allowed = _seen(q, k, mask, bias)
    scores = options.scores(products, bias)
    return _merged(scores if allowed is None else jnp.where(allowed, scores, -jnp.inf))


def reference_attention(q, k, v, mask: AttentionMask, bias, options: ScoreOptions, key) -> Array:
    weights = options.weights(*_seen(q, k, mask, bias))  # [B K G T S]
    totals = weights.sum(-1).transpose(0, 3, 1, 2)[..., None]  # [B T K G 1]
    weights = dropout(weights, options.dropout_rate, key).astype(v.dtype)
    sums = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v, preferred_element_type=wide(v.dtype))
    return divided(sums, totals.astype(sums.dtype)).reshape(*q.shape[:3], v.shape[-1]).astype(q.dtype)


def _seen(q, k, mask: AttentionMask, bias) -> tuple[Array, Array | None, Array | None]:
    """The products, the bias and what is allowed, as [B K G T S]."""
    B, T, N, H = q.shape
    S, K = k.shape[1], k.shape[2]
    products = matrix_products("BTKGH,BSKH->BKGTS", q.reshape(B, T, K, N // K, H), k)
    allowed = None if mask.hides_nothing else mask.to_array(T, S)
    return products, split_heads(bias, K), split_heads(allowed, K)


def _merged(x: Array) -> Array:
    """[B K G T S] to [B N T S]."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])
