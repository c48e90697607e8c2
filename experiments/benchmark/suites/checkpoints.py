"""The cost of checkpoints: so many steps with one, against as many without.

A checkpoint is written while the steps go on, as in training; its whole cost falls into its turn. How long training
stands still is measured by itself. Data are those of the preset, which fetches them.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..turns import PROJECT
from . import Row, Work, scratch

_TASKS = ("translation", "causal_lm", "masked_lm", "text_classification", "image_classification")
_WITH = "checkpoint"
_WAY = f"{PROJECT}@{_WITH}"
ROWS = [
    Row(f"{task}-{steps}", dict(preset=f"{task}:tiny", steps=steps), ways=(_WAY,))
    for task in _TASKS
    for steps in (100, 10)
]
_BY_DEFAULT = ["translation-100"]


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in (names or _BY_DEFAULT)]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    import jax

    from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
    from tformer_jax.training.experiment import Experiment

    from ..presets import config_of

    fields = {name: value for name, value in changes.items() if name != _WITH}
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

    def notes() -> dict[str, Any]:
        size = sum(x.nbytes for x in state["arrays"].values())
        later = saves[1:]  # the first one compiles, too
        return {"steps": settings["steps"], "bytes": size, "stands still": statistics.median(later) if later else None}

    return Work(with_checkpoint if _WITH in changes else steps, settings["steps"], "steps", notes=notes)


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says what a checkpoint costs, a sentence for each line of a contender that writes some."""
    return [
        f"{line['row']}, {line['contender']}: a checkpoint of {notes['bytes'] / 2**20:.1f} MiB every {notes['steps']} "
        f"steps takes {100 * (line['ratio'] - 1):.2f} % of their time (median of {len(line['seconds'])} rounds); "
        f"training stands still for {1000 * notes['stands still']:.1f} ms"
        for line in lines
        if (notes := line["notes"]).get("stands still") is not None and line["ratio"] is not None
    ]
