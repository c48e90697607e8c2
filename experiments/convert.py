"""Writes a run's model as a folder that Hugging Face's `transformers` loads.

python -m experiments.convert --from=runs/language --to=language
"""

from pathlib import Path

from tformer_jax.config import ConfigError
from tformer_jax.training.experiment import load_run
from tformer_jax.training.pretrained import save_folder
from tformer_jax.training.run import Run, changed_plugins

from . import cli, trained
from .parsers import define_text

FROM = define_text("from", None, "Directory of the run.")
FAMILY = define_text(
    "family", None, "Family to write it as, such as gpt2; by default the first that can say the model."
)


def main() -> None:
    folder = Path(cli.TO.value)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--to={folder} is not empty; choose a new folder")
    run = Run.open(FROM.value)
    cli.say(*changed_plugins(run.directory, run.config))
    _, task, model = load_run(run, trained.STEP.value, cli.terminal)
    with cli.terminal.phase("writing the folder"):
        said = save_folder(task, model, folder, FAMILY.value)
    cli.say(f"the model is in {folder}, as {said}")
    cli.say("not carried: the optimiser's state, the metrics, and what the config says of training and data")


if __name__ == "__main__":
    cli.run(main, "from", "to")
