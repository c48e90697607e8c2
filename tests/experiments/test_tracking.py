"""Weights & Biases beside a run's own files: what is refused before data are read, and what is logged offline."""

import json
import shutil
import struct
import subprocess
import sys

import pytest
from forked import ROOT

from experiments.tracking import check_tracking, tracking
from tformer_jax.progress import SILENT
from tformer_jax.training.run import Run, RunError


def test_without_the_package_one_line_says_what_to_install(monkeypatch, here, flags, tmp_path):
    """A traceback, or the message would come after an hour of reading data."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = here("train", *flags(tmp_path / "run"), "--wandb=project")
    assert result.stderr == "error: --wandb needs the package wandb: pip install -e '.[wandb]'\n"
    assert result.returncode == 1 and not (tmp_path / "run").exists()


def test_who_does_not_ask_needs_nothing(monkeypatch):
    """Every run would need the package."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_tracking(None)
    with tracking(None, None, SILENT) as tracked:
        tracked({"step": 1, "loss": 2.0})


NO_KEY = """
from experiments.tracking import check_tracking
check_tracking("project")
"""


def test_without_a_key_one_line_says_where_to_put_it(environment, tmp_path):
    """It would ask a terminal that is not there, or fail when all data are read."""
    pytest.importorskip("wandb")
    plain = {name: value for name, value in environment.items() if not name.startswith("WANDB")}
    how = {"cwd": ROOT, "env": plain | {"HOME": str(tmp_path), "PYTHONPATH": ROOT, "NETRC": str(tmp_path / "none")}}
    result = subprocess.run([sys.executable, "-c", NO_KEY], capture_output=True, text=True, **how)
    last = result.stderr.strip().splitlines()[-1]
    assert last.endswith(
        "ConfigError: --wandb needs an API key: run `wandb login`, or set WANDB_API_KEY; "
        "or set WANDB_MODE=offline, and `wandb sync` later"
    )


@pytest.fixture
def run(tmp_path):
    return Run.start(tmp_path / "run", {"name": "test"})


@pytest.mark.parametrize(
    ("kept", "error", "said"),
    [
        ('{"project": "mine", "id": "1"}', RunError, "is in the project mine of W&B: give --wandb=mine"),
        ('{"project": "other"}', RunError, "wandb.json is damaged: delete it, and the run begins anew in W&B"),
        ("[", RunError, "wandb.json is damaged"),
    ],
)
def test_a_run_stays_the_run_that_it_is(run, kept, error, said):
    """Half of its rows would be in one project, and half in another."""
    pytest.importorskip("wandb")
    (run.directory / "wandb.json").write_text(kept)
    with pytest.raises(error, match=said), tracking(run, "other", SILENT):
        pass


def records(file):
    """The records of a run's file: W&B's protocol buffers in the format of LevelDB's logs, after seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:  # the rest of a block is empty
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def name_of(item):
    return item.key or ".".join(item.nested_key)


def logged(folder):
    """The identifier, the config and the rows of a process, by step."""
    (file,) = folder.glob("*.wandb")
    found, config, rows = None, {}, {}
    for record in records(file):
        if record.HasField("run"):
            found = record.run
            config |= {name_of(item): json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("history"):
            row = {name_of(item): json.loads(item.value_json) for item in record.history.item}
            own = {name: value for name, value in row.items() if not name.startswith("_")}
            rows.setdefault(int(row["_step"]), {}).update(own)
    return found, config, rows


@pytest.mark.slow
def test_a_run_is_logged_offline_and_goes_on_as_the_same(environment, flags, tmp_path):
    """Rows would be missing in W&B, a killed run be two there, or its config not be the whole one."""
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    small = {"training.steps": 12, "training.evaluate_every": 6, "training.log_every": 4, "checkpoint.every": 5}
    asked = [sys.executable, "-m", "experiments.train", *map(str, flags(run, small)), "--wandb=p", "--report=none"]
    how = {"cwd": ROOT, "env": environment | {"WANDB_MODE": "offline"}, "capture_output": True, "text": True}
    for again in (False, True):
        if again:  # as if it had been killed in the middle
            shutil.rmtree(run / "checkpoints" / "10")
            shutil.rmtree(run / "checkpoints" / "12")
        done = subprocess.run(asked, **how)
        assert done.returncode == 0, done.stderr
        newest = max(run.glob("wandb/offline-run-*"))
        found, config, rows = logged(newest)
        wanted = {}
        for line in (run / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            wanted.setdefault(row.pop("step"), {}).update(row)
        assert rows == wanted and list(rows) == [4, 6, 8, 12]
        assert (found.project, found.run_id) == ("p", json.loads((run / "wandb.json").read_text())["id"])
        ours = json.loads((run / "config.json").read_text())
        assert {name: config[name] for name in ours} == ours
    assert len({logged(folder)[0].run_id for folder in run.glob("wandb/offline-run-*")}) == 1
    assert len(list(run.glob("wandb/offline-run-*"))) == 2
