"""The loop: resumed as if nothing had happened, stopped before a bad state is kept, written down as promised."""

import contextlib
import dataclasses
import functools
import json
import re
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import by_day, optimizer_config, untimed

from tformer_jax.config import ConfigError, build
from tformer_jax.data.batches import Batches
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.interruption import Interrupted
from tformer_jax.training.loop import Diverged, Loop, train
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.run import Run
from tformer_jax.training.trainer import Trainer

STEPS, WIDTH = 12, 4
TRAINING = TrainingConfig(steps=STEPS, seed=3, log_every=2, evaluate_every=5)
OPTIMIZER = optimizer_config(learning_rate=0.05, schedule="linear", warmup_steps=3)


class Line(nnx.Module):
    """y = x w, with an initial value from the seed."""

    def __init__(self, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (WIDTH,)))


def noisy_error(model, batch, key):
    """A loss that depends on batch, parameters and randomness."""
    keep = 1.0 if key is None else jax.random.bernoulli(key, 0.8, batch["x"].shape)
    error = (batch["x"] * keep) @ model.w[...] - batch["y"]
    return (error**2).mean(), jnp.float32(error.size), {}


class Data(Batches):
    """Batch i from i alone; `stop_at` raises in place of a batch, `poison` puts a value into one."""

    def __init__(self, stop_at=None, poison=None):
        self.stop_at, self.poison, self.asked = stop_at, poison or {}, []

    def __len__(self):
        return 100

    def batch(self, i):
        self.asked.append(i)
        if i == self.stop_at:
            raise InterruptedError(f"no batch {i}")
        rng = np.random.default_rng(i)
        x = rng.standard_normal((8, WIDTH)).astype(np.float32)
        y = x.sum(1)
        if i in self.poison:
            y[0] = self.poison[i]
        return {"x": x, "y": y}


def validation(step, arrays):
    """Any function of the parameters, and the step that it is told."""
    return {"loss": float(jnp.abs(arrays["model.w"] - 1).sum()), "told": float(step)}


def make_trainer(loss=None, training=None, **how):
    return Trainer(Program(Line, loss or noisy_error, training or TRAINING, OPTIMIZER), **how)


@pytest.fixture(scope="module")
def trainer():
    return make_trainer()


@pytest.fixture
def new_run(tmp_path):
    return lambda name="run": Run.start(tmp_path / name, {"name": "test"})


def go(trainer, run, data=None, validate=validation, every=3, keep=2):
    """Trains; returns the state and what was said."""
    said = []
    arrays = train(trainer, data or Data(), validate, run, CheckpointConfig(every=every, keep=keep), said.append)
    return arrays, said


def checkpoint_steps(run):
    return sorted(int(d.name) for d in run.checkpoints.iterdir() if d.name.isdigit())


def arrays_at(run, trainer, step):
    with Checkpoints(run.checkpoints, CheckpointConfig(every=1, keep=9)) as checkpoints:
        return {name: np.asarray(x) for name, x in checkpoints.restore(step, trainer.layout.shapes).items()}


def rows_of(run):
    return [json.loads(line) for line in run.metrics_file.read_text("utf-8").splitlines()]


# What a run does -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory):
    """A run from beginning to end: its directory, last state, data and what was said."""
    run, data = Run.start(tmp_path_factory.mktemp("undisturbed") / "run", {"name": "test"}), Data()
    arrays, said = go(trainer, run, data)
    return run, arrays, data, said


def adam_by_hand(w):
    """Where training from w ends, in float64."""
    w = np.asarray(w, np.float64)
    m = v = np.zeros(WIDTH)
    for i in range(STEPS):
        batch = Data().batch(i)
        key = jax.random.fold_in(jax.random.key(TRAINING.seed), i)
        x = batch["x"] * np.asarray(jax.random.bernoulli(key, 0.8, (8, WIDTH)))
        grad = 2 * x.T @ (x @ w - batch["y"]) / 8
        t = i + 1
        rate = 0.05 * (t / 3 if t <= 3 else (STEPS - t) / (STEPS - 3))
        m, v = 0.9 * m + 0.1 * grad, 0.98 * v + 0.02 * grad**2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.98**t)) + 1e-9)
    return w


def test_training_is_adam_on_batches_in_order(undisturbed, trainer):
    """Batches would be skipped, repeated or shifted, or step i would not draw its noise from (seed, i).

    Adam by hand, batch i with the noise of fold_in(key, i), the rate rising over 3 steps and falling to 0.
    """
    _, arrays, data, _ = undisturbed
    assert data.asked == list(range(STEPS))
    w = adam_by_hand(trainer.initial()["model.w"])
    np.testing.assert_allclose(arrays["model.w"], w, rtol=1e-4, atol=1e-5)


