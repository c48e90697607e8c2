"""Trains an experiment, or goes on with it, then reports on the test split.

    python -m experiments.train --config=experiments/configs/translation.py:tiny --workdir=runs/t1 \
        --config.optimizer.learning_rate=3e-4
"""

import contextlib

import jax
from absl import flags

from tformer_jax.config import ConfigError
from tformer_jax.training.experiment import Experiment, run_training
from tformer_jax.training.interruption import Interruption
from tformer_jax.training.processes import first_then_others, is_first
from tformer_jax.training.run import Run

from . import cli
from .reporting import report

_config = cli.define_config()
DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "One of several processes that train together, started by SLURM, Open MPI, GKE or Cloud TPU."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "The same, started by hand: HOST:PORT of the first process.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many there are.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which this is, from 0.", lower_bound=0)


def main() -> None:
    config = _config()
    Experiment.from_config(config)  # before anything is written
    join_processes()

    def start(held: contextlib.ExitStack) -> Run:
        run = Run.start(cli.WORKDIR.value, config)
        if is_first():
            held.enter_context(run.locked())
        return run

    with Interruption() as interruption, contextlib.ExitStack() as held:
        run = first_then_others(lambda: start(held))
        task, data, model = run_training(run, cli.say, terminal=cli.terminal)
        if is_first():
            with interruption.at_once("after the last step"):
                report(run, task, data, model)


def join_processes() -> None:
    """Makes this process one of several that train together, where a flag says so; before JAX is asked for anything."""
    by_hand = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if any(value is not None for value in by_hand) and None in by_hand:
        raise ConfigError("--coordinator, --num_processes and --process_id go together")
    if DISTRIBUTED.value or COORDINATOR.value is not None:
        try:
            jax.distributed.initialize(*by_hand)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"cannot join the other processes: {cli.last_line(error)}") from None


if __name__ == "__main__":
    cli.run(main, "config", "workdir")
