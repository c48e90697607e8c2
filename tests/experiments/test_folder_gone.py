"""Commands that start from a folder of Hugging Face's, given again once the folder has gone: in real processes."""

import json
import os
import re
import shutil
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_runs
from flax import nnx
from support import by_day

from tformer_jax import interop, models
from tformer_jax.config import build
from tformer_jax.data import tokenizers

STEPS, EVERY = 120, 20
WIDTH = dict(d_model=16, num_layers=2, attention=dict(num_heads=2), feed_forward=dict(width=24, activation="gelu"))
WIDTH |= dict(layer=dict(norm_position="pre"), positions=dict(name="learned"))
# The model of a folder for each task, the family that says it, and what a command has beside its files.
MODELS = {
    "image_classification": (
        "VisionTransformer", "vit", dict(image_size=8, patch_size=4, num_channels=1, num_classes=5),
        {"data.num_channels": 1, "data.image_size": 8, "data.batch_size": 16, "data.validation_size": 8,
         "data.test_size": 9, "data.source": "folders"},
    ),
    "causal_lm": (
        "CausalLM", "gpt2", dict(vocab_size=300, max_length=48, scale_embeddings=False),
        {"data.source": "files", "data.row_length": 16, "data.batch_tokens": 64, "data.validation_share": 0.1,
         "data.test_share": 0.1, "training.adapter": "lora", "training.adapter_rank": 2, "training.accumulate": 2,
         "training.adapter_on": '(".*attention.w_[qv]",)', "training.average_decay": 0.9},
    ),
}  # fmt: skip


@pytest.fixture
def given(tmp_path, tmp_path_factory):
    """`given(task)`: the flags, but for --workdir, of a command that starts from a folder, which it makes."""

    def given(task):
        name, family, fields, flags = MODELS[task]
        files, folder = tiny_runs.files(tmp_path_factory.getbasetemp()), tmp_path / "theirs"
        cls = getattr(models, name)
        model = cls(build(cls.Config, WIDTH | fields, "model"), rngs=nnx.Rngs(1))
        texts = [file.read_text() for file in sorted((files / "texts").iterdir())]
        own = None if "vocab_size" not in fields else tokenizers.train_bpe(texts, 290, lossless=True)
        interop.save_pretrained(model, folder, family=family, tokenizer=own)
        if own is not None:  # as OPT's has it: what ends a text starts it
            said = {"bos_token": "<eos>", "eos_token": "<eos>", "pad_token": "<pad>"}
            (folder / "tokenizer_config.json").write_text(json.dumps(said))
        if name == "VisionTransformer":
            (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.3], "image_std": [0.2]}))
        path = {"data.path": files / ("texts" if own else "images"), "task.init_from": folder}
        steps = {"training.steps": STEPS, "training.evaluate_every": STEPS, "checkpoint.every": EVERY}
        every = path | flags | steps | {"model.dropout_rate": 0.1, "parallel.data": 1}
        config = f"--config=experiments/configs/{task}.py:tiny"
        return [config, "--report=none", *(f"--config.{n}={x}" for n, x in every.items())]

    return given


def arrays_of(run):
    """The last state, read without this package."""
    saved = ocp.StandardCheckpointer().restore((run / "checkpoints" / str(STEPS) / "arrays").absolute())
    return {name: np.asarray(x) for name, x in saved.items()}


@pytest.mark.parametrize("task", by_day(list(MODELS), 1))
def test_the_same_command_goes_on_without_the_folder(given, start, command, tmp_path, task):
    """A run of days could not be finished, since the folder that it once read has gone; or would be another run."""
    flags, run = given(task), tmp_path / "run"
    whole = command("train", *flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0 and "arrays are initialised from" in whole.stdout, whole.stderr
    process = start("train", *flags, f"--workdir={run}")
    while not (run / "checkpoints" / str(EVERY)).exists() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run / "checkpoints" / str(STEPS)).exists(), "it was to be killed before its end"
    shutil.rmtree(tmp_path / "theirs")
    another = command("train", *flags, f"--workdir={run}", "--config.model.dropout_rate=0.3")
    assert another.returncode == 1 and "differs in model.dropout_rate (0.1 there, 0.3 here)" in another.stderr
    again = command("train", *flags, f"--workdir={run}")
    assert again.returncode == 0 and "arrays are initialised from" not in again.stdout, again.stderr
    found, wanted = arrays_of(run), arrays_of(tmp_path / "whole")
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    if task == "causal_lm":
        assert tokenizers.special(tokenizers.load(run / "tokenizer.json"), "bos", "eos", "pad") == (2, 2, 0)
    if task == "image_classification":
        assert json.loads((run / "config.json").read_text())["task"]["mean"] == [0.3]


def test_a_run_that_has_not_begun_needs_the_folder(given, here, tmp_path):
    """A run would start from scratch in silence, or its directory be lost to a corrected command."""
    flags, run = given("causal_lm"), tmp_path / "run"
    (tmp_path / "theirs" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    refused = here("train", *flags, f"--workdir={run}")
    assert refused.returncode == 1 and "has no tokenizer.json" in refused.stderr
    assert not (run / "config.json").exists() and not (run / "start.json").exists()
    shutil.rmtree(tmp_path / "theirs")
    gone = here("train", *flags, f"--workdir={run}")
    assert gone.returncode == 1 and f"{tmp_path / 'theirs'} is not a run directory" in gone.stderr


def test_a_damaged_record_of_the_folder_is_named(given, here, tmp_path):
    """The error would be of Python, or the model that of the preset."""
    flags, run = given("causal_lm"), tmp_path / "run"
    shutil.rmtree(tmp_path / "theirs")
    run.mkdir()
    for damage, message in (
        ("{", "cannot read .*start.json"),
        ("{}", "start.json is damaged: it must hold the tables"),
    ):
        (run / "start.json").write_text(damage)
        found = here("train", *flags, f"--workdir={run}")
        assert found.returncode == 1 and re.search(message, found.stderr)


def test_scaling_that_a_person_sets_is_not_the_folders(given, here, tmp_path):
    """A flag would be ignored."""
    flags, run = given("image_classification"), tmp_path / "run"
    found = here("train", *flags, f"--workdir={run}", "--config.task.mean=(0.5,)", "--config.training.steps=1")
    assert found.returncode == 0, found.stderr
    said = json.loads((run / "config.json").read_text())["task"]
    assert said["mean"] == [0.5] and said["std"] == [0.2]
