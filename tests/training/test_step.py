"""One training step: accumulation, randomness, metrics, and the state as a flat dictionary of arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support import quick_jit, tiny_transformer

from tformer_jax.config import ConfigError
from tformer_jax.training.step import StateLayout, TrainState, make_train_step

ROWS, INPUTS, OUTPUTS = 12, 3, 2


class Linear(nnx.Module):
    """y = x W + b."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.w = nnx.Param(jnp.asarray(rng.standard_normal((INPUTS, OUTPUTS)), jnp.float32))
        self.b = nnx.Param(jnp.zeros(OUTPUTS))


def squared_error(model, batch, key):
    """The weighted mean over rows, and the weight."""
    error = batch["x"] @ model.w[...] + model.b[...] - batch["y"]
    weight = batch["weight"].sum()
    return (batch["weight"] * (error**2).sum(-1)).sum() / jnp.where(weight == 0, 1.0, weight), weight, {}


def make_batch(weights=None):
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 4, ROWS) if weights is None else weights
    return {
        "x": rng.standard_normal((ROWS, INPUTS)).astype(np.float32),
        "y": rng.standard_normal((ROWS, OUTPUTS)).astype(np.float32),
        "weight": np.asarray(weights, np.float32),
    }


def by_hand(batch):
    """Loss, weight, and the gradients of W and b at the start, in float64."""
    x, y, weight = (batch[name].astype(np.float64) for name in ("x", "y", "weight"))
    error = x @ np.asarray(Linear().w[...], np.float64) - y
    scaled = 2 * weight[:, None] * error / weight.sum()
    return (weight * (error**2).sum(-1)).sum() / weight.sum(), weight.sum(), x.T @ scaled, scaled.sum(0)


# Plain gradient descent with rate 1: the update is the gradient.
DESCENT = optax.sgd(1.0)


@functools.cache
def compiled(loss, accumulate):
    return quick_jit(make_train_step(loss, DESCENT, lambda step: 0.5 * step, accumulate))


def run_step(batch, accumulate=1, loss=squared_error, step=0, seed=0):
    """The state after one step from `step`, and its metrics."""
    model = Linear()
    state = TrainState(jnp.int32(step), model, DESCENT.init(model))
    return compiled(loss, accumulate)(state, batch, jax.random.key(seed))


def gradient_of(state):
    """What the step subtracted."""
    start = Linear()
    return np.asarray(start.w[...] - state.model.w[...]), np.asarray(start.b[...] - state.model.b[...])


@pytest.mark.parametrize("accumulate", [1, 3, 12])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(accumulate):
    """A mean over parts instead of weights: rows of parts with little weight would count too much."""
    batch = make_batch()
    loss, weight, w, b = by_hand(batch)
    state, metrics = run_step(batch, accumulate)
    found_w, found_b = gradient_of(state)
    np.testing.assert_allclose(found_w, w, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found_b, b, rtol=1e-5, atol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["weight"]) == weight


def test_parts_without_weight_count_nothing():
    """A part that is all padding would make the step NaN, or dilute the others."""
    batch = make_batch([0] * 4 + [1, 2, 0, 3] + [0] * 4)
    state, _ = run_step(batch, accumulate=3)
    _, _, w, _ = by_hand(batch)
    np.testing.assert_allclose(gradient_of(state)[0], w, rtol=1e-5, atol=1e-5)


def test_a_batch_without_weight_changes_nothing():
    """0 / 0 would poison the parameters."""
    state, metrics = run_step(make_batch([0] * ROWS), accumulate=3)
    np.testing.assert_array_equal(gradient_of(state)[0], 0.0)
    assert float(metrics["loss"]) == 0.0


def test_the_metrics_are_of_this_step():
    """Loss, gradient norm or learning rate would be of another step, or of the update."""
    batch = make_batch()
    loss, weight, w, b = by_hand(batch)
    state, metrics = run_step(batch, step=7)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["weight"]) == weight
    assert float(metrics["gradient_norm"]) == pytest.approx(np.sqrt((w**2).sum() + (b**2).sum()), rel=1e-5)
    assert float(metrics["learning_rate"]) == 3.5
    assert int(state.step) == 8


