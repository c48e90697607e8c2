"""The loss whose logits exist a chunk at a time: the formula, its gradients, its memory (equation 11)."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from support import assert_close, by_day, equations, examples, normal, quick_jit

import tformer_jax.functional as F

D = 3
OPTIONS = dict(label_smoothing=0.1, z_loss=1e-2, logit_softcap=2.0)


def capped(x, softcap):
    return x if softcap is None else softcap * np.tanh(x / softcap)


def wanted(hidden, w_out, b_out, targets, weights, label_smoothing=0.0, z_loss=0.0, logit_softcap=None):
    """The loss, then d hidden, d w_out, d b_out by the chain rule and d weights = (loss_i - loss) / sum(weights)."""
    hidden, w_out = oracles.f64(hidden), oracles.f64(w_out)
    logits = capped(hidden @ w_out + (0 if b_out is None else oracles.f64(b_out)), logit_softcap)
    args = logits, targets, weights, label_smoothing, z_loss
    loss = oracles.cross_entropy(*args)
    d_logits = oracles.cross_entropy_gradient(*args)
    if logit_softcap is not None:
        d_logits *= 1 - (logits / logit_softcap) ** 2
    flat = d_logits.reshape(-1, d_logits.shape[-1])
    each = np.empty(np.shape(targets))
    for index in np.ndindex(each.shape):
        each[index] = oracles.cross_entropy(logits[index][None], [targets[index]], None, label_smoothing, z_loss)
    total = np.size(targets) if weights is None else np.sum(weights)
    gradients = d_logits @ w_out.T, hidden.reshape(-1, hidden.shape[-1]).T @ flat, flat.sum(0), (each - loss) / total
    return loss, *gradients


def value_and_gradients(hidden, w_out, b_out, targets, weights, **options):
    """As `wanted`, from the library; zeros for the bias and the weights where they are None."""

    def loss(hidden, w_out, b_out, weights):
        return F.fused_cross_entropy(hidden, w_out, targets, b_out=b_out, weights=weights, **options)

    out, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(hidden, w_out, b_out, weights)
    return out, *gradients


def test_oracle_agrees_with_central_differences():
    """One of the oracle's hand-derived gradients is wrong."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape) for shape in ((2, 2, D), (D, 5), (5,))]
    targets, weights = rng.integers(0, 5, (2, 2)), rng.random((2, 2))
    loss, *gradients = wanted(*inputs, targets, weights, **OPTIONS)
    for i, gradient in enumerate(gradients):

        def of_one(x, i=i):
            hidden, w_out, b_out, w = (x if i == j else y for j, y in enumerate((*inputs, weights)))
            logits = capped(hidden @ w_out + b_out, OPTIONS["logit_softcap"])
            return oracles.cross_entropy(logits, targets, w, OPTIONS["label_smoothing"], OPTIONS["z_loss"])

        assert_close(gradient, oracles.central_differences(of_one, (*inputs, weights)[i]), 1e-8)


# shape, V, chunk size, with a bias, with weights, smoothing, z-loss, cap
CASES = st.tuples(
    st.sampled_from([(), (3,), (2, 5), (2, 2, 3)]),
    st.sampled_from([2, 7]),
    st.sampled_from([1, 2, 3, 4, 100]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 1e-2]),
    st.sampled_from([None, 1.5]),
)


@examples(5)
@given(CASES)
def test_value_and_gradients_match_the_formula(case):
    """The loss of cap(h W + b), or its gradient for h, W, b or the weights, is not the formula's."""
    check_the_formula(*case)


@pytest.mark.slow
@examples(40)
@given(CASES)
def test_value_and_gradients_match_the_formula_in_many_cases(case):
    """As above."""
    check_the_formula(*case)


def check_the_formula(shape, V, chunk_size, biased, weighted, smoothing, z_loss, softcap):
    rng = np.random.default_rng(V + sum(shape))
    targets = rng.integers(0, V, shape)
    weights = (rng.integers(0, 3, shape) + (np.arange(targets.size) == 0).reshape(shape)) if weighted else None
    hidden, w_out, b_out = normal(0, *shape, D, scale=2.0), normal(1, D, V), normal(2, V) if biased else None
    options = dict(label_smoothing=smoothing, z_loss=z_loss, logit_softcap=softcap)
    run = quick_jit(functools.partial(value_and_gradients, chunk_size=chunk_size, **options))
    given_weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    got = run(hidden, w_out, b_out, jnp.asarray(targets), given_weights)
    names = ("loss", "hidden", "w_out", "b_out", "weights")
    for name, a, b in zip(names, got, wanted(hidden, w_out, b_out, targets, weights, **options), strict=True):
        if a is not None:
            assert_close(a, b, 5e-6, name)


