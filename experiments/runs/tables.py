"""Tables of runs: a line each, and what differs between their configs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from tformer_jax.config import ConfigError
from tformer_jax.sweeps.results import Ranking
from tformer_jax.training.run import Run

from .summary import Summary, at

_ABSENT = "-"
# Whole units, largest first, of which an age has one.
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def listed(summaries: Sequence[Summary], ranking: Ranking) -> Table:
    """A line for each run, sweep or search, the newest first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    metric = ranking.metric.replace("_", " ")
    for name in (
        "name",
        "task",
        "preset and changes",
        "done",
        "of",
        f"last {metric}",
        f"best {metric}",
        "at",
        "status",
        "age",
    ):
        table.add_column(name, justify="left" if name in _WORDS else "right", overflow="fold")
    for one in sorted(summaries, key=lambda one: one.age):
        best_at = _ABSENT if one.best_at is None else f"{'step' if one.kind == 'run' else 'member'} {one.best_at:,}"
        name = f"{one.directory}" if one.kind == "run" else f"{one.directory} ({one.kind})"
        asked = " ".join([one.preset, *one.changed]).strip() or _ABSENT
        counts = f"{one.done:,}", f"{one.total:,}"
        table.add_row(
            name, one.task, asked, *counts, number(one.last), number(one.best), best_at, one.status, age(one.age)
        )
    return table


_WORDS = ("name", "task", "preset and changes", "status")


def number(value: Any) -> str:
    """A metric with four digits behind the point; a dash where there is none."""
    return _ABSENT if value is None else f"{value:.4f}"


def age(seconds: float) -> str:
    """Time since something happened, in its largest unit: "3 h"."""
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    return f"{int(seconds // size)} {unit}"


def check_alike(runs: Sequence[Run]) -> None:
    """Refuses runs of different tasks, whose numbers mean different things.

    Raises:
      ConfigError: they are (names the tasks).
    """
    tasks = {str(run.directory): at(run.config, "task.name") for run in runs}
    if len(set(tasks.values())) > 1:
        said = ", ".join(f"{name} of {task}" for name, task in tasks.items())
        raise ConfigError(f"runs of different tasks cannot be compared: {said}; compare those of one task")


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The fields whose values are not the same in all of some runs: their values in each, by dotted name."""
    flat = [dict(fields(run.config)) for run in runs]
    names = dict.fromkeys(name for fields in flat for name in fields)
    rows = {name: [repr(fields[name]) if name in fields else _ABSENT for fields in flat] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields what is in tables within tables, by dotted names."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def compared(summaries: Sequence[Summary], runs: Sequence[Run], ranking: Ranking) -> Table:
    """A column for each run: what it reached, and the fields of its config that another has otherwise."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", *names(runs)):
        table.add_column(name, overflow="fold")
    for name, values in comparison(summaries, runs, ranking).items():
        table.add_row(name, *values)
    return table


def comparison(summaries: Sequence[Summary], runs: Sequence[Run], ranking: Ranking) -> dict[str, list[str]]:
    """The rows of `compared`."""
    metric = f"validation {ranking.metric.replace('_', ' ')}"
    reached = {
        "status": [one.status for one in summaries],
        "step": [f"{one.done:,} of {one.total:,}" for one in summaries],
        f"last {metric}": [number(one.last) for one in summaries],
        f"best {metric}": [number(one.best) for one in summaries],
        "at step": [_ABSENT if one.best_at is None else f"{one.best_at:,}" for one in summaries],
    }
    return reached | differing(runs)


def names(runs: Sequence[Run]) -> list[str]:
    """The names of runs: of their folders, or whole paths where two folders are called the same."""
    short = [Path(run.directory).resolve().name for run in runs]
    return [name if short.count(name) == 1 else str(run.directory) for name, run in zip(short, runs, strict=True)]
