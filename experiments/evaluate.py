"""Scores a run's newest checkpoint on data that it was not trained on: numbers, samples and plots.

Where its config's `parallel` section asks for several devices, and there are as many here, they share the work and the model
as they did in training; else the first device does it all.

python -m experiments.evaluate --workdir=runs/translation --split=validation
python -m experiments.evaluate --workdir=runs/translation --split=validation --batches=8
"""

from tformer_jax.config import check_choice
from tformer_jax.nn.placement import on_mesh_of
from tformer_jax.training.running import load_data

from . import cli, trained
from .parsers import define_integer, define_text
from .reporting import report, score_parts

SPLIT = define_text("split", None, "Split to score, such as validation; by default every test split.")
BATCHES = define_integer(
    "batches",
    None,
    "Number of batches of a split to score, evenly spread over it: their numbers alone, and no samples.",
)


def main() -> None:
    run, experiment, task, model = trained.load(cli.terminal, spread=True)
    data = load_data(experiment, run.directory, fresh=False, progress=cli.terminal)
    if SPLIT.value is not None:
        check_choice("--split", SPLIT.value, data.splits)
    splits = None if SPLIT.value is None else [SPLIT.value]
    with on_mesh_of(model):
        if BATCHES.value is None:
            report(run, task, data, model, splits)
        else:
            score_parts(task, data, model, splits, BATCHES.value)


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, "workdir", optional=("step",))


if __name__ == "__main__":
    run()
