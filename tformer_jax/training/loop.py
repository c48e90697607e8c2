"""The training loop, of one run and of a sweep's members together: batches in, checkpoints and numbers out."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from ..data.batches import Batches
from ..data.store import let_go
from ..progress import SILENT, Progress
from .changes import changes, describe_changes
from .checkpoints import CheckpointConfig, Checkpoints
from .compilation import Compiling
from .interruption import Interrupted, Interruption
from .metrics import MetricsWriter, ProgressLine, read_metrics
from .pace import Pace, StepFlops
from .paths import some
from .patience import Patience
from .processes import in_any, is_first
from .profiling import Profile
from .run import Run
from .step import OWN_METRICS, Arrays
from .terminal import Terminal
from .trainer import Trainer

Validate = Callable[[int, Arrays], dict[str, float]]
Validated = Callable[[int, Mapping[str, float]], bool]
Tracked = Callable[[Mapping[str, Any]], None]


class Diverged(RuntimeError):
    """The loss or its gradient is no longer finite; the message says at which step, and which gradients."""


class Loop:
    """Steps one after the other, with validations and checkpoints between; subclasses say what is trained.

    The numbers of a step are fetched, and the next batch is read and sent, while a step runs, so the device never waits
    for the host.

    Attributes, and methods, of a subclass:
      step: `(arrays, batch) -> (arrays, metrics)`, compiled; the first arrays are donated.
      batch: `(i) -> batch`, what the step after i steps takes.
      compiling: `(batch) -> context` of a step with such a batch: the first one compiles, and says so.
      record: `(step, metrics)`, checks the numbers of a step, and passes them on.
      validate: `(step, arrays) -> numbers`, passes them on; those that choose the best checkpoints are returned.
      save: `(step, arrays, numbers)`, saves a checkpoint; `numbers`: those of a validation of this step, if any.
      where: `(step) -> "after step 3 of 12"`.
      evaluate_every, checkpoint_every: number of steps between validations, and between checkpoints.
      checkpoints: where `save` puts them.
      interruption: that of the process.
      mesh: whose processes stop together; None: there is one process.
      stop: the loop ends after this step, before the last one.
      done: the loop ends after this step as after the last one.
      progress: is told what takes long.
    """

    mesh: jax.sharding.Mesh | None = None
    stop: bool = False
    done: bool = False
    progress: Progress = SILENT
    _pending: tuple[int, Arrays, Any] | None = None

    def is_over(self) -> bool:
        """Returns whether nothing is left to be trained."""
        return False

    def steps(self, arrays: Arrays, start: int, until: int) -> Arrays:
        """Trains from the state after step `start` to the state after step `until`, which is returned.

        Raises:
          Interrupted: after a step whose checkpoint is kept.
        """
        with contextlib.closing(_ahead(self.batch, start, until)) as batches:
            for step, batch in enumerate(batches, start + 1):
                with self.compiling(batch):
                    arrays, metrics = self.step(arrays, batch)
                self._settle()
                self._pending = (step, metrics, in_any(self.mesh, self.interruption.requested))
                last, numbers = step == until or self.is_over(), None
                if last or step % self.evaluate_every == 0:
                    self._settle()
                    numbers = self.validate(step, arrays)
                    last |= self.done
                # Several processes must stop at the same step: each waits until all have heard of it.
                self.stop |= self.interruption.requested and jax.process_count() == 1
                if last or step % self.checkpoint_every == 0 or self.stop:
                    self._settle()  # only a state whose loss and gradient were finite is worth keeping
                    self.save(step, arrays, numbers)
                if last:
                    break
                if self.stop:
                    with self.progress.phase("writing the last checkpoint"):
                        self.checkpoints.wait()  # before it is said that there is one
                    raise Interrupted(f"stopped {self.where(step)}, whose checkpoint is kept")
        return arrays

    def _settle(self) -> None:
        """Fetches the numbers of the step before."""
        if self._pending is not None:
            (step, metrics, stop), self._pending = self._pending, None
            metrics, stop = jax.device_get((metrics, stop))
            self.stop |= bool(stop)
            self.record(step, metrics)


def _ahead(batch: Callable[[int], Any], start: int, until: int) -> Iterator[Any]:
    """The batches from `start` to `until`, each read and sent to the device by a thread while the one before is used."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as thread:
        coming = [thread.submit(batch, i) for i in range(start, until)[:1]]
        for i in range(start, until):
            here = coming.pop().result()
            if i + 1 < until:
                coming.append(thread.submit(batch, i + 1))
            yield here


