"""Code that the commands share that use a trained model: which run, and which of its checkpoints."""

from typing import Any

from absl import flags

from tformer_jax import interop
from tformer_jax.config import ConfigError
from tformer_jax.nn import WEIGHTS, with_weights
from tformer_jax.tasks import Task
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.loading import load_run
from tformer_jax.training.pretrained import load_folder
from tformer_jax.training.run import Run, changed_plugins
from tformer_jax.training.terminal import Terminal

from . import cli

WEIGHTS_KEPT = flags.DEFINE_enum(
    "weights", WEIGHTS[0], WEIGHTS, "How matrices and token tables are kept: int8 has a scale for each output, and "
    "generates faster; see tformer_jax.nn.with_weights.",
)  # fmt: skip


def load_model(progress: Terminal) -> tuple[Task, Any]:
    """Loads the task and the model of --workdir: of a run, or of a folder of Hugging Face's."""
    folder = cli.WORKDIR.value
    if not interop.is_pretrained(folder):
        cli.check_no_plugins(folder)
        _, _, task, model = load(progress)
        return task, model
    if cli.STEP.value is not None:
        raise ConfigError(f"--step has no meaning for {folder}, a folder of Hugging Face's; leave it out")
    with progress.phase("reading the checkpoint"):
        task, model = load_folder(folder)
    return task, with_weights(model, WEIGHTS_KEPT.value)


def load(progress: Terminal, *, spread: bool = False) -> tuple[Run, Experiment, Task, Any]:
    """Loads the run of --workdir: the run, its experiment, task and model; `progress` is told what takes long.

    `spread`: see `load_run`.
    """
    run = Run.open(cli.WORKDIR.value)
    progress.say(*changed_plugins(run.directory, run.config))  # first: it may be why the rest cannot be loaded
    experiment, task, model = load_run(run, cli.STEP.value, progress, spread=spread)
    if WEIGHTS_KEPT.value != WEIGHTS[0]:
        progress.say(f"weights are kept in {WEIGHTS_KEPT.value}")
    return run, experiment, task, with_weights(model, WEIGHTS_KEPT.value)
