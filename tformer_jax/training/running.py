"""The training of a run, from its data to its last checkpoint."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import interop
from ..data.batches import Batches, checked
from ..data.digest import check_kept
from ..data.files import write_whole
from ..nn.placement import on_mesh_of
from ..progress import SILENT, Progress
from ..tasks import Task
from .directories import RunError
from .experiment import Experiment
from .interruption import Interruption
from .loop import Validate, Validated, train
from .processes import first_then_others, is_first
from .run import Run, changed_plugins
from .starts import initial_arrays, run_to_start_from
from .step import Arrays
from .terminal import Terminal
from .trainer import Trainer

# Batches whose rows are counted, to say which devices have none.
_LOOKED_AT = 100


def run_training(
    run: Run,
    say: Callable[[str], None],
    validated: Validated = lambda step, numbers: False,
    terminal: Terminal | None = None,
    **how: Any,
) -> tuple[Task, Any, Any]:
    """Trains the run's experiment, or goes on with it; returns the task, the data and the model.

    The model lies on the run's mesh: evaluate it within `nn.placement.on_mesh_of(model)`. `validated`, `terminal`, and `how`
    (`tracked`, `profile`): see `train`.

    Raises:
      ConfigError: the config or the data are not what they must be.
      Diverged, Interrupted, CheckpointError: see `train`.
    """
    experiment = Experiment.from_config(run.config)
    terminal = terminal or Terminal()
    progress = terminal if is_first() else SILENT
    try:
        with Interruption() as interruption, interruption.at_once("before the first step", run.withdraw):
            data, batches, validation = read_batches(experiment, run, progress)
            task = experiment.task_class.from_data(experiment.task, data)
            with progress.phase("building the model"):
                trainer = experiment.trainer(task)
            initial = functools.cache(lambda: initial_arrays(experiment, task, trainer.layout.shapes, say))
            if not run.has_checkpoint:  # else the run that this one started from may be gone by now
                initial()
    except BaseException:  # whatever it is, the corrected command must find the directory free
        run.withdraw()
        raise
    remarks = (*changed_plugins(run.directory, run.config), *experiment.remarks)
    for line in (*remarks, *data.report, size_line(trainer), *device_lines(trainer, batches)):
        say(line)

    try:
        how |= {"unit": task.unit, "initial": initial, "validated": validated, "terminal": terminal}
        how |= {"step_flops": experiment.step_flops(task), "validation_work": validation_work(batches, validation)}
        validate = validator(trainer, task, validation, run, progress)
        arrays = train(trainer, batches, validate, run, experiment.checkpoint, say, **how)
    except RunError:  # of a checkpoint that lay there already
        run.withdraw()
        raise
    except BaseException:
        if not run.has_checkpoint:
            run.withdraw()
        raise
    return task, data, trainer.model(arrays)


def validator(trainer: Trainer, task: Task, validation: Batches, run: Run, progress: Progress) -> Validate:
    """Function that makes the numbers of a validation of a state, and leaves a sample in the run."""

    def validate(step: int, arrays: Arrays) -> dict[str, float]:
        model = trainer.model(arrays)
        with on_mesh_of(model):
            sample = task.sample(model, progress) if task.samples else None
            if sample is not None and is_first():
                write_whole(run.samples / f"step_{step}.txt", sample)
            return task.validate(model, validation, progress)

    return validate


def validation_work(training: Batches, validation: Batches) -> float:
    """Returns how many steps take about as long as a validation, in which a batch is read once.

    A step reads a batch and goes back through it, which takes twice as long: of batches of a size, it is three of them.
    """
    size = lambda batches: batches.row_count(0) * max(x.size for x in batches.batch(0, slice(1)).values())
    return len(validation) * size(validation) / size(training) / 3


def read_batches(experiment: Experiment, run: Run, progress: Progress) -> tuple[Any, Any, Any]:
    """The data, and the batches to train and to validate on."""
    fresh = not run.has_checkpoint
    data = first_then_others(lambda: load_data(experiment, run.directory, fresh=fresh, progress=progress))
    with progress.phase("preparing batches"):
        batches = checked(data.train_batches(experiment.training.accumulate), "the training batches")
        return data, batches, experiment.validation_batches(data)


def size_line(trainer: Trainer) -> str:
    """Text about the number of parameters."""
    everything, trained = trainer.parameter_count, trainer.trained_count
    of_these = "" if trainer.config.adapter == "none" else f", and {trained:,} of an adapter, which alone are trained"
    return f"{everything:,} parameters{of_these}"


def device_lines(trainer: Trainer, batches: Batches) -> list[str]:
    """Lines that a person should know of the devices."""
    if trainer.mesh.size == 1:
        return []
    sizes = ", ".join(f"{name} {size}" for name, size in trainer.mesh.shape.items() if size > 1)
    rows = {batches.row_count(i) for i in range(min(len(batches), _LOOKED_AT))}
    return [f"{trainer.mesh.size} devices: {sizes}", *trainer.idle(rows)]


def load_data(experiment: Experiment, directory: Path, *, fresh: bool, progress: Progress = SILENT) -> Any:
    """The data, with its tokenizers or classes kept in `directory`; `fresh`: nothing was trained there yet.

    What the task takes over of the run that it starts from, such as a tokenizer, becomes this one's.

    Raises:
      DataError: the data cannot be read, or are not known to be those that were trained on.
    """
    if not fresh:
        check_kept(directory)
    elif (start := experiment.task.init_from) is not None:
        folder = Path(start) if interop.is_pretrained(start) else run_to_start_from(start).directory
        experiment.task_class.inherit(folder, directory)
    return experiment.load_data(directory, progress)
