"""Losses and log-probabilities against the formulas and the hand-derived gradient (equations 10, 11, 14)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, strategies as st
from support import assert_close, examples, normal, quick_jit, unchecked_annotations

import tformer_jax.functional as F


@functools.cache
def program(**options):
    def loss(logits, targets, weights):
        return F.cross_entropy(logits, targets, weights=weights, **options)

    return quick_jit(jax.value_and_grad(loss))


def value_and_gradient(logits, targets, weights=None, **options):
    weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    return program(**options)(logits, jnp.asarray(targets), weights)


def value(logits, targets, weights=None, **options):
    return value_and_gradient(logits, targets, weights, **options)[0]


def test_oracle_agrees_with_central_differences():
    """The hand-derived gradient of the oracle is wrong."""
    rng = np.random.default_rng(0)
    logits, targets, weights = rng.standard_normal((2, 3, 4)), rng.integers(0, 4, (2, 3)), rng.random((2, 3))
    args = (targets, weights, 0.2, 0.3)
    numeric = oracles.central_differences(lambda x: oracles.cross_entropy(x, *args), logits)
    assert_close(oracles.cross_entropy_gradient(logits, *args), numeric, 1e-8)


@examples(8)
@given(
    st.sampled_from([(3,), (2, 5), (1, 1), (2, 2, 3)]),
    st.sampled_from([2, 7]),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 1e-2]),
)
def test_value_and_gradient_match_the_formula(shape, V, weighted, label_smoothing, z_loss):
    """The mean over the weights of -sum y log yhat (+ z_loss logsumexp^2), or its gradient, is not what comes out."""
    rng = np.random.default_rng(V + sum(shape))
    targets = rng.integers(0, V, shape)
    weights = rng.integers(0, 3, shape) + (np.arange(math.prod(shape)) == 0).reshape(shape) if weighted else None
    logits = normal(V, *shape, V, scale=3.0)
    loss, gradient = value_and_gradient(logits, targets, weights, label_smoothing=label_smoothing, z_loss=z_loss)
    args = (logits, targets, weights, label_smoothing, z_loss)
    assert loss.dtype == jnp.float32
    assert_close(loss, oracles.cross_entropy(*args), 2e-6, "loss")
    assert_close(gradient, oracles.cross_entropy_gradient(*args), 2e-6, "gradient")


def test_uniform_logits_cost_log_v_nats():
    """The unit is not the nat, or the sum is divided by something else."""
    np.testing.assert_allclose(value(jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), int)), math.log(5), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_loss_of_16_bit_logits_is_in_float32(dtype):
    """Log-softmax in 16 bits: a loss of 0.001 is lost next to a normaliser of 10 (in float32, to 1e-7 of it)."""
    logits = jnp.asarray([[10.0, 3.0, 2.5], [0.0, 8.0, 1.0]], dtype)
    loss = value(logits, [0, 1])
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, oracles.cross_entropy(oracles.f64(logits), [0, 1]), atol=1e-6)


@pytest.mark.parametrize("scale", [1e4, 1e37])
def test_huge_logits_stay_finite(scale):
    """exp(logits) overflows, in the value or in the gradient."""
    logits = jnp.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 0.0]]) * scale
    loss, gradient = value_and_gradient(logits, np.array([0, 1]))
    np.testing.assert_allclose(loss, math.log(2) / 2, atol=scale * 1e-7)  # what float32 logits of this size can hold
    np.testing.assert_allclose(gradient, [[-0.25, 0, 0.25], [0, 0, 0]], atol=1e-7)


@pytest.mark.parametrize("target", [-1, 4, -100, 2**31 - 1])
def test_a_target_outside_of_the_vocabulary_makes_the_loss_nan(target):
    """It is clamped, or counted from the end, to a class that nobody meant."""
    assert math.isnan(value(normal(0, 2, 4), [0, target]))


@pytest.mark.parametrize("target", [-1, 4, -100])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_target_of_weight_zero_is_never_looked_at(target, label_smoothing):
    """Padding marked by an id outside of the vocabulary makes the loss or a gradient NaN."""
    logits = normal(0, 2, 4)
    loss, gradient = value_and_gradient(logits, [1, target], [1.0, 0.0], label_smoothing=label_smoothing)
    assert_close(loss, oracles.cross_entropy(logits[:1], [1], None, label_smoothing), 1e-6)
    np.testing.assert_array_equal(gradient[1], 0.0)
    assert_close(gradient[:1], oracles.cross_entropy_gradient(logits[:1], [1], None, label_smoothing), 1e-6)


def test_a_batch_of_only_padding_costs_nothing():
    """All weights zero divides by zero, in the value or in the gradient."""
    loss, gradient = value_and_gradient(normal(0, 2, 4), [1, 2], [0.0, 0.0])
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_weights_are_relative():
    """Doubling every weight changes the loss: it is a sum and not a mean."""
    logits, targets, weights = normal(0, 3, 4), jnp.array([0, 1, 3]), jnp.array([1.0, 2.0, 0.5])
    a, b = (value(logits, targets, w) for w in (weights, 2 * weights))
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0])
def test_label_smoothing_outside_of_zero_to_one_is_refused(label_smoothing):
    """A smoothing that leaves no target, or a negative one, trains something else."""
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got"):
        F.cross_entropy(jnp.zeros((1, 2)), jnp.array([0]), label_smoothing=label_smoothing)


@pytest.mark.parametrize(
    ("targets", "weights", "message"),
    [
        ((2, 3), (3,), r"weights must have the shape \(2, 3\), got \(3,\)"),
        ((2, 3), (2, 1), r"weights must have the shape \(2, 3\), got \(2, 1\)"),
        ((2, 3), (), r"weights must have the shape \(2, 3\), got \(\)"),
        ((2, 1), None, r"targets must have the shape \(2, 3\), got \(2, 1\)"),
        ((1, 3), None, r"targets must have the shape \(2, 3\), got \(1, 3\)"),
        ((3, 2), None, r"targets must have the shape \(2, 3\), got \(3, 2\)"),
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_shapes_that_would_be_broadcast_are_refused(fused, targets, weights, message):
    """A target would count several times, or be paired with another token's logits: another number, without a word."""
    how = {"weights": None if weights is None else jnp.ones(weights)}
    with unchecked_annotations(), pytest.raises(ValueError, match=message):
        if fused:
            F.fused_cross_entropy(jnp.ones((2, 3, 4)), jnp.ones((4, 5)), jnp.zeros(targets, int), **how)
        else:
            F.cross_entropy(jnp.ones((2, 3, 5)), jnp.zeros(targets, int), **how)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int16])
