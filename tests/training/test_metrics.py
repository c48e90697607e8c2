"""Numbers on their way out: metrics.jsonl through crashes and resumes, event files, and the progress line."""

import io
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from event_files import events, numbers, shown
from rich.console import Console

from tformer_jax.training import metrics
from tformer_jax.training.metrics import MetricsWriter, ProgressLine, drop_later_rows, read_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    """`write(start_step, *steps)`: opens the files from a step, writes a row for each step, closes them."""

    def write(start, *steps, value=0.5):
        writer = MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", start)
        for step in steps:
            writer.write(step, {"loss": step * value, "weight": 10.0})
        writer.close()
        return tmp_path / "metrics.jsonl"

    return write


def steps_in(file):
    """The steps in a metrics.jsonl, read as any other tool would: every line is JSON."""
    return [json.loads(line)["step"] for line in file.read_text("utf-8").splitlines()]


# metrics.jsonl ---------------------------------------------------------------------------------


def test_a_row_is_a_step_and_its_numbers(write):
    """Other tools could not read the metrics."""
    file = write(0, 1)
    assert file.read_text("utf-8") == '{"step": 1, "loss": 0.5, "weight": 10.0}\n'


def test_rows_come_back_as_they_were_written(write):
    """The loss curve would show other numbers."""
    assert read_metrics(write(0, 1, 2)) == [
        {"step": 1, "loss": 0.5, "weight": 10.0},
        {"step": 2, "loss": 1.0, "weight": 10.0},
    ]


def test_rows_are_on_disk_before_the_file_is_closed(tmp_path):
    """A killed run would lose its last rows."""
    writer = MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 0)
    writer.write(1, {"loss": 0.5})
    assert steps_in(tmp_path / "metrics.jsonl") == [1]
    writer.close()


def test_resuming_drops_the_rows_after_the_checkpoint(write):
    """Steps that are run again would stand in the file twice."""
    write(0, 1, 2, 3, 4)
    file = write(2, 3, 4, 5, value=7.0)
    assert [(row["step"], row["loss"]) for row in read_metrics(file)] == [
        (1, 0.5),
        (2, 1.0),
        (3, 21.0),
        (4, 28.0),
        (5, 35.0),
    ]


def test_starting_from_scratch_drops_every_row(write):
    """A run killed before its first checkpoint would keep rows that it writes again."""
    write(0, 1, 2)
    assert steps_in(write(0, 1)) == [1]


def test_a_torn_last_line_is_dropped(write):
    """A line that a crash cut short, wherever, would make the file unreadable or swallow the next row."""
    whole = write(0, 1, 2).read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last) + 1):
        (file := write(0)).write_bytes(whole[:-cut])
        assert read_metrics(file)[0]["step"] == 1
        write(2, 3)
        assert steps_in(file) in ([1, 3], [1, 2, 3]), f"without its last {cut} bytes: {file.read_text()}"


DAMAGED_ROWS = {
    "a flipped bit": b'{"step": 2, "lo\xf3s": 0.5}',
    "JSON cut short": b'{"step": 2, "loss',
    "an empty line": b"",
    "zeros of a power cut": bytes(40),
    "an array": b"[]",
    "null": b"null",
    "a text": b'"step"',
    "a number": b"3",
    "no step": b'{"loss": 0.5}',
    "a step that is a text": b'{"step": "2"}',
    "a step that is a fraction": b'{"step": 2.0}',
    "a step that is true": b'{"step": true}',
    "a step that is null": b'{"step": null}',
    "a step of zero": b'{"step": 0}',
    "a negative step": b'{"step": -2}',
    "a step beyond counting": b'{"step": 1' + b"0" * 30 + b"}",
    "a step of a million digits": b'{"step": 1' + b"0" * 10**6 + b"}",
    "a text for a number": b'{"step": 2, "loss": "0.5"}',
    "an array for a number": b'{"step": 2, "loss": [0.5]}',
    "true for a number": b'{"step": 2, "loss": true}',
    "infinity": b'{"step": 2, "loss": Infinity}',
    "a number beyond floats": b'{"step": 2, "loss": 1e999}',
    "an integer beyond floats": b'{"step": 2, "loss": 1' + b"0" * 400 + b"}",
    "a number for a text": b'{"step": 2, "diverged": 3}',
    "brackets without end": b"[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGED_ROWS)
def test_a_damaged_row_is_left_out_and_said(write, name):
    """One flipped bit would end training, evaluation and the loss curve in a traceback, or drop the rows after it."""
    file, said = write(0, 1, 2, 3), []
    first, _, third = whole = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([first, DAMAGED_ROWS[name], third, b""]))
    line = f"1 of 3 lines of {file} are damaged, and left out"
    assert [row["step"] for row in read_metrics(file, said.append)] == [1, 3]
    assert said == [line]
    drop_later_rows(file, 3, said.append)
    assert said == [line, line]
    assert file.read_bytes().splitlines() == [first, third]
    file.write_bytes(b"\n".join(whole) + b"\n" + DAMAGED_ROWS[name])  # the last line, which a crash has cut short
    assert [row["step"] for row in read_metrics(file, pytest.fail)] == [1, 2, 3]


