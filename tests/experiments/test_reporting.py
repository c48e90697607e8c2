"""What is kept of an evaluation: JSON that any reader takes."""

import json
import types

from experiments import reporting
from tformer_jax.tasks import Evaluation


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    """`Infinity` is no JSON: browsers, jq and pandas would refuse the whole file."""
    run = types.SimpleNamespace(
        directory=tmp_path,
        metrics_file=tmp_path / "metrics.jsonl",
        samples=tmp_path,
        plots=tmp_path,
        checkpoints=tmp_path,
    )
    numbers = {"loss": 800.0, "perplexity": float("inf"), "accuracy": float("nan"), "tokens": 3}
    task = types.SimpleNamespace(
        evaluate=lambda model, data, splits, progress: {split: Evaluation(numbers, "", []) for split in splits},
        plot=lambda *_: [],
        name="a task",
        describe=str,
    )
    reporting.report(run, task, types.SimpleNamespace(splits={"train": [], "test": []}, report=[]), None)

    def refuse(name):
        raise AssertionError(name)

    found = json.loads((tmp_path / "test_metrics.json").read_text(), parse_constant=refuse)
    assert found == {"loss": 800.0, "perplexity": None, "accuracy": None, "tokens": 3, "note": ""}
