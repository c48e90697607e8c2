"""Attention against float64 NumPy, in value and gradient, for every implementation (equations 2, 3, 4, 9)."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, strategies as st
from support import (
    IMPLEMENTATIONS,
    assert_close,
    block_sizes,
    by_day,
    equations,
    examples,
    normal,
    quick_jit,
    unchecked_annotations,
)

import tformer_jax.functional as F

both = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

TOLERANCE = {jnp.float32: 2e-5, jnp.float16: 4e-3, jnp.bfloat16: 3e-2}

# B, T, S, K, G = N / K, H: single elements, one block, several, ragged; MHA, GQA and MQA.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 5, 1, 2, 4),
    (1, 9, 9, 2, 1, 2),
    (2, 5, 17, 2, 2, 3),
    (1, 8, 16, 1, 3, 2),
    (1, 1, 10, 2, 2, 2),
]


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with block_sizes(4, 8):
        yield


@functools.cache  # cases of one shape and structure share their compilation
def value_and_gradients(implementation, scale, softcap, jit):
    def run(q, k, v, bias, mask, d_out):
        def attention(q, k, v, bias):
            return F.scaled_dot_product_attention(
                q, k, v, mask=mask, bias=bias, scale=scale, logit_softcap=softcap, implementation=implementation
            )

        out, backward = jax.vjp(attention, q, k, v, bias)
        return out, *backward(d_out)

    return jit(run)


@dataclasses.dataclass
class Case:
    q: Any
    k: Any
    v: Any
    d_out: Any
    mask: Any = None
    allowed: Any = None
    bias: Any = None
    scale: float | None = None
    softcap: float | None = None

    def oracle(self):
        """Output, dq, dk, dv, d_bias from the numbers that the dtype can hold."""
        args = (self.allowed, self.bias if self.bias is None else oracles.f64(self.bias), self.scale)
        q, k, v, d_out = (oracles.f64(x) for x in (self.q, self.k, self.v, self.d_out))
        out = oracles.attention(q, k, v, *args, softcap=self.softcap)
        return out, *oracles.attention_gradients(q, k, v, d_out, *args, softcap=self.softcap)

    def run(self, implementation, jit=quick_jit):
        """The same five from the library."""

        run = value_and_gradients(implementation, self.scale, self.softcap, jit)
        return run(self.q, self.k, self.v, self.bias, self.mask, self.d_out)

    def check(self, implementation, tolerance):
        names = ("output", "dq", "dk", "dv", "d_bias")
        for name, got, wanted in zip(names, self.run(implementation), self.oracle(), strict=True):
            if wanted is None:
                assert got is None
            else:
                assert_close(got, wanted, tolerance, name)


def make_case(seed, shape, dtype=jnp.float32, magnitude=1.0, **fields):
    B, T, S, K, G, H = shape
    query, key = (B, T, K * G, H), (B, S, K, H)
    q, k, v, d_out = (normal(4 * seed + i, *s, dtype=dtype) for i, s in enumerate((query, key, key, query)))
    return Case(q * dtype(magnitude), k, v, d_out, **fields)


@st.composite
def masks(draw, B, N, T, S):
    """(AttentionMask, the same relation as an array written by loops)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    chosen = draw(st.sets(st.sampled_from(("causal", "window", "lengths", "segments", "explicit", "positions"))))
    fields: dict[str, Any] = {}
    if "causal" in chosen:
        fields["causal"] = True
    if "window" in chosen:
        fields["window"] = draw(st.integers(1, S))
    if "lengths" in chosen:
        fields["lengths"] = rng.integers(0, S + 1, B)
    if "segments" in chosen:
        pair = (np.sort(rng.integers(0, 3, (B, T))), np.sort(rng.integers(0, 3, (B, S))))
        fields["segments"] = pair[0] if T == S and draw(st.booleans()) else pair
    if "explicit" in chosen:
        shape = draw(st.sampled_from([(T, S), (B, N, T, S), (1, 1, 1, S), (B, 1, T, 1)]))
        fields["explicit"] = rng.random(shape) < 0.7
    if "positions" in chosen:
        fields["query_positions"] = draw(st.sampled_from([np.arange(T) + S - T, rng.integers(0, S, (B, T))]))
    allowed = oracles.mask_by_loops(
        B, N, T, S, **{"query_pos" if name == "query_positions" else name: x for name, x in fields.items()}
    )
    return F.AttentionMask(**{name: _device(x) for name, x in fields.items()}), allowed


def _device(x):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, x)


