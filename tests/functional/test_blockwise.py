"""What only the blockwise kernel promises: hidden blocks are not read, memory is linear, any mask tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import assert_close, block_sizes, by_day, equations, normal, quick_jit

import tformer_jax.functional as F
from tformer_jax.functional.kernels import blockwise
from tformer_jax.functional.masks import fitting

DEFAULT_SIZES = blockwise._BLOCK_Q, blockwise._BLOCK_K


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with block_sizes(4, 4):
        yield


def value_and_gradients(q, k, v, mask, d_out):
    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, mask=mask, implementation="blockwise")

    out, backward = jax.vjp(attention, q, k, v)
    return out, *backward(d_out)


HIDING = {
    "lengths": (dict(lengths=np.array([6, 3])), slice(8, 16)),
    "causal": (dict(causal=True), slice(8, 16)),
    "window": (dict(window=3, query_positions=np.arange(8) + 8), slice(0, 4)),
    "causal window": (dict(causal=True, window=2, query_positions=np.arange(8) + 6), slice(0, 4)),
    "segments": (
        dict(segments=(np.full((2, 8), 1), np.repeat([[0, 1, 2, 3], [0, 1, 2, 3]], 4, axis=1))),
        slice(8, 16),
    ),
    "key positions": (dict(causal=True, key_positions=np.array([*range(8), *range(50, 58)])), slice(8, 16)),
}


@pytest.mark.parametrize("how", by_day(HIDING, 1, 3, 4))
def test_blocks_that_no_query_may_see_are_not_read(how):
    """A hidden block is computed and thrown away: NaN in it reaches the output or a gradient."""
    fields, hidden = HIDING[how]
    q, d_out = normal(0, 2, 8, 2, 2), normal(3, 2, 8, 2, 2)
    k, v = (normal(i, 2, 16, 1, 2).at[:, hidden].set(jnp.nan) for i in (1, 2))
    mask = F.AttentionMask(**jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, fields))
    out, dq, dk, dv = quick_jit(value_and_gradients)(q, k, v, mask, d_out)

    names = {"query_positions": "query_pos", "key_positions": "key_pos"}
    allowed = oracles.mask_by_loops(2, 2, 8, 16, **{names.get(name, name): x for name, x in fields.items()})
    seen_k, seen_v = (np.nan_to_num(x) for x in (k, v))
    assert_close(out, oracles.attention(q, seen_k, seen_v, allowed), 1e-5, "output")
    wanted = oracles.attention_gradients(q, seen_k, seen_v, d_out, allowed)
    for name, got, want in zip(("dq", "dk", "dv"), (dq, dk, dv), wanted, strict=False):
        assert_close(got, want, 1e-5, name)
    np.testing.assert_array_equal(dk[:, hidden], 0.0)


CAUSAL, PREFIX = F.AttentionMask(causal=True), F.AttentionMask(prefix=3)
APART = F.AttentionMask(segments=(np.full((2, 8), 1), np.tile(np.repeat([1, 0, 2, 0], 4), (2, 1))))
HIDING_TOGETHER = {
    "prefix LM": (CAUSAL | PREFIX, slice(8, 16)),
    "prefixes LM": (CAUSAL | F.AttentionMask(prefix=np.array([3, 5])), slice(8, 16)),
    "window or prefix": (F.AttentionMask(window=2) | PREFIX, slice(9, 16)),
    "later keys": (~CAUSAL, slice(0, 1)),
    "far keys": (CAUSAL & ~F.AttentionMask(window=3), slice(8, 16)),
    "padding": (~F.AttentionMask(lengths=np.array([8, 10])), slice(0, 8)),
    "other segments": (~APART & np.ones((2, 1, 8, 16), bool), slice(0, 4)),
    "neither later nor in the prefix": (~(~CAUSAL | PREFIX), slice(8, 16)),
}


@pytest.mark.parametrize("how", by_day(HIDING_TOGETHER, 0, 1, 4, 6))
def test_blocks_that_several_masks_hide_together_are_not_read(how):
    """A combination of masks is asked for every tile."""
    mask, hidden = HIDING_TOGETHER[how]
    mask = jax.tree.map(lambda x: x if isinstance(x, int) else jnp.asarray(x), mask)
    q, d_out = normal(0, 2, 8, 2, 2), normal(3, 2, 8, 2, 2)
    k, v = (normal(i, 2, 16, 1, 2).at[:, hidden].set(jnp.nan) for i in (1, 2))
    got = quick_jit(lambda q, k, v: value_and_gradients(q, k, v, mask, d_out))(q, k, v)
    allowed = np.broadcast_to(mask.to_array(8, 16), (2, 2, 8, 16))
    k, v = (np.nan_to_num(x) for x in (k, v))
    wanted = oracles.attention(q, k, v, allowed), *oracles.attention_gradients(q, k, v, d_out, allowed)
    for name, a, b in zip(("output", "dq", "dk", "dv"), got, wanted, strict=False):
        assert_close(a, b, 1e-5, name)


def some_mask(rng, T, S, by_program, depth=3):
    """A mask of several of random kinds."""
    if depth:
        a, b = (some_mask(rng, T, S, by_program, depth - 1) for _ in range(2))
        return (a & b, a | b, ~a, a)[rng.integers(4)]
    kinds = [
        dict(causal=True), dict(window=int(rng.integers(1, 9))), dict(window=(2, 0), causal=True),
        dict(prefix=int(rng.integers(0, S))), dict(explicit=rng.random((T, S)) < 0.5), {},
    ]  # fmt: skip
    if by_program:
        kinds += [
            dict(prefix=rng.integers(0, S, 2)), dict(lengths=rng.integers(0, S, 2)),
            dict(segments=(np.sort(rng.integers(0, 3, (2, T))), np.sort(rng.integers(0, 3, (2, S))))),
        ]  # fmt: skip
    return F.AttentionMask(**kinds[rng.integers(len(kinds))])


@pytest.mark.parametrize("by_program", [False, True])
def test_a_run_of_keys_holds_all_that_a_block_may_see(by_program):
    """Some combination skips a key that some query sees."""
    T, S = 12, 15
    blocks = blockwise._Blocks.of(T, S)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mask = fitting(some_mask(rng, T, S, by_program), 2, 1, T, S)
        if by_program:
            places = dict(query_positions=rng.integers(0, S, (2, T)), key_positions=rng.permutation(S))
            mask = mask.placed(**jax.tree.map(jnp.asarray, places))
        _, first, last = blockwise._plan(mask, blocks, S)
        seen = np.broadcast_to(mask.to_array(T, S), (2, 1, T, S)).reshape(2, 3, 4, S).any((0, 2))
        index = np.arange(S)
        run = (index >= np.asarray(first)[:, None]) & (index < np.asarray(last)[:, None])
        assert not (seen & ~run).any(), (seed, mask)


def scattered(rng):
    """Positions and segments in no order: a block reaches from the first to the last."""
    return dict(
        lengths=rng.integers(0, 15, 2),
        segments=(rng.integers(0, 3, (2, 10)), rng.integers(0, 3, (2, 14))),
        query_positions=rng.integers(0, 14, (2, 10)),
        key_positions=rng.permutation(14),
    )


def in_order(rng):
    """A run of queries somewhere among the keys, packed segments: blocks are narrow and some are skipped."""
    return dict(
        lengths=rng.integers(8, 15, 2),
        segments=tuple(np.sort(rng.integers(0, 3, (2, size))) for size in (10, 14)),
        query_positions=rng.integers(0, 8) + np.tile(np.arange(10), (2, 1)),
        key_positions=np.arange(14),
    )


@pytest.mark.parametrize("draw", [scattered, in_order])
@pytest.mark.parametrize("causal", by_day([True, False], 0))
def test_any_positions_segments_and_lengths_are_tiled_right(draw, causal):
    """A block that some query may see is skipped. One program, many masks."""
    q, d_out = normal(0, 2, 10, 2, 2), normal(3, 2, 10, 2, 2)
    k, v = normal(1, 2, 14, 1, 2), normal(2, 2, 14, 1, 2)
    run = quick_jit(value_and_gradients)
    for seed in range(12):
        fields = draw(np.random.default_rng(seed))
        static = dict(causal=causal, window=2)
        got = run(q, k, v, F.AttentionMask(**static, **jax.tree.map(jnp.asarray, fields)), d_out)
        positions = dict(query_pos=fields.pop("query_positions"), key_pos=fields.pop("key_positions"))
        allowed = oracles.mask_by_loops(2, 2, 10, 14, **static, **fields, **positions)
        wanted = oracles.attention(q, k, v, allowed), *oracles.attention_gradients(q, k, v, d_out, allowed)
        for name, a, b in zip(("output", "dq", "dk", "dv"), got, wanted, strict=False):
            assert_close(a, b, 2e-5, f"{name}, seed {seed}")


@pytest.mark.parametrize("window", by_day([1, 2, 5], 1))
def test_windows_reach_into_the_next_block_by_one_key(window):
    """A block is skipped although its last, or its first, key is just within the window."""
    q, k, v, d_out = (normal(i, 1, 12, 1, 2) for i in range(4))
    out, *gradients = quick_jit(value_and_gradients)(q, k, v, F.AttentionMask(window=window), d_out)
    allowed = oracles.mask_by_loops(1, 1, 12, 12, window=window)
    assert_close(out, oracles.attention(q, k, v, allowed), 1e-5)
    for got, wanted in zip(gradients, oracles.attention_gradients(q, k, v, d_out, allowed), strict=False):
        assert_close(got, wanted, 1e-5)


def test_every_tile_and_row_drops_other_weights():
    """Tiles share one dropout pattern: the noise would be correlated across blocks, heads or rows."""
    v = jnp.broadcast_to(jnp.eye(8)[:, None], (2, 8, 1, 8))  # the output is the dropped weights
    zeros = jnp.zeros((2, 8, 2, 8))
    out = quick_jit(
        lambda key: F.scaled_dot_product_attention(
            zeros, zeros[:, :, :1], v, dropout_rate=0.5, key=key, implementation="blockwise"
        )
    )(jax.random.key(0))
    dropped = np.asarray(out == 0)
    patterns = {
        dropped[b, 4 * i : 4 * i + 4, n, 4 * j : 4 * j + 4].tobytes()
        for b in range(2) for n in range(2) for i in range(2) for j in range(2)
    }  # fmt: skip
    assert len(patterns) == 16


@pytest.mark.parametrize("heads", [None, 1, 4])
def test_heads_that_go_one_by_one_are_attended_to_as_all_at_once(monkeypatch, heads):
    """A head is given another's queries, keys, bias or gradient, or a mask that is not its own."""
    monkeypatch.setattr(blockwise, "_LONG", 0)
    q, d_out = normal(0, 2, 6, 4, 3), normal(1, 2, 6, 4, 5)
    k, v = normal(2, 2, 9, 2, 3), normal(3, 2, 9, 2, 5)
    bias = None if heads is None else normal(4, 2, heads, 6, 9)
    lengths = np.array([9, 5])

    def attention(q, k, v, bias):
        mask = F.AttentionMask(causal=True, lengths=jnp.asarray(lengths))
        return F.scaled_dot_product_attention(q, k, v, mask=mask, bias=bias, implementation="blockwise")

    def run(q, k, v, bias, d_out):
        out, backward = jax.vjp(attention, q, k, v, bias)
        return out, *backward(d_out)

    out, *gradients = quick_jit(run)(q, k, v, bias, d_out)
    allowed = oracles.mask_by_loops(2, 4, 6, 9, causal=True, lengths=lengths)
    assert_close(out, oracles.attention(q, k, v, allowed, bias), 1e-5, "output")
    wanted = oracles.attention_gradients(q, k, v, d_out, allowed, bias)
    for name, got, want in zip(("dq", "dk", "dv", "dbias"), gradients, wanted, strict=False):
        if got is not None:
            assert_close(got, want, 1e-5, name)


