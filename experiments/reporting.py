"""What is said and kept of a trained model: scores, samples and plots."""

import json
from collections.abc import Sequence
from typing import Any

from tformer_jax.analysis.plots import plot_loss
from tformer_jax.tasks import Evaluation, Task
from tformer_jax.training.metrics import read_metrics, sayable
from tformer_jax.training.run import Run, write_json

from . import cli

_SHOWN = 5


def report(run: Run, task: Task, data: Any, model: Any, splits: Sequence[str] | None = None) -> None:
    """Evaluates splits (by default those for testing), prints them, and leaves samples and plots in the run."""
    splits = [name for name in data.splits if name.startswith("test")] if splits is None else splits
    evaluations = task.evaluate(model, data, splits)
    if rows := read_metrics(run.metrics_file, cli.say):
        plot_loss(rows, run.plots / "loss.png")
    task.plot(model, evaluations[splits[0]], run.plots)
    for split, evaluation in evaluations.items():
        _save(run, split, evaluation)
    _show_samples(evaluations[splits[0]])
    for line in data.report:
        if "left out" in line:
            cli.say(line)
    for split, evaluation in evaluations.items():
        cli.say(f"{split}: {task.describe(evaluation.metrics)}")
    if note := evaluations[splits[0]].note:
        cli.say(note)
    cli.say(f"samples, plots and checkpoints are in {run.directory}")


def _save(run: Run, split: str, evaluation: Evaluation) -> None:
    with open(run.samples / f"{split}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(sample._asdict(), ensure_ascii=False) + "\n" for sample in evaluation.samples)
    write_json(run.samples / f"{split}_metrics.json", {**sayable(evaluation.metrics), "note": evaluation.note})


def _show_samples(evaluation: Evaluation) -> None:
    step = max(1, len(evaluation.samples) // _SHOWN)
    for sample in evaluation.samples[::step][:_SHOWN]:
        cli.say("", *(f"  {name:12} {text}" for name, text in sample._asdict().items()))
    cli.say("")