# Numbers beside the loss -----------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_mean_beside_the_loss_is_averaged_as_the_loss_is(accumulate):
    """A mean over parts instead of targets: in parts, an auxiliary number would be another than of the whole batch."""

    def with_others(model, batch, key):
        value, weight, _ = squared_error(model, batch, key)
        return value, weight, {"twice": 2 * value, "half": jnp.bfloat16(0.5)}

    _, metrics = run_step(make_batch(), accumulate, with_others)
    assert float(metrics["twice"]) == pytest.approx(2 * by_hand(make_batch())[0], rel=1e-5)
    assert float(metrics["half"]) == pytest.approx(0.5) and metrics["half"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"weight": 1.0}, "metric 'weight' has the name of another number"),
        ({"validation_loss": 1.0}, "metric 'validation_loss' has the name of another number"),
        ({"router": jnp.ones(3)}, r"metric 'router' must be a scalar, got the shape \(3,\)"),
    ],
)
def test_a_mean_that_rows_of_metrics_cannot_hold_is_refused(others, message):
    """It would take the place of the step's own number, or end the run when its row is written."""
    with pytest.raises(ConfigError, match=message):
        run_step(make_batch(), loss=lambda *given: (*squared_error(*given)[:2], others))


# Randomness ------------------------------------------------------------------------------------


def noise(model, batch, key):
    """A loss whose gradient is the noise that it draws."""
    return (model.w[...] * jax.random.normal(key, (INPUTS, OUTPUTS))).sum(), jnp.float32(1.0), {}


def drawn(**how):
    return tuple(gradient_of(run_step(make_batch(), loss=noise, **how)[0])[0].ravel())


def test_the_randomness_of_a_step_follows_from_seed_and_step():
    """A resumed run would draw other dropout masks than an undisturbed one."""
    assert drawn(step=3, seed=1) == drawn(step=3, seed=1)


def test_steps_and_seeds_draw_different_numbers():
    """Every step would drop the same units, or `training.seed` would not reach dropout."""
    assert len({drawn(step=step, seed=seed) for step in (0, 1, 2) for seed in (0, 1)}) == 6


def test_parts_of_a_batch_draw_different_numbers():
    """Accumulated parts would share one dropout mask: the mean over the parts would be the draw of each."""

    def noise_and_square(model, batch, key):
        draw = jax.random.normal(key, ())
        return model.b[...].sum() * draw + (model.w[...] * draw**2).sum(), jnp.float32(1.0), {}

    state, _ = run_step(make_batch(), accumulate=2, loss=noise_and_square)
    w, b = gradient_of(state)
    assert w[0, 0] > b[0] ** 2 + 1e-4  # the mean of squares exceeds the square of the mean unless all are the same


# The state as arrays ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    model = tiny_transformer()
    return TrainState(jnp.int32(5), model, optax.adam(1e-3).init(model))


def test_a_state_survives_as_arrays(state):
    """A checkpoint would restore arrays into other places."""
    layout = StateLayout(jax.eval_shape(lambda: state))
    again = layout.unflatten(layout.flatten(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        assert a is b


def test_arrays_are_named_by_their_path(state):
    """Whoever opens a checkpoint could not tell the arrays apart; names follow the modules' attributes."""
    layout = StateLayout(jax.eval_shape(lambda: state))
    arrays = layout.flatten(state)
    assert arrays["step"] is state.step
    assert (
        arrays["model.decoder.layers.0.cross_attention.w_q"]
        is state.model.decoder.layers[0].cross_attention.w_q.get_value()
    )
    assert arrays["model.target_embedding.table"] is state.model.target_embedding.table.get_value()
    assert any(
        name.startswith("optimizer.") and name.endswith("mu.encoder.layers.0.feed_forward.w1") for name in arrays
    )


def test_the_layout_knows_shapes_and_dtypes(state):
    """A checkpoint of another model would be loaded."""
    layout = StateLayout(jax.eval_shape(lambda: state))
    arrays = layout.flatten(state)
    assert {n: (x.shape, x.dtype) for n, x in arrays.items()} == {
        n: (x.shape, x.dtype) for n, x in layout.shapes.items()
    }
    assert len(arrays) == len(jax.tree.leaves(state))


def test_arrays_may_come_in_any_order(state):
    """A checkpoint that lists its arrays in another order would mix them up."""
    layout = StateLayout(jax.eval_shape(lambda: state))
    backwards = dict(reversed(layout.flatten(state).items()))
    assert layout.unflatten(backwards).step is state.step
    np.testing.assert_array_equal(
        layout.unflatten(backwards).model.target_embedding.table[...], state.model.target_embedding.table[...]
    )
