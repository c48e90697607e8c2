"""Layer normalisation against the formula and its hand-derived gradient (equation 12); root-mean-square likewise."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, strategies as st
from support import assert_close, examples, normal, quick_jit, unchecked_annotations

import tformer_jax.functional as F

TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 1.6e-2, jnp.float16: 2e-3}


def norm(x, gamma, beta, eps=1e-5):
    """With gradients, for a random cotangent."""

    def run(x, gamma, beta, d_out):
        out, backward = jax.vjp(lambda *args: F.layer_norm(*args, eps=eps), x, gamma, beta)
        return out, *backward(d_out)

    d_out = normal(9, *x.shape, dtype=x.dtype)
    return d_out, quick_jit(run)(x, gamma, beta, d_out)


def test_oracle_agrees_with_central_differences():
    """The hand-derived gradient of the oracle is wrong."""
    rng = np.random.default_rng(0)
    x, gamma, beta, d_out = (rng.standard_normal(s) for s in ((3, 4), (4,), (4,), (3, 4)))
    dx, d_gamma, d_beta = oracles.layer_norm_gradients(x, gamma, d_out, 0.1)
    for got, held, loss in (
        (dx, x, lambda x: (d_out * oracles.layer_norm(x, gamma, beta, 0.1)).sum()),
        (d_gamma, gamma, lambda gamma: (d_out * oracles.layer_norm(x, gamma, beta, 0.1)).sum()),
        (d_beta, beta, lambda beta: (d_out * oracles.layer_norm(x, gamma, beta, 0.1)).sum()),
    ):
        assert_close(got, oracles.central_differences(loss, held), 1e-8)


@examples(15)
@given(
    st.sampled_from([(1, 1), (5,), (2, 3, 8), (1, 4, 33)]),
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from([1e-5, 0.3]),
    st.sampled_from([1.0, 30.0]),
)
def test_value_and_gradients_match_the_formula(shape, dtype, eps, scale):
    """(x - mean) / sqrt(biased variance + eps) * gamma + beta, or its gradient, is not what comes out."""
    x = normal(0, *shape, scale=scale, dtype=dtype)
    gamma, beta = 1 + normal(1, shape[-1], scale=0.3), normal(2, shape[-1])
    d_out, (out, *gradients) = norm(x, gamma, beta, eps)
    assert out.dtype == dtype
    assert_close(out, oracles.layer_norm(oracles.f64(x), gamma, beta, eps), TOLERANCE[dtype], "output")
    wanted = oracles.layer_norm_gradients(oracles.f64(x), gamma, oracles.f64(d_out), eps)
    for name, got, want in zip(("dx", "d_gamma", "d_beta"), gradients, wanted, strict=True):
        assert_close(got, want, 3 * TOLERANCE[dtype], name)


def test_the_variance_is_the_biased_one():
    """The variance is divided by D - 1."""
    out = F.layer_norm(jnp.array([-1.0, 1.0]), jnp.ones(2), jnp.zeros(2), eps=1e-12)
    np.testing.assert_allclose(out, [-1.0, 1.0], rtol=1e-6)


def test_eps_stands_inside_the_root():
    """The divisor is std + eps: here 1 / (1 + 3) instead of 1 / sqrt(1 + 3)."""
    out = F.layer_norm(jnp.array([-1.0, 1.0]), jnp.ones(2), jnp.zeros(2), eps=3.0)
    np.testing.assert_allclose(out, [-0.5, 0.5], rtol=1e-6)


def test_a_constant_row_gives_beta_and_a_finite_gradient():
    """Variance 0 divides by 0."""
    _, (out, dx, *_) = norm(jnp.full((1, 4), 7.0), jnp.ones(4), jnp.arange(4.0))
    np.testing.assert_array_equal(out[0], np.arange(4.0))
    assert bool(jnp.isfinite(dx).all())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_moments_are_in_float32(dtype):
    """Mean and variance in 16 bits: 300 + 0.0 has no room for the spread, and 300^2 overflows float16."""
    x = jnp.asarray(300 + 2 * np.arange(-8, 8), dtype)
    out = F.layer_norm(x, jnp.ones(16), jnp.zeros(16))
    assert_close(out, oracles.layer_norm(oracles.f64(x), np.ones(16), np.zeros(16), 1e-5), TOLERANCE[dtype])


def test_a_large_mean_does_not_drown_the_variance():
    """E[x^2] - E[x]^2 in float32 loses a spread of 1 around 10,000."""
    x = 1e4 + normal(0, 1, 64)
    out = F.layer_norm(x, jnp.ones(64), jnp.zeros(64))
    assert_close(out, oracles.layer_norm(oracles.f64(x), np.ones(64), np.zeros(64), 1e-5), 2e-3)


# Root mean square ------------------------------------------------------------------------------


@quick_jit
def rms_norm_with_gradients(x, gamma, d_out):
    out, backward = jax.vjp(lambda x, gamma: F.rms_norm(x, gamma, eps=0.1), x, gamma)
    return out, *backward(d_out)


@examples(8)
@given(st.sampled_from([(1, 1), (5,), (2, 3, 8)]), st.sampled_from(list(TOLERANCE)), st.sampled_from([1.0, 30.0]))
def test_rms_norm_and_its_gradients_match_the_formula(shape, dtype, scale):
    """x / sqrt(mean(x^2) + eps) * gamma, or its gradient, is not what comes out, or in another dtype."""
    x, gamma, d_out = (
        normal(0, *shape, scale=scale, dtype=dtype),
        1 + normal(1, shape[-1], scale=0.3),
        normal(2, *shape),
    )
    out, dx, d_gamma = rms_norm_with_gradients(x, gamma, d_out.astype(dtype))
    assert out.dtype == dtype
    assert_close(out, oracles.rms_norm(x, gamma, 0.1), TOLERANCE[dtype], "output")
    d_out = oracles.f64(d_out.astype(dtype))
    wanted = oracles.central_differences(lambda x: (d_out * oracles.rms_norm(x, gamma, 0.1)).sum(), x)
    assert_close(dx, wanted, 3 * TOLERANCE[dtype], "dx")
    wanted = oracles.central_differences(lambda gamma: (d_out * oracles.rms_norm(x, gamma, 0.1)).sum(), gamma)
    assert_close(d_gamma, wanted, 3 * TOLERANCE[dtype], "d_gamma")


def test_rms_norm_subtracts_no_mean():
    """A constant row is normalised away, as layer normalisation does."""
    np.testing.assert_allclose(F.rms_norm(jnp.full(4, -7.0), jnp.ones(4)), -np.ones(4), rtol=1e-6)


def test_rms_norm_of_16_bit_inputs_squares_in_float32():
    """300^2 overflows float16."""
    x = jnp.asarray([300.0, -400.0], jnp.float16)
    np.testing.assert_allclose(F.rms_norm(x, jnp.ones(2)), [0.8485, -1.1314], rtol=1e-3)


def test_rms_norm_of_zeros_is_zero_with_a_finite_gradient():
    """eps stands outside of the root: 0 / 0."""
    value, gradient = jax.value_and_grad(lambda x: F.rms_norm(x, jnp.ones(4)).sum())(jnp.zeros(4))
    assert value == 0 and bool(jnp.isfinite(gradient).all())


def test_a_gain_may_be_what_is_added_to_one():
    """Gemma's weights, which are around 0, would multiply; or 1 + w is rounded to 16 bits before it does."""
    x, gamma, beta = normal(0, 3, 4), normal(1, 4, scale=0.001, dtype=jnp.bfloat16), normal(2, 4)
    one_more = 1 + gamma.astype(jnp.float32)
    assert_close(F.rms_norm(x, gamma, unit_offset=True), F.rms_norm(x, one_more), 1e-7)
    assert_close(F.layer_norm(x, gamma, beta, unit_offset=True), F.layer_norm(x, one_more, beta), 1e-7)
    with unchecked_annotations(), pytest.raises(TypeError, match="^unit_offset must be True or False, got 1"):
        F.rms_norm(x, gamma, unit_offset=1)
