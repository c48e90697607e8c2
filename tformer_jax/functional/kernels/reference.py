"""Attention as the formula says it: every score at once, O(T S) memory."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ..masks import Mask
from .scores import KERNELS, ScoreOptions, by_head, by_token, hidden, products_of_heads, split_heads, wide


def attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    mask: Mask,
    bias: Float[Array, "#B #N #T #S"] | None,
    options: ScoreOptions,
) -> Float[Array, "B N T S"]:
    """softmax(scores) over the keys that the mask allows; zeros in a row without any."""
    return options.weights(_products(q, k), bias, _allowed(q, k, mask))


def masked_scores(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    mask: Mask,
    bias: Float[Array, "#B #N #T #S"] | None,
    options: ScoreOptions,
) -> Float[Array, "B N T S"]:
    """The scores that the softmax is of, -inf where the mask hides."""
    return hidden(options.scores(_products(q, k), bias), _allowed(q, k, mask))


def weighted_sum(weights: Float[Array, "B N T S"], v: Float[Array, "B S K Hv"]) -> Float[Array, "B T N Hv"]:
    """Adds up the values as each query weighs them, in float32; each of v's K heads serves N / K of the weights'."""
    B, N, T, S = weights.shape
    K = v.shape[2]
    grouped = weights.astype(v.dtype).reshape(B, K, N // K, T, S)  # [B K G T S]
    out = jnp.einsum("BKGTS,BSKH->BTKGH", grouped, v, preferred_element_type=wide(v.dtype))
    return out.reshape(B, T, N, v.shape[-1])


@KERNELS.register("reference")
def reference_attention(q, k, v, mask: Mask, bias, options: ScoreOptions, key) -> Array:
    """Attends with all weights at once."""
    bias, allowed = (split_heads(x, k.shape[2]) for x in (bias, _allowed(q, k, mask)))
    q, k, v = by_head(q, k, v)
    return by_token(options.averages(products_of_heads(q, k), v, bias, allowed, key)).astype(q.dtype)


def _products(q, k) -> Float[Array, "B N T S"]:
    B, T, N, _ = q.shape
    return products_of_heads(*by_head(q, k)).reshape(B, N, T, k.shape[1])


def _allowed(q, k, mask: Mask) -> Array | None:
    return None if mask.hides_nothing else mask.tile(0, q.shape[1], 0, k.shape[1])
