"""A run opened in Python: what it gives is what training and the commands have."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
import tiny_runs
from support import by_day

import tformer_jax
from tformer_jax.config import ConfigError
from tformer_jax.tasks import TASKS
from tformer_jax.training.run import RunError

EACH = pytest.mark.parametrize("name", by_day(tiny_runs.TASKS, 0))


@EACH
def test_the_model_is_that_of_the_last_step(finished, name):
    """A notebook would look at another model than the one that was trained."""
    made = finished(name)
    run = tformer_jax.open_run(made.run.directory)
    assert run.step == 12 and type(run.task) is TASKS[name] and run.config == made.run.config
    for ours, theirs in zip(jax.tree.leaves(run.model), jax.tree.leaves(made.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert run.model is run.model, "it was loaded twice"


@EACH
def test_the_batches_are_those_of_evaluation(finished, name):
    """Numbers of a notebook would not be those that `evaluate` reports."""
    made = finished(name)
    run = tformer_jax.open_run(made.run.directory)
    ours, theirs = run.batches("validation"), made.data.evaluation_batches("validation")
    assert len(ours) == len(theirs)
    for i in range(len(theirs)):
        jax.tree.map(np.testing.assert_array_equal, ours.batch(i), theirs.batch(i))
    (last,) = [row for row in made_rows(made) if row["step"] == 12 and "validation_loss" in row]
    found = run.task.validate(run.model, ours)
    assert math.isclose(found["loss"], last["validation_loss"], rel_tol=1e-5)


def made_rows(made):
    return [json.loads(line) for line in made.run.metrics_file.read_text().splitlines()]


def test_metrics_are_a_table(finished):
    """`pandas.DataFrame(run.metrics)` would fail, or have a number in another row."""
    made = finished("causal_lm")
    table, rows = tformer_jax.open_run(made.run.directory).metrics, made_rows(made)
    assert list(table)[0] == "step" and table["step"].dtype == np.int64
    assert set(table) == {name for row in rows for name in row}
    for name, column in table.items():
        assert column.shape == (len(rows),)
        for value, row in zip(column, rows, strict=True):
            assert math.isnan(value) if row.get(name) is None else value == row[name]


def test_rows_that_lack_a_number_have_nan(tmp_path, finished):
    """A column would be shorter than the others, a null a failure, and a text a number."""
    directory = shutil.copytree(finished("causal_lm").run.directory, tmp_path / "run")
    rows = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None, "validation_loss": 3}, {"step": 3, "diverged": "loss"}]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = tformer_jax.open_run(directory).metrics
    np.testing.assert_array_equal(table["loss"], [2.5, math.nan, math.nan])
    np.testing.assert_array_equal(table["validation_loss"], [math.nan, 3, math.nan])
    assert table["diverged"].tolist() == [None, None, "loss"]
    (directory / "metrics.jsonl").unlink()
    assert {name: len(column) for name, column in tformer_jax.open_run(directory).metrics.items()} == {"step": 0}


def test_the_tokenizer_is_that_of_the_task(finished):
    """Texts would be cut otherwise than the model has learnt them."""
    run = tformer_jax.open_run(finished("causal_lm").run.directory)
    assert run.tokenizer is run.task.tokenizer
    assert run.tokenizer.to_str() == finished("causal_lm").task.tokenizer.to_str()


def test_images_have_no_tokenizer(finished):
    """Whoever asks for one would get a traceback."""
    assert tformer_jax.open_run(finished("image_classification").run.directory).tokenizer is None


def test_a_translation_has_a_tokenizer_a_side(trained):
    """The sides of a translation would have one tokenizer where there are two, and another step's model."""
    run = tformer_jax.open_run(trained.run.directory, step=20)
    assert run.tokenizer is run.task.tokenizers and run.step == 20
    assert "step 20" in repr(run) and "translation" in repr(run)
    newest = jax.tree.leaves(tformer_jax.open_run(trained.run.directory).model)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(run.model), newest, strict=True))


def without_checkpoint(directory):
    shutil.rmtree(directory / "checkpoints")


def test_a_run_without_a_checkpoint_has_its_numbers(finished, tmp_path):
    """A run that has just begun could not be looked at, or would fail without a word of why."""
    directory = shutil.copytree(finished("causal_lm").run.directory, tmp_path / "run")
    without_checkpoint(directory)
    run = tformer_jax.open_run(directory)
    assert len(run.metrics["step"]) and "no checkpoint yet" in repr(run)
    for name in ("step", "model", "task", "tokenizer"):
        with pytest.raises(RunError, match="has no checkpoint yet: open it again once it has one$"):
            getattr(run, name)


def test_opening_changes_nothing(finished):
    """A run that trains meanwhile would find files of another process."""
    directory = finished("causal_lm").run.directory
    before = {file: file.stat().st_mtime_ns for file in directory.rglob("*")}
    run = tformer_jax.open_run(directory)
    assert run.model and len(run.batches("test")) and run.metrics
    assert {file: file.stat().st_mtime_ns for file in directory.rglob("*") if file in before} == before


@pytest.mark.parametrize(
    ("holds", "step", "message"),
    [
        (None, None, "^there is no directory .*nowhere"),
        ({"notes.txt": ""}, None, "is not a run directory: it has no config.json$"),
        (
            {"sweep.json": "{}"},
            None,
            "holds a sweep of members; python -m experiments.export .* makes a run of a member$",
        ),
        ({"config.json": '{"model_type": "gpt2"}'}, None, "load it by tformer_jax.interop.load_pretrained$"),
        ({"config.json": "{}", "checkpoints/6/x": ""}, 7, r"has no checkpoint of step 7, only of \[6\]$"),
    ],
    ids=["nowhere", "another folder", "a sweep", "a folder of Hugging Face's", "another step"],
)
def test_what_cannot_be_opened_is_said_in_a_line(tmp_path, holds, step, message):
    """A typing error would end in a traceback from deep within."""
    for name, text in (holds or {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=message) as raised:
        tformer_jax.open_run(tmp_path if holds else tmp_path / "nowhere", step=step)
    assert "\n" not in str(raised.value)


def test_a_split_that_is_not_there_is_refused(finished):
    """A misspelt split would be a KeyError."""
    with pytest.raises(ConfigError, match="split must be one of .*'train'.*got 'validaton'; did you mean 'validation'"):
        tformer_jax.open_run(finished("causal_lm").run.directory).batches("validaton")


def test_predictions_are_those_of_the_task(finished):
    """A notebook would show another text than the command, or take a flag that does not exist."""
    made = finished("causal_lm")
    run, asked = (
        tformer_jax.open_run(made.run.directory),
        made.task.Prediction(text="the red", max_new_tokens=3, seed=1),
    )
    assert run.predict(text="the red", max_new_tokens=3, seed=1) == "".join(made.task.predict(made.model, asked))
    with pytest.raises(ConfigError, match="predict has no field 'txt'; did you mean 'text'"):
        run.predict(txt="the red")