def train(
    trainer: Trainer,
    batches: Batches,
    validate: Validate,
    run: Run,
    checkpoint: CheckpointConfig,
    say: Callable[[str], None] = print,
    *,
    unit: str = "tokens",
    step_flops: StepFlops | None = None,
    validation_work: float | None = None,
    initial: Callable[[], Mapping[str, Any]] | None = None,
    validated: Validated = lambda step, numbers: False,
    tracked: Tracked = lambda row: None,
    profile: Profile | None = None,
    terminal: Terminal | None = None,
) -> Arrays:
    """Trains from the newest whole checkpoint of the run, or from scratch, to the last step; returns the state.

    The last step is that of the config, or before it the one at which `training.patience` is over.

    Args:
      trainer: what to run.
      batches: of the training split.
      validate: `(step, state) -> numbers`, "loss" among them.
      run: where everything is written.
      checkpoint: how often, and how many are kept.
      say: prints a line before the loop starts.
      unit: of what a batch's weight counts, for the progress line and the rows.
      step_flops: counts those of the model in a step, for the rows; None: nobody does.
      validation_work: steps that take about as long as a validation, for the progress line until one has been timed.
      initial: makes the values that parameters start from, by path, instead of at random.
      validated: is told what `validate` gave; if it says True, training stops there as if it was interrupted.
      tracked: is given every row of metrics, those of before too.
      profile: of some steps.
      terminal: where progress is shown; by default on standard output. Of several processes, the first one shows it.

    Raises:
      Diverged: a loss or gradient is not finite; the newest checkpoint is older than that step.
      Interrupted: by SIGINT, SIGTERM, SIGHUP or `validated`; the newest checkpoint is of the last step that was made.
      RunError: the newest whole checkpoint is not of what the run's directory says (names the field or the file).
      CheckpointError: a checkpoint cannot be written; those before are untouched.
    """
    progress = (terminal or Terminal()) if is_first() else SILENT
    with contextlib.ExitStack() as opened:
        interruption = opened.enter_context(Interruption())
        checkpoints = opened.enter_context(Checkpoints(run.checkpoints, checkpoint))
        patience = Patience(trainer.config.patience, trainer.config.patience_metric, trainer.config.patience_best)
        start, until, arrays = _started(trainer, checkpoints, run, patience, initial, say, progress)
        writer = MetricsWriter(run.metrics_file, run.tensorboard, start, say, tracked) if is_first() else None
        config, kept = trainer.config, checkpoints.progress(start) if start else {}
        pauses = {"evaluate_every": config.evaluate_every, "checkpoint_every": checkpoint.every}
        pauses |= {"compiling": opened.enter_context(Compiling()).seconds, "durations": kept.get("durations", {})}
        pauses["validation_work"] = validation_work
        line = ProgressLine(config.steps, start, unit, terminal=progress, **pauses)
        pace = Pace(unit, list(trainer.mesh.devices.flat), step_flops, kept)
        told = (writer, line, pace, progress)
        loop = _RunLoop(trainer, batches, validate, validated, checkpoint.every, run.identity, *told)
        loop.checkpoints, loop.interruption, loop.patience = checkpoints, interruption, patience
        if profile is not None:
            loop.step = profile.watched(loop.step, start, progress, line.pause)
        try:
            arrays = loop.steps(arrays, start, until)
            with progress.phase("writing the last checkpoint"):
                checkpoints.wait()
            return arrays
        except Diverged as error:
            newest = checkpoints.latest
            left = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is of step {newest}"
            raise Diverged(f"{error}; {left}") from None
        finally:
            if profile is not None:
                profile.close()
            if writer is not None:
                writer.close()
            line.close()


def _started(trainer, checkpoints, run, patience, initial, say, progress) -> tuple[int, int, Arrays]:
    """The last step that is done, that until which the run trains, and the state; tells the patience what was before."""
    with progress.phase("reading the newest checkpoint"):
        found = checkpoints.restore_newest(trainer.placed_shapes, say, run.check_identity)
    if found is None:
        with progress.phase("making the initial parameters"):
            return 0, trainer.config.steps, trainer.initial(initial() if initial else None)
    (start, arrays), total = found, trainer.config.steps
    there = checkpoints.identity(start)
    for line in describe_changes(there, run.config, trainer.program.optimizer, start):
        say(line)
    if patience.most is not None:
        patience.read(read_metrics(run.metrics_file, lambda line: None), start)
    before, _ = changes(there, run.config).get("training.steps", (total, total))
    if start < total and patience.is_over and patience.last == start and total <= before:
        say(f"stopped early at step {start}, {patience.describe()}. More patience, or more steps, trains on")
        return start, start, arrays
    going_on = f"going on from the checkpoint of step {start}"
    say(going_on if start < total else f"already trained to step {start}")
    return start, total, arrays


