"""Encoder and decoder layers against equations 7 and 9 in float64, and the stack against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support import assert_close, fill, normal, quick_jit, tiny_config

import tformer_jax.functional as F
from tformer_jax import nn

POSITIONS = ["post", "pre"]


def parameters(attention):
    return [oracles.f64(p) for p in attention.params(jnp.float32)]


def norm(residual, x):
    return oracles.layer_norm(x, residual.norm.gamma[...], residual.norm.beta[...], residual.norm.eps)


def sublayer(residual, x, function):
    """LayerNorm(x + f(x)), or x + f(LayerNorm(x))."""
    if residual.post:
        return norm(residual, x + function(x))
    return x + function(norm(residual, x))


def feed_forward(module, x):
    return oracles.feed_forward(x, *(oracles.f64(p[...]) for p in (module.w1, module.b1, module.w2, module.b2)))


def encoder_layer(layer, x, allowed):
    """Equation 7."""
    mha = parameters(layer.attention)
    x = sublayer(layer.attention_residual, x, lambda x: oracles.multi_head_attention(x, x, *mha, mask=allowed))
    return sublayer(layer.feed_forward_residual, x, lambda x: feed_forward(layer.feed_forward, x))


def decoder_layer(layer, x, memory, allowed, memory_allowed):
    """Equation 9."""
    mha, cross = parameters(layer.attention), parameters(layer.cross_attention)
    x = sublayer(layer.attention_residual, x, lambda x: oracles.multi_head_attention(x, x, *mha, mask=allowed))
    x = sublayer(
        layer.cross_attention_residual,
        x,
        lambda x: oracles.multi_head_attention(x, memory, *cross, mask=memory_allowed),
    )
    return sublayer(layer.feed_forward_residual, x, lambda x: feed_forward(layer.feed_forward, x))


@pytest.mark.parametrize("norm_position", POSITIONS)
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_encoder_layer_is_equation_7(norm_position, kv_heads):
    """A norm, a residual or a sublayer is in another place than LayerNorm(X + MHA(X)), LayerNorm(Z' + FFN(Z'))."""
    config = tiny_config(norm_position=norm_position, num_kv_heads=kv_heads)
    layer = fill(lambda: nn.EncoderLayer(config, rngs=nnx.Rngs(0)))
    x, mask = normal(1, 2, 5, 8), F.AttentionMask(lengths=jnp.array([5, 2]))
    out, captured = quick_jit(lambda layer, x: layer(x, mask=mask))(layer, x)
    assert captured == {}
    assert_close(out, encoder_layer(layer, oracles.f64(x), oracles.mask_by_loops(2, 2, 5, 5, lengths=[5, 2])), 1e-5)


@pytest.mark.parametrize("norm_position", POSITIONS)
def test_decoder_layer_is_equation_9(norm_position):
    """Queries are not the decoder's, keys and values not the memory's, or the sublayers' order is another."""
    layer = fill(lambda: nn.DecoderLayer(tiny_config(norm_position=norm_position), rngs=nnx.Rngs(0)))
    x, memory = normal(1, 2, 4, 8), normal(2, 2, 5, 8)
    mask, memory_mask = F.AttentionMask(causal=True), F.AttentionMask(lengths=jnp.array([5, 2]))

    def run(layer, x, memory):
        kv = layer.cross_attention.keys_values(memory)
        return layer(x, kv, mask=mask, memory_mask=memory_mask)[0]

    wanted = decoder_layer(
        layer,
        oracles.f64(x),
        oracles.f64(memory),
        oracles.mask_by_loops(2, 2, 4, 4, causal=True),
        oracles.mask_by_loops(2, 2, 4, 5, lengths=[5, 2]),
    )
    assert_close(quick_jit(run)(layer, x, memory), wanted, 1e-5)


def stack_of(config, layers=3):
    return fill(lambda: nn.Stack(nn.EncoderLayer, layers, config, rngs=nnx.Rngs(0)))


def run_stack(stack, x, key=None):
    return stack(lambda layer, x, _, key: layer(x, key=key), x, key=key)[0]


@pytest.mark.parametrize("norm_position", POSITIONS)
def test_the_stack_is_its_layers_in_order(norm_position):
    """The scan skips, repeats or reorders layers; pre-norm has no final norm, or post-norm has one."""
    stack = stack_of(tiny_config(norm_position=norm_position))
    x = normal(0, 1, 4, 8)
    wanted = oracles.f64(x)
    for i in range(3):
        wanted = encoder_layer(jax.tree.map(lambda leaf, i=i: leaf[i], stack.layers), wanted, None)
    if norm_position == "pre":
        final = stack.final_norm
        wanted = oracles.layer_norm(wanted, final.gamma[...], final.beta[...], final.eps)
    assert_close(quick_jit(run_stack)(stack, x), wanted, 1e-5)


def test_every_layer_starts_with_its_own_parameters():
    """Layers share their initial weights: `vmap` over one key."""
    stack = quick_jit(lambda: nn.Stack(nn.FeedForward, 3, tiny_config(), rngs=nnx.Rngs(0)))()
    w1 = np.asarray(stack.layers.w1[...])
    assert w1.shape == (3, 8, 12)
    assert not np.allclose(w1[0], w1[1]) and not np.allclose(w1[1], w1[2])


@pytest.mark.parametrize("field", ["dropout_rate", "attention_dropout_rate", "activation_dropout_rate"])
def test_each_dropout_rate_drops_only_with_a_key(field):
    """A rate does nothing, or a deterministic call drops."""
    stack, plain = stack_of(tiny_config(**{field: 0.5}), 1), stack_of(tiny_config(), 1)
    x, drop = normal(0, 1, 4, 8), quick_jit(run_stack)
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
    for module in (stack.layers.feed_forward.b2, stack.layers.attention.b_o):
        module[...] = jnp.ones_like(module[...])  # each sublayer adds dropout(1): 0 or 2

    def streams(stack, x, key):
        def body(layer, x, _, key):
            return layer(x, key=key, capture=("residual",))

        return stack(body, x, key=key)[1]["residual"]

    residual = np.asarray(quick_jit(streams)(stack, jnp.zeros((2, 8, 8)), jax.random.key(0)))
    first, second = residual[0], residual[1] - residual[0]
    assert set(np.unique(first)) == {0.0, 2.0, 4.0}
    assert not np.array_equal(first, second)
