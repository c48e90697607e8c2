"""The commands that steer a run: trained on, stopped early, tried before it begins, scored in part."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest


def files_in(folder):
    """Every file, with what is in it and when it was changed."""
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


# Training on -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer(place, finished, here, flags):
    """A copy of a finished run of 120 steps that the command has trained on to 126, and what the command said."""
    run = shutil.copytree(finished[0], place / "longer")
    return run, here("train", *flags(run, {"training.steps": 126}), "--report=none")


def test_a_finished_run_trains_on(longer, finished):
    """A person who wants some more steps would have to begin anew."""
    run, result = longer
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "training.steps 120 → 126" in lines
    jumps = [re.search(r"the learning rate jumps from (\S+) at step 120 to (\S+) at step 121", line) for line in lines]
    (rates,) = (tuple(map(float, found.groups())) for found in jumps if found)
    assert rates == (
        pytest.approx(0, abs=1e-8),
        pytest.approx(0.01 * (1 - 116 / 121), rel=1e-2),
    )  # linear, after 5 steps
    assert any(line.startswith("step 126: validation loss") for line in lines)
    assert json.loads((run / "config.json").read_text("utf-8"))["training"]["steps"] == 126
    assert rows_of(run)[: len(rows_of(finished[0]))] == rows_of(finished[0])


def test_a_checkpoint_from_before_is_still_scored(longer, here):
    """The config of the directory says more steps than that checkpoint was to have."""
    result = here("evaluate", f"--workdir={longer[0]}", "--step=120", "--split=validation", "--batches=1")
    assert result.returncode == 0, result.stderr


def test_fewer_steps_are_refused(longer, here, flags):
    """A run would be said to be finished that is trained further."""
    before = files_in(longer[0])
    result = here("train", *flags(longer[0], {"training.steps": 100}))
    wanted = "is trained further than training.steps=100: its newest checkpoint is of step 126. Give training.steps=126"
    assert result.returncode == 1 and wanted in result.stderr and result.stderr.count("\n") == 1
    assert files_in(longer[0]) == before


# In part ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 99])
def test_a_part_of_a_split_is_scored(finished, here, count):
    """It would take as long as the whole, be of another split, or change what the run holds of a whole one."""
    run, _ = finished
    before = files_in(run)
    result = here("evaluate", f"--workdir={run}", "--split=validation", f"--batches={count}")
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("validation, "))
    some, _, total = line.removeprefix("validation, ").partition(" batches: ")[0].split(" ")
    assert int(some) == min(count, int(total))
    if count > int(total):  # all of them: as the run itself has found in its last validation
        assert line.endswith(f"batches: loss {rows_of(run)[-1]['validation_loss']:.4f}")
    assert files_in(run) == before


# Before it begins ------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder of temporary files, empty."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def dry(flags, workdir=None, changes=None):
    """The flags of a dry run, with a directory or without."""
    given = [flag for flag in flags("none", changes) if not flag.startswith("--workdir")]
    return [*given, "--dry_run", *([] if workdir is None else [f"--workdir={workdir}"])]


@pytest.mark.parametrize("workdir", [None, "run"])
def test_a_dry_run_says_what_a_step_costs_and_leaves_nothing(here, flags, temporary, tmp_path, workdir):
    """A folder would be left for which another config is then refused; or nothing would have been tried."""
    result = here("train", *dry(flags, workdir and tmp_path / workdir))
    assert result.returncode == 0, result.stderr
    for said in (" parameters", " s a step, 120 steps in ", "memory of a device: ", "1 of ", "nothing of it is kept"):
        assert said in result.stdout
    assert [*tmp_path.iterdir()] == [temporary] and not [*temporary.iterdir()]


def test_a_dry_run_changes_nothing_in_a_run(finished, here, flags, temporary):
    """A finished run would get rows, samples or checkpoints of what was only tried."""
    run, _ = finished
    before = files_in(run)
    assert here("train", *dry(flags, run)).returncode == 0
    assert files_in(run) == before and not [*temporary.iterdir()]


def test_a_dry_run_refuses_what_the_command_would(finished, here, flags, temporary):
    """It would say that all is well, and the command would end in an error."""
    run, _ = finished
    result = here("train", *dry(flags, run, {"model.d_model": 32}))
    assert result.returncode == 1 and "holds a run of another config; it differs in model.d_model" in result.stderr
    result = here("train", *dry(flags, changes={"data.batch_tokens": 8}))
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    result = here("train", *dry(flags), "--distributed")
    assert result.returncode == 1 and "--dry_run is of one process" in result.stderr
    assert not [*temporary.iterdir()]


def test_without_a_dry_run_a_directory_is_needed(here, flags):
    """A run would go nowhere."""
    given = [flag for flag in flags("none") if not flag.startswith("--workdir")]
    result = here("train", *given)
    assert result.returncode == 1 and result.stderr == "error: give --workdir=DIRECTORY\n"
    assert not Path("none").exists()
