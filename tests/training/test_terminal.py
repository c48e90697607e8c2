"""What takes long says so: a bar on a terminal, a line now and then elsewhere, and the time that is left."""

import io
import re
import time
import types

import pytest
from rich.console import Console

from tformer_jax.progress import SILENT, Counted
from tformer_jax.training import metrics, terminal
from tformer_jax.training.metrics import ProgressLine
from tformer_jax.training.terminal import Phase, Terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""
    clock = types.SimpleNamespace(now=1000.0)
    for module in (metrics, terminal):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def file():
    """The console of a log file."""
    return Console(file=io.StringIO(), width=30, force_terminal=False)


@pytest.fixture
def screen():
    return Console(force_terminal=True, file=io.StringIO(), width=100, color_system=None)


def test_a_phase_says_how_far_it_is_and_what_is_left(clock):
    """The first batch, which is compiled for, would make the time left too long, or a count be missing."""
    phase = Phase("validating", 5, "batches", clock.now)
    assert phase.line(clock.now, again=False) == "validating: 0 of 5 batches"
    for count, seconds in ((1, 60), (1, 10), (2, 20)):
        clock.now += seconds
        phase.advance(count, clock.now)
    assert phase.line(clock.now, again=True) == "validating: 4 of 5 batches, 0:10 left"
    alone = Phase("compiling the step", None, "", clock.now)
    lines = alone.line(clock.now + 1, again=False), alone.line(clock.now + 75, again=True)
    assert lines == ("compiling the step ...", "compiling the step: 1:15")


def test_a_file_has_a_line_for_what_lasts(file):
    """A log would be silent for minutes while nothing comes back to count, or have a line for what is over at once."""
    speaking = Terminal(file, first_line=0.0, line_every=0.001)
    with speaking.phase("reading data"):
        until = time.monotonic() + 20
        while file.file.getvalue().count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.001)
    first, second = file.file.getvalue().splitlines()[:2]
    assert first == "reading data ..." and re.fullmatch(r"reading data: \d:\d\d", second)
    said = file.file.getvalue()
    with Terminal(file).phase("at once", 3) as advance:
        advance(3)
    assert file.file.getvalue() == said


def test_what_took_long_without_a_count_is_said_at_its_end(clock, file, screen):
    """Nobody would learn how long the compiler took; what is counted has a result to say instead."""
    for console in (file, screen):
        speaking = Terminal(console, first_line=1e6)
        for what, total, seconds in (("compiling", None, 12.4), ("short", None, 1.9), ("validating", 3, 40)):
            with speaking.phase(what, total):
                clock.now += seconds
        assert re.findall(r"(\w+) took (\d+) s\n", console.file.getvalue()) == [("compiling", "12")]


def test_a_terminal_has_a_bar_for_each_phase_as_long_as_it_lasts(screen):
    """A terminal would be silent, keep bars of what is over, or hide the cursor for ever after an error."""
    speaking = Terminal(screen)
    with pytest.raises(KeyError), speaking.phase("scoring [red] of test", 37, "batches") as advance:
        advance(12)
        speaking.say("a line above")
        raise KeyError
    shown = screen.file.getvalue()
    assert "scoring [red] of test" in shown and "0 of 37 batches" in shown
    assert "a line above\n" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert speaking._live is None


def test_the_step_of_training_stays_while_others_come_and_go(screen):
    """A validation would take the bar of training away, or two live regions overwrite each other."""
    speaking = Terminal(screen)
    line = ProgressLine(10, 0, terminal=speaking)
    line.update(4, 1.5, 10.0)
    with speaking.phase("validating", 3, "batches"):
        drawn = io.StringIO()
        Console(file=drawn, width=100).print(speaking._drawn())
    assert re.search(r"step 4/10.*loss 1.500.*\n.*validating.*0 of 3 batches", drawn.getvalue())
    line.close()
    assert screen.file.getvalue().rstrip().endswith("left")


def test_phases_within_count_outside():
    """The members of a sweep would each have a bar, or none be counted."""
    done = []
    within = Counted(lambda count=1: done.append(count))
    with within.phase("validating", 2) as advance, within.phase("reading") as uncounted, SILENT.phase("x", 1) as silent:
        advance()
        advance(3)
        uncounted()
        silent()
    assert done == [1, 3]


# The time that is left ---------------------------------------------------------------------------


def trained(clock, line, first, last, seconds=1.0):
    for step in range(first, last + 1):
        clock.now += seconds
        line.update(step, 1.0, 10.0)


def test_the_time_left_is_that_of_steps_and_validations(clock, file):
    """A validation of a minute would be none, or be taken for steps; so would be what is compiled."""
    line = ProgressLine(10, 0, console=file, evaluate_every=4)
    with line.pause():
        clock.now += 100  # compiling
    trained(clock, line, 1, 4)
    assert line._numbers() == "loss 1.000  10 tokens/s  0:06 and 3 validations left"
    with line.pause(validates=4):
        clock.now += 60
    assert line._numbers().endswith("  2:06 left")  # 6 steps, and the validations of steps 8 and 10
    trained(clock, line, 5, 8)
    with line.pause(validates=8):
        clock.now += 20
        assert line._numbers().endswith("  1:42 left")  # 2 steps, 40 s of this validation, 60 of the last


def test_nothing_is_left_only_after_the_last_validation(clock, file):
    """A run would say 0:00 for as long as its last validation takes."""
    line = ProgressLine(2, 0, console=file, evaluate_every=5)
    trained(clock, line, 1, 2)
    assert line._numbers().endswith("0:00 and 1 validation left") and file.file.getvalue() == ""
    with line.pause(validates=2):
        clock.now += 30
    assert file.file.getvalue() == "step 2/2  loss 1.000  10 tokens/s  0:00 left\n"