def test_it_is_cross_entropy_of_the_logits():
    """The two losses of the library have other conventions: padding, targets that nobody may look at, weights."""
    hidden, w_out = normal(0, 3, 4, D), normal(1, D, 7)
    targets = jnp.asarray([[0, 6, -1, 3], [1, 2, 7, -100], [5, 5, 0, 1]])
    weights = jnp.asarray([[1.0, 0.5, 0.0, 2.0], [1.0, 1.0, 0.0, 0.0], [0.0, 3.0, 1.0, 1.0]])

    def plain(hidden, w_out, weights):
        return F.cross_entropy(hidden @ w_out, targets, weights=weights, label_smoothing=0.1, z_loss=0.01)

    def fused(hidden, w_out, weights):
        options = dict(label_smoothing=0.1, z_loss=0.01, chunk_size=5)
        return F.fused_cross_entropy(hidden, w_out, targets, weights=weights, **options)

    both = [quick_jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(hidden, w_out, weights) for f in (plain, fused)]
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        assert_close(b, a, 2e-6)


@pytest.mark.parametrize("target", [-1, 4, 2**31 - 1])
def test_a_target_outside_of_the_vocabulary_makes_the_loss_nan(target):
    """It is clamped, or counted from the end, to a class that nobody meant."""
    loss = quick_jit(functools.partial(F.fused_cross_entropy, chunk_size=2))
    assert np.isnan(loss(normal(0, 3, D), normal(1, D, 4), jnp.array([0, target, 1])))


def test_a_batch_of_only_padding_costs_nothing():
    """All weights zero divides by zero, in the value or in a gradient."""
    zeros = jnp.zeros(3)
    got = quick_jit(value_and_gradients)(normal(0, 3, D), normal(1, D, 4), normal(2, 4), jnp.array([0, -1, 1]), zeros)
    for x in got:
        np.testing.assert_array_equal(x, 0.0)


@pytest.mark.parametrize("dtype", by_day([jnp.bfloat16, jnp.float16], 0))
def test_16_bit_inputs_have_a_float32_loss_and_16_bit_gradients(dtype):
    """The logits are rounded to 16 bits, gradients are summed in 16 bits, or come back in another dtype."""
    hidden, w_out, b_out = normal(0, 600, D, dtype=dtype), normal(1, D, 5, dtype=dtype), normal(2, 5, dtype=dtype)
    targets = np.zeros(600, int)  # sums that grow: in bfloat16, 256 + 1 is 256
    run = quick_jit(functools.partial(value_and_gradients, chunk_size=1))
    loss, *gradients = run(hidden, w_out, b_out, jnp.asarray(targets), jnp.ones(600, dtype))
    expected, *formula = wanted(hidden, w_out, b_out, targets, None)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for a, b in zip(gradients, formula, strict=True):
        assert a.dtype == dtype
        assert_close(a / np.abs(b).max(), b / np.abs(b).max(), 1e-2)


def test_a_scaled_loss_keeps_small_float16_gradients():
    """Gradients are rounded to float16 before the loss scale that should save them is applied."""
    hidden, w_out = normal(0, 8, D, dtype=jnp.float16), normal(1, D, 5, scale=3e-6, dtype=jnp.float16)
    targets = np.arange(8) % 5
    run = quick_jit(jax.grad(lambda h: 2.0**15 * F.fused_cross_entropy(h, w_out, jnp.asarray(targets))))
    gradient = run(hidden)
    formula = 2.0**15 * wanted(hidden, w_out, None, targets, None)[1]
    assert_close(gradient / np.abs(formula).max(), formula / np.abs(formula).max(), 2e-3)


def traced(differentiated: bool, chunk_size: int):
    hidden, w_out, targets = jnp.zeros((4, 16, D)), jnp.zeros((D, 50)), jnp.zeros((4, 16), int)
    loss = functools.partial(F.fused_cross_entropy, chunk_size=chunk_size, **OPTIONS)
    run = jax.value_and_grad(loss, argnums=(0, 1)) if differentiated else loss
    return list(equations(jax.make_jaxpr(run)(hidden, w_out, targets)))


