"""Run directories: reopened by the same config, refused to another, and nothing half-done."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tformer_jax.training.run import Run, RunError, environment, write_json

CONFIG = {
    "model": {"d_model": 8, "dropout_rate": 0.1},
    "data": {"source": "files", "tsv_file": None, "name": "Füße"},
    "training": {"steps": 10},
}


def changed(**sections):
    return {name: {**CONFIG[name], **sections.get(name, {})} for name in CONFIG}


@pytest.fixture
def run(tmp_path):
    return Run.start(tmp_path / "runs" / "r1", CONFIG)


def test_a_new_run_has_its_directories_and_its_config(run):
    """What was run could not be told later, or there would be nowhere to write."""
    assert json.loads((run.directory / "config.json").read_text("utf-8")) == CONFIG
    assert run.samples.is_dir()
    assert run.plots.is_dir()


def test_paths_of_a_run_are_where_the_readme_says(run):
    """Other tools would look for metrics and checkpoints in the wrong place."""
    found = [run.config_file, run.metrics_file, run.checkpoints, run.tensorboard, run.samples, run.plots]
    names = ["config.json", "metrics.jsonl", "checkpoints", "tensorboard", "samples", "plots"]
    assert found == [run.directory / name for name in names]


def test_the_same_config_reopens_a_run(run):
    """A run could not be resumed; what it holds must stay."""
    (run.directory / "metrics.jsonl").write_text("kept")
    again = Run.start(run.directory, changed())
    assert again.config == CONFIG
    assert (run.directory / "metrics.jsonl").read_text() == "kept"


def test_another_config_is_refused_with_the_fields_and_both_values(run):
    """A run would go on under other settings than its config.json says, or the user would have to search for them."""
    other = changed(model={"d_model": 16}, data={"tsv_file": "a.tsv"})
    with pytest.raises(RunError) as error:
        Run.start(run.directory, other)
    for part in (str(run.directory), "model.d_model (8 there, 16 here)", 'data.tsv_file (null there, "a.tsv" here)'):
        assert part in str(error.value)
    assert "dropout_rate" not in str(error.value)


def test_what_stood_there_before_is_not_withdrawn(tmp_path):
    """A tokenizer that the user put into the directory would be deleted because of a misspelt path."""
    (tmp_path / "tokenizer.json").write_text("{}")
    run = Run.start(tmp_path, CONFIG)
    (tmp_path / "classes.json").write_text("[]")
    run.withdraw()
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {"tokenizer.json"}


def test_a_reopened_run_is_not_withdrawn(run):
    """A run would lose its config because it was reopened without its data."""
    Run.start(run.directory, CONFIG).withdraw()
    assert run.config_file.exists()


@pytest.mark.parametrize("section", ["model", "data"])
def test_a_field_on_one_side_only_is_a_difference(run, section):
    """A run of an older version would go on with a new field at its default."""
    with pytest.raises(RunError, match=rf"{section}\.new \(null there, 3 here\)"):
        Run.start(run.directory, changed(**{section: {"new": 3}}))


def test_a_refused_config_leaves_the_run_as_it_was(run):
    """The refused config would be written."""
    with pytest.raises(RunError):
        Run.start(run.directory, changed(training={"steps": 11}))
    assert json.loads((run.directory / "config.json").read_text("utf-8")) == CONFIG


def test_a_directory_below_a_file_is_refused(tmp_path):
    """Training would run for hours and fail at its first checkpoint."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=f"cannot write to {re.escape(str(tmp_path / 'file' / 'run'))}: Not a directory"):
        Run.start(tmp_path / "file" / "run", CONFIG)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    """A misspelt path would end in a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to .*file: File exists"):
        Run.start(tmp_path / "file", CONFIG)
    assert (tmp_path / "file").read_text() == ""


def test_opening_gives_the_config_back(run):
    """Evaluation would build another model than was trained."""
    again = Run.open(str(run.directory))
    assert (again.directory, again.config) == (run.directory, CONFIG)


@pytest.mark.parametrize("name", ["", "missing"])
def test_opening_what_is_no_run_is_refused(tmp_path, name):
    """A misspelt directory would end in a traceback."""
    with pytest.raises(RunError, match="is not a run directory: it has no config.json"):
        Run.open(tmp_path / name)


def test_the_environment_is_recorded(run):
    """A result could not be traced to the versions and devices that it depends on."""
    with run.locked():
        pass
    found = json.loads((run.directory / "environment.json").read_text("utf-8"))
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["jax"] == jax.__version__
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert len(found["devices"]) == jax.device_count()
    assert found["cpu_count"] >= 1
    assert found["platform"]


def test_the_environment_names_the_commit():
    """The code behind a result could not be found again; outside of a checkout there is none to name."""
    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    assert environment()["commit"] == (git.stdout.strip() if git.returncode == 0 else None)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    """A crash while writing would leave a config.json that no run can be resumed from."""
    file = tmp_path / "config.json"
    write_json(file, CONFIG)
    with pytest.raises(TypeError):
        write_json(file, {"a": 1, "b": object()})
    assert json.loads(file.read_text("utf-8")) == CONFIG


def test_a_failed_write_leaves_no_litter(tmp_path):
    """Run directories would fill up with temporary files."""
    with pytest.raises(TypeError):
        write_json(tmp_path / "config.json", {"b": object()})
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_run_can_be_read_by_others(run):
    """A colleague could not read the config of a run on a shared disk: the file's mode must follow the umask."""
    ordinary = run.directory / "ordinary"
    ordinary.write_text("")
    assert run.config_file.stat().st_mode == ordinary.stat().st_mode
