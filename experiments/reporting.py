"""The report on a trained model: scores, samples and plots."""

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tformer_jax.analysis.plots import Subject, plot_loss
from tformer_jax.data.batches import Part, checked
from tformer_jax.data.files import write_whole
from tformer_jax.progress import Advance
from tformer_jax.tasks import Evaluation, Task
from tformer_jax.tasks.pictures import Pictured, draw_heads
from tformer_jax.training.directories import steps_in
from tformer_jax.training.loading import load_models
from tformer_jax.training.metrics import read_metrics, sayable
from tformer_jax.training.processes import is_first
from tformer_jax.training.run import Run, write_json

from . import cli

_SHOWN = 5
_SOME_BATCHES = 4
_SOME_CHECKPOINTS = 8


def report(run: Run, task: Task, data: Any, model: Any, splits: Sequence[str] | None = None) -> None:
    """Evaluates splits (by default those for testing), prints them, and leaves samples and plots in the run.

    Where the model lies on a mesh, within `on_mesh_of` it; of several processes all evaluate, and the first writes.
    In this order: on a full disk the numbers, which may have taken hours, are seen all the same.

    Raises:
      WriteError: a file cannot be written.
    """
    splits = _tested(data) if splits is None else splits
    evaluations = task.evaluate(model, data, splits, cli.progress())
    _show_samples(evaluations[splits[0]])
    for line in data.report:
        if "left out" in line:
            cli.say(line)
    for split, evaluation in evaluations.items():
        cli.say(f"{split}: {task.describe(evaluation.metrics)}")
    if note := evaluations[splits[0]].note:
        cli.say(note)
    if is_first():
        _write(run, evaluations)
    for remark in _plot(run, task, data, model, splits[0], evaluations):
        cli.say(remark)
    cli.say(f"samples, plots and checkpoints are in {run.directory}")


def _write(run: Run, evaluations: Mapping[str, Evaluation]) -> None:
    for split, evaluation in evaluations.items():
        samples = (json.dumps(sample._asdict(), ensure_ascii=False) + "\n" for sample in evaluation.samples)
        write_whole(run.samples / f"{split}.jsonl", "".join(samples))
        write_json(run.samples / f"{split}_metrics.json", {**sayable(evaluation.metrics), "note": evaluation.note})


def _plot(run: Run, task: Task, data: Any, model: Any, split: str, evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Draws the pictures of a report, those of a split and all others; returns, a line each, which are not there and why."""
    subject = Subject(run.directory.name, task.name, split)
    with contextlib.ExitStack() as held:
        held.enter_context(cli.progress().phase("drawing plots"))
        if is_first():
            plots = run.plots
            _plot_training(run, task, {name: evaluation.metrics for name, evaluation in evaluations.items()})
        else:  # it takes part in what the model computes for pictures; what it draws is thrown away
            plots = Path(held.enter_context(tempfile.TemporaryDirectory()))
        pictured = Pictured(data, split, evaluations[split], plots, subject)
        remarks = task.plot(model, pictured)
    return remarks + _plot_heads(run, task, model, pictured)


def short_report(run: Run, task: Task, data: Any, model: Any) -> None:
    """Prints the numbers of some batches of the splits for testing, evenly spread, and draws the losses.

    Raises:
      WriteError: a file cannot be written.
    """
    score_parts(task, data, model, _tested(data), _SOME_BATCHES)
    if is_first():
        with cli.terminal.phase("drawing plots"):
            _plot_training(run, task)
    cli.say(f"plots and checkpoints are in {run.directory}; experiments.evaluate reports on whole splits")


def score_parts(task: Task, data: Any, model: Any, splits: Sequence[str] | None, count: int) -> None:
    """Prints the numbers of so many batches of splits (by default those for testing), evenly spread over each."""
    for split in _tested(data) if splits is None else splits:
        batches = checked(data.evaluation_batches(split), f"the batches of {split}")
        some = Part(batches, min(count, len(batches)))
        numbers = task.score(model, some, cli.progress(), f"scoring a part of {split}").means
        said = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items())
        cli.say(f"{split}, {len(some)} of {len(batches)} batches: {said}")


def _tested(data: Any) -> list[str]:
    return [name for name in data.splits if name.startswith("test")]


def _plot_training(run: Run, task: Task, scores: Mapping[str, Mapping[str, float]] | None = None) -> None:
    if rows := read_metrics(run.metrics_file, cli.say):
        subject = Subject(run.directory.name, task.name)
        plot_loss(rows, run.plots / "loss.png", subject=subject, metric=task.judged_by, scores=scores)


def _plot_heads(run: Run, task: Task, model: Any, of: Pictured) -> list[str]:
    """Draws what heads look at in the checkpoints that are kept; returns why not, in a line."""
    kept, what = steps_in(run.checkpoints), "no picture of heads over training"
    if jax.process_count() > 1:  # which would have to read them together
        return [f"{what}: draw it with experiments.evaluate, in one process"]
    if len(kept) < 2:
        return [f"{what}: it takes two checkpoints; keep more with --config.checkpoint.keep_every=N or keep=N"]
    if (example := task.example(model, of)) is None:
        return []  # `plot` has said why
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), _SOME_CHECKPOINTS)).round().astype(int))
    note = "" if len(chosen) == len(kept) else f"{len(chosen)} of {len(kept)} checkpoints"
    steps = [kept[i] for i in chosen]
    try:
        with cli.terminal.phase("looking at heads over training", len(steps), "checkpoints") as advance:
            draw_heads(task.read, _counted(load_models(run, steps, spread=True), advance), example, of, note)
    except ValueError as error:  # of attention; of a checkpoint that is damaged, or was deleted meanwhile
        return [f"{what}: {error}"]
    return []


def _counted(things: Iterable[Any], advance: Advance) -> Iterator[Any]:
    for thing in things:
        yield thing
        advance()


def _show_samples(evaluation: Evaluation) -> None:
    step = max(1, len(evaluation.samples) // _SHOWN)
    for sample in evaluation.samples[::step][:_SHOWN]:
        cli.say("", *(f"  {name:12} {text}" for name, text in sample._asdict().items()))
    cli.say("")