def test_rows_of_a_sweep_are_of_its_members(tmp_path):
    """A damaged number would end in a traceback, or give a member the results of another."""
    (file := tmp_path / "metrics.jsonl").write_text(
        "".join(f'{{"member": {member}, "step": 1}}\n' for member in (0, 1, 2, '"0"', "null", "[0]", -1, 0.5, 1.0))
    )
    said = []
    assert [row["member"] for row in read_metrics(file, said.append, members=range(2))] == [0, 1]
    assert said == [f"7 of 9 lines of {file} are damaged, and left out"]


def test_no_file_has_no_rows(tmp_path):
    """Whoever lost it could not evaluate any more."""
    assert read_metrics(tmp_path / "metrics.jsonl", pytest.fail) == []
    drop_later_rows(tmp_path / "metrics.jsonl", 3, pytest.fail)
    assert list(tmp_path.iterdir()) == []


# TensorBoard -----------------------------------------------------------------------------------


def test_event_files_hold_the_same_numbers(write, tmp_path):
    """TensorBoard would show nothing, or other numbers than metrics.jsonl."""
    write(0, 1, 2)
    found = numbers(events(tmp_path / "tensorboard"))
    assert found == [(1, "loss", 0.5), (1, "weight", 10.0), (2, "loss", 1.0), (2, "weight", 10.0)]


@pytest.fixture
def unfinished(tmp_path):
    """`unfinished(*steps)`: the bytes of the event file of a process that wrote rows of these steps, not its last."""

    def unfinished(*steps):
        writer = MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 0)
        for step in steps:
            writer.write(step, {"loss": step / 2, "weight": 10.0})
        (file,) = (tmp_path / "tensorboard").iterdir()
        return file.read_bytes()

    return unfinished


def test_events_are_on_disk_before_the_file_is_closed(unfinished, tmp_path):
    """What a killed run had written would be missing until it goes on, and for ever if it does not."""
    unfinished(1, 2, 3)
    assert {step for step, _, _ in numbers(events(tmp_path / "tensorboard"))} == {1, 2, 3}


@pytest.mark.parametrize("start", [0, 2, 3])
def test_a_resumed_run_has_every_step_in_its_event_files_once(unfinished, write, tmp_path, start):
    """Steps would be missing for good, or be drawn twice, wherever a kill cut the file, or if it left none."""
    place, content = tmp_path / "tensorboard", unfinished(1, 2, 3, 4)
    later = range(start + 1, 6)
    wanted = [(s, name, n) for s in range(1, start + 1) for name, n in (("loss", s / 2), ("weight", 10.0))]
    wanted += [(s, name, n) for s in later for name, n in (("loss", s * 7.0), ("weight", 10.0))]
    for cut in (*range(0, len(content), 7), len(content), None):
        for file in place.iterdir():
            file.unlink()
        if cut is not None:
            (place / "events.out.tfevents.1700000000.here").write_bytes(content[:cut])
        rows = [json.dumps({"step": s, "loss": s / 2, "weight": 10.0}) + "\n" for s in range(1, 5)]
        (tmp_path / "metrics.jsonl").write_text("".join(rows))
        file = write(start, *later, value=7.0)
        assert numbers(events(place)) == wanted, f"cut at {cut}"
        assert steps_in(file) == sorted({step for step, _, _ in wanted})


def test_an_open_tensorboard_shows_every_step_once(write, tmp_path):
    """It would draw the lost steps beside those that replaced them, or never read the file that a resumed run began."""
    place, before, names = tmp_path / "tensorboard", [], [""]
    for start in (0, 2, 2, 1):
        write(start, *range(start + 1, 4), value=start + 1.0)
        before += events(place)
        names += [file.name for file in place.iterdir()]
    assert [(step, number) for step, tag, number in shown(before) if tag == "loss"] == [(1, 1.0), (2, 4.0), (3, 6.0)]
    assert names == sorted(set(names))  # the next is read only if its name comes later


def test_a_resumed_run_keeps_the_times_of_its_events(write, tmp_path):
    """TensorBoard's axes of time would show all that was before a kill in one moment."""
    write(0, 1, 2, 3)
    times = {event.step: event.wall_time for event in events(tmp_path / "tensorboard") if event.summary.value}
    write(2, 3)
    again = {event.step: event.wall_time for event in events(tmp_path / "tensorboard") if event.summary.value}
    assert [again[step] == times[step] for step in (1, 2, 3)] == [True, True, False]


def test_what_is_no_number_is_none_everywhere(tmp_path):
    """A skipped step's loss would be a number in one file and none in the other, or change when a run goes on."""
    for start, step in ((0, 1), (1, 2)):
        writer = MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", start)
        writer.write(step, {"loss": float("inf"), "norm": float("nan"), "weight": 2.0})
        writer.close()
    found = [(step, tag, str(number)) for step, tag, number in numbers(events(tmp_path / "tensorboard"))]
    assert found == [(s, tag, n) for s in (1, 2) for tag, n in (("loss", "nan"), ("norm", "nan"), ("weight", "2.0"))]