def test_no_array_of_scores_exists():
    """Somewhere in the forward or backward pass there is an array with both a query and a key axis of full length."""
    T, S = 20, 28
    q, k = normal(0, 1, T, 1, 2), normal(1, 1, S, 1, 2)
    mask = F.AttentionMask(causal=True, lengths=jnp.array([9]))
    jaxpr = jax.make_jaxpr(value_and_gradients)(q, k, k, mask, q)
    shapes = {v.aval.shape for e in equations(jaxpr) for v in e.outvars if hasattr(v.aval, "shape")}
    assert not [s for s in shapes if T in s and S in s]


def gradient_bytes(implementation, T, heads=1, layers=None):
    """Temporary memory of the compiled gradient of causal attention over T tokens, as often as a loop has rounds."""
    x = jax.ShapeDtypeStruct((1, T, heads, 16), jnp.float32)

    def attention(q, k, v):
        mask = F.AttentionMask(causal=True)
        return F.scaled_dot_product_attention(q, k, v, mask=mask, implementation=implementation)

    def loss(q, k, v):
        if layers is None:
            return attention(q, k, v).sum()
        return jax.lax.fori_loop(0, layers, lambda _, q: attention(q, k, v), q).sum()

    compiled = quick_jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_linearly():
    """The compiled gradient of blockwise attention needs more than O(T) memory, or as much as one score matrix."""
    with block_sizes(*DEFAULT_SIZES):
        short, long = gradient_bytes("blockwise", 2048), gradient_bytes("blockwise", 8192)
    assert long / short < 4.4
    assert long < 8192 * 8192 * 4 / 20


@pytest.mark.parametrize("heads", [1, 2])
def test_memory_grows_linearly_within_a_loop_over_layers(heads):
    """JAX computes all blocks' masks before the loop, since they are the same in each layer, and keeps them."""
    with block_sizes(*DEFAULT_SIZES):
        short, long = (gradient_bytes("blockwise", T, heads, layers=2) for T in (4096, 16384))
    assert long / short < 4.4


def test_memory_of_the_dense_kernel_grows_quadratically():
    """The measurement above would not notice O(T^2)."""
    assert gradient_bytes("reference", 4096) / gradient_bytes("reference", 1024) > 12
