"""Attention under every transformation of JAX, against the same of the formula in plain `jax.numpy`."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from support import IMPLEMENTATIONS, assert_close, block_sizes, by_day, normal, quick_jit

import tformer_jax.functional as F

both = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

B, T, S, N, K, H, HV = 2, 4, 7, 2, 1, 3, 2
LENGTHS, POSITIONS = jnp.array([7, 4]), jnp.array([1, 2, 3, 6])
SEGMENTS = jnp.array([[0, 0, 1, 1], [2] * 4]), jnp.array([[0, 0, 1, 1, 1, 1, 0], [2] * 7])
Q, K_, V, BIAS = normal(0, B, T, N, H), normal(1, B, S, K, H), normal(2, B, S, K, HV), normal(3, N, T, S)
DQ, DK, DV, DBIAS = (normal(9 + i, *x.shape) for i, x in enumerate((Q, K_, V, BIAS)))
DIFFERENCES = jnp.arange(S) - jnp.arange(T)[:, None]
SEEN = {
    "nothing": (None, None),
    "causal": (F.AttentionMask(causal=True), DIFFERENCES <= 0),
    "window": (F.AttentionMask(window=(1, 2)), (DIFFERENCES >= -1) & (DIFFERENCES <= 2)),
    "lengths": (F.AttentionMask(lengths=LENGTHS), (jnp.arange(S) < LENGTHS[:, None])[:, None, None]),
    "segments": (F.AttentionMask(segments=SEGMENTS), (SEGMENTS[0][:, :, None] == SEGMENTS[1][:, None])[:, None]),
    "union": (
        F.AttentionMask(causal=True) | ~F.AttentionMask(lengths=LENGTHS),
        (DIFFERENCES <= 0) | (jnp.arange(S) >= LENGTHS[:, None])[:, None, None],
    ),
    "positions": (F.AttentionMask(causal=True, query_positions=POSITIONS), jnp.arange(S) <= POSITIONS[:, None]),
}


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with block_sizes(2, 4):
        yield


def plain(q, k, v, bias, scale, cap, allowed):
    """The formula; every row of these masks sees a key."""
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = cap * jnp.tanh(jnp.einsum("btnh,bsnh->bnts", q, k) * scale / cap) + bias
    weights = jax.nn.softmax(scores if allowed is None else jnp.where(allowed, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def attend(implementation, mask, q, k, v, bias, scale, cap):
    numbers = dict(scale=scale, logit_softcap=cap)
    return F.scaled_dot_product_attention(q, k, v, mask=mask, bias=bias, **numbers, implementation=implementation)


def both_functions(implementation, seen):
    """Two functions of (q, k, v, bias, scale, cap) that are to be one."""
    mask, allowed = SEEN[seen]
    return functools.partial(attend, implementation, mask), lambda *a: plain(*a, allowed)


def close(got, wanted, tolerance=3e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert_close(a, b, tolerance)


X = (Q, K_, V, BIAS, jnp.float32(0.7), jnp.float32(2.0))
DX = (DQ, DK, DV, DBIAS, jnp.float32(0.3), jnp.float32(-0.4))
ALL = tuple(range(len(X)))


def loss(f):
    return lambda *x: jnp.sin(f(*x)).sum()


def hessian_products(f):
    """d/dx (df/dx . dx) in each of the four orders."""
    g = loss(f)
    gradient = lambda *x: jax.grad(g, ALL)(*x)
    slope = lambda *x: jax.jvp(g, x, DX)[1]
    return {
        "forward over reverse": jax.jvp(gradient, X, DX)[1],
        "reverse over forward": jax.grad(slope, ALL)(*X),
        "reverse over reverse": jax.vjp(gradient, *X)[1](DX),
        "forward over forward": jax.jvp(slope, X, DX)[1],
    }


def of_queries(f):
    """Of the queries of one position alone, so that whole matrices are small."""
    return lambda q: loss(f)(Q.at[:, 2:3].set(q), *X[1:])


def stretched(f):
    """A function of one number."""
    return lambda t: loss(f)(t * Q, *X[1:])


def rows(f):
    """A function of one row of the batch: masks of these are the same for every row."""
    return lambda q, k, v, bias: f(q[None], k[None], v[None], bias, 0.7, 2.0)[0]


TRANSFORMATIONS = {
    "value": lambda f: f(*X),
    "jit": lambda f: jax.jit(f)(*X),
    "grad": lambda f: jax.grad(loss(f), ALL)(*X),
    "vjp": lambda f: jax.vjp(f, *X)[1](normal(20, B, T, N, HV)),
    "jvp": lambda f: jax.jvp(f, X, DX),
    "linearize": lambda f: jax.linearize(f, *X)[1](*DX),
    "linear_transpose": lambda f: jax.linear_transpose(lambda v: f(Q, K_, v, *X[3:]), V)(normal(20, B, T, N, HV)),
    "jacfwd": lambda f: jax.jacfwd(of_queries(f))(Q[:, 2:3]),
    "jacrev": lambda f: jax.jacrev(lambda q: f(q, *X[1:])[:, 1, 0])(Q),
    "hessian": lambda f: jax.hessian(of_queries(f))(Q[:, 2:3]),
    "hessian-vector products": hessian_products,
    "third derivative": lambda f: jax.grad(lambda t: jax.jvp(jax.grad(stretched(f)), (t,), (1.0,))[1])(1.0),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(loss(f)), ALL)(*X),
    "scan": lambda f: jax.grad(lambda t: jax.lax.scan(lambda s, _: (s + stretched(f)(s), None), t, length=2)[0])(1.0),
}  # fmt: skip
BY_ROWS = {
    "vmap": lambda f: jax.vmap(rows(f), (0, 0, 0, None))(*X[:4]),
    "nested vmap": lambda f: jax.vmap(jax.vmap(rows(f), (0, 0, 0, None)), (None, None, 0, 0))(
        Q, K_, jnp.stack([V, 2 * V]), jnp.stack([BIAS, -BIAS])),
    "vmap of grad": lambda f: jax.vmap(jax.grad(loss(rows(f)), (0, 1, 2)), (0, 0, 0, None))(*X[:4]),
    "grad of vmap": lambda f: jax.grad(lambda q: jnp.sin(jax.vmap(rows(f), (0, 0, 0, None))(q, *X[1:4])).sum())(Q),
    "vmap of hessian product": lambda f: jax.vmap(
        lambda q, d, k, v: jax.jvp(jax.grad(lambda q: loss(rows(f))(q, k, v, BIAS)), (q,), (d,))[1])(Q, DQ, K_, V),
}  # fmt: skip
EVERY_DAY = [("reference", "causal")]
CROSS = [
    pytest.param(*pair, marks=() if pair in EVERY_DAY else pytest.mark.slow, id="-".join(pair))
    for pair in itertools.product((*IMPLEMENTATIONS, "auto"), SEEN)
]


@pytest.mark.parametrize(("implementation", "seen"), CROSS)
def test_every_transformation_is_that_of_the_formula(implementation, seen):
    """A transformation is refused, or differentiates something else: a mask, a bias, a scale or a cap, wrongly."""
    ours, formula = both_functions(implementation, seen)
    mask = SEEN[seen][0]
    of_rows = mask is not None and any(part.lengths is not None or part.segments is not None for part in mask.parts)
    by_rows = {} if of_rows else BY_ROWS
    ways = TRANSFORMATIONS | by_rows
    got, wanted = (quick_jit(lambda f=f: {name: run(f) for name, run in ways.items()})() for f in (ours, formula))
    for name in ways:
        for a, b in zip(jax.tree.leaves(got[name]), jax.tree.leaves(wanted[name]), strict=True):
            assert_close(a, b, 1e-4, name)


@pytest.mark.parametrize(
    ("implementation", "seen"), by_day(itertools.product(IMPLEMENTATIONS, ("nothing", "segments")), 0, 2, 3)
)
def test_second_derivatives_are_right_where_scores_tie(implementation, seen):
    """All scores of zero queries are the highest: a maximum that is differentiated halves the product."""
    q, k, v, t = jnp.zeros(Q.shape), K_, V, DQ
    mask, allowed = SEEN[seen]

    def product(f):
        return jax.jvp(jax.grad(lambda q: jnp.sin(f(q)).sum()), (q,), (t,))[1]

    how = dict(mask=mask, scale=0.5, implementation=implementation)
    ours = lambda q: F.scaled_dot_product_attention(q, k, v, **how)
    got = quick_jit(product, static_argnums=0)(ours)
    assert_close(got, quick_jit(product, static_argnums=0)(lambda q: plain(q, k, v, 0.0, 0.5, 1e4, allowed)), 1e-5)


@pytest.mark.parametrize("head_width", [1, 2])
@both
def test_rows_of_huge_scores_sum_to_one_under_jit(implementation, head_width):
    """The compiler rounds the highest score otherwise than the scores: NaN, or a row of zeros."""
    q, k = normal(0, 2, 16, 3, head_width), normal(1, 2, 16, 3, head_width)
    ones = jnp.ones((2, 16, 3, 1))
    run = jax.jit(functools.partial(F.scaled_dot_product_attention, implementation=implementation))
    closed = jax.jit(lambda q: F.scaled_dot_product_attention(q, k, ones, implementation=implementation))
    for magnitude in (1e6, 1e9, 1e12, 1e15):
        for out in (run(q * magnitude, k, ones), closed(q * magnitude)):
            np.testing.assert_allclose(out, 1.0, rtol=1e-6, err_msg=str(magnitude))
        np.testing.assert_allclose(jax.jit(F.attention_weights)(q * magnitude, k).sum(-1), 1.0, rtol=1e-6)


# Meshes and dtypes -----------------------------------------------------------------------------


def value_and_gradients(implementation, q, k, v, bias, mask):
    return jax.value_and_grad(lambda *x: jnp.sin(attend(implementation, mask, *x, 0.7, 2.0)).sum(), (0, 1, 2, 3))(
        q, k, v, bias
    )


ON_MESHES = list(itertools.product(IMPLEMENTATIONS, ("causal", "segments", "positions")))


@pytest.mark.parametrize(("implementation", "seen"), by_day(ON_MESHES, 1, 4))
def test_shards_are_mapped_over_with_the_checks_of_every_day(implementation, seen):
    """A loop or a switch starts from what does not vary over the devices as its result does, or a sum is missing."""
    mesh, rows = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,)), P("x")
    mask = SEEN[seen][0]
    places = jax.tree.map(lambda x: rows if x.ndim == 2 else P(), mask)

    def total(q, k, v, bias):
        def one(q, k, v, bias, mask):
            return jax.lax.psum(jnp.sin(attend(implementation, mask, q, k, v, bias, 0.7, 2.0)).sum(), "x")

        how = dict(mesh=mesh, in_specs=(rows, rows, rows, P(), places), out_specs=P())
        return jax.shard_map(one, **how)(q, k, v, bias, mask)

    got = quick_jit(jax.value_and_grad(total, (0, 1, 2, 3)))(*X[:4])
    close(got, quick_jit(value_and_gradients, static_argnums=0)(implementation, *X[:4], mask))


SPLITS = {
    "rows": (P("x"), P("x"), P("x"), P()),
    "heads": (P(None, None, "x"), P(), P(), P("x")),
    "queries": (P(None, "x"), P(), P(), P(None, "x")),
}


@pytest.mark.parametrize(("implementation", "split"), by_day(itertools.product(IMPLEMENTATIONS, SPLITS), 1, 5))
def test_meshes_of_explicit_types_are_taken(implementation, split):
    """An axis that is split cannot be reshaped or cut into blocks, which plain `jax.numpy` code never does."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    inputs = X[:4]
    mask = F.AttentionMask(causal=True, window=3)
    wanted = quick_jit(value_and_gradients, static_argnums=0)(implementation, *inputs, mask)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(inputs, SPLITS[split], strict=True)]
        got = jax.device_get(quick_jit(value_and_gradients, static_argnums=0)(implementation, *placed, mask))
    close(got, wanted)


