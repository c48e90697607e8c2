"""What the progress line says of speed and of the time that is left, against runs whose every second is scripted."""

import dataclasses
import io
import random
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from tformer_jax.data.batches import Batches
from tformer_jax.training import metrics
from tformer_jax.training.compilation import Compiling
from tformer_jax.training.metrics import ProgressLine
from tformer_jax.training.running import validation_work


@dataclasses.dataclass
class Script:
    """A run: what takes how long.

    Attributes:
      total, start, evaluate_every, checkpoint_every: as of `ProgressLine`.
      step, validation, checkpoint: seconds of the one at a step.
      compiling: seconds of compilation before a step, which makes the steps wait.
      first: seconds of compilation within the first validation.
      durations: what an earlier process knew.
      work: how many steps a validation is taken for before the first one.
    """

    total: int
    start: int = 0
    evaluate_every: int = 500
    checkpoint_every: int = 1000
    step: object = lambda step: 0.1
    validation: object = lambda step: 10.0
    checkpoint: object = lambda step: 0.5
    compiling: object = lambda step: 20.0 if step == 1 else 0.0
    first: float = 0.0
    durations: dict = dataclasses.field(default_factory=dict)
    work: float | None = None

    def play(self, monkeypatch):
        """[(seconds since the beginning, what is said to be left, what is left, whether validations are unknown)]."""
        clock, compiled = types.SimpleNamespace(now=50.0), [0.0]
        monkeypatch.setattr(metrics, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
        console = Console(file=io.StringIO(), force_terminal=False)
        every = {"evaluate_every": self.evaluate_every, "checkpoint_every": self.checkpoint_every}
        line = ProgressLine(
            self.total, self.start, console=console, **every, compiling=lambda: compiled[0], durations=self.durations,
            validation_work=self.work,
        )  # fmt: skip
        said, first = [], self.first

        def wait(seconds, *kinds):
            for _ in range(4):  # looked at on the way, as a bar is
                clock.now += seconds / 4
                if line._step > self.start:
                    text = line._numbers()
                    said.append((clock.now, text))

        for step in range(self.start + 1, self.total + 1):
            with line.pause():
                wait(self.compiling(step))
            wait(self.step(step))
            line.update(step, 1.0, 10.0)
            last = step == self.total
            if last or step % self.evaluate_every == 0:
                with line.pause(validates=step):
                    compiled[0] += first
                    wait(self.validation(step) + first)
                    first = 0.0
            if last or step % self.checkpoint_every == 0:
                with line.pause(saves=step):
                    wait(self.checkpoint(step))
        self.line = line
        return [
            (when - 50.0, seconds_of(text), clock.now - when, "validation" in text.rpartition("/s")[2])
            for when, text in said
        ]


def seconds_of(text):
    """The seconds of "… 1:02:03 left"."""
    parts = re.search(r"  (?:about )?([\d:]+)(?: and \d+ validations?)? left$", text)[1].split(":")
    return sum(int(part) * 60**i for i, part in enumerate(reversed(parts)))


def worst(said, since=60.0, least=10.0):
    """The largest relative error of what is said to be left, but for the last seconds, from the second minute on."""
    return max(abs(claim - left) / left for when, claim, left, unknown in said if when >= since and left > least)


SCRIPTS = {
    "steady": Script(4000),
    "validations of any length": Script(
        4000, evaluate_every=400, validation=lambda step: random.Random(step).uniform(5.0, 25.0), step=lambda step: 0.2
    ),
    "a first validation that compiles": Script(4000, evaluate_every=300, first=45.0, validation=lambda step: 8.0),
    "samples that become shorter": Script(
        6000, evaluate_every=300, validation=lambda step: 30.0 if step < 1200 else 12.0, step=lambda step: 0.3
    ),
    "steps of many lengths": Script(6000, step=lambda step: random.Random(step).choice([0.05, 0.1, 0.2])),
    "programs for more lengths": Script(4000, compiling=lambda step: 15.0 if step in (1, 2, 9, 30) else 0.0),
    "checkpoints that take long": Script(4000, checkpoint_every=250, checkpoint=lambda step: 20.0),
    "long steps": Script(40, evaluate_every=10, checkpoint_every=20, step=lambda step: 31.0),
    "hours before the first validation": Script(
        40_000,
        evaluate_every=10_000,
        checkpoint_every=10_000,
        step=lambda step: 0.2,
        validation=lambda step: 700.0,
        work=3000.0,
    ),
    "going on": Script(
        9000, start=5000, evaluate_every=2500, validation=lambda step: 100.0, durations={"validation": [95.0, 104.0]}
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_said_to_be_left_is_left(name, monkeypatch):
    """Whoever waits for a run would come back an hour too early, or too late: 30 % from the second minute on, wherever
    each kind of pause has been seen once."""
    said = SCRIPTS[name].play(monkeypatch)
    known = [one for one in said if not one[3]]
    assert len(known) > 0.5 * len(said)
    assert worst(known) < 0.3


def test_a_speed_that_changes_is_followed_within_seconds(monkeypatch):
    """A mean since the beginning would remember an hour of a busy machine."""
    slow_until = 3000
    script = Script(6000, step=lambda step: 0.4 if step <= slow_until else 0.1, evaluate_every=100_000)
    said = script.play(monkeypatch)
    changed = 20.0 + 0.4 * slow_until
    ends = 10.0 + 0.5  # the last validation and checkpoint, of which nothing is known before
    after = [(claim, left - ends) for when, claim, left, _ in said if when > changed + 21 and left > 60]
    assert len(after) > 1000 and all(claim == pytest.approx(left, rel=0.05, abs=1.0) for claim, left in after)


def test_the_speed_is_of_the_last_seconds(monkeypatch):
    """A run that slows down to a tenth would look healthy for hours; a validation or the compiler is no part of it."""
    script = Script(2000, step=lambda step: 0.01 if step <= 1900 else 1.0, evaluate_every=950)
    script.play(monkeypatch)
    assert script.line._left.speed() == pytest.approx(10.0)


def test_a_validation_is_a_third_of_the_steps_that_read_as_much():
    """Until the first validation a bar would say less by hours, or more: backward costs twice what forward does."""

    class Rows(Batches):
        def __init__(self, number, rows, length):
            self.number, self.rows, self.length = number, rows, length

        def __len__(self):
            return self.number

        def row_count(self, i):
            return self.rows

        def batch(self, i, rows):
            count = len(range(self.rows)[rows])
            return {"tokens": np.zeros((count, self.length), np.int32), "lengths": np.zeros(count, np.int32)}

    assert validation_work(Rows(1000, 8, 64), Rows(30, 16, 128)) == 30 * 4 / 3


def test_what_a_validation_takes_outlives_the_process(monkeypatch):
    """A run that goes on would not know how long its validations take until the next one."""
    script = Script(1200, first=30.0)
    script.play(monkeypatch)
    assert script.line.durations == {"validation": pytest.approx([10.0] * 3), "checkpoint": pytest.approx([0.5] * 2)}


def test_compiling_is_measured_once():
    """The first validation would be taken for what the next ones take, or for nothing."""
    with Compiling() as compiling:
        inner = jax.jit(lambda x: jnp.sin(x) + len(SCRIPTS))
        jax.jit(lambda x: inner(x) @ inner(x))(jnp.ones((3, 3)))
        first = compiling.seconds()
        jax.jit(lambda x: x)
        assert compiling.seconds() == first > 0
        parts = sorted(compiling._parts)
        assert all(end <= begin for (_, end), (begin, _) in zip(parts, parts[1:], strict=False))
