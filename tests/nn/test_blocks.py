"""Encoder and decoder layers against equations 7 and 9 in float64, and the stack against a loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support import assert_close, by_day, fill, normal, quick_jit, tiny_config

import tformer_jax.functional as F
from tformer_jax import nn

POSITIONS = ["post", "pre", "sandwich"]


def parameters(attention):
    return [oracles.f64(p) for p in attention.params(jnp.float32)]


def norm(module, x):
    return oracles.layer_norm(x, module.gamma[...], module.beta[...], module.config.eps)


def sublayer(residual, x, function, norm_position):
    """LayerNorm(x + f(x)), x + f(LayerNorm(x)), or x + LayerNorm'(f(LayerNorm(x)))."""
    if norm_position == "post":
        return norm(residual.norm, x + function(x))
    update = function(norm(residual.norm, x))
    return x + (norm(residual.output_norm, update) if norm_position == "sandwich" else update)


def feed_forward(module, x):
    return oracles.feed_forward(x, *(oracles.f64(p[...]) for p in (module.w1, module.b1, module.w2, module.b2)))


def encoder_layer(layer, x, allowed, norm_position):
    """Equation 7."""
    mha = parameters(layer.attention)

    def attend(x):
        return oracles.multi_head_attention(x, x, *mha, mask=allowed)

    x = sublayer(layer.attention_residual, x, attend, norm_position)
    return sublayer(layer.feed_forward_residual, x, lambda x: feed_forward(layer.feed_forward, x), norm_position)


def decoder_layer(layer, x, memory, allowed, memory_allowed, norm_position):
    """Equation 9."""
    mha, cross = parameters(layer.attention), parameters(layer.cross_attention)

    def attend(x):
        return oracles.multi_head_attention(x, x, *mha, mask=allowed)

    def attend_memory(x):
        return oracles.multi_head_attention(x, memory, *cross, mask=memory_allowed)

    x = sublayer(layer.attention_residual, x, attend, norm_position)
    x = sublayer(layer.cross_attention_residual, x, attend_memory, norm_position)
    return sublayer(layer.feed_forward_residual, x, lambda x: feed_forward(layer.feed_forward, x), norm_position)


@pytest.mark.parametrize(("norm_position", "kv_heads"), by_day(itertools.product(POSITIONS, (2, 1)), 1, 2, 5))
def test_encoder_layer_is_equation_7(norm_position, kv_heads):
    """A norm, a residual or a sublayer is in another place than LayerNorm(X + MHA(X)), LayerNorm(Z' + FFN(Z'))."""
    config = tiny_config(norm_position=norm_position, num_kv_heads=kv_heads)
    layer = fill(lambda: nn.EncoderLayer(config, rngs=nnx.Rngs(0)))
    x, mask = normal(1, 2, 5, 8), F.AttentionMask(lengths=jnp.array([5, 2]))
    out, beside = quick_jit(lambda layer, x: layer(x, mask=mask))(layer, x)
    assert beside == (None, {}, {})
    allowed = oracles.mask_by_loops(2, 2, 5, 5, lengths=[5, 2])
    assert_close(out, encoder_layer(layer, oracles.f64(x), allowed, norm_position), 1e-5)


def test_a_parallel_block_adds_both_sublayers_of_one_norm():
    """The feed-forward network reads the stream after attention, or another norm (Wang & Komatsuzaki, 2021)."""
    layer = fill(
        lambda: nn.EncoderLayer(tiny_config("CausalLM", parallel_block=True, norm_position="pre"), rngs=nnx.Rngs(0))
    )
    x = normal(1, 2, 5, 8)
    inner = norm(layer.attention_residual.norm, x)
    attended = oracles.multi_head_attention(inner, inner, *parameters(layer.attention))
    wanted = oracles.f64(x) + attended + feed_forward(layer.feed_forward, inner)
    assert_close(quick_jit(lambda layer, x: layer(x)[0])(layer, x), wanted, 1e-5)
    assert layer.feed_forward_residual is None