IN_64_BITS = list(
    itertools.product((np.float64, np.float32), IMPLEMENTATIONS, ("window", "lengths", "segments", "positions"))
)


@pytest.mark.parametrize(("dtype", "implementation", "seen"), by_day(IN_64_BITS, 3, 6, 13))
def test_double_precision_is_kept_and_nothing_promoted_in_silence(dtype, implementation, seen):
    """Indices of 64 bits meet some of 32, float64 is rounded to float32, or float32 comes back as float64."""
    allowed = np.broadcast_to(np.asarray(SEEN[seen][1]), (B, N, T, S))
    held = [np.asarray(x, dtype) for x in X[:4]]
    mask = jax.tree.map(np.asarray, SEEN[seen][0])
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        arrays, mask = jax.tree.map(jnp.asarray, (held, mask))  # its integers have 32 bits
        got = quick_jit(value_and_gradients, static_argnums=0)(implementation, *arrays, mask)
    assert {x.dtype for x in got[1]} == {np.dtype(dtype)}
    out = oracles.attention(*held[:3], allowed, held[3], 0.7, softcap=2.0)
    wanted = oracles.attention_gradients(*held[:3], np.cos(out), allowed, np.float64(held[3]), 0.7, softcap=2.0)
    for a, b in zip(got[1], wanted, strict=True):
        assert_close(a, b, 1e-12 if dtype == np.float64 else 1e-5)