def test_metrics_are_written_when_promised(undisturbed):
    """Rows would be missing, doubled or of other steps: every second step and the last; validation every fifth."""
    rows = rows_of(undisturbed[0])
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in rows if "validation_loss" in row] == [5, 10, 12]


NOTHING = {"used": jnp.zeros(0, int)}


class Waiting(Loop):
    """Steps that end when the batch after theirs has been asked for."""

    evaluate_every = checkpoint_every = 100
    interruption, compiling = types.SimpleNamespace(requested=False), lambda self, batch: contextlib.nullcontext()
    record = validate = save = lambda self, *arguments: {}

    def __init__(self):
        self.asked = [threading.Event() for _ in range(4)]

    def batch(self, i):
        self.asked[i].set()
        return i

    def step(self, arrays, batch):
        assert batch == 2 or self.asked[batch + 1].wait(timeout=30), (
            f"batch {batch + 1} is not read while {batch} is used"
        )
        return {"used": jnp.append(arrays["used"], batch)}, {}


def test_the_next_batch_is_read_while_a_step_runs():
    """A device would wait for the host between two steps; or read a batch that is not to be used."""
    loop = Waiting()
    assert loop.steps(NOTHING, 0, 3)["used"].tolist() == [0, 1, 2]
    assert [event.is_set() for event in loop.asked] == [True, True, True, False]


def test_no_step_needs_no_batch():
    """A finished run has no batch after its last one."""
    loop = Waiting()
    assert loop.steps(NOTHING, 3, 3) is NOTHING
    assert not any(event.is_set() for event in loop.asked)


def test_the_last_validation_is_of_the_returned_model(undisturbed):
    """The reported loss would be that of an earlier state."""
    run, arrays, _, _ = undisturbed
    numbers = validation(STEPS, arrays)
    wanted = {"validation_loss": pytest.approx(numbers["loss"], rel=1e-6), "validation_told": STEPS}
    assert untimed(rows_of(run))[-1] == {"step": STEPS} | wanted


def test_a_validation_is_told_its_step(undisturbed):
    """What a run writes down beside its numbers would bear another step."""
    rows = [row for row in rows_of(undisturbed[0]) if "validation_loss" in row]
    assert [row["validation_told"] for row in rows] == [row["step"] for row in rows]


def test_the_last_step_has_a_checkpoint_and_the_newest_are_kept(undisturbed, trainer):
    """The result of a run would be lost, or the disk would fill up."""
    run, arrays, _, _ = undisturbed
    assert checkpoint_steps(run) == [9, 12]
    np.testing.assert_array_equal(arrays_at(run, trainer, 12)["model.w"], arrays["model.w"])


def test_checkpoints_come_when_promised(trainer, new_run):
    """A crash would cost more steps than asked for; the last step has one whatever its number."""
    run = new_run()
    go(trainer, run, every=5, keep=9)
    assert checkpoint_steps(run) == [5, 10, 12]


def test_the_number_of_parameters_is_that_of_the_model(trainer):
    """The report would count the optimiser's arrays too."""
    assert trainer.parameter_count == WIDTH


def test_no_parameter_has_the_randomness_of_a_step(trainer):
    """The first parameter would be drawn from the key of step 0's dropout and corruption."""
    initial = trainer.initial()["model.w"]
    for step in range(STEPS):
        key = jax.random.fold_in(jax.random.key(TRAINING.seed), step)
        assert not np.allclose(initial, jax.random.normal(key, (WIDTH,)))


def test_the_seed_decides_the_initial_parameters(trainer):
    """`training.seed` would turn nothing, or two runs of one config would start differently."""
    again, other = (make_trainer(training=dataclasses.replace(TRAINING, seed=seed)) for seed in (3, 4))
    first = trainer.initial()["model.w"]
    np.testing.assert_array_equal(again.initial()["model.w"], first)
    assert not np.array_equal(other.initial()["model.w"], first)


# Parameters that are given -------------------------------------------------------------------------


def test_given_parameters_replace_the_drawn_ones(trainer, new_run):
    """Fine-tuning would start from scratch."""
    start = np.arange(WIDTH, dtype=np.float32) + 1
    given = lambda: {"model.w": jnp.asarray(start)}
    arrays = train(trainer, Data(), validation, new_run(), CheckpointConfig(every=12), lambda _: None, initial=given)
    np.testing.assert_allclose(arrays["model.w"], adam_by_hand(start), rtol=1e-4, atol=1e-5)


