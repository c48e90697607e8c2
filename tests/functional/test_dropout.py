"""Dropout as a pure function of its key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import quick_jit

import tformer_jax.functional as F

ONES = jnp.ones((64, 64))


def test_what_is_kept_is_scaled_by_one_over_one_minus_rate():
    """Kept elements have another scale than 1 / (1 - rate), or another share than 1 - rate is kept."""
    out = np.asarray(F.dropout(ONES, 0.25, jax.random.key(0)))
    assert abs((out == 0).mean() - 0.25) < 0.03
    np.testing.assert_allclose(out[out > 0], 1 / 0.75, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 1 / 3, 0.9])
def test_the_scale_uses_the_rounded_rate(rate):
    """The rate is rounded to 2^-16 but the scale is not: the mean is not kept exactly."""
    dropped = round(rate * 2**16) / 2**16
    out = np.asarray(F.dropout(ONES, rate, jax.random.key(1)))
    np.testing.assert_allclose(out[out > 0], 1 / (1 - dropped), rtol=1e-7)


def test_the_key_decides():
    """The same key drops other elements, or other keys drop the same."""
    a, b, c = (F.dropout(ONES, 0.5, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize(("rate", "key"), [(0.5, None), (0.0, 0)])
def test_no_key_or_rate_zero_is_the_identity(rate, key):
    """A deterministic call drops, or costs something."""
    assert F.dropout(ONES, rate, key if key is None else jax.random.key(key)) is ONES


def test_the_gradient_is_zero_where_dropped_and_scaled_where_kept():
    """The gradient passes through dropped elements."""
    key = jax.random.key(2)
    out, gradient = quick_jit(lambda x: (F.dropout(x, 0.5, key), jax.grad(lambda x: F.dropout(x, 0.5, key).sum())(x)))(
        ONES
    )
    np.testing.assert_array_equal(gradient, out)


def test_a_dropped_infinity_is_zero():
    """Dropping multiplies by 0: inf becomes NaN."""
    out = np.asarray(F.dropout(jnp.full((100,), jnp.inf), 0.5, jax.random.key(0)))
    assert set(out) == {0.0, np.inf}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_dtype_is_kept(dtype):
    """16-bit activations come back as float32."""
    assert F.dropout(ONES.astype(dtype), 0.3, jax.random.key(0)).dtype == dtype


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("key", [None, 0])
def test_a_rate_outside_of_zero_to_one_is_refused(rate, key):
    """A rate that cannot be is clipped, or overlooked while there is no key."""
    with pytest.raises(ValueError, match=r"dropout rate must be in \[0, 1\), got"):
        F.dropout(ONES, rate, key if key is None else jax.random.key(key))