def test_a_traced_number_keeps_its_double_precision():
    """A scale of 64 bits is rounded to 32 where it is traced, and not where it is known."""
    with jax.enable_x64(True):
        q, k = (jnp.asarray(x, jnp.float64) for x in (Q, K_))
        run = lambda scale, cap: F.attention_scores(q, k, scale=scale, logit_softcap=cap)
        np.testing.assert_allclose(quick_jit(run)(0.1, 1.7), run(0.1, 1.7), rtol=1e-13)


@pytest.mark.parametrize("implementation", by_day(IMPLEMENTATIONS, 1))
def test_numbers_may_be_of_any_kind(implementation):
    """A number is compared while it is traced, promotes what it is multiplied by, or is refused."""
    kinds = (float, np.float32, np.float64, np.array, jnp.float32, jnp.bfloat16)

    def run(scale, cap, rate, key=jax.random.key(0)):
        numbers = dict(scale=scale, logit_softcap=cap, dropout_rate=rate, key=key)
        return F.scaled_dot_product_attention(Q, K_, V, **numbers, implementation=implementation)

    wanted = quick_jit(run)(0.5, 2.0, 0.25)
    with jax.numpy_dtype_promotion("strict"):
        got = quick_jit(lambda: [run(kind(0.5), kind(2.0), kind(0.25)) for kind in kinds])()
        outside = run(jnp.float32(0.5), np.float32(2.0), jnp.float32(0.25))
    for x in (*got, outside):
        assert_close(x, wanted, 1e-6)


@both
def test_a_traced_scale_may_have_any_sign(implementation):
    """Scores are scaled after the highest is subtracted, which under a negative scale is the lowest; 0 has a slope."""
    mask, allowed = SEEN["causal"]
    how = dict(mask=mask, implementation=implementation)
    ours = lambda s: F.scaled_dot_product_attention(Q, K_, V, scale=s, **how)
    formula = lambda s: plain(Q, K_, V, 0.0, s, 1e4, allowed)
    each = lambda f: quick_jit(jax.vmap(lambda s: (f(s), jax.jacfwd(f)(s), jax.jacrev(f)(s))))
    close(*(each(f)(jnp.array([-0.7, 0.0, 1.3])) for f in (ours, formula)), 1e-4)