def test_given_parameters_are_for_the_beginning_alone(undisturbed, trainer, new_run):
    """A resumed fine-tuning would throw its progress away."""
    run, given = new_run(), lambda: {"model.w": jnp.full(WIDTH, 9.0)}
    with pytest.raises(InterruptedError):
        go(trainer, run, Data(stop_at=7))
    arrays = train(trainer, Data(), validation, run, CheckpointConfig(every=3), lambda _: None, initial=given)
    np.testing.assert_array_equal(arrays["model.w"], undisturbed[1]["model.w"])


# Stopped and resumed ---------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", by_day([1, 3, 7, 11], 2))
def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_does(undisturbed, trainer, new_run, stop_at):
    """A crash would change the result: parameters, optimiser state and every row of the metrics."""
    whole, arrays, _, _ = undisturbed
    run = new_run()
    with pytest.raises(InterruptedError):
        go(trainer, run, Data(stop_at=stop_at))
    resumed, _ = go(trainer, run)
    np.testing.assert_array_equal(resumed["model.w"], arrays["model.w"])
    wanted = arrays_at(whole, trainer, STEPS)
    for name, value in arrays_at(run, trainer, STEPS).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    assert untimed(rows_of(run)) == untimed(rows_of(whole))


def test_resuming_starts_after_the_checkpoint(trainer, new_run):
    """A resumed run would do everything again, or skip the steps after its checkpoint."""
    run = new_run()
    with pytest.raises(InterruptedError):
        go(trainer, run, Data(stop_at=7))
    data = Data()
    _, said = go(trainer, run, data)
    assert data.asked == list(range(6, STEPS))
    assert said == ["going on from the checkpoint of step 6"]


def test_a_finished_run_is_not_trained_further(undisturbed, trainer):
    """The same command would train on, or fail; it gives the same model and says that it is done."""
    run, arrays, _, _ = undisturbed
    rows, data = rows_of(run), Data()
    again, said = go(trainer, run, data)
    assert data.asked == []
    assert [f"step {STEPS}" in line and "already" in line for line in said] == [True]
    np.testing.assert_array_equal(again["model.w"], arrays["model.w"])
    assert rows_of(run) == rows


def test_who_is_told_of_a_validation_may_end_the_run(undisturbed, trainer, new_run):
    """A search could end nothing early, or lose what it ends; at the last step there is nothing left to end."""
    run, told = new_run(), []

    def ends(step, numbers):
        told.append((step, numbers["told"]))
        return True

    for step in (5, 10):
        with pytest.raises(Interrupted, match=f"^stopped after step {step} of {STEPS}, whose checkpoint is kept$"):
            train(trainer, Data(), validation, run, CheckpointConfig(every=3), lambda _: None, validated=ends)
        assert checkpoint_steps(run)[-1] == step and "validation_loss" in rows_of(run)[-1]
    arrays = train(trainer, Data(), validation, run, CheckpointConfig(every=3), lambda _: None, validated=ends)
    np.testing.assert_array_equal(arrays["model.w"], undisturbed[1]["model.w"])
    assert told == [(5, 5.0), (10, 10.0), (12, 12.0)]


def test_a_mean_beside_the_loss_is_in_the_rows(new_run):
    """Nobody could see an auxiliary loss; or the rows of a resumed run would lack it."""

    def with_mean(*given):
        value, weight, _ = noisy_error(*given)
        return value, weight, {"twice": 2 * value}

    run = new_run()
    go(make_trainer(with_mean), run)
    rows = [row for row in rows_of(run) if "loss" in row]
    assert rows and all(row["twice"] == pytest.approx(2 * row["loss"]) for row in rows)


# Diverging -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "newest"), by_day([(4, 3), (5, 3), (6, 6), (9, 9), (11, 9)], 1, 2))
def test_a_loss_that_is_not_finite_stops_at_its_step(trainer, new_run, index, newest):
    """A poisoned run would go on for hours; the message names the step (from 1) and what is left to go on from."""
    run = new_run()
    with pytest.raises(Diverged) as error:
        go(trainer, run, Data(poison={index: np.nan}))
    assert f"step {index + 1}:" in str(error.value)
    assert str(error.value).endswith(f"the newest checkpoint is of step {newest}")
    assert checkpoint_steps(run)[-1] == newest