def test_targets_of_any_integer_type(dtype):
    """The size of the vocabulary would wrap around in a narrow type, and a target be another class."""
    logits = normal(0, 3, 300)
    wanted = F.cross_entropy(logits, jnp.array([1, 99, 127]))
    np.testing.assert_array_equal(F.cross_entropy(logits, jnp.array([1, 99, 127], dtype)), wanted)
    assert jnp.isnan(F.cross_entropy(logits, jnp.array([1, -1, 127], dtype)))


def test_weighted_mean_ignores_what_weighs_nothing():
    """NaN * 0 is NaN: a masked value spoils the mean."""
    mean = F.weighted_mean(jnp.array([1.0, jnp.nan, 4.0]), jnp.array([3.0, 0.0, 1.0]))
    np.testing.assert_allclose(mean, 7 / 4, rtol=1e-6)


def test_a_weight_of_zero_has_the_gradient_of_any_other():
    """d mean / d weight_i = (value_i - mean) / sum(weights): raising a weight from 0 would look free of cost."""
    values, weights = jnp.array([1.0, 5.0, 4.0]), jnp.array([3.0, 0.0, 1.0])
    mean, gradient = jax.value_and_grad(F.weighted_mean, argnums=1)(values, weights)
    np.testing.assert_allclose(gradient, (values - mean) / 4, rtol=1e-6)