@st.composite
def cases(draw, dtype):
    shape = draw(st.sampled_from(SHAPES))
    B, T, S, K, G, H = shape
    case = make_case(draw(st.integers(0, 99)), shape, dtype, draw(st.sampled_from([0.5, 1.0, 4.0])))
    if draw(st.booleans()):
        case.mask, case.allowed = draw(masks(B, K * G, T, S))
    if draw(st.booleans()):
        wide = draw(st.sampled_from([(T, S), (1, S), (K * G, T, S), (B, 1, T, S), (1, K * G, 1, S), (B, K * G, T, 1)]))
        case.bias = normal(7, *wide, dtype=dtype)
    case.scale = draw(st.sampled_from([None, None, 0.3, -0.5]))
    case.softcap = draw(st.sampled_from([None, 1.5]))
    return case


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_oracles_agree_with_central_differences(softcap):
    """The hand-derived backward of the oracle is wrong."""
    rng = np.random.default_rng(0)
    q, k, v, d_out = (rng.standard_normal(s) for s in ((2, 3, 4, 2), (2, 5, 2, 2), (2, 5, 2, 2), (2, 3, 4, 2)))
    allowed = rng.random((2, 4, 3, 5)) < 0.6
    allowed[0, 0, 0] = False
    bias, kept = rng.standard_normal((4, 1, 5)), 2.0 * (rng.random((2, 4, 3, 5)) < 0.5)
    gradients = oracles.attention_gradients(q, k, v, d_out, allowed, bias, 0.6, kept, softcap)
    for i, gradient in enumerate(gradients):
        arrays = [q, k, v, bias]

        def loss(x, i=i, arrays=arrays):
            q, k, v, bias = (x if j == i else a for j, a in enumerate(arrays))
            return (d_out * oracles.attention(q, k, v, allowed, bias, 0.6, kept, softcap)).sum()

        assert_close(gradient, oracles.central_differences(loss, arrays[i]), 1e-8, "qkvb"[i])


@both
@examples(5)
@given(cases(jnp.float32))
def test_value_and_gradients_match_the_formula(implementation, case):
    """The output, or the gradient of q, k, v or the bias, is not softmax(scale QK^T + bias) V, or is capped wrongly."""
    case.check(implementation, TOLERANCE[jnp.float32])


@pytest.mark.slow
@both
@examples(40)
@given(cases(jnp.float32))
def test_value_and_gradients_match_the_formula_in_many_cases(implementation, case):
    """As above."""
    case.check(implementation, TOLERANCE[jnp.float32])


@both
@pytest.mark.parametrize("dtype", by_day([jnp.bfloat16, jnp.float16], 0))
@examples(2)
@given(data=st.data())
def test_low_precision_matches_the_formula(implementation, dtype, data):
    """A 16-bit input costs more than the rounding of 16-bit inputs and outputs, or comes back as another dtype."""
    case = data.draw(cases(dtype))
    case.check(implementation, TOLERANCE[dtype])
    assert {x.dtype for x in case.run(implementation) if x is not None} == {jnp.dtype(dtype)}


@both
@examples(8)
@given(seed=st.integers(0, 99), masked=st.booleans())
def test_logits_at_the_edge_of_overflow_are_exact(implementation, seed, masked):
    """Logits of 4e37 overflow, or exp of their difference does.

    Small integers times 2^61 make every product exact, so that equal logits are equal and the
    softmax is a mean over the ties.
    """
    B, T, S, K, G, H = 1, 5, 17, 2, 2, 4
    rng = np.random.default_rng(seed)
    whole = [rng.integers(-2, 3, s).astype(np.float64) for s in ((B, T, K * G, H), (B, S, K, H), (B, S, K, H))]
    q, k, v = whole[0] * 2.0**61, whole[1] * 2.0**61, whole[2]
    assert np.abs(oracles.attention_scores(q, k)).max() > 1e37
    case = Case(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), normal(seed, B, T, K * G, H))
    if masked:
        case.mask, case.allowed = F.AttentionMask(causal=True), oracles.mask_by_loops(B, K * G, T, S, causal=True)
    got, wanted = case.run(implementation), case.oracle()
    # d_score is a difference of numbers around 1, rounded, which dq and dk multiply by keys and queries.
    for name, x, y, scale in zip(("output", "dq", "dk", "dv"), got, wanted, (1.0, 2.0**62, 2.0**62, 1.0), strict=False):
        assert_close(np.asarray(x, np.float64) / scale, y / scale, 1e-6, name)


@both
@pytest.mark.parametrize("magnitude", [1e4, 1e9, 3e18])
@pytest.mark.parametrize("with_bias", [False, True])
def test_huge_logits_stay_finite(implementation, magnitude, with_bias):
    """A maximum that is rounded otherwise than the scores it is subtracted from overflows exp.

    Compiled as users compile it: the compiler may fuse the scale and the subtraction into one rounding.
    """
    shape = (1, 9, 17, 1, 2, 3)
    case = make_case(1, shape, magnitude=1.0)
    limit = np.sqrt(magnitude) if magnitude < 1e18 else magnitude
    case.q, case.k = (jnp.clip(x, -1, 1) * limit for x in (case.q, case.k))
    case.bias = normal(2, 9, 17, scale=limit) if with_bias else None
    out, *gradients = case.run(implementation, jax.jit)
    assert all(bool(jnp.isfinite(x).all()) for x in (out, *gradients) if x is not None)
    assert float(jnp.abs(out).max()) <= float(jnp.abs(case.v).max()) * 1.001
    assert float(jnp.abs(out).min(axis=(0, 1, 3)).max()) > 0


@both
@pytest.mark.parametrize("magnitude", [1.0, 1e6])
def test_the_cap_is_inside_of_bias_and_mask(implementation, magnitude):
    """Bias or mask are capped too (a hidden key would be seen), scores exceed the cap, or its gradient is wrong.

    At 10^6 the tanh is saturated: the gradient of q and k is all but 0 and must not be NaN.
    """
    allowed = np.random.default_rng(0).random((2, 4, 5, 17)) < 0.7
    case = make_case(7, (2, 5, 17, 2, 2, 3), magnitude=magnitude, bias=normal(1, 5, 17, scale=8.0), softcap=2.0)
    case.mask, case.allowed = jnp.asarray(allowed), allowed
    case.check(implementation, TOLERANCE[jnp.float32])


