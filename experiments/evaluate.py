"""Scores a split with a run's newest checkpoint: loss, BLEU, samples and plots.

python -m experiments.evaluate --workdir=runs/t1 --split=test
"""

import json
from typing import Any

from absl import flags

from tformer_jax.analysis.plots import plot_loss
from tformer_jax.data.translation import TranslationData
from tformer_jax.tasks import Translation
from tformer_jax.training.experiment import load_run
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.run import Run, write_json

from . import cli

SPLIT = flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Which split to score.")

_SHOWN = 5


def report(run: Run, task: Translation, data: TranslationData, model: Any, split: str) -> None:
    """Evaluates a split, prints it, and leaves samples/SPLIT.jsonl, samples/SPLIT_metrics.json and the plots."""
    evaluation = task.evaluate(model, data, split)
    for line in data.report:
        if "left out" in line and split in line:
            cli.say(line)
    with open(run.samples / f"{split}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(sample._asdict(), ensure_ascii=False) + "\n" for sample in evaluation.samples)
    write_json(run.samples / f"{split}_metrics.json", {**evaluation.metrics, "signature": evaluation.signature})
    for sample in evaluation.samples[:: max(1, len(evaluation.samples) // _SHOWN)][:_SHOWN]:
        cli.say(
            "",
            f"  source       {sample.source}",
            f"  reference    {sample.reference}",
            f"  translation  {sample.translation}",
        )
    if rows := read_metrics(run.metrics_file):
        plot_loss(rows, run.plots / "loss.png")
    task.plot(model, evaluation, run.plots)
    metrics = evaluation.metrics
    cli.say(
        "",
        f"{split}: loss {metrics['loss']:.4f} nats/token, BLEU {metrics['bleu']:.2f} on {metrics['sentences']} sentences",
    )
    cli.say(f"{evaluation.signature}", f"samples, plots and checkpoints are in {run.directory}")


def main() -> None:
    run = Run.open(cli.WORKDIR.value)
    experiment, task, model = load_run(run)
    report(run, task, experiment.load_data(run.directory), model, SPLIT.value)


if __name__ == "__main__":
    cli.run(main)
