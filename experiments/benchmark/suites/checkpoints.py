"""The cost of what a run keeps: so many steps with a checkpoint, or with rows and a progress bar, against as many without.

A checkpoint is written while the steps go on, as in training; its whole cost falls into its turn. How long training
stands still is measured by itself. Data are those of the preset, which fetches them.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..turns import PROJECT
from . import Row, Work, scratch

_TASKS = ("translation", "causal_lm", "masked_lm", "text_classification", "image_classification")
_WITH, _LOGGED = "checkpoint", "logging"
ROWS = [
    Row(f"{task}-{steps}", dict(preset=f"{task}:tiny", steps=steps), ways=(f"{PROJECT}@{_WITH}",))
    for task in _TASKS
    for steps in (100, 10)
] + [Row(f"{task}-logging", dict(preset=f"{task}:tiny", steps=100), ways=(f"{PROJECT}@{_LOGGED}",)) for task in _TASKS]
_BY_DEFAULT = ["translation-100", "image_classification-logging"]


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in (names or _BY_DEFAULT)]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    import jax

    from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
    from tformer_jax.training.experiment import Experiment

    from ..presets import config_of

    fields = {name: value for name, value in changes.items() if name not in (_WITH, _LOGGED)}
    experiment = Experiment.from_config(config_of(settings["preset"], fields))
    folder = scratch()
    batches = experiment.load_data(folder).train_batches(experiment.training.accumulate)
    trainer = experiment.trainer(experiment.restore_task(folder))
    placed, state, saves = trainer.placed(batches), {"arrays": trainer.initial()}, []
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(every=settings["steps"]))

    def steps() -> None:
        for i in range(settings["steps"]):
            state["arrays"], metrics = trainer.step(state["arrays"], placed.batch(i))
            jax.device_get(metrics)

    def with_checkpoint() -> None:
        began = time.perf_counter()
        checkpoints.save(len(saves) + 1, state["arrays"], {})
        saves.append(time.perf_counter() - began)
        steps()
        checkpoints.wait()

    log, logging = _logging(trainer, folder, experiment.training.log_every) if _LOGGED in changes else (None, [])

    def with_logging() -> None:
        for i in range(settings["steps"]):
            batch = placed.batch(i)
            state["arrays"], metrics = trainer.step(state["arrays"], batch)
            log(batch, jax.device_get(metrics))

    def notes() -> dict[str, Any]:
        if _LOGGED in changes:
            return {"steps": len(logging), "logging": statistics.mean(logging)}
        size = sum(x.nbytes for x in state["arrays"].values())
        later = saves[1:]  # the first one compiles, too
        return {"steps": settings["steps"], "bytes": size, "stands still": statistics.median(later) if later else None}

    turn = with_checkpoint if _WITH in changes else with_logging if _LOGGED in changes else steps
    return Work(turn, settings["steps"], "steps", notes=notes)


def _logging(trainer: Any, folder: Path, every: int) -> tuple[Callable[[Any, Mapping[str, Any]], None], list[float]]:
    """Handling of the numbers of a step by the training loop, a bar on a terminal included; and its seconds, by step."""
    from rich.console import Console

    from tformer_jax.training.metrics import MetricsWriter, ProgressLine
    from tformer_jax.training.pace import Pace

    writer = MetricsWriter(folder / "metrics.jsonl", folder / "tensorboard", 0)
    screen = Console(force_terminal=True, file=open(os.devnull, "w"))
    line, seconds = ProgressLine(10**9, 0, console=screen), []
    pace = Pace("images", list(trainer.mesh.devices.flat), None, {})

    def log(batch: Any, metrics: Mapping[str, Any]) -> None:
        began, step = time.thread_time(), len(seconds) + 1  # of this thread: another process may have the processor
        numbers = {name: float(value) for name, value in metrics.items() if name != "finite_gradients"}
        pace.begin(batch)
        line.update(step, numbers["loss"], numbers["weight"])
        pace.end(numbers["loss"], numbers["weight"])
        if step % every == 0:
            writer.write(step, numbers | pace.row(line.busy))
        seconds.append(time.thread_time() - began)

    return log, seconds


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says what a checkpoint costs, and logging, a sentence for each line of a contender that has it."""
    logged = [
        f"{line['row']}, {line['contender']}: logging takes {100 * (line['ratio'] - 1):.2f} % of the steps' time (median of "
        f"{len(line['seconds'])} rounds), by itself {1e6 * notes['logging']:.0f} microseconds a step"
        for line in lines
        if (notes := line["notes"]).get("logging") is not None and line["ratio"] is not None
    ]
    return logged + [
        f"{line['row']}, {line['contender']}: a checkpoint of {notes['bytes'] / 2**20:.1f} MiB every {notes['steps']} "
        f"steps takes {100 * (line['ratio'] - 1):.2f} % of their time (median of {len(line['seconds'])} rounds); "
        f"training stands still for {1000 * notes['stands still']:.1f} ms"
        for line in lines
        if (notes := line["notes"]).get("stands still") is not None and line["ratio"] is not None
    ]
