"""Run directories: reopened by the same config, refused to another, and nothing half-done."""

import functools
import importlib.metadata
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from support import full_disk

from tformer_jax.data.files import WriteError
from tformer_jax.training.run import Run, RunError, changed_plugins, environment, read_json, write_json

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


@pytest.mark.parametrize("name", ["environment.json", "lock"])
def test_a_run_that_cannot_be_written_is_withdrawn(tmp_path, name):
    """A full disk would leave a run that never began, for which any other config is refused."""
    run = Run(tmp_path / "run", CONFIG)
    with full_disk(), pytest.raises(WriteError, match=f"cannot write {re.escape(str(run.config_file))}: "):
        Run.start(run.directory, CONFIG)
    place = tmp_path / "run" / name
    place.symlink_to("/dev/full")
    with pytest.raises(WriteError, match=f"cannot write {re.escape(str(place))}: "):
        with Run.start(run.directory, CONFIG).locked():
            pass
    place.unlink()
    assert not run.config_file.exists()
    with Run.start(run.directory, changed(training={"steps": 11})).locked():
        assert json.loads(run.config_file.read_text("utf-8"))["training"]["steps"] == 11


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
        Run.start(run.directory, changed(model={"d_model": 16}))
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


@pytest.mark.parametrize("part", ["checkpoints", "samples/new", "plots"])
def test_a_part_of_a_run_is_no_run(run, part):
    """A run within a run is lost with it, or its checkpoints are taken for the other's."""
    (run.directory / "environment.json").write_text("{}")
    for use in (functools.partial(Run.start, config=CONFIG), Run.open):
        with pytest.raises(
            RunError, match=f"{part} is part of a single run, in .*--workdir={run.directory} is the run"
        ):
            use(run.directory / part)
    assert not (run.directory / "samples/new").exists()
    (run.directory / "environment.json").unlink()  # config.json alone may be anybody's
    Run.start(run.directory / part, CONFIG)


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


# Where it runs may change -----------------------------------------------------------------------


def parallel(**sizes):
    return CONFIG | {"parallel": sizes}


def config_of(run):
    return json.loads(run.config_file.read_text("utf-8"))


def test_a_run_may_go_on_elsewhere(tmp_path):
    """A run that began on eight devices could not go on with one; what it runs on is what config.json says."""
    Run.start(tmp_path, parallel(data=8))
    run = Run.start(tmp_path, parallel(data=1, tensor=2))
    assert config_of(run) == parallel(data=8)  # it has not begun to train yet
    with run.locked():
        assert config_of(run) == parallel(data=1, tensor=2)


def test_a_run_of_before_there_were_meshes_goes_on(run):
    """A config without the section would be another config."""
    with Run.start(run.directory, parallel(data=1)).locked():
        assert config_of(run) == parallel(data=1)


@pytest.mark.parametrize("section", CONFIG)
def test_nothing_else_may_change_with_it(tmp_path, section):
    """A changed learning rate would slip in with a changed mesh; the mesh is not to blame."""
    Run.start(tmp_path, parallel(data=8))
    with pytest.raises(RunError, match=rf"differs in {section}\.new \(null there, 1 here\)\. Choose"):
        Run.start(tmp_path, changed(**{section: {"new": 1}}) | {"parallel": {"data": 1}})
    assert json.loads((tmp_path / "config.json").read_text("utf-8")) == parallel(data=8)


# Plugins, and directories of before --------------------------------------------------------------


def test_a_plugin_may_move_and_a_change_of_it_is_said(tmp_path):
    """A run is lost with the folder of its idea, or goes on with another idea than it began with, without a word."""
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    for file in (old, new):
        file.write_text("# an idea\n")
    with Run.start(tmp_path / "run", CONFIG | {"plugins": [str(old)]}).locked():
        pass
    old.unlink()
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    with Run.start(tmp_path / "run", CONFIG | {"plugins": [str(new)]}).locked():
        pass
    run = Run.open(tmp_path / "run")
    assert run.config["plugins"] == [str(new)]
    assert changed_plugins(run.directory, run.config) == []
    new.write_text("# another idea\n")
    (line,) = changed_plugins(run.directory, run.config)
    assert line.startswith(f"the plugin {new} has changed since {run.directory} began: its sha256 is ")
    assert changed_plugins(tmp_path, run.config) == []  # nobody knows what it was


