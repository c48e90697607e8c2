"""The extensions: an idea a file, by public names alone, with which every command works."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import tiny_runs
from forked import ROOT
from support import by_day, untimed

from tformer_jax.training.metrics import read_metrics

FOLDER = Path(ROOT) / "experiments" / "extensions"
CONFIGS = "experiments/configs"
TEXT = {
    "model.d_model": 16, "model.num_layers": 3, "model.attention.num_heads": 2, "model.feed_forward.width": 24,
    "model.max_length": 48, "model.scan_unroll": 1, "parallel.data": 1, "training.steps": 4, "training.evaluate_every": 2,
    "training.log_every": 1, "checkpoint.every": 2, "optimizer.warmup_steps": 0, "data.vocab_size": 300,
}  # fmt: skip
DOCUMENTS = TEXT | {"data.validation_share": 0.1, "data.test_share": 0.1, "data.row_length": 16, "data.batch_tokens": 64,
                    "task.sample_tokens": 2}  # fmt: skip
LABELLED = TEXT | {"data.source": "files", "data.validation_size": 8, "data.test_size": 8, "data.batch_tokens": 128,
                   "data.num_buckets": 1}  # fmt: skip
# Of each: the config file, what it changes, and what a sweep tries with it.
IDEAS = {
    "sigmoid_attention": ("causal_lm", {"model.attention.implementation": "sigmoid"}, "learning_rate=1e-3,1e-2"),
    "log_distance_bias": (
        "causal_lm", {"model.positions.name": "log_distance"}, "model.positions.scale=0.5,2.0"
    ),
    "prefix_lm": ("causal_lm", {"task.name": "prefix_lm"}, "task.z_loss=1e-4,1e-3"),
    "arithmetic": (
        "causal_lm",
        {"data.source": "arithmetic", "data.source_options": "count=300,digits=2", "data.vocab_size": 270},
        "learning_rate=1e-3,1e-2",
    ),
    "signum": ("causal_lm", {"optimizer.name": "signum"}, "optimizer.momentum=0.5,0.9"),
    "mixture_of_experts": (
        "causal_lm",
        {"model.feed_forward.name": "experts", "parallel.data": 2, "parallel.tensor": 4},
        "model.feed_forward.balance=0.01,0.1",
    ),
    "alternating_windows": (None, {"model.num_layers": 4}, "learning_rate=1e-3,1e-2"),
    "sentence_regression": ("text_classification", {"task.name": "sentence_regression"}, "model.dropout_rate=0.1,0.2"),
}  # fmt: skip
DAILY = by_day(sorted(IDEAS), 3, 7)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """`asked(name, workdir)`: the flags of a run with an extension."""
    folder = tiny_runs.files(tmp_path_factory.getbasetemp())
    ratings = tmp_path_factory.mktemp("ratings") / "ratings.tsv"
    texts = [line.split("\t")[1] for line in (folder / "labelled.tsv").read_text().splitlines()]
    ratings.write_text("".join(f"{len(text.split()) / 4}\t{text}\n" for text in texts))

    def asked(name, workdir, more=()):
        config, changes, _ = IDEAS[name]
        labelled = config == "text_classification"
        settings = LABELLED | {"data.path": ratings} if labelled else DOCUMENTS
        if not labelled and "data.source" not in changes:
            settings = settings | {"data.source": "files", "data.path": folder / "texts"}
        file = f"{CONFIGS}/{config}.py" if config else f"experiments/extensions/{name}.py"
        plugin = [f"--plugin=experiments/extensions/{name}.py"] if config else []
        fields = [f"--config.{field}={value}" for field, value in (settings | changes | dict(more)).items()]
        return [f"--config={file}:tiny", *plugin, f"--workdir={workdir}", *fields]

    return asked


@pytest.mark.parametrize("name", DAILY)
def test_every_command_works_with_an_extension(name, asked, here, tmp_path):
    """An idea from outside would train and then not be gone on with, scored, asked, or swept in one program."""
    workdir = tmp_path / "run"

    def done(command, *flags):
        result = here(command, *flags)
        assert result.returncode == 0, result.stderr
        return result.stdout

    done("train", *asked(name, workdir))
    rows = [row for row in read_metrics(workdir / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert ("load_balance" in rows[-1]) == (name == "mixture_of_experts")
    shutil.rmtree(workdir / "checkpoints" / "4")
    assert "going on from the checkpoint of step 2" in done("train", *asked(name, workdir))
    again = [row for row in read_metrics(workdir / "metrics.jsonl") if "loss" in row]
    assert untimed(again) == untimed(rows)
    assert done("evaluate", f"--workdir={workdir}")
    assert done("predict", f"--workdir={workdir}", "--text=the red cat")
    sweep = tmp_path / "sweep"
    done("sweep", *asked(name, sweep, {"parallel.data": 1, "parallel.tensor": 1}), f"--sweep={IDEAS[name][2]}")
    members = [json.loads(line) for line in (sweep / "results.jsonl").read_text().splitlines()]
    assert [member["status"] for member in members] == ["finished"] * 2
    assert len(list(sweep.glob("groups/*"))) == 1, "the members are not one program"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_an_extension_is_short_and_uses_public_names(file):
    """An idea would take more than a page, or lean on what may change tomorrow."""
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("tformer_jax", "experiments")):
            assert not any(alias.name.startswith("_") for alias in node.names)
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__")
