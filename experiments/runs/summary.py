"""A run, a sweep or a search in a few words, from what lies in its directory; nothing is computed."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tformer_jax.sweeps.results import Ranking, Row, read_results, validated
from tformer_jax.training.directories import RunError, steps_in
from tformer_jax.training.json_files import read_json
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.patience import Patience
from tformer_jax.training.run import Run, in_use

from ..parsers import found_flags

_TOLD_BY = {"config.json": "run", "sweep.json": "sweep", "search.json": "search"}
_ENDED = ("finished", "stopped", "diverged", "failed", "pruned")


@dataclasses.dataclass(frozen=True)
class Summary:
    """Entry of a directory in a list.

    Attributes:
      directory: where it is.
      kind: "run", "sweep" or "search".
      task: its name.
      preset: of the command that trained last: "causal_lm.py:tiny"; "" where nobody wrote it down.
      changed: the fields that the command changed, "optimizer.learning_rate=0.001".
      done, total: steps of a run, or members of a sweep or a search.
      last, best: value of a metric at the last validation, and the best one; of a sweep, that of its best member alone.
      best_at: the step, or the number of the member, that has the best.
      status: "training", "done", "stopped" or "diverged".
      age: seconds since something was written there.
    """

    directory: Path
    kind: str
    task: str
    preset: str
    changed: tuple[str, ...]
    done: int
    total: int
    last: float | None
    best: float | None
    best_at: int | None
    status: str
    age: float


def found_in(places: Sequence[Path]) -> Iterator[Path]:
    """Directories of runs, sweeps and searches in these, and these themselves; not those within one, such as trials.

    Raises:
      RunError: a place is not there, or cannot be read.
    """
    for place in places:
        if not place.is_dir():
            raise RunError(f"there is no directory {place}; give one that holds runs, such as runs/")
        if kind_of(place) is not None:
            yield place
        else:
            yield from found_in(sorted(x for x in place.iterdir() if x.is_dir() and not x.name.startswith(".")))


def kind_of(directory: Path) -> str | None:
    """Returns "run", "sweep" or "search"; None: the directory is something else."""
    return next((kind for file, kind in _TOLD_BY.items() if (directory / file).is_file()), None)


def summary(directory: Path, ranking: Ranking) -> Summary:
    """Sums up what is in a directory; `ranking`: by which metric.

    Raises:
      RunError: a file in it is damaged.
    """
    kind = kind_of(directory)
    preset, changed = preset_of(command_of(directory))
    found = (_of_run if kind == "run" else _of_members)(directory, kind, ranking)
    return Summary(directory, kind, preset=preset, changed=changed, age=_age(directory), **found)


def _of_run(directory: Path, kind: str, ranking: Ranking) -> dict[str, Any]:
    run = Run.open(directory)
    rows = read_metrics(run.metrics_file, lambda line: None)
    done = max([row["step"] for row in rows] + steps_in(run.checkpoints), default=0)
    total = at(run.config, "training.steps")
    validations = [(row["step"], numbers) for row in rows if (numbers := validated(row))]
    best_at, best = min(validations, key=lambda found: ranking.value(found[1]), default=(None, {}))
    if in_use(directory):
        status = "training"
    elif any("diverged" in row for row in rows):
        status = "diverged"
    else:
        newest = max(steps_in(run.checkpoints), default=0)
        status = "done" if newest == total or _stopped_early(run, rows, newest) else "stopped"
    return {
        "task": at(run.config, "task.name"),
        "done": done,
        "total": total,
        "last": validations[-1][1].get(ranking.metric) if validations else None,
        "best": best.get(ranking.metric),
        "best_at": best_at if ranking.metric in best else None,
        "status": status,
    }


def _stopped_early(run: Run, rows: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Returns whether a run ended at a step, that of its newest checkpoint, because it was patient for long enough."""
    training = run.config.get("training", {})
    asked = {"metric": training["patience_metric"]} if "patience_metric" in training else {}
    patience = Patience(training.get("patience"), best=training.get("patience_best"), **asked)
    patience.read(rows, step)
    return patience.is_over and patience.last == step


def _of_members(directory: Path, kind: str, ranking: Ranking) -> dict[str, Any]:
    asked = read_json(directory / f"{kind}.json")
    config = asked.get("config") or asked.get("asked", {}).get("config")
    rows = read_results(directory) if (directory / "results.jsonl").is_file() else []
    ended = [row for row in rows if row["status"] in _ENDED]
    best: Row = next(iter(ranking.ranked(rows)), {"final": {}, "member": None})
    trains = any(row["status"] == "running" for row in rows) if kind == "search" else in_use(directory)
    status = "training" if trains else "done" if rows and len(ended) == len(rows) else "stopped"
    return {
        "task": at(config, "task.name"),
        "done": len(ended),
        "total": len(rows),
        "last": None,
        "best": best["final"].get(ranking.metric),
        "best_at": best["member"],
        "status": status,
    }


def command_of(directory: Path) -> list[str]:
    """The command that trained in a directory last; empty: nobody wrote it down."""
    file = directory / "environment.json"
    command = read_json(file).get("command", []) if file.is_file() else []
    return [str(argument) for argument in command] if isinstance(command, list) else []


def preset_of(command: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Returns the config file's name with its preset, and the fields that flags change, of a command."""
    found = found_flags(command, r"(?:no)?config(?:\.[\w.]+)?")
    text = "".join(value for name, value in found if name == "config")
    changed = [
        f"{name.partition('config.')[2]}={value if name.startswith('config') else 'False'}"
        for name, value in found
        if name != "config"
    ]
    file, colon, preset = text.partition(":")
    return f"{Path(file).name}{colon}{preset}", tuple(changed)


def at(config: Mapping[str, Any], name: str) -> Any:
    """Returns a field of a config by its dotted name; None: it has no such."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _age(directory: Path) -> float:
    """Seconds since the files of a directory were written."""
    return max(0.0, time.time() - max(file.stat().st_mtime for file in directory.iterdir()))