@pytest.mark.parametrize("norm_position", by_day(POSITIONS, 0, 2))
def test_decoder_layer_is_equation_9(norm_position):
    """Queries are not the decoder's, keys and values not the memory's, or the sublayers' order is another."""
    layer = fill(lambda: nn.DecoderLayer(tiny_config(norm_position=norm_position), rngs=nnx.Rngs(0)))
    x, memory = normal(1, 2, 4, 8), normal(2, 2, 5, 8)
    mask, memory_mask = F.AttentionMask(causal=True), F.AttentionMask(lengths=jnp.array([5, 2]))

    def run(layer, x, memory):
        how = {"mask": mask, "memory_mask": memory_mask}
        return layer(x, memory, **how)[0], layer(x, layer.cross_attention.keys_values(memory), **how)[0]

    wanted = decoder_layer(
        layer,
        oracles.f64(x),
        oracles.f64(memory),
        oracles.mask_by_loops(2, 2, 4, 4, causal=True),
        oracles.mask_by_loops(2, 2, 4, 5, lengths=[5, 2]),
        norm_position,
    )
    for found in quick_jit(run)(layer, x, memory):  # of the memory, and of its keys and values
        assert_close(found, wanted, 1e-5)


def stack_of(config, layers=3):
    return fill(lambda: nn.Stack(config, layers, bidirectional=True, rngs=nnx.Rngs(0)))


def run_stack(stack, x, key=None):
    return stack(x, mask=F.AttentionMask(), key=key)[0]


@pytest.mark.parametrize("norm_position", by_day(POSITIONS, 0, 1))
def test_the_stack_is_its_layers_in_order(norm_position):
    """The scan skips, repeats or reorders layers; only post-norm, which ends in a norm, has no final one."""
    stack = stack_of(tiny_config(norm_position=norm_position))
    x = normal(0, 1, 4, 8)
    wanted = oracles.f64(x)
    for i in range(3):
        wanted = encoder_layer(jax.tree.map(lambda leaf, i=i: leaf[i], stack.layers[0]), wanted, None, norm_position)
    if norm_position == "post":
        assert stack.final_norm is None
    else:
        wanted = norm(stack.final_norm, wanted)
    assert_close(quick_jit(run_stack)(stack, x), wanted, 1e-5)


def test_the_final_norm_may_be_left_out():
    """A norm that is not to be is applied, or has parameters."""
    with_norm, without = (stack_of(tiny_config(norm_position="pre", **{"layer.final_norm": n})) for n in (True, False))
    assert without.final_norm is None
    x = normal(0, 1, 4, 8)
    wanted = norm(with_norm.final_norm, oracles.f64(quick_jit(run_stack)(without, x)))
    with_norm.layers = without.layers
    assert_close(quick_jit(run_stack)(with_norm, x), wanted, 1e-5)


def test_every_layer_starts_with_its_own_parameters():
    """Layers share their initial weights: `vmap` over one key."""
    stack = quick_jit(lambda: nn.Stack(tiny_config(), 3, bidirectional=True, rngs=nnx.Rngs(0)))()
    w1 = np.asarray(stack.layers[0].feed_forward.w1[...])
    assert w1.shape == (3, 8, 12)
    assert not np.allclose(w1[0], w1[1]) and not np.allclose(w1[1], w1[2])


drop = quick_jit(run_stack)


@pytest.mark.parametrize("field", ["dropout_rate", "attention_dropout_rate", "activation_dropout_rate"])
def test_each_dropout_rate_drops_only_with_a_key(field):
    """A rate does nothing, or a deterministic call drops."""
    stack, plain = stack_of(tiny_config(**{field: 0.5}), 1), stack_of(tiny_config(), 1)
    x = normal(0, 1, 4, 8)
    dropped, again, other = (drop(stack, x, jax.random.key(seed)) for seed in (0, 0, 1))
    without, exact = drop(stack, x), drop(plain, x)
    np.testing.assert_array_equal(without, exact)
    assert not np.allclose(without, dropped)
    np.testing.assert_array_equal(dropped, again)
    assert not np.allclose(dropped, other)


def test_layers_drop_independently():
    """Every layer of the scan drops the same elements."""
    config = tiny_config(dropout_rate=0.5, norm_position="pre")
    stack = jax.tree.map(jnp.zeros_like, stack_of(config, 2))
    for module in (stack.layers[0].feed_forward.b2, stack.layers[0].attention.b_o):
        module[...] = jnp.ones_like(module[...])  # each sublayer adds dropout(1): 0 or 2

    def streams(stack, x, key):
        return stack(x, mask=F.AttentionMask(), key=key, capture=("residual",))[1].captured["residual"]

    residual = np.asarray(quick_jit(streams)(stack, jnp.zeros((2, 8, 8)), jax.random.key(0)))
    first, second = residual[0], residual[1] - residual[0]
    assert set(np.unique(first)) == {0.0, 2.0, 4.0}
    assert not np.array_equal(first, second)