@both
def test_a_query_without_keys_gets_zeros_in_value_and_gradient(implementation):
    """A fully masked row is NaN, or uniform, or leaks a gradient."""
    case = make_case(3, (2, 5, 9, 1, 2, 3), bias=normal(1, 2, 5, 9))
    allowed = np.random.default_rng(0).random((2, 2, 5, 9)) < 0.5
    allowed[0, :, 2], allowed[1, 1], allowed[:, :, :, 4] = False, False, False
    case.mask, case.allowed = jnp.asarray(allowed), allowed
    out, dq, dk, dv, d_bias = case.run(implementation)
    for name, x in (("output", out[0, 2]), ("dq", dq[0, 2]), ("output", out[1, :, 1]), ("dq", dq[1, :, 1])):
        np.testing.assert_array_equal(x, 0.0, err_msg=name)
    for name, x in (("dk", dk[:, 4]), ("dv", dv[:, 4]), ("d_bias", d_bias[:, :, 4])):
        np.testing.assert_array_equal(x, 0.0, err_msg=name)
    case.check(implementation, TOLERANCE[jnp.float32])


@both
def test_a_bias_of_minus_infinity_hides_like_a_mask(implementation):
    """-inf from `mask_to_bias` turns into NaN in the value or in the gradient."""
    allowed = np.tril(np.ones((9, 9), bool), -1)  # the first row sees nothing
    case = make_case(4, (1, 9, 9, 1, 2, 2), bias=F.mask_to_bias(jnp.asarray(allowed)))
    case.check(implementation, TOLERANCE[jnp.float32])
    np.testing.assert_array_equal(case.run(implementation)[0][:, 0], 0.0)


@both
def test_query_heads_share_key_heads_in_order(implementation):
    """Head n of N uses another key head than n // (N / K): a checkpoint's heads would be shuffled."""
    q, k, v = normal(0, 1, 3, 6, 2), normal(1, 1, 9, 2, 2), normal(2, 1, 9, 2, 2)

    def run(q, k, v):
        grouped = F.scaled_dot_product_attention(q, k, v, implementation=implementation)
        heads = [
            F.scaled_dot_product_attention(q[:, :, n : n + 1], k[:, :, j : j + 1], v[:, :, j : j + 1])
            for n, j in enumerate((0, 0, 0, 1, 1, 1))
        ]
        return grouped, jnp.concatenate(heads, axis=2)

    assert_close(*quick_jit(run)(q, k, v), 1e-6)


@both
def test_biases_of_every_rank_broadcast(implementation):
    """A bias [T S], [N T S] or [B N T S] is added to other scores than it should, or its gradient is."""
    for seed, shape in enumerate(((5, 9), (4, 5, 9), (2, 4, 5, 9))):
        make_case(seed, (2, 5, 9, 2, 2, 2), bias=normal(seed, *shape)).check(implementation, TOLERANCE[jnp.float32])


@pytest.mark.parametrize("softcap", [None, 0.5])
def test_attention_weights_are_the_softmax_and_sum_to_one(softcap):
    """The weights are not the formula's; a row does not sum to 1 (or to 0 where nothing may be seen)."""
    case = make_case(5, (2, 4, 7, 2, 2, 3))
    bias = normal(9, 4, 4, 7)
    mask = F.AttentionMask(lengths=jnp.array([5, 0]))
    allowed = oracles.mask_by_loops(2, 4, 4, 7, lengths=[5, 0])
    options = dict(mask=mask, bias=bias, scale=0.7, logit_softcap=softcap)
    weights = quick_jit(lambda q, k: F.attention_weights(q, k, **options))(case.q, case.k)
    assert_close(weights, oracles.attention_weights(case.q, case.k, allowed, bias, 0.7, softcap), 1e-6)
    np.testing.assert_allclose(weights.sum(-1), np.array([1.0, 0.0])[:, None, None] * np.ones((2, 4, 4)), atol=1e-6)


@both
def test_values_may_be_of_another_width(implementation):
    """Values are refused, cut or padded to the width of the keys."""
    for width in (1, 5):
        case = make_case(9, (2, 5, 9, 2, 2, 3), bias=normal(1, 5, 9), softcap=1.5)
        case.v, case.d_out = normal(2, 2, 9, 2, width), normal(3, 2, 5, 4, width)
        case.check(implementation, TOLERANCE[jnp.float32])


@both
@pytest.mark.parametrize("sides", by_day([((2, 0),), ((0, 3),), ((1, 2),), ((0, 0),)], 2))
def test_the_sides_of_a_window_may_differ(implementation, sides):
    """A query sees more or fewer keys before or after it than it should, or a block of them is skipped."""
    case = make_case(10, (2, 13, 17, 1, 2, 3))
    case.mask, places = F.AttentionMask(window=sides), np.arange(17) - np.arange(13)[:, None]
    case.allowed = np.broadcast_to((places >= -sides[0]) & (places <= sides[1]), (2, 2, 13, 17))
    case.check(implementation, TOLERANCE[jnp.float32])


