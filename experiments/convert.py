"""Writes a run's model as a folder that Hugging Face's `transformers` loads, and makes a run of such a folder.

python -m experiments.convert --from=runs/language --to=language
python -m experiments.convert --from=language --to=runs/again
"""

import importlib
from pathlib import Path
from typing import Any

from tformer_jax import interop
from tformer_jax.config import ConfigError
from tformer_jax.data.classes import keep_classes
from tformer_jax.nn.parameters import named
from tformer_jax.tasks import Task
from tformer_jax.training.checkpoints import Checkpoints
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.loading import load_run
from tformer_jax.training.parallel import ParallelConfig
from tformer_jax.training.pretrained import completed, load_folder, save_folder
from tformer_jax.training.run import Run, changed_plugins

from . import cli
from .parsers import define_text

FROM = define_text("from", None, "Directory of the run, or folder of Hugging Face's.", like="DIRECTORY")
FAMILY = define_text(
    "family", None, "Family to write it as, such as gpt2; by default the first that can say the model."
)


def main() -> None:
    to = Path(cli.TO.value)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"--to={to} is not empty; choose a new folder")
    if interop.is_pretrained(FROM.value):
        for name, value in (("step", cli.STEP.value), ("family", FAMILY.value)):
            if value is not None:
                raise ConfigError(f"--{name} has no meaning for {FROM.value}, a folder of Hugging Face's; leave it out")
        to_run(FROM.value, to)
    else:
        cli.check_no_plugins(FROM.value)
        to_folder(Run.open(FROM.value), to)


def to_folder(run: Run, folder: Path) -> None:
    """Writes a run's model as a folder."""
    cli.say(*changed_plugins(run.directory, run.config))
    _, task, model = load_run(run, cli.STEP.value, cli.terminal)
    with cli.terminal.phase("writing the folder"):
        said = save_folder(task, model, folder, FAMILY.value)
    cli.say(f"the model is in {folder}, as {said}")
    cli.say("not carried: the optimiser's state, the metrics, and what the config says of training and data")


def to_run(folder: str, directory: Path) -> None:
    """Makes a run of a folder, before its first step: of the task's tiny preset, but for its model.

    Raises:
      ConfigError, DataError: see `load_folder`.
    """
    with cli.terminal.phase("reading the checkpoint"):
        task, model = load_folder(folder)
    config = completed(_config(task, model, folder), {})
    experiment = Experiment.from_config(config)
    run = Run.start(directory, config)
    with run.locked(), cli.terminal.phase("writing the run"):
        type(task).inherit(Path(folder), run.directory)
        if "classes" in task.learnt:
            keep_classes(task.classes, run.directory)
        task = experiment.restore_task(run.directory)
        trainer = experiment.trainer(task, ParallelConfig(data=1))
        shapes = trainer.layout.shapes  # in whose dtypes the run has them
        held = {f"model.{path}": x for path, x in named(model).items()}
        arrays = trainer.initial({path: x.astype(shapes[path].dtype) for path, x in held.items()})
        with Checkpoints(run.checkpoints, experiment.checkpoint) as checkpoints:
            checkpoints.save(0, arrays, run.identity)
    cli.say(f"the run is in {directory}: of the task {task.name}, before its first step")
    cli.say("not carried: what generation_config.json says of anything but tokens, and the spelling of config.json")
    if left := model.origin.left_over:
        cli.say(f"not carried: {len(left)} tensors that the model has no use for: {', '.join(left)}")


def _config(task: Task, model: Any, folder: str) -> dict[str, Any]:
    """The config of the task's tiny preset, of data that the model can read."""
    config = importlib.import_module(f"experiments.configs.{task.name}").get_config("tiny").to_dict()
    config["task"]["init_from"] = folder
    for name in ("image_size", "num_channels"):
        if name in config["data"]:
            config["data"][name] = getattr(model.config, name)
    if config["data"].get("row_length"):
        config["data"]["row_length"] = min(config["data"]["row_length"], model.config.max_length)
    return cli.with_plugins(config)


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, "from", "to", optional=("plugin", "step"))


if __name__ == "__main__":
    run()
