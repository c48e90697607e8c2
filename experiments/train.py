"""Trains an experiment, or goes on with it, then reports on the test split.

    python -m experiments.train --config=experiments/configs/translation.py:tiny --workdir=runs/t1 \\
        --config.optimizer.learning_rate=3e-4
    python -m experiments.train --config=experiments/configs/translation.py:tiny --dry_run
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags

from tformer_jax.config import ConfigError
from tformer_jax.nn.placement import on_mesh_of
from tformer_jax.progress import SILENT
from tformer_jax.training.directories import steps_in
from tformer_jax.training.dry_run import dry_run
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.interruption import Interruption
from tformer_jax.training.parallel import make_mesh
from tformer_jax.training.processes import first_then_others, is_first
from tformer_jax.training.profiling import Profile
from tformer_jax.training.run import Run
from tformer_jax.training.running import run_training

from . import cli
from .parsers import define_integer, define_switch, define_text
from .reporting import report, short_report
from .tracking import check_tracking, tracking

DISTRIBUTED = define_switch(
    "distributed", "Train as one of several processes that SLURM, Open MPI, GKE or Cloud TPU started."
)
COORDINATOR = define_text(
    "coordinator", None, "Train as one of several processes started by hand: HOST:PORT of the first."
)
NUM_PROCESSES = define_integer("num_processes", None, "With --coordinator: number of processes.")
REPORT = flags.DEFINE_enum(
    "report",
    "full",
    ["full", "short", "none"],
    "Report at the end: full, of whole test splits with samples and plots; short, of some of their batches; none.",
)
DRY_RUN = define_switch(
    "dry_run", "Build and compile, make two steps and validate one batch, say what they cost, and keep nothing."
)
PROFILE = define_text(
    "profile", None, "STEP,COUNT: trace COUNT steps from STEP on, and say what takes longest in them."
)
WANDB = define_text("wandb", None, "Project of Weights & Biases in which to log the run, too.")
PROCESS_ID = define_integer("process_id", None, "With --coordinator: number of this process, from 0.", lowest=0)


def main() -> None:
    config = cli.config()
    experiment = Experiment.from_config(config)  # before anything is written
    if DRY_RUN.value:
        try_out(config)
        return
    join_processes()
    # Which process is the first one, is known when they have started.
    starting = SILENT if DISTRIBUTED.value or COORDINATOR.value else cli.terminal
    with starting.phase("starting the devices"):
        make_mesh(experiment.parallel)  # complains, before data are read
    profile = _profile(experiment.training.steps)
    if is_first():
        check_tracking(WANDB.value)

    def start(held: contextlib.ExitStack) -> Run:
        run = Run.start(cli.WORKDIR.value, config)
        if is_first():
            held.enter_context(run.locked())
        return run

    with Interruption() as interruption, contextlib.ExitStack() as held:
        run = first_then_others(lambda: start(held))
        tracked = held.enter_context(tracking(run, WANDB.value if is_first() else None, cli.terminal))
        task, data, model = run_training(run, cli.say, terminal=cli.terminal, tracked=tracked, profile=profile)
        with interruption.at_once("after the last step"), on_mesh_of(model):
            if REPORT.value != "none":
                (report if REPORT.value == "full" else short_report)(run, task, data, model)


def spared() -> tuple[str, ...]:
    """The required flags that this command line can do without."""
    return ("workdir",) if DRY_RUN.value else ()


def try_out(config: Mapping[str, Any]) -> None:
    """Makes a dry run; refuses what the same command would refuse without --dry_run, and changes no directory."""
    if DISTRIBUTED.value or COORDINATOR.value is not None:
        raise ConfigError("--dry_run is of one process: leave out --distributed and --coordinator")
    for flag in (PROFILE, WANDB):
        if flag.value is not None:
            raise ConfigError(f"--{flag.name} has no meaning with --dry_run; leave one of them out")
    if cli.WORKDIR.value is not None:
        Run(Path(cli.WORKDIR.value), config).check()
    dry_run(config, cli.say, cli.terminal)


def _profile(steps: int) -> Profile | None:
    """The profile that a flag asks for, of a run of so many steps; None: it does not."""
    if (asked := PROFILE.value) is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,8},[1-9][0-9]{0,8}", asked):
        raise ConfigError(f"--profile must be STEP,COUNT, both from 1, such as 100,5, got {asked!r}")
    workdir, (first, count) = Path(cli.WORKDIR.value), map(int, asked.split(","))
    profile = Profile(first, count, workdir / "profile")
    profile.check(max(steps_in(workdir / "checkpoints"), default=0), steps)
    return profile


def join_processes() -> None:
    """Makes this process one of several that train together, where a flag says so; before JAX is asked for anything."""
    coordinator, count, which = by_hand = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if any(value is not None for value in by_hand):  # else JAX ends in a traceback, or waits for minutes for nobody
        if None in by_hand:
            raise ConfigError("--coordinator, --num_processes and --process_id go together: give all or none")
        host, _, port = coordinator.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
            raise ConfigError(f"--coordinator must be HOST:PORT with a port in 1..65535, got {coordinator!r}")
        if which >= count:
            raise ConfigError(f"--process_id counts from 0 and must be below --num_processes={count}, got {which}")
    if DISTRIBUTED.value or coordinator is not None:
        try:
            jax.distributed.initialize(*by_hand)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"cannot join the other processes: {cli.last_line(error)}") from None


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, "config", "workdir", optional=("plugin",), spared=spared)


if __name__ == "__main__":
    run()