@pytest.mark.parametrize("softcap", [None, 0.5])
def test_scores_are_what_the_softmax_is_of(softcap):
    """What one looks at before the softmax lacks the scale, the cap, the bias or the mask."""
    q, k, bias = normal(0, 2, 4, 4, 3), normal(1, 2, 7, 2, 3), normal(9, 4, 4, 7)
    options = dict(mask=F.AttentionMask(lengths=jnp.array([5, 0])), bias=bias, scale=0.7, logit_softcap=softcap)
    scores = np.asarray(quick_jit(lambda q, k: F.attention_scores(q, k, **options))(q, k))
    allowed = oracles.mask_by_loops(2, 4, 4, 7, lengths=[5, 0])
    np.testing.assert_array_equal(scores == -np.inf, ~allowed)
    wanted = oracles.attention_scores(q, k, None, bias, 0.7, softcap)
    np.testing.assert_allclose(scores[allowed], wanted[allowed], atol=1e-5)


def test_boolean_arrays_are_masks():
    """[T S], [B N T S] or an array that broadcasts to it hides other pairs than it says; True = may attend."""
    q, k = normal(0, 2, 3, 4, 2), normal(1, 2, 5, 2, 2)
    arrays = [np.random.default_rng(i).random(s) < 0.6 for i, s in enumerate([(3, 5), (2, 4, 3, 5), (2, 1, 1, 5)])]
    run = quick_jit(lambda q, k, masks: [F.attention_weights(q, k, mask=mask) for mask in masks])
    for got, array in zip(run(q, k, [jnp.asarray(array) for array in arrays]), arrays, strict=True):
        wanted = oracles.attention_weights(q, k, np.broadcast_to(array, (2, 4, 3, 5)))
        assert_close(got, wanted, 1e-6, str(array.shape))


def test_softmax_is_in_float32_for_bfloat16_inputs():
    """Weights are rounded to bfloat16, or summed in it (where 256 + 1 = 256)."""
    q, k = normal(0, 1, 3, 2, 4, scale=3.0, dtype=jnp.bfloat16), normal(1, 1, 40, 1, 4, dtype=jnp.bfloat16)
    weights = quick_jit(F.attention_weights)(q, k)
    assert weights.dtype == jnp.float32
    assert_close(weights, oracles.attention_weights(oracles.f64(q), oracles.f64(k)), 1e-6)


@both
def test_the_mean_of_many_bfloat16_values_is_their_mean(implementation):
    """The weighted sum over 1024 keys accumulates in bfloat16: ones would average to less than 1."""
    q, k = jnp.zeros((1, 1, 1, 2), jnp.bfloat16), jnp.zeros((1, 1024, 1, 2), jnp.bfloat16)
    with block_sizes(4, 256):
        out = quick_jit(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, implementation=implementation))(
            q, k, jnp.ones_like(k)
        )
    np.testing.assert_array_equal(out.astype(jnp.float32), 1.0)


