"""Scores a run's newest checkpoint on data that it was not trained on: numbers, samples and plots.

python -m experiments.evaluate --workdir=runs/translation --split=validation
"""

from tformer_jax.config import check_choice
from tformer_jax.training.experiment import load_data

from . import cli, trained
from .parsers import define_text
from .reporting import report

SPLIT = define_text("split", None, "Split to score, such as validation; by default every test split.")


def main() -> None:
    run, experiment, task, model = trained.load(cli.terminal)
    data = load_data(experiment, run.directory, fresh=False, progress=cli.terminal)
    if SPLIT.value is not None:
        check_choice("--split", SPLIT.value, data.splits)
    report(run, task, data, model, None if SPLIT.value is None else [SPLIT.value])


if __name__ == "__main__":
    cli.run(main, "workdir", optional=("step",))
