"""Hyperparameter search by Optuna over any fields of a config; a worker a process, and any number of workers."""

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ..config import ConfigError, check_choice
from ..training.directories import check_free
from ..training.experiment import Experiment
from ..training.interruption import Interruption
from ..training.run import changed_plugins, check_writable, keep_plugins
from ..training.terminal import Terminal
from .members import Fields, make_members
from .results import Row
from .samplers import SearchConfig
from .space import Domain, Overrides, Range, Space

_MOST_CORNERS = 256


def search(
    directory: Path,
    config: Mapping[str, Any],
    space: Space,
    how: SearchConfig,
    say: Callable[[str], None],
    changed: Callable[[list[Row]], None] = lambda rows: None,
    terminal: Terminal | None = None,
) -> list[Row]:
    """Trains trials until `how.trials` are finished, by this worker and by others; returns the results, a row a trial.

    The same call joins a search, or goes on with it. Each trial is a run in `directory/trials`; what a worker leaves
    behind, however it ends, another one goes on with.

    Args:
      directory: of the sweep, the same one for all workers.
      config: of the experiment.
      space: of independent fields.
      how: to search.
      say: is told what is done.
      changed: is given the results whenever a trial is finished, by one worker at a time.
      terminal: where the progress of trials is shown; by default on standard output.

    Raises:
      ConfigError: see `check_search`; a package is missing, or the database cannot be opened.
      RunError: the directory or the study belong to something else (names what differs), or cannot be written.
      Interrupted: by SIGINT, SIGTERM or SIGHUP; the trial is the next to be gone on with.
      CheckpointError: see `run_training`.
    """
    dimensions = check_search(config, space, how)
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"a search needs {error.name}: pip install tformer_jax[sweep]") from None
    directory = Path(directory)
    check_free(directory, "search", "search.json")
    check_writable(directory)
    if not (directory / "search.json").exists():
        keep_plugins(directory, config)
    for line in changed_plugins(directory, config):
        say(line)
    from .trials import Trials
    from .worker import Worker

    with Interruption() as interruption, contextlib.closing(Trials(directory, config, dimensions, how)) as trials:
        jax.devices()  # may take long: not while other workers wait
        Worker(trials, config, say, changed, interruption, terminal).work()
        with trials.locked():
            changed(rows := trials.rows())
    return rows


def check_search(config: Mapping[str, Any], space: Space, how: SearchConfig) -> dict[str, Domain]:
    """Returns the domain of each field of a space, if all its values can be tried.

    Raises:
      ConfigError: fields of the space depend on each other, do not exist, or have values that cannot be; the pruner
        does not go with the config; or the metric is not validated.
    """
    dimensions = space.dimensions()
    experiment, fields = Experiment.from_config(config), Fields(config)
    check_choice("metric", how.metric, experiment.task_class.validated)
    for name, domain in dimensions.items():
        if isinstance(domain, Range) and not domain.integers and fields.is_integer(name):
            span = f"{math.ceil(domain.low)}..{math.floor(domain.high)}"
            raise ConfigError(f"{name} takes integers: write {f'log({span})' if domain.log else span}, not {domain}")
    training = experiment.training
    if how.pruner != "none" and training.evaluate_every >= training.steps:
        raise ConfigError(
            f"{how.pruner} needs validations before the last step: training.evaluate_every={training.evaluate_every} "
            f"must be below training.steps={training.steps}"
        )
    make_members(config, _corners(dimensions))
    return dimensions


def _corners(dimensions: Mapping[str, Domain]) -> Sequence[Overrides]:
    """All that is extreme in a space together; if that is too much, one after the other."""
    ends = {n: dict.fromkeys((d.low, d.high)) if isinstance(d, Range) else d for n, d in dimensions.items()}
    if math.prod(map(len, ends.values())) <= _MOST_CORNERS:
        return [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]
    return [{name: value} for name, values in ends.items() for value in values]