@both
def test_traced_masks_and_vmap_give_the_same(implementation):
    """Lengths that are known only at run time, or a batch axis from vmap, change the result."""
    case = make_case(6, (3, 5, 17, 1, 2, 2))
    lengths = jnp.array([17, 3, 9])

    def one(q, k, v, length):
        mask = F.AttentionMask(causal=True, lengths=length[None])
        row = (x[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(*row, mask=mask, implementation=implementation)[0]

    allowed = oracles.mask_by_loops(3, 2, 5, 17, causal=True, lengths=[17, 3, 9])
    out = quick_jit(jax.vmap(one))(case.q, case.k, case.v, lengths)
    assert_close(out, oracles.attention(case.q, case.k, case.v, allowed), 1e-5)


# Dropout ---------------------------------------------------------------------------------------


def dropped_attention(implementation, rate):
    def run(q, k, v, key):
        return F.scaled_dot_product_attention(q, k, v, dropout_rate=rate, key=key, implementation=implementation)

    return run


@both
def test_dropout_follows_the_key(implementation):
    """The same key gives another result, another key the same, or no key drops something."""
    case = make_case(8, (1, 5, 9, 1, 2, 3))
    run = quick_jit(dropped_attention(implementation, 0.5))
    first, again, other = (run(case.q, case.k, case.v, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    without = quick_jit(dropped_attention(implementation, 0.5))(case.q, case.k, case.v, None)
    assert_close(without, oracles.attention(case.q, case.k, case.v), 1e-5)


@both
def test_dropout_gradient_is_that_of_the_weights_it_dropped(implementation):
    """The backward pass drops other weights than the forward pass, or differentiates them wrongly.

    With v = identity the output *is* the dropped weights, so the oracle reads off what was kept.
    """
    S = 9
    q, k, d_out = normal(0, 2, 6, 2, S, scale=0.5), normal(1, 2, S, 1, S, scale=0.5), normal(2, 2, 6, 2, S)
    v = normal(3, 2, S, 1, S)
    eye = jnp.broadcast_to(jnp.eye(S)[:, None], (2, S, 1, S))

    def gradients(q, k, v, d_out, key):
        out, backward = jax.vjp(lambda *a: dropped_attention(implementation, 0.4)(*a, key), q, k, v)
        return out, *backward(d_out)

    run = quick_jit(gradients)
    key = jax.random.key(3)
    dropped = np.asarray(run(q, k, eye, d_out, key)[0]).transpose(0, 2, 1, 3)
    kept = dropped / oracles.attention_weights(q, k)
    assert 0.2 < (kept == 0).mean() < 0.6
    np.testing.assert_allclose(kept[kept > 0], 1 / 0.6, rtol=1e-4)
    out, *got = run(q, k, v, d_out, key)
    assert_close(out, oracles.attention(q, k, v, kept=kept), 1e-5)
    wanted = oracles.attention_gradients(q, k, v, d_out, kept=kept)
    for name, a, b in zip(("dq", "dk", "dv"), got, wanted, strict=False):
        assert_close(a, b, 3e-5, name)


@both
def test_a_traced_rate_is_an_argument_where_weights_are_computed_again(implementation):
    """`jax.checkpoint` takes the rate for a constant: a program compiled ahead of time then lacks an argument."""
    case = make_case(8, (1, 5, 9, 1, 2, 3))
    arrays, key = (case.q, case.k, case.v), jax.random.key(3)

    def gradients(rate, *arrays):
        attend = jax.checkpoint(lambda *a: dropped_attention(implementation, rate)(*a, key))
        return jax.grad(lambda *a: jnp.sin(attend(*a)).sum(), argnums=(0, 1, 2))(*arrays)

    got = quick_jit(gradients).lower(0.1, *arrays).compile()(0.4, *arrays)
    for a, b in zip(got, quick_jit(functools.partial(gradients, 0.4))(*arrays), strict=True):
        assert_close(a, b, 1e-5)


@both
def test_dropout_keeps_the_mean(implementation):
    """Dropped weights sum to something else than 1 on average."""
    q, k, v = normal(0, 2, 64, 4, 2), normal(1, 2, 64, 4, 2), jnp.ones((2, 64, 4, 2))
    with block_sizes(32, 32):
        out = quick_jit(dropped_attention(implementation, 0.25))(q, k, v, jax.random.key(0))
    assert abs(float(out.mean()) - 1.0) < 0.02
    assert float(out.std()) > 0.01


# Errors ----------------------------------------------------------------------------------------


def call(q=None, **changes):
    q = jnp.ones((2, 3, 4, 2)) if q is None else q
    return F.scaled_dot_product_attention(q, jnp.ones((2, 5, 2, 2)), jnp.ones((2, 5, 2, 2)), **changes)


@both
@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ValueError, "3 query heads are not a multiple of 2", dict(q=jnp.ones((2, 3, 3, 2)))),
        (ValueError, r"got shape \(2, 3, 5\)", dict(mask=jnp.ones((2, 3, 5), bool))),
        (ValueError, r"got shape \(2, 3, 5\)", dict(mask=F.AttentionMask(explicit=jnp.ones((2, 3, 5), bool)))),
        (TypeError, "mask must be boolean.*float32.*bias", dict(mask=jnp.zeros((3, 5)))),
        (TypeError, "mask must be boolean", dict(mask=F.AttentionMask(explicit=jnp.zeros((3, 5), int)))),
        (ValueError, r"mask must broadcast.*\(3, 6\)", dict(mask=jnp.ones((3, 6), bool))),
        (ValueError, r"mask must broadcast.*\(4, 5\)", dict(mask=jnp.ones((4, 5), bool))),
        (ValueError, r"bias must broadcast.*\(3, 4\)", dict(bias=jnp.zeros((3, 4)))),
        (ValueError, r"bias must broadcast.*\(1, 2, 4, 3, 5\)", dict(bias=jnp.zeros((1, 2, 4, 3, 5)))),
        (ValueError, r"lengths .*\(3,\)", dict(mask=F.AttentionMask(lengths=jnp.ones(3, int)))),
        (ValueError, r"query_positions .*\(4,\)", dict(mask=F.AttentionMask(query_positions=jnp.arange(4)))),
        (ValueError, r"key_positions .*\(4,\)", dict(mask=F.AttentionMask(key_positions=jnp.arange(4)))),
        (ValueError, r"segments of the keys.*\(2, 3\)", dict(mask=F.AttentionMask(segments=jnp.ones((2, 3), int)))),
        (ValueError, "logit_softcap must be a positive number, got 0.0", dict(logit_softcap=0.0)),
        (ValueError, "logit_softcap must be a positive number, got -2.0", dict(logit_softcap=-2.0)),
        (ValueError, r"dropout rate must be in \[0, 1\), got 1.0", dict(dropout_rate=1.0, key=jax.random.key(0))),
        (ValueError, r"dropout rate must be in \[0, 1\), got -0.1", dict(dropout_rate=-0.1)),
    ],
)
def test_what_cannot_be_is_refused(implementation, error, message, changes):
    """A wrong argument is sliced, clamped or broadcast into a result."""
    with pytest.raises(error, match=message):
        call(**changes, implementation=implementation)


@both
@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ValueError, r"v must have k's shape \(2, 5, 2, 2\), got \(2, 1, 2, 2\)", dict(v=jnp.ones((2, 1, 2, 2)))),
        (ValueError, r"v must have k's shape .*, got \(2, 5, 1, 2\)", dict(v=jnp.ones((2, 5, 1, 2)))),
        (ValueError, r"k must be \[B S K H\] with q's B=2 and H=2", dict(k=jnp.ones((2, 5, 2, 1)))),
        (ValueError, r"k must be \[B S K H\] .*got shape \(1, 5, 2, 2\)", dict(k=jnp.ones((1, 5, 2, 2)))),
        (TypeError, "q must be floats, got int32", dict(q=jnp.ones((2, 3, 4, 2), jnp.int32))),
        (TypeError, "v must be floats, got int32", dict(v=jnp.ones((2, 5, 2, 2), jnp.int32))),
    ],
)
def test_keys_and_values_that_would_be_broadcast_are_refused(implementation, error, message, changes):
    """One key would stand for all of them, or integers be averaged to zeros."""
    q, k = jnp.ones((2, 3, 4, 2)), jnp.ones((2, 5, 2, 2))
    arrays = {"q": q, "k": k, "v": k} | changes
    with unchecked_annotations(), pytest.raises(error, match=message):
        F.scaled_dot_product_attention(**arrays, implementation=implementation)


