"""Attention by an online softmax over key blocks: O(T) memory, forward and backward.

Scores exist one tile at a time. The forward pass keeps, per query, the running maximum m, the
running sum l of exp(score - m) and the unnormalised output; the backward pass recomputes each
tile from m and l (kept apart: their logarithmic sum would lose l next to a large m). Blocks of
keys that no query of a block may see are not computed at all.

Sources: Milakov & Gimelshein, 2018 (online softmax); Rabe & Staats, 2021 (memory);
Dao et al., 2022 (recomputing backward pass).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..dropout import dropout
from ..masks import AttentionMask, slice_if_wide
from ..numbers import is_off
from .scores import ScoreOptions

_BLOCK_Q = 256
_BLOCK_K = 256

_F32: dict[str, Any] = {"preferred_element_type": jnp.float32}


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """The static part of one call: tile sizes and counts, how scores are made."""

    q_size: int
    k_size: int
    q_count: int
    k_count: int
    options: ScoreOptions

    def queries(self, x: Array, i) -> Array:
        return lax.dynamic_slice_in_dim(x, i * self.q_size, self.q_size, axis=1)

    def keys(self, x: Array, j) -> Array:
        return lax.dynamic_slice_in_dim(x, j * self.k_size, self.k_size, axis=1)


def blockwise_attention(q, k, v, mask: AttentionMask, bias, options: ScoreOptions, key) -> Array:
    B, T, N, H = q.shape
    S, K = k.shape[1], k.shape[2]
    q_size, k_size = min(_BLOCK_Q, T), min(_BLOCK_K, S)
    blocks = _Blocks(q_size, k_size, -(-T // q_size), -(-S // k_size), options)
    q_pad, k_pad = blocks.q_count * q_size - T, blocks.k_count * k_size - S
    q = _pad(q.reshape(B, T, K, N // K, H), q_pad)
    # What the rule for gradients is told once and for all must be known; a rate may be an argument of the program.
    blocks = dataclasses.replace(blocks, options=dataclasses.replace(options, dropout_rate=0.0))
    drop = None if key is None or is_off(options.dropout_rate) else (key, options.dropout_rate)
    masked = _pad_bias(bias, q_pad, k_pad), _pad_mask(mask, S, q_pad, k_pad)
    out = _attention(blocks, q, _pad(k, k_pad), _pad(v, k_pad), *masked, drop)
    return out[:, :T].reshape(B, T, N, H)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(blocks: _Blocks, q, k, v, bias, mask, drop):
    return _forward(blocks, q, k, v, bias, mask, drop)[0]


def _forward(blocks: _Blocks, q, k, v, bias, mask, drop):
    """Output [B T K G H] and what the backward pass needs: the inputs, the output, m and l."""
    first, last = _needed_blocks(blocks, mask)
    late = blocks.options.late_scale(bias)
    B, _, K, G, H = q.shape

    def query_block(i):
        q_i = blocks.queries(q, i)

        def key_block(j, state):
            m, l, out = state
            scores = _scores(blocks, _products(q_i, blocks.keys(k, j)), bias, mask, i, j)
            m_new = jnp.maximum(m, scores.max(-1))
            p = _relative(scores, _finite(m_new), late)
            kept = jnp.exp((m - _finite(m_new)) * late)
            weights = _dropped(blocks, p, drop, i, j).astype(v.dtype)
            seen = jnp.einsum("BKGTS,BSKH->BKGTH", weights, blocks.keys(v, j), **_F32)
            return m_new, l * kept + p.sum(-1), out * kept[..., None] + seen

        shape = (B, K, G, blocks.q_size)
        start = tuple(jnp.full(s, x, jnp.float32) for s, x in ((shape, -jnp.inf), (shape, 0.0), ((*shape, H), 0.0)))
        m, l, out = lax.fori_loop(first[i], last[i], key_block, start)
        # A row that may see nothing has l = 0 and output 0; l = 1 keeps its gradient 0 too.
        l = jnp.where(l == 0.0, 1.0, l)
        return (out / l[..., None]).astype(q.dtype), _finite(m), l

    out, m, l = lax.map(query_block, jnp.arange(blocks.q_count))
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(q.shape)
    return out, (q, k, v, bias, mask, drop, out, m, l)


def _backward(blocks: _Blocks, residuals, d_out):
    q, k, v, bias, mask, drop, out, m, l = residuals
    first, last = _needed_blocks(blocks, mask)
    late = blocks.options.late_scale(bias)
    # sum_s P dP of each query, from the output alone (Dao et al., equation 4).
    delta = jnp.einsum("BTKGH,BTKGH->BTKG", d_out, out, **_F32)

    def query_block(grads, i):
        q_i, d_out_i = blocks.queries(q, i), blocks.queries(d_out, i)
        delta_i = blocks.queries(delta, i).transpose(0, 2, 3, 1)[..., None]

        def key_block(j, state):
            dq_i, dk, dv, d_bias = state
            k_j, v_j = blocks.keys(k, j), blocks.keys(v, j)
            products = _products(q_i, k_j)
            scores = _scores(blocks, products, bias, mask, i, j)
            p = _relative(scores, m[i], late) / l[i][..., None]
            weights = _dropped(blocks, p, drop, i, j).astype(d_out.dtype)
            dv = _add_at(dv, jnp.einsum("BKGTS,BTKGH->BSKH", weights, d_out_i, **_F32), (0, j * blocks.k_size))
            dp = jnp.einsum("BTKGH,BSKH->BKGTS", d_out_i, v_j, **_F32)
            d_scores = p * (_dropped(blocks, dp, drop, i, j) - delta_i)
            if bias is not None:
                d_bias = _add_bias_tile(blocks, d_bias, d_scores, i, j)
            d_products = (d_scores * blocks.options.slope(products)).astype(q.dtype)
            dq_i += jnp.einsum("BKGTS,BSKH->BTKGH", d_products, k_j, **_F32)
            dk = _add_at(dk, jnp.einsum("BKGTS,BTKGH->BSKH", d_products, q_i, **_F32), (0, j * blocks.k_size))
            return dq_i, dk, dv, d_bias

        start = (jnp.zeros(q_i.shape, jnp.float32), *grads)
        dq_i, *grads = lax.fori_loop(first[i], last[i], key_block, start)
        return tuple(grads), dq_i

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (k, v, bias))
    (dk, dv, d_bias), dq = lax.scan(query_block, zeros, jnp.arange(blocks.q_count))
    dq = dq.swapaxes(0, 1).reshape(q.shape)
    d_bias = None if bias is None else d_bias.astype(bias.dtype)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), d_bias, None, None


_attention.defvjp(_forward, _backward)


def _products(q_i, k_j):
    """A tile of q kᵀ, [B K G q k], float32."""
    return jnp.einsum("BTKGH,BSKH->BKGTS", q_i, k_j, **_F32)


def _scores(blocks: _Blocks, products, bias, mask: AttentionMask, i, j):
    """Tile (i, j) of the masked scores from its products, still to be multiplied by `late_scale`."""
    if bias is not None:
        bias = slice_if_wide(bias, i * blocks.q_size, blocks.q_size, axis=2)
        bias = slice_if_wide(bias, j * blocks.k_size, blocks.k_size, axis=3)
        bias = _split_heads(bias, products.shape[1])
    scores = blocks.options.scores(products, bias)
    if mask.hides_nothing:
        return scores
    allowed = mask.tile(i * blocks.q_size, blocks.q_size, j * blocks.k_size, blocks.k_size)
    return jnp.where(_split_heads(allowed, scores.shape[1]), scores, -jnp.inf)


def _needed_blocks(blocks: _Blocks, mask: AttentionMask):
    """For each query block, the range [first, last) of key blocks that hold anything it may see.

    Decided from each block's extreme positions and segments, so it may keep a block that turns
    out to be hidden, and never drops one that is not.
    """
    q_low, q_high = _extremes(mask.query_block(0, blocks.q_count * blocks.q_size), blocks.q_count)
    k_low, k_high = _extremes(mask.key_block(0, blocks.k_count * blocks.k_size), blocks.k_count)
    q_low, q_high, k_low, k_high = q_low[:, :, None], q_high[:, :, None], k_low[:, None], k_high[:, None]
    needed = jnp.ones((1, blocks.q_count, blocks.k_count), bool)
    if mask.causal:
        needed &= k_low <= q_high
    if mask.window is not None:
        needed &= (k_high > q_low - mask.window) & (k_low < q_high + mask.window)
    if mask.lengths is not None:
        needed &= (jnp.arange(blocks.k_count) * blocks.k_size < mask.lengths[:, None])[:, None]
    if mask.segments is not None:
        q_seg_low, q_seg_high = _extremes(mask.segments[0], blocks.q_count)
        k_seg_low, k_seg_high = _extremes(mask.segments[1], blocks.k_count)
        needed &= (q_seg_low[:, :, None] <= k_seg_high[:, None]) & (k_seg_low[:, None] <= q_seg_high[:, :, None])
    needed = needed.any(0)
    first = jnp.argmax(needed, axis=1)
    last = jnp.where(needed.any(1), blocks.k_count - jnp.argmax(needed[:, ::-1], axis=1), first)
    return first, last


def _extremes(x, count: int):
    x = x.reshape(x.shape[0], count, -1)
    return x.min(-1), x.max(-1)


def _finite(m):
    """The maximum of a row that may see nothing is -inf; 0 in its place keeps exp(-inf - m) at 0."""
    return jnp.where(m == -jnp.inf, 0.0, m)


def _relative(scores, m, late):
    """exp of the scores less their maximum.

    Never above 1: the compiler may round scores of 1e9 otherwise here than where their maximum was taken,
    and exp of that difference overflows.
    """
    return jnp.exp(jnp.minimum(scores - m[..., None], 0.0) * late)


def _dropped(blocks: _Blocks, x, drop, i, j):
    """Tile (i, j) after dropout; `drop`: key and rate, or None for no dropout."""
    if drop is None:
        return x
    key, rate = drop
    return dropout(x, rate, jax.random.fold_in(key, i * blocks.k_count + j))


def _split_heads(x, K: int):
    """[b n q k] to [b K G q k], with 1s kept where n broadcasts."""
    heads = (1, 1) if x.shape[1] == 1 else (K, x.shape[1] // K)
    return x.reshape(x.shape[0], *heads, *x.shape[2:])


def _add_at(total, update, start):
    start = (*start, *(0,) * (total.ndim - len(start)))
    return lax.dynamic_update_slice(total, lax.dynamic_slice(total, start, update.shape) + update, start)


def _add_bias_tile(blocks: _Blocks, d_bias, d_scores, i, j):
    tile = d_scores.reshape(d_scores.shape[0], -1, *d_scores.shape[3:])
    broadcast = [axis for axis in range(4) if d_bias.shape[axis] == 1]
    tile = tile.sum(axis=broadcast, keepdims=True)
    start = [0 if axis in broadcast else at for axis, at in ((2, i * blocks.q_size), (3, j * blocks.k_size))]
    return _add_at(d_bias, tile, (0, 0, *start))


def _pad(x, amount: int, axis: int = 1, **how):
    return jnp.pad(x, [(0, amount if a == axis else 0) for a in range(x.ndim)], **how) if amount else x


def _pad_wide(x, q_pad: int, k_pad: int):
    """Pads the query and key axes of [b n T S] where they do not broadcast."""
    x = x if x.shape[2] == 1 else _pad(x, q_pad, axis=2)
    return x if x.shape[3] == 1 else _pad(x, k_pad, axis=3)


def _pad_bias(bias, q_pad: int, k_pad: int):
    return None if bias is None else _pad_wide(bias, q_pad, k_pad)


def _pad_mask(mask: AttentionMask, S: int, q_pad: int, k_pad: int) -> AttentionMask:
    """The same mask over padded queries and keys, with the padded keys hidden."""
    changes: dict[str, Any] = {}
    if mask.lengths is not None:
        changes["lengths"] = jnp.minimum(jnp.asarray(mask.lengths), S)
    elif k_pad:
        changes["lengths"] = jnp.full((1,), S)
    for name, amount in (("query_positions", q_pad), ("key_positions", k_pad)):
        if getattr(mask, name) is not None:
            changes[name] = _pad(jnp.atleast_2d(getattr(mask, name)), amount, mode="edge")
    if mask.segments is not None:
        pair = mask.segments if isinstance(mask.segments, tuple) else (mask.segments, mask.segments)
        changes["segments"] = tuple(
            _pad(jnp.asarray(x), amount, mode="edge") for x, amount in zip(pair, (q_pad, k_pad), strict=True)
        )
    if mask.explicit is not None:
        explicit = jnp.asarray(mask.explicit)
        explicit = explicit.reshape((1,) * (4 - explicit.ndim) + explicit.shape)
        changes["explicit"] = _pad_wide(explicit, q_pad, k_pad)
    return dataclasses.replace(mask, **changes)
