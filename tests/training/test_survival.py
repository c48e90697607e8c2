"""What a run survives: batches that are not finite, and being told to stop; and the average that it is judged by."""

import contextlib
import copy
import ctypes
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import by_day, optimizer_config, untimed

from tformer_jax.data.batches import Batches
from tformer_jax.training import interruption
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.interruption import EXIT_CODE, Interrupted, Interruption
from tformer_jax.training.loop import Diverged, train
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.run import Run
from tformer_jax.training.trainer import Trainer

STEPS, EVERY, WIDTH, DECAY = 12, 4, 4, 0.3
TRAINING = {"steps": STEPS, "seed": 3, "log_every": 1, "evaluate_every": 6}
OPTIMIZER = optimizer_config(learning_rate=0.05, schedule="linear", warmup_steps=3)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Line(nnx.Module):
    """y = x w, and a parameter for a gradient of its own."""

    def __init__(self, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (WIDTH,)))
        self.w_root = nnx.Param(jnp.ones(2))


def noisy_error(model, batch, key):
    """A squared error with dropout, and √(root |w_root|²): at root = 0 it is finite and its gradient is not."""
    keep = jax.random.bernoulli(key, 0.8, batch["x"].shape)
    error = (batch["x"] * keep) @ model.w[...] - batch["y"]
    return (error**2).mean() + jnp.sqrt(batch["root"][0] * jnp.square(model.w_root[...]).sum()), jnp.float32(8.0), {}


class Data(Batches):
    """Batch i from i alone; `poison` names what is not finite in which."""

    def __init__(self, poison=None):
        self.poison = poison or {}

    def __len__(self):
        return 100

    def batch(self, i):
        x = np.random.default_rng(i).standard_normal((8, WIDTH)).astype(np.float32)
        y, root = x.sum(1), np.ones(8, np.float32)
        if self.poison.get(i) == "loss":
            y[0] = np.nan
        elif self.poison.get(i) == "gradient":
            root[:] = 0
        return {"x": x, "y": y, "root": root}


def make_trainer(**training):
    program = Program(Line, noisy_error, TrainingConfig(**TRAINING | training), OPTIMIZER)
    return Trainer(program)


def watched(trainer, before):
    """The trainer, but that `before(i)` is called at the beginning of the step after i of them."""
    trainer, step, number = copy.copy(trainer), trainer.step, itertools.count()

    def watched_step(arrays, batch):
        before(next(number))
        return step(arrays, batch)

    trainer.step = watched_step
    return trainer


@pytest.fixture(scope="module")
def trainer():
    """Keeps an average and may skip two steps."""
    return make_trainer(average_decay=DECAY, max_skipped=2)


@pytest.fixture
def new_run(tmp_path):
    return lambda name="run": Run.start(tmp_path / name, {"name": "test"})


def go(trainer, run, data=None, validate=lambda step, arrays: {"loss": 0.0}):
    """The state at the end."""
    return train(trainer, data or Data(), validate, run, CheckpointConfig(every=EVERY, keep=9), lambda _: None)


def bits(arrays):
    return {name: np.asarray(x).tobytes() for name, x in arrays.items()}


def rows_of(run):
    return untimed([json.loads(line) for line in run.metrics_file.read_text("utf-8").splitlines()])


def checkpoint_steps(run):
    return sorted(int(entry.name) for entry in run.checkpoints.iterdir() if entry.name.isdigit())


@pytest.fixture(scope="module")
def states(trainer):
    """The state before the first step and after each, of a run without skipped steps."""
    arrays, found = trainer.initial(), []
    for i in range(STEPS):
        found.append({name: np.asarray(x) for name, x in arrays.items()})
        arrays, _ = trainer.step(arrays, Data().batch(i))
    return [*found, {name: np.asarray(x) for name, x in arrays.items()}]


# The average -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w", "w_root"])
def test_the_average_is_that_of_its_formula(states, name):
    """Other parameters would be evaluated: d a + (1 - d) p with d = min(decay, (1 + i) / (10 + i)), in float64."""
    wanted = states[0][f"model.{name}"].astype(np.float64)
    for i, state in enumerate(states[1:]):
        decay = min(DECAY, (1 + i) / (10 + i))
        wanted = decay * wanted + (1 - decay) * state[f"model.{name}"].astype(np.float64)
        np.testing.assert_allclose(state[f"average.{name}"], wanted, rtol=1e-6, err_msg=f"after step {i + 1}")