REFUSED = [
    (ValueError, "needs heads and a head width, got .*H=0", dict(q=np.ones((2, 3, 4, 0)), k=np.ones((2, 5, 2, 0)))),
    (ValueError, "got N=0, K=0", dict(q=np.ones((2, 3, 0, 2)), k=np.ones((2, 5, 0, 2)))),
    (ValueError, "got N=4, K=0", dict(k=np.ones((2, 5, 0, 2)))),
    (ValueError, "attention needs queries and keys, got T=0", dict(q=np.ones((2, 0, 4, 2)))),
    (ValueError, "attention needs queries and keys, got T=3, S=0", dict(k=np.ones((2, 0, 2, 2)))),
    (ValueError, r"q must be \[B T N H\], got the shape \(2, 3, 4\)", dict(q=np.ones((2, 3, 4)))),
    (ValueError, "v must have k's shape .*not be 0", dict(v=np.ones((2, 5, 2, 0)))),
    (TypeError, "q must be an array, got a list", dict(q=[[[[1.0]]]])),
    (TypeError, "v must be an array, got None", dict(v=None)),
    (TypeError, "bias must be an array, got a list", dict(bias=[0.0])),
    (TypeError, "mask must be an array, got a list", dict(mask=[True])),
    (TypeError, "bias must be floats, got int32", dict(bias=np.ones((3, 5), np.int32))),
    (ValueError, r"bias must broadcast.*\(2, 3, 5\)", dict(bias=np.ones((2, 3, 5), np.float32))),
    (ValueError, r"mask must broadcast.*\(2, 3, 5\)", dict(mask=np.ones((2, 3, 5), bool))),
    (TypeError, "scale must be a number, got 'x'", dict(scale="x")),
    (TypeError, r"scale must be a number, got the shape \(4,\)", dict(scale=np.ones(4))),
    (ValueError, "scale must be finite, got nan", dict(scale=math.nan)),
    (TypeError, "dropout rate must be a number, got None", dict(dropout_rate=None)),
    (TypeError, "lengths must be integers, got float32", dict(mask=F.AttentionMask(lengths=jnp.ones(2)))),
    (TypeError, "key must be a key, as jax.random.key", dict(dropout_rate=0.1, key=0)),
    (TypeError, "segments of the keys must be an arr", dict(mask=F.AttentionMask(segments=(np.ones((2, 3), int), [])))),
]  # fmt: skip


def test_what_is_no_attention_is_refused_in_one_line():
    """Empty heads give NaN, lists and missing axes a message of some einsum, three axes other sums in mask and bias."""
    arrays = {"q": np.ones((2, 3, 4, 2)), "k": np.ones((2, 5, 2, 2)), "v": np.ones((2, 5, 2, 2))}
    with unchecked_annotations():
        for error, message, changes in REFUSED:
            with pytest.raises(error, match=message) as caught:
                F.scaled_dot_product_attention(**(arrays | changes))
            assert "\n" not in str(caught.value)


@both
def test_an_empty_batch_is_an_empty_batch(implementation):
    """No rows give NaN, or an error about something else."""
    q, k = jnp.ones((0, 3, 4, 2)), jnp.ones((0, 5, 2, 2))
    mask = F.AttentionMask(causal=True, lengths=jnp.ones(0, int))
    out = F.scaled_dot_product_attention(q, k, k, mask=mask, implementation=implementation)
    assert out.shape == (0, 3, 4, 2)


@pytest.mark.parametrize("shape", by_day([((4, 3, 5),), ((1, 3, 5),), ((5,),), ((),)], 0, 3))
def test_a_mask_broadcasts_as_a_bias_does(shape):
    """The same shape belongs to other heads or rows in a mask than in a bias, or is refused in one of them."""
    q, k, v = normal(0, 2, 3, 4, 2), normal(1, 2, 5, 2, 2), normal(2, 2, 5, 2, 2)
    mask = jnp.asarray(np.random.default_rng(0).random(shape) < 0.6)
    got = F.scaled_dot_product_attention(q, k, v, mask=mask)
    np.testing.assert_allclose(got, F.scaled_dot_product_attention(q, k, v, bias=F.mask_to_bias(mask)), atol=1e-6)


def sigmoid_attention(q, k, v, mask, bias, options, key):
    """A kernel as a user writes one."""
    weights = jax.nn.sigmoid(F.kernels.masked_scores(q, k, mask, bias, options) - np.log(k.shape[1]))
    return F.kernels.weighted_sum(F.dropout(weights, options.dropout_rate, key), v)


