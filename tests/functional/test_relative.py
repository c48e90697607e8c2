"""Linear biases and buckets of distances against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, strategies as st
from support import examples, quick_jit, unchecked_annotations

import tformer_jax.functional as F

INT32_MAX = np.iinfo(np.int32).max


def positions_of(seed: int, *shape: int, most: int = 1000) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, most, shape), jnp.int32)


# Linear biases ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6, 8, 12, 16, 25])
def test_slopes_are_the_published_ones(num_heads):
    """A checkpoint's heads look less far, or farther, than in training."""
    np.testing.assert_allclose(F.alibi_slopes(num_heads), oracles.alibi_slopes(num_heads), rtol=1e-6)


@pytest.mark.parametrize("query_shape", [(3,), (2, 3)], ids=str)
@pytest.mark.parametrize("key_shape", [(4,), (2, 4)], ids=str)
def test_the_bias_falls_linearly_with_distance(query_shape, key_shape):
    """-slope * |query position - key position| has another sign, other axes, or another row's positions."""
    queries, keys = positions_of(0, *query_shape), positions_of(1, *key_shape)
    bias = F.alibi_bias(queries, keys, 6)
    rows = max(len(query_shape), len(key_shape))
    distances = np.abs(np.atleast_2d(queries)[:, :, None] - np.atleast_2d(keys)[:, None, :])
    wanted = -np.array(oracles.alibi_slopes(6))[:, None, None] * distances[:, None]
    assert bias.dtype == jnp.float32 and bias.shape == (rows, 6, 3, 4)
    np.testing.assert_allclose(bias, wanted, rtol=1e-6)


def test_distant_positions_have_their_distance():
    """Positions from 2^24 on are rounded before they are subtracted: neighbours have distance 0 or 2."""
    bias = F.alibi_bias(jnp.array([20_000_001, -INT32_MAX]), jnp.array([20_000_000, 2**24 + 1, INT32_MAX]), 1)
    wanted = [[1, 20_000_001 - 2**24 - 1, INT32_MAX - 20_000_001], [0, 0, 2 * INT32_MAX]]
    wanted[1][:2] = 20_000_000 + INT32_MAX, 2**24 + 1 + INT32_MAX
    np.testing.assert_allclose(bias[0, 0], -np.array(wanted) / 256, rtol=1e-7)


def test_an_empty_cache_slot_has_a_finite_bias():
    """The distance to the largest position overflows: its bias is positive, or NaN."""
    bias = np.asarray(F.alibi_bias(jnp.array([-1, 0, 7]), jnp.array([0, INT32_MAX]), 4))
    assert np.isfinite(bias).all() and (bias[..., 1] < -1e6).all()


# Buckets ---------------------------------------------------------------------------------------

DISTANCES = np.arange(-1000, 1001)
bucket = quick_jit(F.relative_position_buckets, static_argnames=("bidirectional", "num_buckets", "max_distance"))


@examples(12)
@given(st.booleans(), st.sampled_from([4, 8, 32, 64]), st.sampled_from([33, 100, 128, 800]))
def test_every_distance_is_in_its_bucket(bidirectional, num_buckets, max_distance):
    """A boundary, a direction, or the last bucket is not the definition's."""
    options = dict(bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)
    wanted = [oracles.t5_bucket(int(d), **options) for d in DISTANCES]
    np.testing.assert_array_equal(bucket(jnp.asarray(DISTANCES), **options), wanted)


@pytest.mark.parametrize(("bidirectional", "per_direction"), [(True, 16), (False, 32)])
def test_buckets_are_those_of_published_checkpoints(bidirectional, per_direction):
    """Exact boundaries differ from the float32 logarithms that T5's checkpoints were trained with."""
    distances = np.abs(DISTANCES) if bidirectional else np.maximum(-DISTANCES, 0)
    exact = per_direction // 2
    logs = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(128 / exact))
    rough = np.minimum(exact + (logs * np.float32(per_direction - exact)).astype(int), per_direction - 1)
    wanted = np.where(distances < exact, distances, rough) + 16 * (bidirectional * (DISTANCES > 0))
    np.testing.assert_array_equal(bucket(jnp.asarray(DISTANCES), bidirectional=bidirectional), wanted)


def test_the_farthest_positions_have_the_last_buckets():
    """The least integer, which has no absolute value, is in bucket 0; many buckets take minutes to lay out."""
    extremes = jnp.array([-(2**31), -INT32_MAX, INT32_MAX])
    np.testing.assert_array_equal(bucket(extremes), [15, 15, 31])
    np.testing.assert_array_equal(bucket(extremes, bidirectional=False), [31, 31, 0])
    how = dict(num_buckets=64, max_distance=10**9)
    wanted = [oracles.t5_bucket(d, bidirectional=True, **how) for d in (-(10**6), -(10**9) + 1, 123_456)]
    np.testing.assert_array_equal(bucket(jnp.array([-(10**6), -(10**9) + 1, 123_456]), **how), wanted)


def test_buckets_have_the_shape_of_their_positions():
    """[T S] comes back flat, or as something else than integers."""
    relative = jnp.arange(5)[None, :] - jnp.arange(3)[:, None]
    got = bucket(relative)
    assert got.shape == (3, 5) and jnp.issubdtype(got.dtype, jnp.integer)
    np.testing.assert_array_equal(got[0], [0, 17, 18, 19, 20])


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("num_buckets must be even when bidirectional, got 7", dict(num_buckets=7)),
        ("each direction needs at least 2 buckets, got 1", dict(num_buckets=2)),
        ("each direction needs at least 2 buckets, got 1", dict(num_buckets=1, bidirectional=False)),
        ("max_distance must be more than the 8 exact distances, got 8", dict(max_distance=8)),
    ],
)
def test_buckets_that_cannot_be_are_refused(message, options):
    """A bucket is never used, or the logarithm divides by zero."""
    with pytest.raises(ValueError, match=message):
        F.relative_position_buckets(jnp.arange(3), **options)


def test_relations_that_cannot_be_are_refused_in_one_line():
    """Any text is bidirectional, or rows of different batches are a message of some subtraction."""
    places = jnp.arange(3)
    with unchecked_annotations():
        with pytest.raises(TypeError, match="bidirectional must be True or False, got 'no'"):
            F.relative_position_buckets(places, bidirectional="no")
        for queries, keys in ((jnp.zeros((2, 3), int), jnp.zeros((4, 3), int)), (jnp.zeros((1, 1, 3), int), places)):
            with pytest.raises(ValueError, match=r"query_positions and key_positions must be \[T\] or \[B T\]"):
                F.alibi_bias(queries, keys, 2)