def test_the_average_starts_at_the_initial_parameters(trainer):
    """It would be drawn towards zero, or, in fine-tuning, towards a model that nobody asked for."""
    given = {"model.w": jnp.arange(WIDTH, dtype=jnp.float32)}
    for arrays in (trainer.initial(), trainer.initial(given)):
        for name in ("w", "w_root"):
            np.testing.assert_array_equal(arrays[f"average.{name}"], arrays[f"model.{name}"])
    np.testing.assert_array_equal(arrays["average.w"], given["model.w"])


def test_the_average_is_what_is_evaluated(trainer, states):
    """An average would be kept that nobody ever sees; without one, it is the parameters themselves."""
    last = {name: jnp.asarray(x) for name, x in states[-1].items()}
    assert not np.array_equal(last["average.w"], last["model.w"])
    np.testing.assert_array_equal(trainer.model(last).w[...], last["average.w"])
    plain = make_trainer()
    arrays = {name: x for name, x in last.items() if name in plain.layout.shapes}
    np.testing.assert_array_equal(plain.model(arrays).w[...], last["model.w"])


# Skipped steps ---------------------------------------------------------------------------------

TWO = {4: "loss", 7: "gradient"}


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_skipped_step_changes_nothing_but_two_counts(trainer, states, kind):
    """NaN would reach parameters, moments or the average; the step is counted, so that the next is another."""
    before = states[5]
    after, metrics = trainer.step({n: jnp.array(x) for n, x in before.items()}, Data({5: kind}).batch(5))
    changed = {name: int(after[name]) for name in before if not np.array_equal(after[name], before[name])}
    assert changed == {"step": 6, "skipped": 1}
    assert int(metrics["skipped"]) == 1
    assert np.isfinite(metrics["loss"]) == (kind == "gradient")


def test_the_count_of_skipped_steps_changes_no_update(trainer, states):
    """What was skipped would linger: of the same state, but for the count, another state would come."""
    counted = states[5] | {"skipped": np.int32(2)}
    after, _ = trainer.step({n: jnp.array(x) for n, x in counted.items()}, Data().batch(5))
    assert bits(after) == bits(states[6] | {"skipped": np.int32(2)})


def test_without_a_tolerance_nothing_is_counted():
    """Every checkpoint would hold a number that means nothing."""
    assert "skipped" not in make_trainer().layout.shapes


@pytest.fixture(scope="module")
def skipping(trainer, tmp_path_factory):
    """A run that skips steps 5 and 8, and its last state."""
    run = Run.start(tmp_path_factory.mktemp("skipping") / "run", {"name": "test"})
    return run, go(trainer, run, Data(TWO))


def test_as_many_steps_as_allowed_may_be_skipped(skipping):
    """One bad batch would end a run of weeks, although it was allowed."""
    _, arrays = skipping
    assert (int(arrays["step"]), int(arrays["skipped"])) == (STEPS, 2)
    assert all(np.isfinite(x).all() for x in arrays.values())