def test_any_function_is_an_implementation():
    """A kernel from outside is refused, told another mask, bias or scale, has its heads in another order, or hands out the
    weights of a softmax."""
    q, k, v = normal(0, 2, 3, 4, 2), normal(1, 2, 5, 2, 2), normal(2, 2, 5, 2, 3)
    mask, bias = F.AttentionMask(causal=True) | F.AttentionMask(prefix=jnp.array([2, 4])), normal(3, 4, 3, 5)
    run = functools.partial(F.scaled_dot_product_attention, mask=mask, bias=bias, scale=0.3)
    out, gradients = jax.value_and_grad(lambda *x: run(*x, implementation=sigmoid_attention).sum(), (0, 1, 2))(q, k, v)
    scores = F.attention_scores(q, k, mask=mask, bias=bias, scale=0.3)
    weights = np.where(np.isfinite(scores), 1 / (1 + 5 * np.exp(-np.maximum(scores, -9))), 0)
    np.testing.assert_allclose(out, np.einsum("bnts,bsnh->", weights, np.repeat(v, 2, axis=2)), rtol=1e-5)
    assert all(np.isfinite(g).all() for g in gradients)
    handed_out = F.attention_weights(q, k, mask=mask, bias=bias, scale=0.3, implementation=sigmoid_attention)
    np.testing.assert_allclose(handed_out, weights, rtol=1e-5)
    F.kernels.KERNELS.register("sigmoid of this test")(sigmoid_attention)
    np.testing.assert_array_equal(run(q, k, v, implementation="sigmoid of this test").sum(), out)
    with pytest.raises(ValueError, match="implementation must be one of .*; did you mean 'blockwise'?"):
        run(q, k, v, implementation="blockwize")
    with pytest.raises(ValueError, match=r"what the attention kernel returns must have the shape \(2, 3, 4, 3\), got"):
        run(q, k, v, implementation=lambda q, *_: q)


def test_the_weights_of_a_kernel_of_ones_own_are_float32():
    """Weights of narrow queries would be rounded to three digits, and a row of them not sum to what it does."""
    q, k = (normal(i, 2, 3, 2, 4).astype(jnp.bfloat16) for i in range(2))
    found = F.attention_weights(q, k, implementation=sigmoid_attention)
    scores = np.einsum("btnh,bsnh->bnts", *(np.asarray(x, np.float64) for x in (q, k))) / 2
    np.testing.assert_allclose(found, 1 / (1 + 3 * np.exp(-scores)), rtol=1e-5)


def test_an_unknown_implementation_is_refused_with_the_known_ones():
    """A misspelt implementation falls back to some other."""
    with pytest.raises(ValueError, match="implementation must be one of (?=.*reference)(?=.*blockwise).*got 'flash'"):
        call(implementation="flash")
    with unchecked_annotations(), pytest.raises(ValueError, match=r"implementation must be one of .*got \['flash'\]"):
        call(implementation=["flash"])


def test_auto_is_dense_when_small_and_blockwise_when_large():
    """ "auto" holds [T S] scores at any length, or gives up the fast path for short sequences."""
    for length, dense in ((512, True), (8192, False)):
        x = jax.ShapeDtypeStruct((1, length, 1, 2), jnp.float32)
        program = jax.make_jaxpr(F.scaled_dot_product_attention)(x, x, x)
        shapes = [v.aval.shape for e in equations(program) for v in e.outvars]
        assert any(shape[-2:] == (length, length) for shape in shapes) == dense


# Multi-head attention --------------------------------------------------------------------------


def params(D, C, N, K, H, biases):
    shapes = [(D, N, H), (C, K, H), (C, K, H), (N, H, D), (N, H), (K, H), (K, H), (D,)]
    return F.AttentionParams(*(normal(i, *s) if i < 4 or biases else None for i, s in enumerate(shapes)))


@pytest.mark.parametrize(
    ("D", "C", "N", "K", "biases", "softcap"),
    [(6, 6, 2, 2, True, None), (6, 4, 4, 2, True, None), (4, 4, 3, 1, False, 1.5)],
    ids=str,
)
def test_multi_head_attention_is_concat_heads_times_w_o(D, C, N, K, biases, softcap):
    """Projections, order of heads, a bias, mask or cap go wrong in self- or cross-attention (C is the context's)."""
    held = params(D, C, N, K, 3, biases)
    x, context = normal(20, 2, 4, D), normal(21, 2, 5, C)
    allowed = np.random.default_rng(1).random((2, N, 4, 5)) < 0.8
    run = quick_jit(F.multi_head_attention, static_argnames="logit_softcap")
    out = run(x, context, held, mask=jnp.asarray(allowed), logit_softcap=softcap)
    arrays = [0 if p is None else p for p in held]
    assert_close(out, oracles.multi_head_attention(x, context, *arrays, mask=allowed, softcap=softcap), 1e-5)


def test_multi_head_attention_takes_keys_that_are_projected_and_prepares_heads():
    """A cache's keys and values are projected again, or what is done to heads comes after they met, or is left out."""
    held, x, context = params(6, 4, 4, 2, 3, True), normal(20, 2, 4, 6), normal(21, 2, 5, 4)
    turn = lambda q, k, v: (jnp.flip(q, 1), 2 * k, -v)
    q, k, v = F.project_qkv(x, context, held)
    wanted = F.combine_heads(F.scaled_dot_product_attention(*turn(q, k, v)), held)
    for seen in (context, (k, v)):
        assert_close(F.multi_head_attention(x, seen, held, prepare=turn), wanted, 1e-6)


