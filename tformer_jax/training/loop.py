"""The training loop: batches in, checkpoints and numbers out."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from ..config import ConfigError, check_seed
from .checkpoints import CheckpointConfig, Checkpoints
from .metrics import MetricsWriter, ProgressLine
from .optimizers import OptimizerConfig, make_optimizer, make_schedule
from .run import Run
from .step import Arrays, LossFunction, StateLayout, TrainState, make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The `training` section of an experiment.

    Attributes:
      steps: updates in all.
      seed: of the initial parameters and of dropout.
      accumulate: parts that a batch is split into, one after the other, to save memory.
      log_every: steps between rows of metrics.jsonl.
      evaluate_every: steps between validations; the last step always has one.
    """

    steps: int
    seed: int = 0
    accumulate: int = 1
    log_every: int = 20
    evaluate_every: int

    def __post_init__(self):
        for name in ("steps", "accumulate", "log_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        check_seed("training.seed", self.seed)


_NO_STEP = 2**32 - 1  # the number of a key that no step has

Validate = Callable[[int, Any], dict[str, float]]


@runtime_checkable
class Batches(Protocol):
    """Random-access batches: batch i is a function of i alone."""

    def batch(self, i: int) -> Any: ...


class Diverged(RuntimeError):
    """The loss or its gradient is no longer finite; the message says at which step."""


class Trainer:
    """Everything that one configuration compiles to: the model's shape, the step, the layout of the state."""

    def __init__(
        self,
        make_model: Callable[[nnx.Rngs], nnx.Module],
        loss: LossFunction,
        training: TrainingConfig,
        optimizer: OptimizerConfig,
    ):
        self.config = training
        schedule = make_schedule(optimizer, training.steps)
        self._transformation = make_optimizer(optimizer, schedule)
        self._make_model = make_model
        self._key = jax.random.key(training.seed)
        self.layout = StateLayout(jax.eval_shape(self._initial))
        step = make_train_step(loss, self._transformation, schedule, training.accumulate)

        def flat_step(arrays, batch):
            state, metrics = step(self.layout.unflatten(arrays), batch, self._key)
            return self.layout.flatten(state), metrics

        self.step = jax.jit(flat_step, donate_argnums=0)

    def _initial(self) -> TrainState:
        # NNX gives the i-th parameter `fold_in(key, i)`, which from this key would be the randomness of step i.
        model = self._make_model(nnx.Rngs(jax.random.fold_in(self._key, _NO_STEP)))
        return TrainState(jnp.int32(0), model, self._transformation.init(model))

    def initial(self) -> Arrays:
        """The state before the first step."""
        return jax.jit(lambda: self.layout.flatten(self._initial()))()

    def model(self, arrays: Arrays) -> Any:
        """The model within a state."""
        return self.layout.unflatten(arrays).model

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(x.shape) for name, x in self.layout.shapes.items() if name.startswith("model."))


def train(
    trainer: Trainer,
    batches: Batches,
    validate: Validate,
    run: Run,
    checkpoint: CheckpointConfig,
    say: Callable[[str], None] = print,
    *,
    unit: str = "tokens",
    initial: Arrays | None = None,
) -> Any:
    """Trains from the newest checkpoint of the run, or from scratch, to the last step; returns the model.

    The numbers of a step are fetched while the next one runs, so the device never waits for the host.

    Args:
      trainer: what to run.
      batches: of the training split.
      validate: `(step, model) -> numbers`, "loss" among them.
      run: where everything is written.
      checkpoint: how often, and how many are kept.
      say: prints a line before the loop starts.
      unit: of what a batch's weight counts, for the progress line.
      initial: parameters that start from these values, by path, instead of at random.

    Raises:
      Diverged: a loss or gradient is not finite; the newest checkpoint is older than that step.
    """
    total = trainer.config.steps
    with Checkpoints(run.checkpoints, checkpoint) as checkpoints:
        start = checkpoints.latest or 0
        if start:
            say(
                f"going on from the checkpoint of step {start}" if start < total else f"trained to step {start} already"
            )
            arrays = checkpoints.restore(start, trainer.layout.shapes)
        else:
            arrays = trainer.initial() | (initial or {})
        writer, progress = MetricsWriter(run.metrics_file, run.tensorboard, start), ProgressLine(total, start, unit)
        loop = _Loop(trainer, batches, validate, run, checkpoints, checkpoint.every, writer, progress)
        try:
            arrays = loop.steps(arrays, start)
        except Diverged as error:
            newest = checkpoints.latest
            kept = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is of step {newest}"
            raise Diverged(f"{error}; {kept}") from None
        finally:
            writer.close()
            progress.close()
    return trainer.model(arrays)


@dataclasses.dataclass
class _Loop:
    """What the loop holds on to from step to step."""

    trainer: Trainer
    batches: Batches
    validate: Validate
    run: Run
    checkpoints: Checkpoints
    checkpoint_every: int
    writer: MetricsWriter
    progress: ProgressLine
    pending: tuple[int, Arrays] | None = None

    def steps(self, arrays: Arrays, start: int) -> Arrays:
        """From the state after step `start` to the state after the last step."""
        config = self.trainer.config
        for step in range(start + 1, config.steps + 1):
            arrays, metrics = self.trainer.step(arrays, self.batches.batch(step - 1))
            self.settle()
            self.pending = (step, metrics)
            last = step == config.steps
            if last or step % config.evaluate_every == 0:
                self.settle()
                numbers = self.validate(step, self.trainer.model(arrays))
                self.writer.write(step, {f"validation_{name}": value for name, value in numbers.items()})
                line = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items())
                self.progress.say(f"step {step}: validation {line}")
            if last or step % self.checkpoint_every == 0:
                self.settle()  # only a state whose loss and gradient were finite is worth keeping
                self.checkpoints.save(step, arrays, self.run.config)
        return arrays

    def settle(self) -> None:
        """Fetches the numbers of the step before, checks them, and passes them on."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        loss, norm = metrics["loss"], metrics["gradient_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"training stopped at step {step}: its loss is {loss}, its gradient norm {norm}")
        self.progress.update(step, loss, metrics["weight"])
        if step % self.trainer.config.log_every == 0 or step == self.trainer.config.steps:
            self.writer.write(step, metrics)
