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
from tformer_jax.nn.layers import split_key
from tformer_jax.nn.parameters import kernel, table


@pytest.mark.parametrize(
    ("contracted", "batch", "fan"), [("a", "", 62), ("ab", "", 128), ("c", "", 128), ("b", "a", 12), ("c", "b", 38)]
)
def test_glorot_is_uniform_within_the_limit_of_its_fans(contracted, batch, fan):
    """The limit is not sqrt(6 / (fan_in + fan_out)), several axes not counted together, or those of experts counted."""
    axes = {"a": 30, "b": 4, "c": 8}
    make = lambda: kernel(tiny_config(), nnx.Rngs(0), axes, contracted=tuple(contracted), batch=tuple(batch))
    drawn = np.asarray(quick_jit(lambda: make()[...])())
    limit = math.sqrt(6 / fan)
    assert drawn.shape == (30, 4, 8)
    assert 0.97 * limit < np.abs(drawn).max() <= limit
    np.testing.assert_allclose(drawn.std(), limit / math.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("role", ["hidden", "output"])
def test_init_std_is_the_deviation_of_every_matrix(role):
    """A matrix starts with another spread than `init_std`, or uniform."""
    config = tiny_config(init_std=0.02)
    make = lambda: kernel(config, nnx.Rngs(0), {"a": 100, "b": 50}, contracted=["a"], role=role)
    drawn = np.asarray(quick_jit(lambda: make()[...])())
    np.testing.assert_allclose(drawn.std(), 0.02, rtol=0.05)
    assert abs(drawn.mean()) < 0.001
    assert np.abs(drawn).max() > 3 * 0.02  # a uniform one would end at 1.7 of them


@pytest.mark.parametrize("init_std", [None, 0.02])
def test_initial_values_of_16_bits_are_those_of_float32_rounded(init_std):
    """Another precision is another seed, or small values are rounded before they are scaled."""
    policies = ("params=float32", "params=bfloat16", "params=float16")

    def drawn():
        configs = [tiny_config(init_std=init_std, precision=policy) for policy in policies]
        axes, rows = {"a": 9, "b": 7}, {"vocab": 9, "model": 8}
        made = [(kernel(c, nnx.Rngs(0), axes, contracted=["a"]), table(c, nnx.Rngs(1), rows)) for c in configs]
        return [(matrix[...], vectors[...]) for matrix, vectors in made]

    wanted, *found = quick_jit(drawn)()
    for arrays, dtype in zip(found, (jnp.bfloat16, jnp.float16), strict=True):
        for x, exact in zip(arrays, wanted, strict=True):
            np.testing.assert_array_equal(x, exact.astype(dtype), strict=True)


@pytest.mark.parametrize("init_std", [None, 0.5])
def test_what_writes_to_the_residual_stream_starts_smaller(init_std):
    """`scale_residual_init` divides by something else than sqrt(2 num_layers), or other matrices than w_o and w2."""

    def matrices(scaled):
        config = tiny_config(scale_residual_init=scaled, init_std=init_std, num_layers=8, gated=True)
        modules = (
            part.make(config, rngs=nnx.Rngs(i)) for i, part in enumerate((config.attention, config.feed_forward))
        )
        return {name: w[...] for module in modules for name, w in vars(module).items() if name.startswith("w")}

    plain, scaled = quick_jit(lambda: (matrices(False), matrices(True)))()
    assert set(plain) == {"w_q", "w_k", "w_v", "w_o", "w_gate", "w1", "w2"}
    for name, w in plain.items():
        np.testing.assert_allclose(scaled[name], w / 4 if name in ("w_o", "w2") else w, rtol=1e-6, err_msg=name)


def feed_forward(**changes):
    config = tiny_config(**changes)
    return config.feed_forward.make(config, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", sorted(["relu", "gelu", "gelu_tanh", "silu"]))
def test_each_activation_is_its_formula(name):
    """A name stands for another nonlinearity: "gelu" is the exact one, "gelu_tanh" its approximation."""
    module = fill(lambda: feed_forward(activation=name))
    x = normal(0, 1, 6, 8, scale=2.0)
    held = (module.w1[...], module.b1[...], module.w2[...], module.b2[...])
    assert_close(quick_jit(module)(x), oracles.feed_forward(x, *held, activation=getattr(oracles, name)), 1e-5)


def test_a_gated_feed_forward_has_its_own_gate():
    """`gated` passes a projection in another's place: gate and up differ in what goes through the activation."""
    module = fill(lambda: feed_forward(gated=True, activation="silu"))
    x = normal(0, 1, 6, 8)
    held = (module.w_gate, module.w1, module.w2, module.b_gate, module.b1, module.b2)
    assert_close(quick_jit(module)(x), oracles.gated_feed_forward(x, *(p[...] for p in held)), 1e-5)


def test_gelu_and_its_approximation_differ():
    """The test above could not tell "gelu" from "gelu_tanh"."""
    x = np.linspace(-3, 3, 50)
    assert np.abs(oracles.gelu(x) - oracles.gelu_tanh(x)).max() > 1e-4


@pytest.mark.parametrize("use_bias", [True, False])
def test_use_bias_decides_about_every_projection(use_bias):
    """A bias is left out, or kept."""
    config = tiny_config(use_bias=use_bias, gated=True)
    attention = jax.eval_shape(lambda: nn.Attention(config, rngs=nnx.Rngs(0)))
    held = jax.eval_shape(lambda: config.feed_forward.make(config, rngs=nnx.Rngs(0)))
    biases = [getattr(attention, name) for name in ("b_q", "b_k", "b_v", "b_o")]
    biases += [held.b_gate, held.b1, held.b2]
    assert [bias is not None for bias in biases] == [use_bias] * 7


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
    some = dict(positions="learned", gated=True, qk_norm=True, tie_output=False) | {"output.bias": True}
    config = tiny_config(precision=f"params={dtype}", **some)
    relative = config.changed(positions={"name": "relative"})
    for make in (
        lambda: config.feed_forward.make(config, rngs=nnx.Rngs(0)),
        lambda: nn.Attention(config, rngs=nnx.Rngs(0)),
        lambda: nn.Embedding(5, config, rngs=nnx.Rngs(0)),
        lambda: nn.Positions(config, rngs=nnx.Rngs(0)),
        lambda: relative.positions.in_scores(relative, bidirectional=True, rngs=nnx.Rngs(0)),
        lambda: nn.Output(config, rngs=nnx.Rngs(0)),
        lambda: nn.Linear(config, ("a", 3), ("b", 5), rngs=nnx.Rngs(0)),
        lambda: config.norm.make(config),
    ):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(jax.eval_shape(make))} == {dtype}


@pytest.mark.parametrize(("kind", "width"), [("layer", None), ("rms", None), ("rms", 5)])
def test_the_norm_starts_as_the_identity_with_the_configs_eps(kind, width):
    """gamma is not 1, beta is not 0, eps is another than `norm_eps`, or the width is the model's."""
    config = tiny_config(norm_eps=0.5, norm=kind)
    module = config.norm.make(config, width and {"head": width})
    width = width or 8
    x, ones = normal(0, 2, 3, width), np.ones(width)
    layer = kind == "layer"
    wanted = oracles.layer_norm(x, ones, 0 * ones, 0.5) if layer else oracles.rms_norm(x, ones, 0.5)
    assert_close(module(x), wanted, 1e-6)
    assert (module.beta is not None) == layer


def test_the_norm_is_of_the_configs_kind():
    """`norm.name` does not decide what a norm computes."""
    for kind, other in (("layer", "rms"), ("rms", "layer")):
        config = tiny_config(norm=kind)
        module = fill(lambda config=config: config.norm.make(config))
        x = normal(0, 2, 3, 8)
        if kind == "layer":
            wanted = oracles.layer_norm(x, module.gamma[...], module.beta[...], 1e-5)
        else:
            wanted = oracles.rms_norm(x, module.gamma[...], 1e-5)
        assert_close(module(x), wanted, 1e-6, f"{kind}, not {other}")


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_x_w_plus_b(bias):
    """The matrix is transposed, or the bias left out or there."""
    module = fill(lambda: nn.Linear(tiny_config(), ("a", 3), ("b", 5), bias=bias, rngs=nnx.Rngs(0)))
    x = normal(0, 2, 4, 3)
    wanted = oracles.f64(x) @ oracles.f64(module.w[...])
    assert_close(module(x), wanted + oracles.f64(module.b[...]) if bias else wanted, 1e-6)
    assert (module.b is None) == (not bias)


def test_attention_in_two_steps_is_multi_head_attention():
    """`attention(x, attention.keys_values(context))` differs from the pure function of its parameters."""
    config = tiny_config(num_kv_heads=1, head_dim=3)
    attention = fill(lambda: nn.Attention(config, rngs=nnx.Rngs(0)))
    x, context, mask = normal(0, 2, 4, 8), normal(1, 2, 5, 8), F.AttentionMask(lengths=jnp.array([5, 2]))
    out = quick_jit(lambda x, c: attention(x, attention.keys_values(c), mask=mask).output)(x, context)
    held = [oracles.f64(p) for p in attention.params(jnp.float32)]
    allowed = oracles.mask_by_loops(2, 2, 4, 5, lengths=[5, 2])
    assert_close(out, oracles.multi_head_attention(x, context, *held, mask=allowed), 1e-5)


SOFTCAP = 0.7
PLACED = dict(num_kv_heads=1, head_dim=4, qk_norm=True, attention_softcap=SOFTCAP, positions="rotary", norm_eps=1e-3)


def placed_oracle(attention, x, positions, allowed):
    """Queries and keys normed per head, then turned; capped scores: (weights, output), in float64."""
    w_q, w_k, w_v, w_o, b_q, b_k, b_v, b_o = (oracles.f64(p) for p in attention.params(jnp.float32))
    q = oracles.rms_norm(np.einsum("btd,dnh->btnh", x, w_q) + b_q, attention.q_norm.gamma[...], 1e-3)
    k = oracles.rms_norm(np.einsum("btd,dnh->btnh", x, w_k) + b_k, attention.k_norm.gamma[...], 1e-3)
    q, k = (oracles.rotary(heads, positions, base=100.0) for heads in (q, k))
    v = np.einsum("btd,dnh->btnh", x, w_v) + b_v
    weights = oracles.attention_weights(q, k, allowed, softcap=SOFTCAP)
    heads = oracles.attention(q, k, v, allowed, softcap=SOFTCAP)
    return weights, np.einsum("btnh,nhd->btd", heads, w_o) + b_o


def test_queries_and_keys_are_normed_then_turned_and_scores_capped():
    """A norm is of the wrong side or after the rotation, values are turned, or the cap is left out of the weights."""
    attention = fill(lambda: nn.Attention(tiny_config(**PLACED, rotary_base=100.0), rngs=nnx.Rngs(0)))
    x, positions, mask = (
        normal(0, 2, 5, 8, scale=2.0),
        jnp.array([[0, 1, 2, 3, 4], [3, 5, 6, 7, 9]]),
        F.AttentionMask(causal=True),
    )

    def both(attention, x):
        where = mask.placed(query_positions=positions)
        found = attention(x, mask=where, weights=True)
        return found.weights, found.output

    wanted = placed_oracle(attention, oracles.f64(x), positions, oracles.mask_by_loops(2, 2, 5, 5, causal=True))
    for got, exact in zip(quick_jit(both)(attention, x), wanted, strict=True):
        assert_close(got, exact, 1e-5)


def test_rotary_positions_leave_cross_attention_alone():
    """Under rotary positions, keys and values of a memory, which has no positions beside the target's, are turned."""
    changes = dict(num_heads=2, head_dim=4)
    rotary, plain = (
        fill(lambda p=p: nn.Attention(tiny_config(**changes, positions=p), rngs=nnx.Rngs(0)))
        for p in ("rotary", "none")
    )
    x, memory = normal(0, 2, 4, 8), normal(1, 2, 5, 8)
    got, wanted = (attention(x, attention.keys_values(memory)).output for attention in (rotary, plain))
    np.testing.assert_array_equal(got, wanted)


def test_keys_split_into_distinct_ones():
    """Two places that drop get the same key, or a deterministic call gets one."""
    keys = split_key(jax.random.key(0), 4)
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 4
    assert split_key(None, 3) == [None, None, None]
