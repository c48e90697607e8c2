"""What a run directory says of itself against its checkpoints: who changes a file by hand scores no other model."""

import json
import re
import shutil

import jax
import pytest
import tiny_runs
from support import quick_jit

from tformer_jax.training.loading import load_run
from tformer_jax.training.run import Run, RunError
from tformer_jax.training.running import run_training


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished classifier of texts: it has a tokenizer and classes."""
    return tiny_runs.finished(tmp_path_factory.getbasetemp(), "text_classification").run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return Run.open(shutil.copytree(finished.directory, tmp_path / "run"))


def change_config(run, change):
    config = json.loads(run.config_file.read_text("utf-8"))
    change(config)
    run.config_file.write_text(json.dumps(config), "utf-8")
    return config


def put(section, name, value):
    return lambda config: config[section].__setitem__(name, value)


CONFIGS = {
    "positions": (
        put("model", "positions", {"name": "alibi"}),
        r'model\.positions\.name \("rotary" there, "alibi" here\)',
    ),
    "a field more": (put("model", "rope_base", 3.0), r"model\.rope_base \(null there, 3\.0 here\)"),
    "a field less": (
        lambda config: config["model"].pop("positions"),
        r'model\.positions \(\{"name": "rotary"\} there, null here\)',
    ),
    "another type": (put("model", "num_layers", "1"), r'model\.num_layers \(1 there, "1" here\)'),
    "true for a number": (put("model", "num_layers", True), r"model\.num_layers \(1 there, true here\)"),
    "another shape": (put("model", "d_model", 32), r"model\.d_model \(16 there, 32 here\)"),
    "a section that is null": (lambda config: config.update(task=None), r"task \({.*} there, null here\)"),
    "a section that is a list": (lambda config: config.update(model=[]), r"model \({.*\.\.\. there, \[\] here\)"),
    "an unknown section": (lambda config: config.update(more={}), r"more \(null there, {} here\)"),
    "no section at all": (lambda config: config.clear(), r"checkpoint \({.*\.\.\. there, null here\)"),
    "precision": (lambda config: config.update(precision="params=bfloat16"), r"precision \(.* there, .* here\)"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_was_changed_is_refused_by_field_and_values(run, name):
    """Another model would be scored with the trained parameters, or the message would not say what to put back."""
    change, wanted = CONFIGS[name]
    change_config(run, change)
    with pytest.raises(RunError, match=wanted) as error:
        load_run(Run.open(run.directory))
    assert f"{run.config_file} does not fit the checkpoint {run.checkpoints / '12'}: it differs in" in str(error.value)
    assert "\n" not in str(error.value)


def test_where_it_runs_may_be_changed(run):
    """A run that was moved to other devices could not be evaluated there; nor one whose config was only laid out anew."""
    change_config(run, put("parallel", "data", 8))
    load_run(Run.open(run.directory))


def rewrite(file):
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")), indent=7), "utf-8")


FILES = {
    "changed": (rewrite, "was trained with another: put that one back"),
    "deleted": (lambda file: file.unlink(), "needs it: put it back"),
}


def test_what_the_data_were_is_compared_too(run):
    """A run would be scored on what it was trained on, once its data.json is made to fit other data."""
    rewrite(file := run.directory / "data.json")
    with pytest.raises(RunError, match=f"^{re.escape(str(file))} does not fit .* with another: put that one back"):
        load_run(Run.open(run.directory))


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("name", ["tokenizer.json", "classes.json"])
def test_a_tokenizer_or_classes_of_another_run_are_refused_by_name(run, name, how):
    """Tokens or labels would mean something else than in training, and every number would be wrong."""
    change, wanted = FILES[how]
    change(file := run.directory / name)
    message = f"{file} does not fit the checkpoint {run.checkpoints / '12'}, which {wanted} (sha256 "
    with pytest.raises(RunError, match=f"^{re.escape(message)}"):
        load_run(Run.open(run.directory))


def test_a_tokenizer_that_was_not_there_in_training_is_refused_by_name(run):
    """A translation would read its sources with it."""
    shutil.copyfile(run.directory / "tokenizer.json", run.directory / "source_tokenizer.json")
    with pytest.raises(RunError, match=r"source_tokenizer\.json does not fit .* without it: remove it"):
        load_run(Run.open(run.directory))


def test_an_older_checkpoint_is_compared_as_well(run):
    """`--step` would be a way around it."""
    change_config(run, put("model", "positions", {"name": "alibi"}))
    with pytest.raises(RunError, match=f"{re.escape(str(run.checkpoints / '6'))}: it differs in model.positions"):
        load_run(Run.open(run.directory), 6)


def go_on(directory, config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick_jit)
        run_training(Run.start(directory, config), lambda line: None)


@pytest.mark.parametrize("has_config", [True, False])
def test_training_does_not_go_on_as_something_else(run, has_config):
    """A run would go on as another one, because its config.json was changed together with the command, or is gone."""
    config = change_config(run, put("model", "positions", {"name": "alibi"}))
    if not has_config:
        run.config_file.unlink()
    before = {file: file.read_bytes() for file in run.directory.rglob("*") if file.is_file()}
    with pytest.raises(RunError, match="it differs in model.positions"):
        go_on(run.directory, config)
    assert {file: file.read_bytes() for file in run.directory.rglob("*") if file.is_file()} == before


def test_training_goes_on_without_its_config_file_and_tokenizer(run):
    """A lost file that the command and the data make again would end the run."""
    wanted = {name: (run.directory / name).read_bytes() for name in ("config.json", "tokenizer.json", "classes.json")}
    for name in wanted:
        (run.directory / name).unlink()
    go_on(run.directory, run.config)
    assert {name: (run.directory / name).read_bytes() for name in wanted} == wanted


def test_a_run_to_start_from_is_compared_as_well(run, tmp_path):
    """A fine-tuned model would start from parameters of another function, or with other tokens than they were trained."""
    rewrite(run.directory / "tokenizer.json")
    config = run.config | {"task": run.config["task"] | {"init_from": str(run.directory)}}
    with pytest.raises(RunError, match=r"run/tokenizer\.json does not fit"):
        go_on(tmp_path / "started", config)
    assert not (tmp_path / "started" / "config.json").exists()