def test_skipped_steps_are_in_the_metrics(skipping):
    """Nobody could see which steps are missing; JSON has no NaN, and other tools could not read the file."""
    rows = [row for row in rows_of(skipping[0]) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["skipped"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert [row["step"] for row in rows if row["loss"] is None] == [5]
    assert [row["step"] for row in rows if row["gradient_norm"] is None] == [5, 8]


def test_a_skipped_step_is_said_with_its_cause(trainer, new_run, capsys):
    """A run that loses its batches would look like any other on the terminal."""
    go(trainer, new_run(), Data(TWO))
    lines = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    cause = "loss nan, gradient norm nan, not finite in w"
    assert lines[0] == f"step 5 is skipped (1 of at most 2): batch 4 has {cause}"
    assert re.fullmatch(r"step 8 is skipped \(2 of at most 2\): batch 7 has .* not finite in w_root", lines[1])
    assert len(lines) == 2


def test_one_more_than_allowed_ends_the_run(trainer, new_run):
    """A run that learns nothing any more would go on to its end; the message says that some were skipped before."""
    run = new_run()
    with pytest.raises(Diverged) as error:
        go(trainer, run, Data(TWO | {9: "loss"}))
    assert str(error.value) == (
        "training stopped at step 10: batch 9 has loss nan, gradient norm nan, not finite in w, "
        "after 2 skipped step(s); the newest checkpoint is of step 8"
    )
    assert checkpoint_steps(run) == [4, 8]


def stop_at(step):
    def before(i):
        if i == step:
            raise InterruptedError

    return before


def test_skipped_steps_are_counted_across_a_resume(trainer, new_run):
    """Every restart would allow as many again: a run could skip its way to the end."""
    run = new_run()
    with pytest.raises(InterruptedError):
        go(watched(trainer, stop_at(9)), run, Data(TWO))
    with pytest.raises(Diverged, match="stopped at step 11: batch 10 has .* after 2 skipped"):
        go(trainer, run, Data({10: "gradient"}))


def test_a_resumed_run_skips_what_an_undisturbed_one_does(trainer, skipping, new_run):
    """A crash between two skipped steps would change the result, or the metrics."""
    run = new_run()
    with pytest.raises(InterruptedError):
        go(watched(trainer, stop_at(6)), run, Data(TWO))
    assert bits(go(trainer, run, Data(TWO))) == bits(skipping[1])
    assert rows_of(run) == rows_of(skipping[0])


# Told to stop ----------------------------------------------------------------------------------


def live(directory, at, connection):
    """What the process does: it trains, says when it is in the step after `at`, waits there, and says how it ended."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(directory.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where these tests run under nohup

    def before(i):
        if i == at:
            connection.send("there")
            connection.recv()

    run = Run.start(directory, {"name": "test"})
    try:
        go(watched(make_trainer(average_decay=DECAY, max_skipped=2), before), run)
        connection.send("finished")
    except Interrupted as stopped:
        connection.send(str(stopped))


@contextlib.contextmanager
def training(directory, at):
    """A process that trains there and waits in a step, and a connection to it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tformer_jax.training.running"])
    ours, theirs = context.Pipe()
    process = context.Process(target=live, args=(directory, at, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "there"
        yield process, ours
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module", params=by_day(SIGNALS, 1), ids=lambda s: s.name)
def stopped(request, tmp_path_factory):
    """The directory of a run that was told to stop in its fifth step, by which signal, and how it ended."""
    directory = tmp_path_factory.mktemp(request.param.name) / "run"
    with training(directory, 4) as (process, connection):
        os.kill(process.pid, request.param)
        connection.send("go on")
        ended = connection.recv()
        process.join()
        assert process.exitcode == 0
    return directory, request.param, ended


def test_a_signal_lets_the_step_end_and_keeps_it(stopped):
    """What a scheduler takes back would cost the work since the last checkpoint, or leave a step half done."""
    directory, _, ended = stopped
    assert ended == f"stopped after step 5 of {STEPS}, whose checkpoint is kept"
    assert checkpoint_steps(Run.open(directory)) == [4, 5]
    with Checkpoints(directory / "checkpoints", CheckpointConfig(every=1), read_only=True) as checkpoints:
        checkpoints.check(5)


def test_a_signal_is_answered_at_once(stopped):
    """Whoever pressed Ctrl-C during a long step would press it again, and lose the step."""
    directory, which, _ = stopped
    answer = f"{which.name}: stopping after this step; send it again to stop at once\n"
    assert answer in directory.with_suffix(".err").read_text()


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory):
    """A run from beginning to end, and its last state."""
    run = Run.start(tmp_path_factory.mktemp("undisturbed") / "run", {"name": "test"})
    return run, go(trainer, run)


def test_a_run_that_was_told_to_stop_goes_on_bit_for_bit(trainer, undisturbed, stopped, tmp_path):
    """Being told to stop would change the result: parameters, moments, average, counts or metrics."""
    run = Run.start(shutil.copytree(stopped[0], tmp_path / "run"), {"name": "test"})
    assert bits(go(trainer, run)) == bits(undisturbed[1])
    assert rows_of(run) == rows_of(undisturbed[0])


def wait_until(true):
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("first", "second"),
    by_day([(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)], 2),
    ids=lambda s: s.name,
)
def test_a_second_signal_ends_the_process_at_once(tmp_path, first, second):
    """A step that hangs could not be left but by `kill -9`, or a shell would not see why; nothing kept is lost."""
    run, messages = tmp_path / "run", tmp_path / "run.err"
    with training(run, 6) as (process, _):
        wait_until((run / "checkpoints" / "4").exists)
        os.kill(process.pid, first)
        wait_until(lambda: "send it again" in messages.read_text())
        os.kill(process.pid, second)
        process.join(20)
        assert process.exitcode == -second
    with Checkpoints(run / "checkpoints", CheckpointConfig(every=1)) as checkpoints:
        assert checkpoints.steps == [4]
        checkpoints.check(4)


def send_at(step, number=signal.SIGTERM):
    """A signal to this process, in that step."""

    def before(i):
        if i == step - 1:
            os.kill(os.getpid(), number)

    return before


def test_a_signal_in_the_last_step_is_too_late(trainer, undisturbed, new_run):
    """A finished run would be reported as stopped early, and be started once more."""
    run = new_run()
    assert bits(go(watched(trainer, send_at(STEPS)), run)) == bits(undisturbed[1])
    assert checkpoint_steps(run)[-1] == STEPS


def test_a_signal_during_a_validation_keeps_its_numbers(trainer, new_run):
    """The validation would be missing from the metrics: the resumed run begins after its step."""
    run = new_run()

    def validate(step, arrays):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 7.0}

    with pytest.raises(Interrupted, match=f"^stopped after step 6 of {STEPS}, whose checkpoint is kept$"):
        go(trainer, run, validate=validate)
    assert rows_of(run)[-1] == {"step": 6, "validation_loss": 7.0}


def test_a_signal_keeps_no_state_that_has_diverged(trainer, new_run):
    """Being told to stop in a bad step would leave a run that goes on from a bad state, or hide that it diverged."""
    run = new_run()
    with pytest.raises(Diverged, match="stopped at step 7"):
        go(watched(trainer, send_at(7)), run, Data({1: "loss", 2: "loss", 6: "loss"}))
    assert checkpoint_steps(run) == [4]


@pytest.fixture
def handlers():
    """Handlers that this process had before, and has again after the test."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number: lambda *_: None for number in SIGNALS}
    for number, handler in ours.items():
        signal.signal(number, handler)
    yield ours
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("sent", [None, *SIGNALS], ids=str)
def test_the_handlers_of_before_are_back_afterwards(handlers, sent):
    """After training, Ctrl-C would end a notebook's kernel, or be ignored; also where an error ended it."""
    with contextlib.suppress(KeyError), Interruption() as interruption:
        if sent:
            os.kill(os.getpid(), sent)
        assert interruption.requested is (sent is not None)
        raise KeyError
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_one_within_another_is_the_same(handlers):
    """What is around training would not hear of a signal that came in its last step, and go on."""
    with Interruption() as outer:
        with Interruption() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner is outer and outer.requested
        assert signal.getsignal(signal.SIGINT) not in handlers.values()
    with Interruption() as another:
        assert not another.requested
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_a_signal_where_nothing_is_worth_finishing_ends_it(handlers):
    """A command would read data or test for hours, although it was told to stop; or the machine be lost meanwhile."""
    for number in SIGNALS:
        with pytest.raises(Interrupted, match="^stopped before the first step$"), Interruption() as interruption:
            with interruption.at_once("before the first step", pytest.fail):
                try:
                    os.kill(os.getpid(), number)
                except Exception:  # as in a library that takes whatever comes for an error of its own
                    pytest.fail("it is no error")
    with pytest.raises(Interrupted, match="^stopped after the last step$"), Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)  # noted in the last step
        with interruption.at_once("after the last step"):
            pytest.fail("the command must not go on")
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_under_nohup_a_closed_terminal_is_ignored(handlers):
    """`nohup` would not help."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not interruption.requested
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def hear_nothing(directory, connection):
    """What a process does in code that is not Python's, and comes back to that no more: it locks a mutex twice."""
    os.dup2(os.open(directory / "err", os.O_WRONLY | os.O_CREAT), 2)
    interruption._PATIENCE_SECONDS = 0.1
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the server that this was forked from may run under nohup
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    with Interruption() as noted, noted.at_once("before the first step", (directory / "undone").touch):
        threading.Timer(0.2, connection.send, ["there"]).start()
        lock(mutex), lock(mutex)


def test_a_process_that_does_not_hear_is_ended_all_the_same(tmp_path):
    """While a tokenizer is trained, which may take minutes, a scheduler would kill the process, and leave half a run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tformer_jax.training.running"])
    ours, theirs = context.Pipe()
    process = context.Process(target=hear_nothing, args=(tmp_path, theirs))
    process.start()
    try:
        assert ours.recv() == "there"
        os.kill(process.pid, signal.SIGHUP)
        process.join(20)
        assert process.exitcode == EXIT_CODE
    finally:
        process.kill()
    assert (tmp_path / "undone").exists()
    assert (tmp_path / "err").read_text() == "stopped before the first step; the same command goes on\n"
