"""What commands say where the system refuses to write or to read: one line, after all that is known by then."""

import errno
import os
import subprocess
import sys
import types
from typing import NamedTuple

import pytest

from experiments import cli, reporting
from tformer_jax.data.files import WriteError
from tformer_jax.tasks import Evaluation
from tformer_jax.training.run import Run


class Sample(NamedTuple):
    """Of an evaluation."""

    text: str


@pytest.fixture
def ends(monkeypatch):
    """`ends(error)`: how a command ends in which this is raised."""
    for owner, name in ((sys, "unraisablehook"), (cli.logging, "set_verbosity")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(cli.logging, "set_verbosity", lambda level: None)
    monkeypatch.setattr(cli.app, "run", lambda main, flags_parser: main(["command"]))

    def ends(error):
        def main():
            raise error

        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        return ended.value.code

    return ends


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (WriteError(errno.EACCES, "Permission denied", "run/lock"), "cannot write run/lock: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "cannot write a: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write the output: No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a"), "cannot write a: Disk quota exceeded"),
        (PermissionError(errno.EACCES, "Permission denied", "a.tsv"), "cannot use a.tsv: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "cannot use a: Is a directory"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (OSError("of a library,\nin two lines"), "of a library, in two lines"),
        (OSError(), "OSError"),
    ],
    ids=str,
)
def test_what_the_system_refuses_is_one_line(ends, error, line):
    """A full disk would end in a traceback of 50 lines, whose last does not even name the file."""
    assert ends(error) == f"error: {line}"


def test_a_reader_that_has_enough_is_no_error(ends):
    """`predict | head` would end in a traceback."""
    assert ends(BrokenPipeError(errno.EPIPE, "Broken pipe")) == 141


def test_output_that_nobody_takes_is_one_line():
    """The last of a table would be lost without a word, or with two complaints and a traceback."""
    command = [sys.executable, "-c", "from experiments import cli; cli.run(lambda: print('a number'))"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("name", ["samples/test.jsonl", "samples/test_metrics.json", "plots/loss.png"])
def test_numbers_are_printed_before_anything_is_written(tmp_path, capsys, name):
    """On a full disk, an evaluation of hours would end without its result, because of a picture."""
    run = Run.start(tmp_path / "run", {})
    run.metrics_file.write_text('{"step": 1, "loss": 0.5}\n')
    (run.directory / name).symlink_to("/dev/full")
    task = types.SimpleNamespace(
        evaluate=lambda model, data, splits, progress: {"test": Evaluation({"loss": 1.25}, "", [Sample("a text")])},
        describe=lambda metrics: f"loss {metrics['loss']}",
        plot=lambda *_: [],
        name="a task",
        judged_by="loss",
    )
    data = types.SimpleNamespace(splits={"test": []}, report=["2 texts are left out"])
    with pytest.raises(WriteError, match=f"^cannot write {run.directory / name}: No space left on device$"):
        reporting.report(run, task, data, None)
    said = [line for line in capsys.readouterr().out.splitlines() if "plots" not in line]  # of drawing, if that lasts
    assert said[-2:] == ["2 texts are left out", "test: loss 1.25"]