@pytest.mark.parametrize("differentiated", [False, True])
def test_no_array_holds_the_logits_of_more_than_a_chunk(differentiated):
    """Memory is O(tokens V) after all."""
    largest = [
        max(x.aval.size for equation in traced(differentiated, chunk_size) for x in equation.outvars)
        for chunk_size in (8, 64)
    ]
    assert largest == [8 * 50, 64 * 50]


def test_gradients_hold_the_logits_of_one_chunk_twice():
    """Zeros to add up in, which the compiler takes out of the loop, or what no step needs stay beside the logits."""
    V, chunk_size = 5000, 64
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((256, D), (D, V))]
    loss = functools.partial(F.fused_cross_entropy, chunk_size=chunk_size)
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    program = run.lower(*shapes, jax.ShapeDtypeStruct((256,), jnp.int32)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 2.2 * chunk_size * V * 4


@pytest.mark.parametrize(("differentiated", "products"), [(False, 1), (True, 3)])
def test_logits_are_computed_once(differentiated, products):
    """The backward pass computes the logits again, or the forward pass computes gradients that nobody asked for."""
    assert sum(equation.primitive.name == "dot_general" for equation in traced(differentiated, 8)) == products


def test_vmap_inside_scan_is_a_loop():
    """Batching the hand-written rule, or carrying its loss through a scan, mixes up examples."""
    hidden, w_out = normal(0, 2, 3, 5, D), normal(1, D, 7)
    targets = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 3, 5)))

    def loss(hidden, w_out, targets):
        return F.fused_cross_entropy(hidden, w_out, targets, chunk_size=2)

    def scanned(hidden, w_out):
        def step(total, example):
            return total + jax.vmap(loss, in_axes=(0, None, 0))(example[0], w_out, example[1]).sum(), None

        return jax.lax.scan(step, 0.0, (hidden, targets))[0]

    value, gradients = quick_jit(jax.value_and_grad(scanned, argnums=(0, 1)))(hidden, w_out)
    each = [wanted(hidden[i, j], w_out, None, np.asarray(targets)[i, j], None) for i, j in np.ndindex(2, 3)]
    assert_close(value, sum(e[0] for e in each), 1e-5)
    assert_close(gradients[0].reshape(6, 5, D), np.stack([e[1] for e in each]), 1e-5)
    assert_close(gradients[1], sum(e[2] for e in each), 1e-5)


def test_classes_may_be_spread_over_an_explicit_mesh():
    """An axis that is split is neither gathered from nor scattered to, and one that is not meets it."""
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    inputs = normal(0, 4, 3, D), normal(1, D, 6), normal(2, 6), jnp.asarray(np.arange(12).reshape(4, 3) % 6)

    def loss(hidden, w_out, b_out, targets):
        return F.fused_cross_entropy(hidden, w_out, targets, b_out=b_out, chunk_size=4, **OPTIONS)

    run = quick_jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    places = PartitionSpec("data"), PartitionSpec(None, "model"), PartitionSpec("model"), PartitionSpec("data")
    with jax.set_mesh(mesh):
        found = run(*map(jax.device_put, inputs, (NamedSharding(mesh, place) for place in places)))
    for a, b in zip(*map(jax.tree.leaves, (found, run(*inputs))), strict=True):
        assert_close(a, b, 1e-5)


def test_devices_keep_their_own_tokens():
    """With the batch spread over devices, each chunk would lie on one of them and be sent to all."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    hidden, w_out, targets = jnp.zeros((8, 6, D)), jnp.zeros((D, 5)), jnp.zeros((8, 6), int)
    run = jax.value_and_grad(functools.partial(F.fused_cross_entropy, chunk_size=16), argnums=(0, 1))
    program = jax.jit(run, in_shardings=(spread, copied, spread)).lower(hidden, w_out, targets).compile().as_text()
    collectives = set(re.findall(r" (all-\w+|collective-permute)(?:-start)?\(", program))
    assert collectives == {"all-reduce"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(label_smoothing=1.0), r"label_smoothing must be in \[0, 1\), got 1.0"),
        (dict(logit_softcap=0.0), "logit_softcap must be positive, got 0.0"),
        (dict(logit_softcap=float("inf")), "logit_softcap must be positive, got inf; None means no cap"),
        (dict(chunk_size=0), "chunk_size must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    """An impossible option trains something else, or fails without saying why."""
    with pytest.raises(ValueError, match=message):
        F.fused_cross_entropy(jnp.zeros((1, D)), jnp.zeros((D, 2)), jnp.array([0]), **options)