@pytest.mark.parametrize("model", [{"num_heads": 2, "positions": "rotary"}, {"d_ff": 24}, {"positions": "sinusoidal"}])
def test_a_run_of_an_older_layout_is_refused_in_one_line(tmp_path, model):
    """It is told of one field after another, or of a config that differs, which no command can put right."""
    older = CONFIG | {"model": model}
    write_json(tmp_path / "config.json", older)
    for open_it in (lambda: Run.open(tmp_path), lambda: Run.start(tmp_path, CONFIG)):
        with pytest.raises(RunError) as error:
            open_it()
        assert str(error.value).startswith(
            f"{tmp_path / 'config.json'} is of an older layout, whose models had no comp"
        )
        assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "config.json").read_text("utf-8")) == older


# One process at a time --------------------------------------------------------------------------


def hold(directory, connection):
    """What another process does: it trains there until it is told to stop."""
    with Run.start(directory, CONFIG).locked():
        connection.send("held")
        connection.recv()


@pytest.fixture
def holder(run):
    """Another process that has locked the run, and a connection to it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tformer_jax.training.running"])
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(run.directory, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "held"
    yield process, ours
    process.kill()
    process.join()


def locked(run):
    with run.locked():
        return True


def test_a_run_that_is_in_use_is_refused(run, holder):
    """Two processes would write one run's checkpoints; the second is told which process is in the way, every time."""
    who = f"process {holder[0].pid} on {socket.gethostname()}"
    for _ in range(2):
        with pytest.raises(RunError, match=re.escape(f"{run.directory} is in use: {who} is training there")):
            locked(Run.start(run.directory, CONFIG))


def test_whoever_is_refused_changes_nothing(run, holder):
    """config.json and environment.json would be those of a process that did not train."""
    before = {file: file.read_bytes() for file in run.directory.iterdir() if file.is_file()}
    with pytest.raises(RunError, match="is in use"):
        locked(Run.start(run.directory, parallel(data=8)))
    assert {file: file.read_bytes() for file in run.directory.iterdir() if file.is_file()} == before


def test_a_killed_process_leaves_no_lock(run, holder):
    """After a crash someone would have to delete a file before the run can go on."""
    os.kill(holder[0].pid, signal.SIGKILL)
    holder[0].join()
    assert locked(Run.start(run.directory, CONFIG))


def test_a_finished_process_leaves_no_lock(run, holder):
    """The same command could not be given again; and it is the new process that is named then."""
    holder[1].send("stop")
    holder[0].join()
    assert holder[0].exitcode == 0
    with run.locked(), pytest.raises(RunError, match=f"process {os.getpid()} on"):
        locked(Run.start(run.directory, CONFIG))


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [(None, False), ([], False), (["7.orbax-checkpoint-tmp"], False), (["7"], True), (["6", "7.unfinished"], True)],
)
def test_a_run_has_a_checkpoint_once_one_is_whole(run, entries, wanted):
    """A run would begin where it should go on; or it would keep, after half a checkpoint, what it could not use."""
    for name in entries or ():
        (run.checkpoints / name).mkdir(parents=True)
    if entries == []:
        run.checkpoints.mkdir()
    assert run.has_checkpoint is wanted


VALUES = {"[]": list, "{}": dict, '"text"': str, "null": type(None), "3": int, "true": bool, "1.5": float}


@pytest.mark.parametrize("kind", [dict, list, str])
def test_a_json_file_of_another_kind_is_refused_by_name(tmp_path, kind):
    """Whoever reads it would end in a traceback of an attribute that null does not have."""
    for text, its in VALUES.items():
        (file := tmp_path / "x.json").write_text(text)
        if its is kind:
            assert read_json(file, kind) == kind(json.loads(text))
        else:
            with pytest.raises(RunError, match=rf"^{re.escape(str(file))} is damaged: it must hold an? .*, and holds"):
                read_json(file, kind)


def test_a_json_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    """A folder in its place, no UTF-8, a value cut short, or brackets without end would end in a traceback."""
    (tmp_path / "folder").mkdir()
    for name, content in {"latin": b'"\xff"', "cut": b'{"a": 1', "empty": b"", "deep": b"[" * 100_000}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("folder", "missing", "latin", "cut", "empty", "deep"):
        with pytest.raises(RunError, match=f"^(cannot read )?{re.escape(str(tmp_path / name))}") as error:
            read_json(tmp_path / name)
        assert "\n" not in str(error.value)
