"""Trains an experiment, or goes on with it, then reports on the test split.

    python -m experiments.train --config=experiments/configs/translation.py:tiny --workdir=runs/t1 \
        --config.optimizer.learning_rate=3e-4
"""

import contextlib

from tformer_jax.training.experiment import Experiment, run_training
from tformer_jax.training.processes import first_then_others, is_first
from tformer_jax.training.run import Run

from . import cli
from .reporting import report

_config = cli.define_config()


def main() -> None:
    config = _config()
    Experiment.from_config(config)  # before anything is written
    cli.join_processes()

    def start(held: contextlib.ExitStack) -> Run:
        run = Run.start(cli.WORKDIR.value, config)
        if is_first():
            held.enter_context(run.locked())
        return run

    with contextlib.ExitStack() as held:
        run = first_then_others(lambda: start(held))
        task, data, model = run_training(run, cli.say)
        if is_first():
            report(run, task, data, model)


if __name__ == "__main__":
    cli.run(main, "config", "workdir")
