"""The report on a trained model: scores, samples and plots."""

import json
from collections.abc import Sequence
from typing import Any

from tformer_jax.analysis.plots import plot_loss
from tformer_jax.data.batches import Part, checked
from tformer_jax.data.files import write_whole
from tformer_jax.tasks import Evaluation, Task
from tformer_jax.training.metrics import read_metrics, sayable
from tformer_jax.training.run import Run, write_json

from . import cli

_SHOWN = 5
_SOME_BATCHES = 4


def report(run: Run, task: Task, data: Any, model: Any, splits: Sequence[str] | None = None) -> None:
    """Evaluates splits (by default those for testing), prints them, and leaves samples and plots in the run.

    In this order: on a full disk the numbers, which may have taken hours, are seen all the same.

    Raises:
      WriteError: a file cannot be written.
    """
    splits = _tested(data) if splits is None else splits
    evaluations = task.evaluate(model, data, splits, cli.terminal)
    _show_samples(evaluations[splits[0]])
    for line in data.report:
        if "left out" in line:
            cli.say(line)
    for split, evaluation in evaluations.items():
        cli.say(f"{split}: {task.describe(evaluation.metrics)}")
    if note := evaluations[splits[0]].note:
        cli.say(note)
    for split, evaluation in evaluations.items():
        samples = (json.dumps(sample._asdict(), ensure_ascii=False) + "\n" for sample in evaluation.samples)
        write_whole(run.samples / f"{split}.jsonl", "".join(samples))
        write_json(run.samples / f"{split}_metrics.json", {**sayable(evaluation.metrics), "note": evaluation.note})
    with cli.terminal.phase("drawing plots"):
        if rows := read_metrics(run.metrics_file, cli.say):
            plot_loss(rows, run.plots / "loss.png")
        task.plot(model, evaluations[splits[0]], run.plots)
    cli.say(f"samples, plots and checkpoints are in {run.directory}")


def short_report(run: Run, task: Task, data: Any, model: Any) -> None:
    """Prints the numbers of some batches of the splits for testing, evenly spread, and draws the losses.

    Raises:
      WriteError: a file cannot be written.
    """
    score_parts(task, data, model, _tested(data), _SOME_BATCHES)
    with cli.terminal.phase("drawing plots"):
        if rows := read_metrics(run.metrics_file, cli.say):
            plot_loss(rows, run.plots / "loss.png")
    cli.say(f"plots and checkpoints are in {run.directory}; experiments.evaluate reports on whole splits")


def score_parts(task: Task, data: Any, model: Any, splits: Sequence[str] | None, count: int) -> None:
    """Prints the numbers of so many batches of splits (by default those for testing), evenly spread over each."""
    for split in _tested(data) if splits is None else splits:
        batches = checked(data.evaluation_batches(split), f"the batches of {split}")
        some = Part(batches, min(count, len(batches)))
        numbers = task.score(model, some, cli.terminal, f"scoring a part of {split}").means
        said = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items())
        cli.say(f"{split}, {len(some)} of {len(batches)} batches: {said}")


def _tested(data: Any) -> list[str]:
    return [name for name in data.splits if name.startswith("test")]


def _show_samples(evaluation: Evaluation) -> None:
    step = max(1, len(evaluation.samples) // _SHOWN)
    for sample in evaluation.samples[::step][:_SHOWN]:
        cli.say("", *(f"  {name:12} {text}" for name, text in sample._asdict().items()))
    cli.say("")