@pytest.mark.parametrize("weights", [[3.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
def test_a_value_that_weighs_nothing_leaves_the_gradients_finite(weights):
    """NaN * 0 is NaN in the gradient too; all weights zero divides by zero there."""
    gradients = jax.grad(F.weighted_mean, argnums=(0, 1))(jnp.array([1.0, jnp.nan, 4.0]), jnp.array(weights))
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_output_log_probs_are_the_log_softmax_of_w_h(dtype):
    """Equation 10: the probabilities do not sum to 1, or the logits are rounded to 16 bits before the softmax."""
    hidden, w_out = normal(0, 2, 3, 4, scale=2.0, dtype=dtype), normal(1, 4, 9, scale=2.0, dtype=dtype)
    log_probs = F.output_log_probs(hidden, w_out)
    assert log_probs.dtype == jnp.float32
    assert_close(log_probs, oracles.log_softmax(oracles.f64(hidden) @ oracles.f64(w_out)), 1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_causal_lm_loss_predicts_the_next_token(weighted):
    """Equation 14: the shift is missing, goes the other way, or leaves the weights behind."""
    logits, tokens = normal(0, 2, 5, 7), np.random.default_rng(0).integers(0, 7, (2, 5))
    weights = np.arange(10.0).reshape(2, 5) if weighted else None
    run = quick_jit(functools.partial(F.causal_lm_loss, label_smoothing=0.1, z_loss=0.01))
    loss = run(logits, jnp.asarray(tokens), weights=None if weights is None else jnp.asarray(weights, jnp.float32))
    total, count = 0.0, 0.0
    for b in range(2):
        for t in range(4):
            weight = 1.0 if weights is None else weights[b, t + 1]
            total += weight * oracles.cross_entropy(logits[b, t][None], tokens[b, t + 1][None], None, 0.1, 0.01)
            count += weight
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)


def test_language_model_losses_are_the_same_of_states_and_of_logits():
    """The shift of the states, or of logits without the last, is another; or the bias or the cap is left out."""
    hidden, w_out, b_out = normal(0, 2, 5, 3), normal(1, 3, 7), normal(2, 7)
    tokens, weights = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 5))), jnp.arange(10.0).reshape(2, 5)
    logits = F.output_logits(hidden, w_out, b_out, logit_softcap=2.0)
    assert_close(logits, 2.0 * np.tanh((np.asarray(hidden) @ np.asarray(w_out) + np.asarray(b_out)) / 2.0), 1e-6)
    assert_close(F.output_log_probs(hidden, w_out, b_out, logit_softcap=2.0), jax.nn.log_softmax(logits), 1e-6)
    fused = functools.partial(F.fused_cross_entropy, w_out=w_out, b_out=b_out, logit_softcap=2.0)
    how = dict(label_smoothing=0.1, z_loss=0.01)
    causal = functools.partial(F.causal_lm_loss, tokens=tokens, weights=weights, **how)
    found = [causal(logits), causal(logits[:, :-1]), causal(hidden, loss=fused), causal(hidden[:, :-1], loss=fused)]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)
    masked = functools.partial(F.masked_lm_loss, targets=tokens, masked=weights, **how)
    np.testing.assert_allclose(masked(hidden, loss=fused), masked(logits), rtol=1e-5)


@pytest.mark.parametrize("dtype", [bool, jnp.float32])
def test_masked_lm_loss_reads_only_the_masked_tokens(dtype):
    """Equation 14: a token outside of M counts, or one inside does not."""
    logits, targets = normal(0, 2, 4, 7), np.random.default_rng(0).integers(0, 7, (2, 4))
    masked = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], bool)
    run = quick_jit(functools.partial(F.masked_lm_loss, label_smoothing=0.1))
    loss = run(logits, jnp.asarray(targets), jnp.asarray(masked, dtype))
    np.testing.assert_allclose(
        loss, oracles.cross_entropy(np.asarray(logits)[masked], targets[masked], None, 0.1), rtol=1e-5
    )