def test_no_checkpoint_of_a_diverged_run_is_poisoned(trainer, new_run):
    """The newest checkpoint would be worthless: the loss turns NaN in the very step of a checkpoint."""
    run = new_run()
    with pytest.raises(Diverged):
        go(trainer, run, Data(poison={5: np.nan}))
    for step in checkpoint_steps(run):
        for name, value in arrays_at(run, trainer, step).items():
            assert np.isfinite(value).all(), (step, name)


def test_a_gradient_that_is_not_finite_stops_too(new_run):
    """A finite loss with an infinite gradient would poison the parameters unnoticed."""

    def steep(model, batch, key):
        return jnp.sqrt(jnp.maximum(0.0, batch["y"].sum() * model.w[...].sum() * 0.0)), jnp.float32(1.0), {}

    run = new_run()
    with pytest.raises(Diverged, match="step 1: .*no checkpoint yet"):
        go(make_trainer(steep), run)


def test_metrics_up_to_a_divergence_are_kept(trainer, new_run):
    """Nobody could see how it came to that."""
    run = new_run()
    with pytest.raises(Diverged):
        go(trainer, run, Data(poison={8: np.inf}))
    *rows, last = read_metrics(run.metrics_file)
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8]
    assert last["step"] == 9 and last["diverged"].startswith("batch 8 has loss inf")


class Several(nnx.Module):
    """So many parameters, w0, w1, ..., all ones."""

    def __init__(self, count):
        for i in range(count):
            setattr(self, f"w{i}", nnx.Param(jnp.ones(2)))


def roots(model, batch, key):
    """Σ √(f_i |w_i|²): where a factor is 0, the loss is finite and the gradient of that parameter is not."""
    norms = [jnp.square(leaf).sum() for leaf in jax.tree.leaves(model)]
    return jnp.sqrt(batch["factors"][0] * jnp.stack(norms)).sum(), jnp.float32(1.0), {}


@functools.cache
def several(count):
    return Trainer(Program(lambda rngs: Several(count), roots, TRAINING, OPTIMIZER))


class Factors(Batches):
    """All ones, but what `at` says of a batch."""

    def __init__(self, count, at):
        self.count, self.at = count, at

    def __len__(self):
        return 100

    def batch(self, i):
        return {"factors": np.asarray([self.at.get(i, [1.0] * self.count)], np.float32)}


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([1, 0, 1], r"loss 2\.\d+, gradient norm nan, not finite in w1"),
        ([0, 1, 0], r"loss 1\.\d+, gradient norm nan, not finite in w0, w2"),
        ([1, 1, np.nan], r"loss nan, gradient norm nan, not finite in w2"),
        ([1, 1, np.inf], r"loss inf, gradient norm nan, not finite in w2"),
    ],
    ids=["one", "two", "nan", "inf"],
)
def test_a_divergence_names_step_batch_and_parameters(new_run, factors, message):
    """Whoever looks for the cause would look at another batch, or at a layer that is not to blame."""
    message = f"training stopped at step 5: batch 4 has {message}; the newest checkpoint is of step 3"
    with pytest.raises(Diverged) as error:
        go(several(3), new_run(), Factors(3, {4: factors}), lambda step, arrays: {"loss": 0.0})
    assert re.fullmatch(message, str(error.value)), error.value


def test_a_divergence_names_a_few_parameters_and_counts_the_rest(new_run):
    """The message would be as long as the model is deep."""
    with pytest.raises(Diverged, match="not finite in w0, w1, w2, w3, w4 and 2 more; there is no checkpoint yet"):
        go(several(8), new_run(), Factors(8, {0: [0] * 7 + [1]}))


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["steps", "accumulate", "log_every", "evaluate_every"])
def test_a_config_that_cannot_be_names_the_field(field):
    """Training would end before it begins, or divide by zero at some step."""
    with pytest.raises(ConfigError, match=rf"training\.{field} must be a positive integer, got 0"):
        build(TrainingConfig, {"steps": 1, "evaluate_every": 1} | {field: 0}, "training")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_skipped": -1}, r"training\.max_skipped must not be negative, got -1"),
        ({"average_decay": 0.0}, r"training\.average_decay must be in \(0, 1\), got 0"),
        ({"average_decay": 1.0}, r"training\.average_decay must be in \(0, 1\), got 1"),
        ({"average_decay": float("nan")}, r"training\.average_decay must be in \(0, 1\), got nan"),
    ],
)
def test_an_average_or_a_tolerance_that_cannot_be_names_the_field(fields, message):
    """The average would be the start for ever, or the parameters themselves; or the first skipped step too many."""
    with pytest.raises(ConfigError, match=message):
        build(TrainingConfig, {"steps": 1, "evaluate_every": 1} | fields, "training")
