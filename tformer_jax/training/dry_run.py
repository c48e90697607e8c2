"""A dry run: what a run would build and compile, two steps and a validation batch, of which nothing is kept."""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ..data.batches import Batches, Part
from ..progress import Progress
from .experiment import Experiment
from .interruption import Interruption
from .loop import Diverged
from .run import Run
from .running import device_lines, read_batches, size_line, validator
from .sharding import bytes_per_device
from .starts import initial_arrays
from .step import Arrays
from .terminal import Terminal, clock
from .trainer import Trainer


def dry_run(config: Mapping[str, Any], say: Callable[[str], None], terminal: Terminal | None = None) -> None:
    """Tries whether an experiment can be trained, and says what a step costs.

    Its files lie in a folder of the system's temporary one, which is gone afterwards.

    Raises:
      ConfigError, DataError: see `run_training`.
      Diverged: the loss or its gradient is not finite.
      Interrupted: by SIGINT, SIGTERM or SIGHUP.
    """
    place = tempfile.mkdtemp(prefix="tformer_jax-dry-run-")
    forget = lambda: shutil.rmtree(place, ignore_errors=True)
    try:
        with Interruption() as interruption, interruption.at_once("in a dry run", forget):
            _try(Run.start(place, config), say, terminal or Terminal())
    finally:
        forget()
    say("the dry run is over; nothing of it is kept")


def _try(run: Run, say: Callable[[str], None], progress: Progress) -> None:
    experiment = Experiment.from_config(run.config)
    data, batches, validation = read_batches(experiment, run, progress)
    task = experiment.task_class.from_data(experiment.task, data)
    with progress.phase("building the model"):
        trainer = experiment.trainer(task)
    start = initial_arrays(experiment, task, trainer.layout.shapes, say)
    for line in (*experiment.remarks, *data.report, size_line(trainer), *device_lines(trainer, batches)):
        say(line)
    with progress.phase("making the initial parameters"):
        arrays = trainer.initial(start)
    arrays = _two_steps(trainer, batches, arrays, say, progress)
    began = time.monotonic()
    part = Part(validation, 1)
    numbers = validator(trainer, task, part, run, progress)(2, arrays)
    said = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items())
    sample = " and a sample" if task.samples else ""
    took = f"{time.monotonic() - began:.1f} s with compiling"
    say(f"1 of {len(validation)} validation batches{sample}: {said}; {took}")


def _two_steps(
    trainer: Trainer, batches: Batches, arrays: Arrays, say: Callable[[str], None], progress: Progress
) -> Arrays:
    """Returns the state after two steps; the second one is measured, on the first batch like the other."""
    batch, losses, seconds = trainer.placed(batches).batch(0), [], 0.0
    with progress.phase("compiling the step"):
        step = trainer.step.lower(arrays, batch).compile()
    with progress.phase("making two steps"):
        for number in (1, 2):
            began = time.monotonic()
            arrays, metrics = step(arrays, batch)
            metrics = jax.device_get(metrics)
            seconds = time.monotonic() - began
            losses.append(f"{metrics['loss']:.4f}")
            if not np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all():
                found = f"loss {metrics['loss']}, gradient norm {metrics['gradient_norm']}"
                raise Diverged(f"the dry run stopped at step {number}: it has {found}")
    steps = trainer.config.steps
    say(f"losses {' and '.join(losses)}; {seconds:.3g} s a step, {steps:,} steps in {clock(seconds * steps)}")
    state = bytes_per_device(trainer.layout.shapes, trainer.shardings, "")
    temporary = step.memory_analysis().temp_size_in_bytes
    say(f"memory of a device: {_mebibytes(state)} for the state, {_mebibytes(temporary)} more for a step")
    return arrays


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