STARTED = """
import sys
from pathlib import Path
import experiments.train
from tformer_jax.training.metrics import MetricsWriter
MetricsWriter(Path(sys.argv[1], "metrics.jsonl"), Path(sys.argv[1], "tensorboard"), 0).close()
print(*{"torch", "matplotlib", "wandb"} & sys.modules.keys())
import torch
"""


def test_training_starts_without_what_it_does_not_need(tmp_path):
    """Every command would wait for PyTorch, which is larger than JAX, where it is installed; or hide it for ever."""
    (tmp_path / "torch.py").touch()
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", STARTED, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


# The progress line -----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns, in place of the real one."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(metrics, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def plain():
    """What a pipe or a log file gets."""
    return Console(file=io.StringIO(), width=30, force_terminal=False)


def lines_of(console):
    return console.file.getvalue().splitlines()


def test_a_plain_line_has_step_loss_speed_and_time_left(clock, plain):
    """A user would not know how far a run is: 4 of 10 steps in 20 s with 100 tokens each."""
    line = ProgressLine(10, 0, console=plain)
    for step in range(1, 5):
        clock.now += 5
        line.update(step, 1.23456, 100.0)
    assert lines_of(plain)[-1] == "step 4/10  loss 1.235  20 tokens/s  0:30 left"


def test_a_line_has_the_means_beside_the_loss(clock, plain):
    """An auxiliary loss that explodes would be seen after the run."""
    line = ProgressLine(10, 0, console=plain)
    clock.now += 20
    line.update(4, 1.0, 400.0, {"load_balance": 0.25})
    assert lines_of(plain) == ["step 4/10  loss 1.000  load balance 0.250  20 tokens/s  0:30 left"]


def test_a_line_has_the_unit_of_the_task(clock, plain):
    """The speed of a run on images would be said to be in tokens."""
    line = ProgressLine(2, 0, "images", plain)
    for step in (1, 2):
        clock.now += 5
        line.update(step, 1.0, 64.0)
    assert "  13 images/s" in lines_of(plain)[-1]


def test_a_resumed_run_counts_its_own_steps_only(clock, plain):
    """The time left would be too short by the steps that were run before."""
    line = ProgressLine(10, 8, console=plain)
    clock.now += 3600
    line.update(9, 1.0, 3600.0)
    assert lines_of(plain) == ["step 9/10  loss 1.000  1 tokens/s  1:00:00 left"]


def test_plain_lines_come_now_and_then_and_at_the_end(clock, plain):
    """A log file would have a line a step, or none for a short run."""
    line = ProgressLine(100, 0, console=plain)
    for step in range(1, 101):
        clock.now += 0.25
        line.update(step, 1.0, 10.0)
    steps = [int(re.match(r"step (\d+)/100 ", text)[1]) for text in lines_of(plain)]
    assert steps == [40, 80, 100]


def test_plain_lines_have_no_control_characters(clock, plain):
    """A log file would be full of escape sequences; lines must not wrap either."""
    line = ProgressLine(2, 0, console=plain)
    clock.now += 60
    line.update(1, 1.0, 10.0)
    line.say("a line that is longer than the console is wide, [red]with[/red] brackets")
    line.update(2, 1.0, 10.0)
    line.close()
    assert re.search(r"[\x00-\x09\x0b-\x1f]", plain.file.getvalue()) is None
    assert len(lines_of(plain)) == 3
    assert lines_of(plain)[1] == "a line that is longer than the console is wide, [red]with[/red] brackets"


@pytest.fixture
def terminal():
    return Console(force_terminal=True, file=io.StringIO(), width=100, color_system=None)


def test_a_terminal_has_one_live_line(terminal):
    """The terminal would scroll, or show nothing: the line is drawn over and over in place."""
    line = ProgressLine(10, 0, console=terminal)
    for step in range(1, 4):
        line.update(step, 1.5, 100.0)
    line.close()
    written = terminal.file.getvalue()
    assert re.search(r"[\r\x1b]", written)
    last = re.split(r"[\r\n]|\x1b\[2K", written.rstrip())
    (shown,) = [text for text in last if "step 3/10" in text][-1:]
    assert "loss 1.500" in shown
    assert re.search(r"[\d,]+ tokens/s", shown)
    assert re.search(r"(\d|-):(\d\d|--)", shown)
    assert written.count("\n") <= 2


def test_a_terminal_shows_other_lines_above_the_live_one(terminal):
    """The validation loss would be overwritten by the progress line."""
    line = ProgressLine(10, 0, console=terminal)
    line.say("step 1: validation loss 1.0000")
    line.update(2, 1.5, 100.0)
    line.close()
    assert "step 1: validation loss 1.0000\n" in terminal.file.getvalue()