class _RunLoop(Loop):
    """The loop of one run; of several processes, the first one alone has a writer."""

    def __init__(self, trainer, batches, validate, validated, checkpoint_every, identity, writer, line, pace, progress):
        self.step, self.mesh, self.batch = trainer.step, trainer.mesh, trainer.placed(batches).batch
        self.evaluate_every, self.checkpoint_every = trainer.config.evaluate_every, checkpoint_every
        self._config, self._parameters = trainer.config, trainer.layout.trained
        self._validate, self._validated, self._identity = validate, validated, identity
        self._writer, self._line, self._pace, self.progress = writer, line, pace, progress
        self._compiled: set[Any] = set()  # the shapes of batches that there is a program for

    @contextlib.contextmanager
    def compiling(self, batch: Any) -> Iterator[None]:
        self._pace.begin(batch)
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        if shapes in self._compiled:
            yield
            return
        self._compiled.add(shapes)
        largest = " x ".join(map(str, max(shapes, key=math.prod)))
        which = "the step" if len(self._compiled) == 1 else f"the step for batches of {largest}"
        with self._line.pause(), self.progress.phase(f"compiling {which}"):
            yield

    def record(self, step: int, metrics: Mapping[str, Any]) -> None:
        finite = metrics.pop("finite_gradients")
        metrics = {name: float(value) for name, value in metrics.items()}
        if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"])):
            self._not_finite(step, metrics, finite)
        others = {name: value for name, value in metrics.items() if name not in OWN_METRICS}
        self._line.update(step, metrics["loss"], metrics["weight"], others)
        self._pace.end(metrics["loss"], metrics["weight"])
        if step == self._config.steps or step % self._config.log_every == 0:
            let_go()  # of the tokens that batches have read
            self._write(step, metrics | self._pace.row(self._line.busy))

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(step, values)

    def _not_finite(self, step: int, metrics: Mapping[str, float], finite: np.ndarray) -> None:
        """Says so, if the step was skipped and may have been; else the run ends, as Diverged."""
        allowed, skipped = self._config.max_skipped, metrics.get("skipped")
        found = f"batch {step - 1} has {not_finite(metrics, self._parameters, finite)}"
        if skipped is None or skipped > allowed:
            self._write(step, {"diverged": found})
            after = f", after {allowed} skipped step(s)" if allowed else ""
            raise Diverged(f"training stopped at step {step}: {found}{after}")
        self._line.say(f"step {step} is skipped ({skipped:.0f} of at most {allowed}): {found}")

    def validate(self, step: int, arrays: Arrays) -> Mapping[str, float]:
        with self._line.pause(validates=step):
            numbers = self._validate(step, arrays)
        row = {f"validation_{name}": value for name, value in numbers.items()}
        self._write(step, row | {"seconds": self._pace.seconds})
        said = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items())
        self._line.say(f"step {step}: validation {said}")
        self.stop |= self._validated(step, numbers)
        self._wait(step, numbers)
        return numbers

    def _wait(self, step: int, numbers: Mapping[str, float]) -> None:
        """Ends the loop with this validation if those before it were enough without a better one."""
        if self.patience.most is None:
            return
        self.patience.take(step, numbers[self.patience.metric])
        self.done = self.patience.is_over and step < self._config.steps
        if self.done:
            self._line.say(f"stopping early at step {step}, {self.patience.describe()}")

    def save(self, step: int, arrays: Arrays, numbers: Mapping[str, float] | None) -> None:
        kept = self._pace.kept() | {"durations": self._line.durations}
        with self._line.pause(saves=step), self.progress.phase("writing a checkpoint"):
            self.checkpoints.save(step, arrays, self._identity, numbers, kept)

    def where(self, step: int) -> str:
        return f"after step {step} of {self._config.steps}"


def not_finite(metrics: Mapping[str, Any], parameters: Iterable[str], finite: np.ndarray) -> str:
    """Describes the numbers of a step that are not finite, and names the parameters whose gradients are not."""
    names = [name for name, ok in zip(parameters, finite, strict=True) if not ok]
    numbers = f"loss {metrics['loss']}, gradient norm {metrics['gradient_norm']}"
    return numbers + (f", not finite in {some(names)}" if names else "")
