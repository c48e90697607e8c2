"""The training loop: batches in, checkpoints and numbers out."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ..progress import SILENT, Progress
from .checkpoints import CheckpointConfig, Checkpoints
from .interruption import Interrupted, Interruption
from .metrics import MetricsWriter, NoReport, ProgressLine, Report
from .parallel import Batches
from .paths import some
from .processes import in_any, is_first
from .program import TrainingConfig
from .run import Run
from .step import Arrays
from .terminal import Terminal
from .trainer import Trainer

Validate = Callable[[int, Arrays], dict[str, float]]
Validated = Callable[[int, Mapping[str, float]], bool]


class Diverged(RuntimeError):
    """The loss or its gradient is no longer finite; the message says at which step, and which gradients."""


def train(
    trainer: Trainer,
    batches: Batches,
    validate: Validate,
    run: Run,
    checkpoint: CheckpointConfig,
    say: Callable[[str], None] = print,
    *,
    unit: str = "tokens",
    initial: Callable[[], Mapping[str, Any]] | None = None,
    validated: Validated = lambda step, numbers: False,
    terminal: Terminal | None = None,
) -> Arrays:
    """Trains from the newest whole checkpoint of the run, or from scratch, to the last step; returns the state.

    The numbers of a step are fetched while the next one runs, so the device never waits for the host.

    Args:
      trainer: what to run.
      batches: of the training split.
      validate: `(step, state) -> numbers`, "loss" among them.
      run: where everything is written.
      checkpoint: how often, and how many are kept.
      say: prints a line before the loop starts.
      unit: of what a batch's weight counts, for the progress line.
      initial: makes the values that parameters start from, by path, instead of at random.
      validated: is told what `validate` gave; if it says True, training stops there as if it was interrupted.
      terminal: where progress is shown; by default on standard output. Of several processes, the first one shows it.

    Raises:
      Diverged: a loss or gradient is not finite; the newest checkpoint is older than that step.
      Interrupted: by SIGINT, SIGTERM, SIGHUP or `validated`; the newest checkpoint is of the last step that was made.
      RunError: the newest whole checkpoint is not of what the run's directory says (names the field or the file).
      CheckpointError: a checkpoint cannot be written; those before are untouched.
    """
    progress, identity = (terminal or Terminal()) if is_first() else SILENT, run.identity
    with Interruption() as interruption, Checkpoints(run.checkpoints, checkpoint) as checkpoints:
        start, arrays = _started(trainer, checkpoints, run, initial, say, progress)
        report = _report(run, trainer.config, start, unit, progress, say) if is_first() else NoReport()
        kept = checkpoints, checkpoint.every
        shown = report, progress
        loop = _Loop(trainer, trainer.placed(batches), validate, validated, identity, *kept, *shown, interruption)
        try:
            arrays = loop.steps(arrays, start)
            with progress.phase("writing the last checkpoint"):
                checkpoints.wait()
            return arrays
        except Diverged as error:
            newest = checkpoints.latest
            left = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is of step {newest}"
            raise Diverged(f"{error}; {left}") from None
        finally:
            report.close()


def _started(trainer, checkpoints, run, initial, say, progress) -> tuple[int, Arrays]:
    """The last step that is done, and the state after it."""
    with progress.phase("reading the newest checkpoint"):
        found = checkpoints.restore_newest(trainer.placed_shapes, say, run.check_identity)
    if found is None:
        with progress.phase("making the initial parameters"):
            return 0, trainer.initial(initial() if initial else None)
    start, total = found[0], trainer.config.steps
    going_on = f"going on from the checkpoint of step {start}"
    say(going_on if start < total else f"already trained to step {start}")
    return found


def _report(run: Run, config: TrainingConfig, start: int, unit: str, terminal: Terminal, say) -> Report:
    writer = MetricsWriter(run.metrics_file, run.tensorboard, start, say)
    shared = {"terminal": terminal, "evaluate_every": config.evaluate_every}
    return Report(writer, ProgressLine(config.steps, start, unit, **shared))


@dataclasses.dataclass
class _Loop:
    """State that the loop holds on to from step to step."""

    trainer: Trainer
    batches: Batches
    validate: Validate
    validated: Validated
    identity: Mapping[str, Any]
    checkpoints: Checkpoints
    checkpoint_every: int
    report: Any
    progress: Progress
    interruption: Interruption
    compiled: set[Any] = dataclasses.field(default_factory=set)  # the shapes of batches that there is a program for
    pending: tuple[int, Arrays, Any] | None = None
    stop: bool = False

    def steps(self, arrays: Arrays, start: int) -> Arrays:
        """Trains from the state after step `start` to the state after the last step."""
        config = self.trainer.config
        for step in range(start + 1, config.steps + 1):
            arrays, metrics = self.step(arrays, self.batches.batch(step - 1))
            self.settle()
            self.pending = (step, metrics, in_any(self.trainer.mesh, self.interruption.requested))
            last, numbers = step == config.steps, None
            if last or step % config.evaluate_every == 0:
                self.settle()
                with self.report.pause(validates=step):
                    numbers = self.validate(step, arrays)
                self.report.validation(step, numbers)
                self.stop |= self.validated(step, numbers)
            # Several processes must stop at the same step: each waits until all have heard of it.
            self.stop |= self.interruption.requested and jax.process_count() == 1
            if last or step % self.checkpoint_every == 0 or self.stop:
                self.settle()  # only a state whose loss and gradient were finite is worth keeping
                self.checkpoints.save(step, arrays, self.identity, numbers)
            if self.stop and not last:
                self.checkpoints.wait()  # before it is said that there is one
                raise Interrupted(f"stopped after step {step} of {config.steps}, whose checkpoint is kept")
        return arrays

    def step(self, arrays: Arrays, batch: Any) -> tuple[Arrays, Arrays]:
        """One step; the first for batches of these shapes compiles, and says so."""
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        if shapes in self.compiled:
            return self.trainer.step(arrays, batch)
        self.compiled.add(shapes)
        which = "the step" if len(self.compiled) == 1 else f"the step for batches of {_shown(batch)}"
        with self.report.pause(), self.progress.phase(f"compiling {which}"):
            return self.trainer.step(arrays, batch)

    def settle(self) -> None:
        """Fetches the numbers of the step before, checks them, and passes them on."""
        if self.pending is None:
            return
        (step, metrics, stop), self.pending = self.pending, None
        metrics, stop = jax.device_get((metrics, stop))
        self.stop |= bool(stop)
        finite = metrics.pop("finite_gradients")
        metrics = {name: float(value) for name, value in metrics.items()}
        loss, norm = metrics["loss"], metrics["gradient_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._not_finite(step, loss, norm, finite, metrics.get("skipped"))
        last = step == self.trainer.config.steps
        self.report.step(step, metrics, row=last or step % self.trainer.config.log_every == 0)

    def _not_finite(self, step: int, loss: float, norm: float, finite: np.ndarray, skipped: float | None) -> None:
        """Says so, if the step was skipped and may have been; else the run ends.

        Raises:
          Diverged: names the step, the batch, and parameters.
        """
        names = [name for name, ok in zip(self.trainer.layout.parameters, finite, strict=True) if not ok]
        numbers = f"loss {loss}, gradient norm {norm}" + (f", not finite in {some(names)}" if names else "")
        allowed = self.trainer.config.max_skipped
        if skipped is None or skipped > allowed:
            after = f", after {allowed} skipped step(s)" if allowed else ""
            raise Diverged(f"training stopped at step {step}: batch {step - 1} has {numbers}{after}")
        self.report.say(f"step {step} is skipped ({skipped:.0f} of at most {allowed}): batch {step - 1} has {numbers}")


def _shown(batch: Any) -> str:
    """The shape of its largest array."""
    return " x ".join(map(str, max((x.shape for x in jax.tree.leaves(batch)), key=math.prod)))
