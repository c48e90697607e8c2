"""Runs from their directories: experiment, task and model, from a checkpoint."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax

from ..nn.adapters import Adapter
from ..progress import SILENT, Progress
from ..tasks import Task
from . import reading
from .directories import RunError
from .experiment import Experiment
from .parallel import ParallelConfig
from .run import Run
from .step import Arrays
from .trainer import Trainer


def load_run(
    run: Run, step: int | None = None, progress: Progress = SILENT, *, spread: bool = False
) -> tuple[Experiment, Task, Any]:
    """The experiment, task and model of a run, from its newest checkpoint or that of `step`, on the first device.

    `spread`: on the mesh that its `parallel` section says, if there are enough devices for it, see `ParallelConfig.at_hand`.

    Raises:
      RunError: it has no (such) checkpoint, or one of something else than the directory says (names the field or file).
      CheckpointError: the checkpoint is damaged.
    """
    experiment, task, trainer, arrays = _loaded(run, step, progress, spread)
    return experiment, task, trainer.model(arrays)


def load_models(run: Run, steps: Sequence[int], *, spread: bool = False) -> Iterator[tuple[int, Any]]:
    """Yields the models of several checkpoints of a run, each with its step; `spread`: see `load_run`.

    Raises:
      RunError, CheckpointError: see `load_run`.
    """
    experiment = Experiment.from_config(run.config)
    trainer = experiment.trainer(experiment.restore_task(run.directory), _where(experiment, spread))
    for step in steps:
        with reading.whole(run.checkpoints, step) as checkpoint:
            run.check_identity(checkpoint.identity, checkpoint.step)
            arrays = checkpoint.restore(trainer.placed_shapes)
        yield step, trainer.model(arrays)


def load_adapter(run: Run, step: int | None = None, progress: Progress = SILENT) -> tuple[Any, Adapter, float]:
    """The model that a run with an adapter started from, the adapter, and its scale; otherwise as `load_run`.

    Raises:
      RunError: it has no adapter, or see `load_run`.
      CheckpointError: the checkpoint is damaged.
    """
    experiment, _, trainer, arrays = _loaded(run, step, progress, spread=False)
    if experiment.training.adapter == "none":
        raise RunError(f"{run.directory} has no adapter: all of its model was trained")
    return trainer.program.apart(arrays)


def _where(experiment: Experiment, spread: bool) -> ParallelConfig:
    """The devices that a run is loaded on."""
    return experiment.parallel.at_hand(jax.device_count()) if spread else ParallelConfig(data=1)


def _loaded(run: Run, step: int | None, progress: Progress, spread: bool) -> tuple[Experiment, Task, Trainer, Arrays]:
    """A run as its config says it, and its state; `spread`: see `load_run`."""
    with (
        progress.phase("reading the checkpoint"),
        reading.whole(run.checkpoints, step, ": --step={step}") as checkpoint,
    ):
        run.check_identity(checkpoint.identity, checkpoint.step)  # before anything else believes config.json
        experiment = Experiment.from_config(run.config)
        task = experiment.restore_task(run.directory)
        trainer = experiment.trainer(task, _where(experiment, spread))
        return experiment, task, trainer, checkpoint.restore(trainer.placed_shapes)
