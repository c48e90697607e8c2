"""The small modules: initialisation, dtypes, and the pure function each of them calls."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support import assert_close, fill, normal, quick_jit, tiny_config

import tformer_jax.functional as F
from tformer_jax import nn
from tformer_jax.nn.layers import ACTIVATIONS, glorot, split_key


@pytest.mark.parametrize(("shape", "inputs", "fan"), [((30, 4, 8), 1, 62), ((30, 4, 8), 2, 128)])
def test_glorot_is_uniform_within_the_limit_of_its_fans(shape, inputs, fan):
    """The limit is not sqrt(6 / (fan_in + fan_out)), heads and widths not counted together."""
    kernel = np.asarray(quick_jit(lambda: glorot(tiny_config(), nnx.Rngs(0), shape, inputs)[...])())
    limit = math.sqrt(6 / fan)
    assert kernel.shape == shape
    assert 0.97 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / math.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("scaled", [True, False])
def test_embeddings_are_scaled_by_root_of_width(scaled):
    """Section 3.4 of the paper: embeddings are not multiplied by sqrt(d_model), or always."""
    embedding = fill(lambda: nn.Embedding(9, tiny_config(scale_embeddings=scaled), rngs=nnx.Rngs(0)))
    tokens = jnp.array([[0, 8, 3], [3, 3, 1]])
    wanted = oracles.f64(embedding.table[...])[np.asarray(tokens)] * (math.sqrt(8) if scaled else 1)
    assert_close(embedding(tokens), wanted, 1e-6)


def test_embeddings_start_with_variance_one_over_width():
    """Tied output logits start with a spread that is not of order 1."""
    config = tiny_config(d_model=16)
    table = np.asarray(quick_jit(lambda: nn.Embedding(500, config, rngs=nnx.Rngs(0)).table[...])())
    np.testing.assert_allclose(table.std(), 1 / 4, rtol=0.05)
    assert abs(table.mean()) < 0.01


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_positions_are_added_from_the_table(positions):
    """The vectors of other positions are added, or something else than the table."""
    module = fill(lambda: nn.Positions(tiny_config(positions=positions), rngs=nnx.Rngs(0)))
    table = oracles.sinusoids(16, 8) if positions == "sinusoidal" else oracles.f64(module.table[...])
    x = normal(0, 2, 5, 8)
    assert_close(module(x), oracles.f64(x) + table[:5], 1e-6, "from the start")
    assert_close(module(x, 3 + jnp.arange(5)), oracles.f64(x) + table[3:8], 1e-6, "from 3")
    ragged = np.array([[0, 1, 2, 0, 1], [4, 3, 2, 1, 0]])
    assert_close(module(x, jnp.asarray(ragged)), oracles.f64(x) + table[ragged], 1e-6, "of each row")


def test_a_sequence_longer_than_the_table_is_refused():
    """Tokens past max_length get the last vector, or wrap around."""
    with pytest.raises(ValueError, match="17 tokens does not fit max_length=16"):
        nn.Positions(tiny_config(), rngs=nnx.Rngs(0))(jnp.zeros((1, 17, 8)))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_each_activation_is_its_formula(name):
    """A name stands for another nonlinearity: "gelu" is the exact one, "gelu_tanh" its approximation."""
    module = fill(lambda: nn.FeedForward(tiny_config(activation=name), rngs=nnx.Rngs(0)))
    x = normal(0, 1, 6, 8, scale=2.0)
    held = (module.w1[...], module.b1[...], module.w2[...], module.b2[...])
    assert_close(quick_jit(module)(x), oracles.feed_forward(x, *held, activation=getattr(oracles, name)), 1e-5)


def test_gelu_and_its_approximation_differ():
    """The test above could not tell "gelu" from "gelu_tanh"."""
    x = np.linspace(-3, 3, 50)
    assert np.abs(oracles.gelu(x) - oracles.gelu_tanh(x)).max() > 1e-4


@pytest.mark.parametrize("use_bias", [True, False])
def test_use_bias_decides_about_every_projection(use_bias):
    """A bias is left out, or kept."""
    config = tiny_config(use_bias=use_bias)
    attention = jax.eval_shape(lambda: nn.Attention(config, rngs=nnx.Rngs(0)))
    feed_forward = jax.eval_shape(lambda: nn.FeedForward(config, rngs=nnx.Rngs(0)))
    biases = [getattr(attention, name) for name in ("b_q", "b_k", "b_v", "b_o")] + [feed_forward.b1, feed_forward.b2]
    assert [bias is not None for bias in biases] == [use_bias] * 6


def test_kernels_start_apart_and_biases_at_zero():
    """Two projections start as the same matrix, or a bias starts elsewhere than at zero."""
    attention = quick_jit(lambda: nn.Attention(tiny_config(), rngs=nnx.Rngs(0)))()
    q, k, v = (np.asarray(w[...]) for w in (attention.w_q, attention.w_k, attention.w_v))
    assert not np.allclose(q, k) and not np.allclose(k, v) and not np.allclose(q, v)
    for bias in (attention.b_q, attention.b_k, attention.b_v, attention.b_o):
        np.testing.assert_array_equal(bias[...], 0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_have_the_policys_dtype(dtype):
    """A parameter is created in another dtype than `params=` says."""
    config = tiny_config(precision=f"params={dtype}", positions="learned")
    for make in (
        lambda: nn.FeedForward(config, rngs=nnx.Rngs(0)),
        lambda: nn.Attention(config, rngs=nnx.Rngs(0)),
        lambda: nn.Embedding(5, config, rngs=nnx.Rngs(0)),
        lambda: nn.Positions(config, rngs=nnx.Rngs(0)),
        lambda: nn.LayerNorm(config),
    ):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(jax.eval_shape(make))} == {dtype}


def test_the_norm_starts_as_the_identity_with_the_configs_eps():
    """gamma is not 1, beta is not 0, or eps is another than `norm_eps`."""
    module = nn.LayerNorm(tiny_config(norm_eps=0.5))
    x = normal(0, 2, 3, 8)
    assert_close(module(x), oracles.layer_norm(x, np.ones(8), np.zeros(8), 0.5), 1e-6)


def test_attention_in_two_steps_is_multi_head_attention():
    """`attention(x, attention.keys_values(context))` differs from the pure function of its parameters."""
    config = tiny_config(num_kv_heads=1, head_dim=3)
    attention = fill(lambda: nn.Attention(config, rngs=nnx.Rngs(0)))
    x, context, mask = normal(0, 2, 4, 8), normal(1, 2, 5, 8), F.AttentionMask(lengths=jnp.array([5, 2]))
    out = quick_jit(lambda x, c: attention(x, attention.keys_values(c), mask=mask))(x, context)
    held = [oracles.f64(p) for p in attention.params(jnp.float32)]
    allowed = oracles.mask_by_loops(2, 2, 4, 5, lengths=[5, 2])
    assert_close(out, oracles.multi_head_attention(x, context, *held, mask=allowed), 1e-5)


def test_keys_split_into_distinct_ones():
    """Two places that drop get the same key, or a deterministic call gets one."""
    keys = split_key(jax.random.key(0), 4)
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 4
    assert split_key(None, 3) == [None, None, None]
