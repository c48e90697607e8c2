"""The position-wise networks against their formulas (equation 5, and with a gate)."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import assert_close, normal, quick_jit

import tformer_jax.functional as F

D, HIDDEN = 4, 6
WEIGHTS = (normal(1, D, HIDDEN), normal(2, HIDDEN), normal(3, HIDDEN, D), normal(4, D))


@pytest.mark.parametrize("shape", [(D,), (3, D), (2, 3, D)], ids=str)
def test_value_and_gradients_match_the_formula(shape):
    """ReLU(x W_1 + b_1) W_2 + b_2, or its gradient by x or by a parameter, is not what comes out."""
    x, d_out = normal(0, *shape), normal(5, *shape)

    def run(x, d_out, *weights):
        out, backward = jax.vjp(F.feed_forward, x, *weights)
        return out, *backward(d_out)

    out, *gradients = quick_jit(run)(x, d_out, *WEIGHTS)
    assert_close(out, oracles.feed_forward(x, *WEIGHTS), 1e-5, "output")
    wanted = oracles.feed_forward_gradients(x, *WEIGHTS, d_out)
    for name, got, want in zip(("dx", "dw1", "db1", "dw2", "db2"), gradients, wanted, strict=True):
        assert_close(got, want, 1e-5, name)


def test_oracle_agrees_with_central_differences():
    """The hand-derived gradient of the oracle is wrong."""
    x, d_out = oracles.f64(normal(0, 3, D)), oracles.f64(normal(5, 3, D))
    arrays = [x, *(oracles.f64(w) for w in WEIGHTS)]
    for i, gradient in enumerate(oracles.feed_forward_gradients(*arrays, d_out)):

        def loss(held, i=i):
            return (d_out * oracles.feed_forward(*(held if j == i else a for j, a in enumerate(arrays)))).sum()

        assert_close(gradient, oracles.central_differences(loss, arrays[i]), 1e-7)


def test_biases_may_be_absent():
    """b_1 = None or b_2 = None is an error, or something is added nevertheless."""
    x = normal(0, 3, D)
    w1, _, w2, _ = WEIGHTS
    assert_close(F.feed_forward(x, w1, None, w2, None), oracles.feed_forward(x, w1, None, w2, None), 1e-5)


def test_the_activation_is_the_one_that_is_asked_for():
    """Another nonlinearity than the argument is applied, or the argument is applied elsewhere."""
    x = normal(0, 3, D)
    out = F.feed_forward(x, *WEIGHTS, activation=jnp.tanh)
    assert_close(out, oracles.feed_forward(x, *WEIGHTS, activation=np.tanh), 1e-5)


def test_dropout_is_of_the_hidden_activations():
    """Dropout falls on the output, or not at all: with W_2 = 1 the output counts the hidden units kept."""
    x, width = jnp.ones((50, 1)), 40
    w1, w2 = jnp.ones((1, width)), jnp.ones((width, 1))
    out = F.feed_forward(x, w1, None, w2, None, dropout_rate=0.5, key=jax.random.key(0))
    kept = np.asarray(out)[:, 0] / 2
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-5)
    assert len(set(np.round(kept))) > 3 and abs(kept.mean() - width / 2) < 2


def test_16_bit_stays_16_bit():
    """A bfloat16 network computes in float32."""
    x, *weights = (w.astype(jnp.bfloat16) for w in (normal(0, 3, D), *WEIGHTS))
    out = F.feed_forward(x, *weights)
    assert out.dtype == jnp.bfloat16
    assert_close(out, oracles.feed_forward(*(oracles.f64(w) for w in (x, *weights))), 3e-2)


# Gated -----------------------------------------------------------------------------------------

GATED = dict(w_gate=normal(1, D, HIDDEN), w_up=normal(2, D, HIDDEN), w_down=normal(3, HIDDEN, D))
GATED_BIASES = dict(b_gate=normal(4, HIDDEN), b_up=normal(5, HIDDEN), b_down=normal(6, D))


@pytest.mark.parametrize("shape", [(D,), (2, 3, D)], ids=str)
def test_gated_value_and_gradients_match_the_formula(shape):
    """(SiLU(x W_gate + b) * (x W_up + b)) W_down + b, or its gradient by x or by a parameter, is not what comes out."""
    arrays, d_out = dict(x=normal(0, *shape), **GATED, **GATED_BIASES), normal(7, *shape)

    def run(arrays, d_out):
        out, backward = jax.vjp(lambda arrays: F.gated_feed_forward(**arrays), arrays)
        return out, backward(d_out)[0]

    out, gradients = quick_jit(run)(arrays, d_out)
    assert_close(out, oracles.gated_feed_forward(**arrays), 1e-5, "output")
    for name, got in gradients.items():

        def loss(held, name=name):
            return (oracles.f64(d_out) * oracles.gated_feed_forward(**(arrays | {name: held}))).sum()

        assert_close(got, oracles.central_differences(loss, arrays[name]), 1e-5, name)


@pytest.mark.parametrize("missing", GATED_BIASES)
def test_each_gated_bias_may_be_absent(missing):
    """A bias of None is an error, or stands for another one."""
    x, arrays = normal(0, 3, D), GATED | GATED_BIASES | {missing: None}
    assert_close(F.gated_feed_forward(x, **arrays), oracles.gated_feed_forward(x, **arrays), 1e-5)


def test_the_activation_is_of_the_gate_alone():
    """The argument is ignored, or applied to the other projection, or to both."""
    x = normal(0, 3, D)
    out = F.gated_feed_forward(x, **GATED, activation=jnp.tanh)
    assert_close(out, oracles.gated_feed_forward(x, **GATED, activation=np.tanh), 1e-5)


def test_dropout_is_of_the_gated_units():
    """Dropout falls on one projection before the product, on the output, or nowhere."""
    x, width = jnp.ones((50, 1)), 40
    arrays = dict(w_gate=jnp.ones((1, width)), w_up=jnp.ones((1, width)), w_down=jnp.ones((width, 1)))
    run = quick_jit(lambda key: F.gated_feed_forward(x, **arrays, activation=jnp.abs, dropout_rate=0.5, key=key))
    kept = np.asarray(run(jax.random.key(0)))[:, 0] / 2
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-5)
    assert len(set(np.round(kept))) > 3 and abs(kept.mean() - width / 2) < 2


def test_a_gated_network_in_16_bit_stays_16_bit():
    """A bfloat16 network computes in float32."""
    x, *weights = (w.astype(jnp.bfloat16) for w in (normal(0, 3, D), *GATED.values()))
    out = F.gated_feed_forward(x, *weights)
    assert out.dtype == jnp.bfloat16
    assert_close(out, oracles.gated_feed_forward(x, *weights), 3e-2)


def test_activations_by_name_are_their_formulas():
    """A name stands for another nonlinearity."""
    x = normal(0, 20, scale=3.0)
    formulas = {
        "relu": oracles.relu, "gelu": oracles.gelu, "gelu_tanh": oracles.gelu_tanh, "silu": oracles.silu,
        "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
        "relu_squared": lambda x: oracles.relu(x) ** 2, "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }  # fmt: skip
    assert set(formulas) <= set(F.ACTIVATIONS)
    for name, formula in formulas.items():
        assert_close(F.ACTIVATIONS[name](x), formula(oracles.f64(x)), 1e-5, name)
