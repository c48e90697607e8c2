"""Trains many experiments: the members of a space of overrides, together in one program, or as a search.

    python -m experiments.sweep --config=experiments/configs/causal_lm.py:tiny --workdir=runs/sweep \\
        --sweep="optimizer.learning_rate=log(1e-4,1e-2,7); seed=0..3"

The language of --sweep stands in tformer_jax/sweeps/text.py; without the flag, the config file's `get_sweep()` says
what is tried. The same command goes on with a sweep that was interrupted, or joins a search as one more worker.
"""

import shlex
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from tformer_jax.config import ConfigError
from tformer_jax.sweeps.board import Board, result_table
from tformer_jax.sweeps.loop import Halving, VectorizedConfig, vectorized_sweep
from tformer_jax.sweeps.members import describe, flags as member_flags
from tformer_jax.sweeps.results import Ranking, Row, write_results
from tformer_jax.sweeps.search import SearchConfig, search
from tformer_jax.sweeps.space import Space
from tformer_jax.sweeps.text import parse
from tformer_jax.training.interruption import Interruption
from tformer_jax.training.metrics import read_metrics

from . import cli
from .config_files import config_module
from .parsers import define_integer, define_text
from .ranking import BEST, METRIC, ranking

SWEEP = define_text("sweep", None, "Search space, such as 'optimizer.learning_rate=log(1e-4,1e-2,7); seed=0..3'.")
ENGINE = flags.DEFINE_enum(
    "engine", "vectorized", ["vectorized", "search"], "vectorized: members in one program; search: trials by Optuna."
)
# Of the vectorised engine.
HALVING = define_integer("halving", None, "Successive halving: at each rung, one in this many members goes on.")
FIRST_RUNG = define_integer("first_rung", None, "With --halving: step of the first rung.")
TOGETHER = define_integer(
    "together", None, "Number of members trained at a time; by default as many as fit the memory."
)
CHUNK = define_integer("chunk", None, "Number of members that a device runs at once; by default the fastest number.")
# Of a search.
TRIALS = define_integer("trials", None, "With --engine=search: number of trials to finish, over all workers.")
SAMPLER = define_text("sampler", None, "Sampler of the search: tpe (the default), random, or one of a plugin.")
PRUNER = define_text(
    "pruner", None, "Pruner of the search: none (the default), or hyperband, which stops bad trials early."
)
SEARCH_SEED = define_integer(
    "search_seed", None, "Random seed of the sampler; by default 0.", lowest=0, highest=2**32 - 1
)
STORAGE = define_text(
    "storage", None, "URL of a PostgreSQL database for the search; by default a SQLite file in --workdir."
)
STUDY = define_text("study", None, "Name of the search in the database; by default the name of --workdir.")

_VECTORIZED = {"halving": HALVING, "first_rung": FIRST_RUNG, "together": TOGETHER, "chunk": CHUNK}
_SEARCH = {"trials": TRIALS, "sampler": SAMPLER, "pruner": PRUNER, "seed": SEARCH_SEED}
_SEARCH |= {"storage": STORAGE, "study": STUDY}


def main() -> None:
    config, space, given, by = cli.config(), _space(), _given(), ranking()
    directory = Path(cli.WORKDIR.value)
    with Interruption() as interruption:
        with Board(by, terminal=cli.terminal) as board:
            if ENGINE.value == "search":
                how = SearchConfig(**given, metric=METRIC.value, best=BEST.value)
                keep = lambda rows: write_results(rows, directory)
                rows = search(directory, config, space, how, board.say, keep, board.terminal)
            else:
                rows = vectorized_sweep(directory, config, space, by, VectorizedConfig(**given), board)
        with interruption.at_once("after the last step"):
            _report(config, rows, by, directory)


def _given() -> dict[str, Any]:
    """Returns what the flags say of the engine; refuses what they say of the other one."""
    mine, others = (_SEARCH, _VECTORIZED) if ENGINE.value == "search" else (_VECTORIZED, _SEARCH)
    if wrong := [f"--{flag.name}" for flag in others.values() if flag.value is not None]:
        raise ConfigError(f"{', '.join(wrong)} has no meaning for --engine={ENGINE.value}; leave it out")
    given = {name: flag.value for name, flag in mine.items() if flag.value is not None}
    if ENGINE.value == "search":
        if "trials" not in given:
            raise ConfigError("--engine=search needs --trials=N, the number of trials to finish")
        return given
    rungs = {name: given.pop(name) for name in ("halving", "first_rung") if name in given}
    if len(rungs) == 1:
        raise ConfigError("--halving and --first_rung go together: give both or neither")
    return given | ({"halving": Halving(factor=rungs["halving"], first_rung=rungs["first_rung"])} if rungs else {})


def _space() -> Space:
    """Returns the search space, of --sweep or of the config file."""
    if SWEEP.value is not None:
        return parse(SWEEP.value)
    file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    module = config_module(file)
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"{file} has no get_sweep(); give the search space as --sweep='field=values; ...'")
    found = module.get_sweep()
    found = parse(found) if isinstance(found, str) else found
    if not isinstance(found, Space):
        raise ConfigError(f"get_sweep() of {file} must return a text or a Space, got {found!r}")
    return found


def _curves(directory: Path) -> dict[int, list[dict[str, Any]]]:
    """The rows of metrics of each member."""
    found: dict[int, list[dict[str, Any]]] = {}
    for file in directory.glob("groups/*/metrics.jsonl"):
        for row in read_metrics(file):
            found.setdefault(row["member"], []).append(row)
    trials = directory.glob("trials/*/metrics.jsonl")
    return found | {int(file.parent.name): read_metrics(file) for file in trials if file.parent.name.isdecimal()}


def _report(config: dict[str, Any], rows: list[Row], by: Ranking, directory: Path) -> None:
    """Prints the table and the command that trains the best member alone, and leaves pictures."""
    from tformer_jax.sweeps.plots import plot_sweep  # here: a mistake is said without loading Matplotlib

    cli.say(result_table(rows, by))
    if ranked := by.ranked(rows):
        _say_best(config, ranked[0], directory)
    else:
        cli.say("no member has a finite result: try lower learning rates")
    how = {"metric": by.metric, "lowest": by.lowest}
    with cli.terminal.phase("drawing plots"):
        files = plot_sweep(rows, _curves(directory), directory / "plots", **how)
    pictures = ", ".join(file.name for file in files) or "none"
    cli.say(f"results.csv and results.jsonl are in {directory}; plots: {pictures}")


def _say_best(config: dict[str, Any], best: Row, directory: Path) -> None:
    number, alone = best["member"], f"{directory}-best"
    best_is = f"best: member {number}, {describe(best['overrides'])}"
    if (overrides := member_flags(config, best["overrides"])) is not None:
        command = ["train", *cli.config_flags_given(), *overrides, f"--workdir={alone}"]
        cli.say(f"{best_is}; the command that trains it alone:")
    elif ENGINE.value == "search":
        cli.say(f"{best_is}; its run is {directory / 'trials' / str(number)}")
        return
    else:
        command = ["export", f"--workdir={directory}", f"--member={number}", f"--to={alone}"]
        cli.say(f"{best_is}; flags cannot say all of it, but this command makes it a run:")
    cli.say(f"  python -m experiments.{shlex.join(command)}")


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, "config", "workdir", optional=("plugin",))


if __name__ == "__main__":
    run()
