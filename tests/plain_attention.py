"""Attention, masks and positions beside the same in plain `jax.numpy`: rows of the table of transformations."""

import functools

import jax.numpy as jnp
import numpy as np
import oracles
from plain import B2, KEY, B, Case, D, H, T, V, X, times
from support import IMPLEMENTATIONS, normal

import tformer_jax.functional as F

S, N, K, HV = 5, 2, 1, 3


def scores(q, k, bias, scale, cap):
    k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
    return cap * jnp.tanh(jnp.einsum("btnh,bsnh->bnts", q, k) * scale / cap) + bias


def softmax(x, allowed):
    shares = jnp.where(allowed, jnp.exp(x), 0)
    return shares / shares.sum(-1, keepdims=True)


def average(weights, v):
    return jnp.einsum("bnts,bsnh->btnh", weights, jnp.repeat(v, weights.shape[1] // v.shape[2], axis=2))


def before(lengths):
    return (jnp.arange(S) < lengths[:, None])[:, None, None]


def alike(segments):
    """Queries are the last T tokens."""
    return (segments[:, -T:, None] == segments[:, None])[:, None]


def until(places):
    """The keys that queries of these positions see under a causal window of 3."""
    apart = places[:, :, None] - jnp.arange(S)
    return ((apart >= 0) & (apart < 3))[:, None]


def relation(places, lengths, segments):
    mask = F.AttentionMask(causal=True, window=3, query_positions=places) & F.AttentionMask(lengths=lengths)
    return mask & F.AttentionMask(segments=(segments[:, -T:], segments), explicit=HOLES)


def dropped_out(implementation, q, k, v, scale):
    how = dict(dropout_rate=0.4, key=KEY, implementation=implementation)
    return F.scaled_dot_product_attention(q, k, v, scale=scale, **how)


def dropped_out_plain(implementation, q, k, v, scale):
    ones = jnp.broadcast_to(jnp.eye(S)[:, None], (len(q), S, 1, S))  # shows the weights: those that are kept
    keep = dropped_out(implementation, jnp.zeros_like(q), jnp.zeros_like(k), ones, 1.0).transpose(0, 2, 1, 3) > 0
    rate = round(0.4 * 2**16) / 2**16
    return average(softmax(scores(q, k, 0.0, scale, 1e4), True) * keep / (1 - rate), v)


def projected(x, w, b):
    return jnp.tensordot(x, w, 1) + b


def heads_of(x, context, w_q, w_k, w_v, b_q, b_k, b_v):
    return projected(x, w_q, b_q), projected(context, w_k, b_k), projected(context, w_v, b_v)


def ours_heads(x, context, w_q, w_k, w_v, b_q, b_k, b_v):
    return F.project_qkv(x, context, F.AttentionParams(w_q, w_k, w_v, None, b_q, b_k, b_v))


def several_heads(implementation, x, context, lengths, w_o, b_o, *inner):
    params = F.AttentionParams(*inner[:3], w_o, *inner[3:], b_o)
    return F.multi_head_attention(
        x, context, params, mask=F.AttentionMask(lengths=lengths), implementation=implementation
    )


def several_heads_plain(x, context, lengths, w_o, b_o, *inner):
    q, k, v = heads_of(x, context, *inner)
    heads = average(softmax(scores(q, k, 0.0, q.shape[-1] ** -0.5, 1e4), before(lengths)), v)
    return jnp.tensordot(heads, w_o, 2) + b_o


# Positions -------------------------------------------------------------------------------------


def turned(x, cos, sin):
    """The halves of a head are a and b of all pairs."""
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def turned_next(x, cos, sin):
    """Neighbours are a pair."""
    order = jnp.argsort(jnp.arange(x.shape[-1]) % 2)
    return turned(x[..., order], cos, sin)[..., jnp.argsort(order)]


def by_angles(x, places, wide, base, factor):
    """Rotary positions: "linear" where `wide` is None, else "ntk" over the first `wide` of a head, in neighbours."""
    if wide is None:
        angles = (places / factor)[..., None] * base ** (-jnp.arange(0, x.shape[-1], 2) / x.shape[-1])
        return turned(x, jnp.cos(angles), jnp.sin(angles))
    base = base * factor ** (wide / (wide - 2))
    angles = places[..., None] * base ** (-jnp.arange(0, wide, 2) / wide)
    first = turned_next(x[..., :wide], jnp.cos(angles), jnp.sin(angles))
    return jnp.concatenate([first, x[..., wide:]], axis=-1)


def tables(places, wide, base, magnitude):
    """Cosines and sines of the angles of the first `wide` of a head."""
    angles = places[..., None] * base ** (-jnp.arange(0, wide, 2) / wide)
    return magnitude * jnp.cos(angles), magnitude * jnp.sin(angles)


def sines(length, width, base):
    column = jnp.arange(width)
    angles = jnp.arange(length)[:, None] / base ** ((column - column % 2) / width)
    return jnp.where(column % 2 == 0, jnp.sin(angles), jnp.cos(angles))


def of_grid(base):
    rows, columns = sines(2, 2, base)[:, None], sines(3, 2, base)
    return jnp.concatenate([rows + 0 * columns, columns + 0 * rows], axis=-1).reshape(6, 4)


def since_start(segments):
    index = jnp.arange(segments.shape[1])
    begins = jnp.concatenate([jnp.ones_like(segments[:, :1]), segments[:, 1:] != segments[:, :-1]], axis=1)
    reached = (index[:, None] >= index) & (begins != 0)[:, None]
    return index - jnp.where(reached, index, 0).max(-1)


Q, KEYS, VALUES, BIAS = normal(10, B, T, N, H), normal(11, B, S, K, H), normal(12, B, S, K, HV), normal(13, N, T, S)
LENGTHS, PLACES = jnp.array([5, 2, 1, 4]), jnp.array([[0, 1, 3], [1, 1, 2], [0, 2, 2], [2, 3, 4]])
SEGMENTS = jnp.array([[0, 1, 1, 1, 2], [0, 0, 0, 0, 0], [3, 1, 1, 3, 3], [0, 0, 1, 2, 2]])
HOLES = jnp.asarray(np.random.default_rng(14).random((N, T, S)) < 0.7)
SCORED, SQUARES = normal(15, B, N, T, S), normal(16, B, T, S)
INNER = tuple(normal(17 + i, *s) for i, s in enumerate([(D, N, H), (V, K, H), (V, K, HV), (N, H), (K, H), (K, HV)]))
OUTER = normal(23, N, HV, D), B2
CONTEXT, TABLE = normal(24, B, S, V), normal(25, 6, 2)
ANGLES = normal(26, B, T, 2)
SCALE, CAP, BASE, FACTOR = jnp.float32(0.7), jnp.float32(2.0), jnp.float32(30.0), jnp.float32(2.0)
TO_FOUR = oracles.resize_grid(np.eye(6).reshape(2, 3, 6), 4, 4).reshape(16, 6).astype(np.float32)

CASES = {
    "attention_scores": Case(
        lambda q, k, n, b, s, c: jnp.exp(
            F.attention_scores(q, k, mask=F.AttentionMask(lengths=n), bias=b, scale=s, logit_softcap=c)
        ),
        lambda q, k, n, *how: jnp.where(before(n), jnp.exp(scores(q, k, *how)), 0),
        (Q, KEYS, LENGTHS),
        (BIAS, SCALE, CAP),
    ),
    "attention_weights": Case(
        lambda q, k, z, b, s, c: F.attention_weights(
            q, k, mask=F.AttentionMask(segments=(z[:, -T:], z)), bias=b, scale=s, logit_softcap=c
        ),
        lambda q, k, z, *how: softmax(scores(q, k, *how), alike(z)),
        (Q, KEYS, SEGMENTS),
        (BIAS, SCALE, CAP),
    ),
    "project_heads": Case(F.project_heads, projected, (X,), (INNER[0], INNER[3])),
    "project_qkv": Case(ours_heads, heads_of, (X, CONTEXT), INNER),
    "combine_heads": Case(
        lambda x, w, b: F.combine_heads(x, F.AttentionParams(None, None, None, w, b_o=b)),
        lambda x, w, b: jnp.tensordot(x, w, 2) + b,
        (normal(27, B, T, N, HV),),
        OUTER,
    ),
    "AttentionMask": Case(
        lambda x, *fields: jnp.where(relation(*fields).to_array(T, S), x, 0),
        lambda x, p, n, z: jnp.where(until(p) & before(n) & alike(z) & HOLES, x, 0),
        (SCORED, PLACES, LENGTHS, SEGMENTS),
    ),
    "causal_mask": Case(
        lambda x: jnp.where(F.causal_mask(T, S), x, 0), lambda x: jnp.where(np.tri(T, S, dtype=bool), x, 0), (SCORED,)
    ),
    "mask_to_bias": Case(
        lambda x, n: jnp.exp(x + F.mask_to_bias(before(n))), lambda x, n: jnp.exp(x) * before(n), (SCORED, LENGTHS)
    ),
    "alibi_slopes": Case(lambda x: x * F.alibi_slopes(4), lambda x: x * 2.0 ** (-8 * jnp.arange(1, 5) / 4), (Q,)),
    "alibi_bias": Case(
        lambda x, p: x * F.alibi_bias(p, jnp.arange(S), N),
        lambda x, p: x * -abs(p[:, None, :, None] - jnp.arange(S)) * jnp.array([2.0**-4, 2.0**-8])[:, None, None],
        (SCORED, PLACES),
    ),
    "relative_position_buckets": Case(
        lambda x, p: times(x, F.relative_position_buckets(p, num_buckets=8, max_distance=20)),
        lambda x, p: x * sum((p <= -n).astype(int) + (p >= n) for n in (1, 2, 7)) + x * 4 * (p > 0),
        (SQUARES, jnp.asarray(np.random.default_rng(28).integers(-25, 25, (B, T, S)))),
    ),
    "relative_position_buckets, one way": Case(
        lambda x, p: times(x, F.relative_position_buckets(p, bidirectional=False, num_buckets=4, max_distance=8)),
        lambda x, p: x * sum((p <= -n).astype(int) for n in (1, 2, 4)),
        (SQUARES, jnp.asarray(np.random.default_rng(29).integers(-9, 9, (B, T, S)))),
    ),
    "positions_in_segments": Case(
        lambda x, z: times(x, F.positions_in_segments(z)), lambda x, z: x * since_start(z), (SQUARES[:, 0], SEGMENTS)
    ),
    "rotate": Case(F.rotate, turned, (Q, jnp.cos(ANGLES), jnp.sin(ANGLES))),
    "rotate, interleaved": Case(
        functools.partial(F.rotate, layout="interleaved"), turned_next, (Q, jnp.cos(ANGLES), jnp.sin(ANGLES))
    ),
    "apply_rotary": Case(
        lambda x, p: F.apply_rotary(x, p, base=30.0), lambda x, p: by_angles(x, p, None, 30.0, 1.0), (Q, PLACES)
    ),
    "apply_rotary, linear": Case(
        lambda x, p, b, f: F.apply_rotary(x, p, base=b, factor=f, scaling="linear"),
        lambda x, p, b, f: by_angles(x, p, None, b, f),
        (Q, PLACES),
        (BASE, FACTOR),
    ),
    "apply_rotary, ntk": Case(
        lambda x, p, b, f: F.apply_rotary(x, p, base=b, factor=f, scaling="ntk", layout="interleaved", width=4),
        lambda x, p, b, f: by_angles(x, p, 4, b, f),
        (normal(30, B, T, 1, 5), PLACES),
        (BASE, FACTOR),
    ),
    "rotary_tables": Case(
        lambda b, m, p: F.rotary_tables(p, 6, base=b, magnitude=m),
        lambda b, m, p: tables(p, 6, b, m),
        (),
        (BASE, FACTOR, PLACES),
    ),
    "sinusoidal_positions": Case(
        lambda x, b: x * F.sinusoidal_positions(T, D, base=b), lambda x, b: x * sines(T, D, b), (X,), (BASE,)
    ),
    "sinusoidal_positions, concatenated": Case(
        lambda x, b: x * F.sinusoidal_positions(T, D, base=b, layout="concatenated"),
        lambda x, b: x * sines(T, D, b)[:, jnp.array([0, 2, 1])],
        (X,),
        (BASE,),
    ),
    "sinusoidal_positions_2d": Case(
        lambda x, b: x * F.sinusoidal_positions_2d(2, 3, 4, base=b),
        lambda x, b: x * of_grid(b),
        (normal(31, B, 6, 4),),
        (BASE,),
    ),
    "interpolate_positions": Case(
        lambda x, t: x * F.interpolate_positions(t, (2, 3), (4, 4)),
        lambda x, t: x * (TO_FOUR @ t),
        (normal(32, B, 16, 2),),
        (TABLE,),
    ),
}
for implementation in IMPLEMENTATIONS:
    CASES |= {
        f"scaled_dot_product_attention, {implementation}": Case(
            lambda q, k, v, p, b, s, c, i=implementation: F.scaled_dot_product_attention(
                q, k, v, mask=F.AttentionMask(causal=True, window=3, query_positions=p), bias=b,
                scale=s, logit_softcap=c, implementation=i,
            ),
            lambda q, k, v, p, *how: average(softmax(scores(q, k, *how), until(p)), v),
            (Q, KEYS, VALUES, PLACES),
            (BIAS, SCALE, CAP),
        ),
        f"scaled_dot_product_attention, {implementation}, dropout": Case(
            functools.partial(dropped_out, implementation),
            functools.partial(dropped_out_plain, implementation),
            (Q, KEYS, VALUES),
            (SCALE,),
        ),
        f"multi_head_attention, {implementation}": Case(
            functools.partial(several_heads, implementation),
            several_heads_plain,
            (X, CONTEXT, LENGTHS),
            (*OUTER, *INNER),
        ),
    }  # fmt: skip