PROJECTIONS = {
    "params must be AttentionParams, got a tuple": lambda x, p: F.project_qkv(x, x, tuple(p)),
    "context must be an array, got None": lambda x, p: F.multi_head_attention(x, None, p),
    r"w_k must be \[D N H\] with context's D=5": lambda x, p: F.multi_head_attention(x, x[..., :5], p),
    "w_v must be an array, got None": lambda x, p: F.project_qkv(x, x, p._replace(w_v=None)),
    r"b_k must have the shape \(2, 2\), got \(1, 2\)": lambda x, p: F.project_qkv(x, x, p._replace(b_k=p.b_k[:1])),
    "b must be an array, got a list": lambda x, p: F.project_heads(x, p.w_q, [1.0]),
    r"w_o must have the shape \(4, 3, 6\), got \(4, 2, 6\)": lambda x, p: F.combine_heads(normal(0, 2, 3, 4, 3), p),
    r"heads must be \[B T N Hv\], got the shape \(2, 3, 6\)": lambda x, p: F.combine_heads(x, p),
    r"b_o must have the shape \(6,\), got \(2, 3, 6\)": lambda x, p: F.multi_head_attention(x, x, p._replace(b_o=x)),
}


def test_projections_that_cannot_be_are_refused_in_one_line():
    """A bias is broadcast over heads or rows, or some einsum fails without the parameter's name."""
    with unchecked_annotations():
        for message, call_wrongly in PROJECTIONS.items():
            with pytest.raises((TypeError, ValueError), match=f"^{message}[^\n]*$"):
                call_wrongly(normal(0, 2, 3, 6), params(6, 6, 4, 2, 2, True))


def test_project_qkv_takes_keys_and_values_from_the_context():
    """Cross-attention reads keys or values from the queries' side (equation 3, equation 9)."""
    held = params(4, 3, 2, 1, 5, True)
    x, context = normal(0, 1, 2, 4), normal(1, 1, 6, 3)
    q, k, v = F.project_qkv(x, context, held)
    for got, source, w, b in (
        (q, x, held.w_q, held.b_q),
        (k, context, held.w_k, held.b_k),
        (v, context, held.w_v, held.b_v),
    ):
        assert_close(got, np.einsum("btd,dnh->btnh", oracles.f64(source), oracles.f64(w)) + oracles.f64(b), 1e-5)


@both
def test_the_default_scale_is_one_over_root_of_head_width(implementation):
    """Scores are divided by the model's width, or by nothing."""
    q, k, v = normal(0, 1, 3, 2, 5), normal(1, 1, 3, 2, 5), normal(2, 1, 3, 2, 5)

    def run(q, k, v, scale):
        return F.scaled_dot_product_attention(q, k, v, scale=scale, implementation=implementation)

    default, given = quick_jit(lambda *args: [run(*args, scale) for scale in (None, 1 / math.sqrt(5))])(q, k, v)
    np.testing.assert_array_equal(default, given)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_no_key_is_refused_by_name(implementation):
    """JAX says something of the data of a key."""
    x = jnp.ones((1, 2, 1, 2))
    with unchecked_annotations(), pytest.raises(TypeError, match="^key must be a key, as .*got 0$"):
        F.scaled_dot_product_attention(x, x, x, dropout_rate=0.5, key=0, implementation=implementation)


# The choice of a kernel ----------------------------------------------------------------------------


CAUSAL = F.AttentionMask(causal=True)
CHOICES = {
    "many scores": (1024, None, None, "cpu", "blockwise", "reference"),
    "a causal mask on a CPU": (256, CAUSAL, None, "cpu", "blockwise", "reference"),
    "segments too": (256, CAUSAL & F.AttentionMask(segments=jnp.ones((2, 256), int)), None, "cpu", "blockwise", "reference"),
    "few queries": (64, CAUSAL, None, "cpu", "reference", "blockwise"),
    "nothing hidden": (256, None, None, "cpu", "reference", "blockwise"),
    "dropout": (256, CAUSAL, jax.random.key(0), "cpu", "reference", "blockwise"),
    "an accelerator": (256, CAUSAL, None, "gpu", "reference", "blockwise"),
}  # fmt: skip


@pytest.mark.parametrize("why", CHOICES)
def test_the_choice_of_a_kernel_is_explained(why):
    """The reason is another kernel's, or there is none for one that was not taken."""
    T, mask, key, platform, kernel, other = CHOICES[why]
    q = jax.ShapeDtypeStruct((2, T, 2, 4), jnp.float32)
    choice = F.explain_attention(q, q, mask=mask, key=key, platform=platform)
    assert choice.kernel == kernel and all(choice.ruled_out.values())
    assert {kernel, *choice.ruled_out} == {"cudnn", "splash", "blockwise", "reference"} and other in choice.ruled_out


@pytest.mark.parametrize("T", [256, 300])
@pytest.mark.parametrize("segmented", [False, True])
def test_what_is_chosen_for_short_causal_rows_is_the_formula(T, segmented):
    """A block of queries skips a key that one of them sees, or reads another row's."""
    q, k, v, d_out = (normal(i, 2, T, 2, 4) for i in range(4))
    ids = np.sort(np.random.default_rng(0).integers(0, 3, (2, T))) if segmented else np.zeros((2, T), int)
    mask = CAUSAL & F.AttentionMask(segments=jnp.asarray(ids)) if segmented else CAUSAL
    allowed = np.broadcast_to(np.tri(T, dtype=bool) & (ids[:, None, :, None] == ids[:, None, None]), (2, 2, T, T))
    out, pull = jax.vjp(lambda *x: F.scaled_dot_product_attention(*x, mask=mask), q, k, v)
    assert_close(out, oracles.attention(q, k, v, allowed), 1e-5)
    for got, wanted in zip(pull(d_out), oracles.attention_gradients(q, k, v, d_out, allowed), strict=False):
        assert_close(got, wanted, 1e-5)
