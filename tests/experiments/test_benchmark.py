"""The benchmark command, with real contenders in real processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmark.turns import Times, ratios

ROOT = Path(__file__).parents[2]
SUITES = (
    "attention", "checkpoints", "decode", "growth", "input", "loading", "loss", "plans", "scaling", "startup", "sweeps",
    "train_step",
)  # fmt: skip


def run(*arguments):
    command = [sys.executable, "-m", "experiments.benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_ratio_is_that_of_turns_in_one_round():
    """Medians of each are divided: a machine that slows down between them decides."""
    base, other = Times("a", [1.0, 2.0, 4.0], 0.0, 0, {}), Times("b", [0.5, 1.0, 3.0], 0.0, 0, {})
    assert ratios(other, base) == (0.5, 0.5, 0.625)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), f"give one suite of {', '.join(SUITES)}"),
        (("loss", "--rows=huge"), "loss has no row huge; it has gpt2, small"),
        (("loss", "--peers=torch"), "--peers of loss are plain, got 'torch'"),
        (("plans", "--peers=torch"), "--peers of plans are tformer_jax@..., got 'torch'"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, said):
    """A traceback, or an empty table."""
    done = run(*arguments)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_contenders_take_turns_and_results_are_written(tmp_path):
    """A contender is missing, or has another number of turns than rounds."""
    done = run(
        "loss",
        "--rows=small",
        "--peers=plain tformer_jax@256 tformer_jax@nonsense",
        "--rounds=2",
        f"--output={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert "tformer_jax@nonsense is left out: ValueError" in done.stderr
    lines = json.loads((tmp_path / "results.json").read_text())["lines"]
    assert [line["contender"] for line in lines] == ["ceiling", "tformer_jax", "plain", "tformer_jax@256"]
    assert lines[1]["ratio"] == 1.0 and all(line["milliseconds"] > 0 for line in lines)
    assert all(len(line["seconds"]) == 2 for line in lines)
    assert (tmp_path / "table.md").read_text().count("\n") == 6
    assert (tmp_path / "ratios.png").exists()


SMALLEST = {
    "train_step": "transformer-tiny", "decode": "beam-4", "attention": "padded-256", "growth": "depth-2", "input": "pictures",
    "scaling": "data",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("suite", SMALLEST)
def test_every_suite_measures_the_project(suite):
    """The work of a row cannot be made."""
    done = run(suite, f"--rows={SMALLEST[suite]}", "--rounds=1")
    assert done.returncode == 0 and "left out" not in done.stderr, done.stderr
    assert SMALLEST[suite] in done.stdout and "tformer_jax" in done.stdout
