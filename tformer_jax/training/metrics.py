"""Metrics while training: metrics.jsonl, TensorBoard, and the terminal."""

import collections
import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from ..data.files import GrowingFile, write_whole
from ..progress import Progress
from .events import EventFile
from .terminal import Terminal, clock

_LOG_EVERY_SECONDS = 10.0
_WINDOW_SECONDS = 20.0  # of steps, that a speed is the mean of
_MARK_EVERY_SECONDS = 0.1
_REMEMBERED = 5  # pauses of a kind, whose mean the next ones are expected to take
_LAST_STEP = 2**53  # which other readers of JSON have exactly
_TEXTS = ("diverged",)  # in rows of numbers


def usual_best(metric: str) -> str:
    """Returns which values of a validation's metric are best: the "highest" of an accuracy or a BLEU, the "lowest" of others."""
    return "highest" if metric.endswith(("accuracy", "bleu")) else "lowest"


class MetricsWriter:
    """Appends rows to metrics.jsonl and to TensorBoard's event file.

    A resumed run starts at the step of its checkpoint: rows of later steps, which it will write
    again, are dropped, so both files read as if nothing had happened.
    """

    def __init__(
        self,
        file: Path,
        tensorboard: Path,
        start_step: int,
        say: Callable[[str], None] = print,
        tracked: Callable[[Mapping[str, Any]], None] = lambda row: None,
    ):
        """`tracked`: is given every row too, those that there are and each that is written.

        Raises:
          WriteError: a file cannot be written; so does `write`.
        """
        drop_later_rows(file, start_step, say)
        self._file, self._tracked, rows = GrowingFile(file), tracked, read_metrics(file)
        self._events = EventFile(tensorboard, rows)
        for row in rows:
            tracked(row)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One row: the step and its numbers, or a text that says why there are none; what is not finite is null."""
        row = {"step": step, **sayable(values)}
        self._file.write(json.dumps(row).encode() + b"\n")
        self._events.write(row)
        self._tracked(row)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def sayable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with None for numbers that are not finite, which JSON cannot say."""
    return {n: None if isinstance(x, float) and not math.isfinite(x) else x for n, x in values.items()}


def drop_later_rows(
    file: Path, step: int, say: Callable[[str], None] = print, *, members: Container[int] | None = None
) -> None:
    """Takes the rows of later steps, and what is no row, out of a file that may not be there; see `read_metrics`."""
    if file.exists():
        kept = (line for line, row in _rows(file, say, members) if row["step"] <= step)
        write_whole(file, "".join(f"{line}\n" for line in kept))


def read_metrics(
    file: Path, say: Callable[[str], None] = print, *, members: Container[int] | None = None
) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none if it is not there.

    Args:
      file: what a run or a sweep has written.
      say: is told how many lines are damaged, and left out; one that a crash cut short is not worth a word.
      members: of a sweep's file, whose rows have a "member": one of these.
    """
    return [row for _, row in _rows(file, say, members)] if file.exists() else []


def _rows(
    file: Path, say: Callable[[str], None], members: Container[int] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines that are rows, and what they say."""
    *lines, last = file.read_bytes().split(b"\n")
    lines += [last] if _row(last) else []
    damaged = 0
    for line in lines:
        row = _row(line)
        if row is None or (members is not None and not (type(row.get("member")) is int and row["member"] in members)):
            damaged += 1
        else:
            yield line.decode("utf-8"), row
    if damaged:
        say(f"{damaged} of {len(lines)} lines of {file} are damaged, and left out")


def _row(line: bytes) -> dict[str, Any] | None:
    """A step and its numbers; None where a line is something else."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=float)
        step = row["step"]
        if type(step) is int and 0 < step <= _LAST_STEP and all(_is_value(*item) for item in row.items()):
            return row
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        pass  # no JSON, no row, or a number that is none
    return None


def _is_value(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    return value is None or (type(value) in (int, float) and math.isfinite(float(value)))


class ProgressLine:
    """Step, loss, speed and time left: one live line on a terminal, a plain line now and then elsewhere."""

    def __init__(
        self,
        total: int,
        start: int,
        unit: str = "tokens",
        console: Console | None = None,
        *,
        terminal: Progress | None = None,
        evaluate_every: int | None = None,
        checkpoint_every: int | None = None,
        compiling: Callable[[], float] = lambda: 0.0,
        durations: Mapping[str, Sequence[float]] = MappingProxyType({}),
        validation_work: float | None = None,
    ):
        """Args:
        total, start: the last step, and the one that is done already.
        unit: of what `update` counts.
        console: where to, if there is no `terminal`.
        terminal: shared with all that is shown beside the line.
        evaluate_every: steps between validations, whose time is then part of what is left; None: there are none.
        checkpoint_every: the same of checkpoints.
        compiling: gives the seconds that were spent on compiling so far, see `compilation.Compiling`.
        durations: of those before `start`, see the property.
        validation_work: steps that take about as long as a validation, until one has been timed; None: nobody knows.
        """
        self._terminal, self._unit = terminal or Terminal(console), unit
        self._total, self._start, self._step = total, start, start
        every = {"validation": evaluate_every, "checkpoint": checkpoint_every}
        work = {"validation": validation_work}
        due = {
            n: _Due(x, total, start, [*durations.get(n, ())], work.get(n)) for n, x in every.items() if x is not None
        }
        self._left = _Left(total, due, time.monotonic(), collections.deque([_Mark(0.0, start, 0.0)]))
        self._last_log, self._compiling = time.monotonic(), compiling
        self._shown: Mapping[str, float] = {}
        self._bar = contextlib.ExitStack()
        if self._terminal.is_live:
            bar = self._terminal.bar(f"step {start}/{total}", total, self._numbers, start)
            self._moved = self._bar.enter_context(bar)

    def update(self, step: int, loss: float, count: float, others: Mapping[str, float] = MappingProxyType({})) -> None:
        """Takes in a step: its loss, how many targets it saw, in the unit, and the loss's other means."""
        now = time.monotonic()
        self._step, self._shown = step, {"loss": loss} | others
        self._left.mark(now, step, count)
        if self._terminal.is_live:
            self._moved(completed=step, description=f"step {step}/{self._total}")
        elif now - self._last_log >= _LOG_EVERY_SECONDS or (step == self._total and not self._left.validations()):
            self._say_step()

    @contextlib.contextmanager
    def pause(self, *, validates: int | None = None, saves: int | None = None) -> Iterator[None]:
        """Time within is not that of steps; `validates`, `saves`: the step of a validation, or of a checkpoint."""
        if self._left.since is not None:  # within a pause
            yield
            return
        kind, step = ("validation", validates) if saves is None else ("checkpoint", saves)
        before = self._compiling()
        self._left.pause(time.monotonic(), None if step is None else kind)
        try:
            yield
        finally:  # what the first validation compiles, the next ones need not
            self._left.go_on(time.monotonic(), step, self._compiling() - before)
        if validates == self._total and not self._terminal.is_live:
            self._say_step()  # now nothing is left

    @property
    def busy(self) -> float:
        """Seconds of steps, without those of pauses."""
        return self._left.busy(time.monotonic())

    @property
    def durations(self) -> dict[str, list[float]]:
        """Seconds that the last validations and checkpoints took: the next process of this run expects the like."""
        return {name: due.took for name, due in self._left.due.items()}

    def _say_step(self) -> None:
        self.say(f"step {self._step}/{self._total}  {self._numbers()}")
        self._last_log = time.monotonic()

    def _numbers(self) -> str:
        if self._step == self._start:
            return ""
        speed, left = self._left.speed(), self._left.text(self._step, time.monotonic())
        means = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in self._shown.items())
        return f"{means}  {speed:,.0f} {self._unit}/s  {left} left"

    def say(self, *lines: Any) -> None:
        """Prints above the live line."""
        self._terminal.say(*lines)

    def close(self) -> None:
        self._bar.close()
        if self._terminal.is_live and self._step > self._start:
            self._say_step()


@dataclasses.dataclass(frozen=True)
class _Mark:
    """A moment after a step: seconds of steps until then, the step, and what has been counted since the start."""

    busy: float
    step: int
    count: float


@dataclasses.dataclass
class _Due:
    """Pause of the steps every so often, and at the last step whatever its number.

    Attributes:
      every, total: steps between, and the last step.
      done: the last step that had it.
      took: seconds of the last ones.
      work: steps that take about as long as one of them; None: nobody knows.
    """

    every: int
    total: int
    done: int
    took: list[float]
    work: float | None

    def over(self, step: int, seconds: float) -> None:
        self.done, self.took = step, [*self.took, seconds][-_REMEMBERED:]

    def to_come(self) -> int:
        """Number of those that are not over."""
        if self.done >= self.total:
            return 0
        return self.total // self.every - self.done // self.every + bool(self.total % self.every)

    def seconds(self, step: float) -> float:
        """Seconds that those to come will take, where a step takes `step`; 0 where nothing is known yet."""
        if not self.took:
            return self.to_come() * step * (self.work or 0.0)
        return self.to_come() * sum(self.took) / len(self.took)


@dataclasses.dataclass
class _Left:
    """Time that a run still takes: steps at their speed of the last seconds, and pauses as long as the last ones.

    Attributes:
      total: the last step.
      due: the pauses to come, by kind.
      began: when the steps did.
      marks: of the window that speeds are the means of, the first and the last at its ends.
      paused: seconds of all pauses that are over.
      since, kind: when the pause began that is on, and which one it is.
    """

    total: int
    due: dict[str, _Due]
    began: float
    marks: collections.deque[_Mark]
    paused: float = 0.0
    since: float | None = None
    kind: str | None = None

    def mark(self, now: float, step: int, count: float) -> None:
        """Takes in a step that has just been made."""
        marks, busy = self.marks, self.busy(now)
        here = _Mark(busy, step, marks[-1].count + count)
        if len(marks) > 2 and marks[-1].busy - marks[-2].busy < _MARK_EVERY_SECONDS:
            marks[-1] = here
        else:
            marks.append(here)
        while len(marks) > 2 and marks[1].busy <= busy - _WINDOW_SECONDS:
            marks.popleft()

    def speed(self) -> float:
        """Count in a second of steps."""
        first, last = self.marks[0], self.marks[-1]
        return (last.count - first.count) / max(last.busy - first.busy, 1e-9)

    def pause(self, now: float, kind: str | None) -> None:
        self.since, self.kind = now, kind

    def go_on(self, now: float, step: int | None, once: float = 0.0) -> None:
        """After a pause; `step`: that it was for, if it is of a kind that comes again, but for `once` of its seconds."""
        took, self.since = now - self.since, None
        self.paused += took
        if self.kind in self.due:
            self.due[self.kind].over(step, max(0.0, took - once))

    def busy(self, now: float) -> float:
        """Seconds of steps."""
        return now - self.began - self.paused - self._pausing(now)

    def text(self, step: int, now: float) -> str:
        """ "1:20"; before a validation was timed "about 1:20", or, where nobody can guess, "1:20 and 2 validations"."""
        first, last = self.marks[0], self.marks[-1]
        each = (last.busy - first.busy) / max(1, last.step - first.step)
        seconds = each * (self.total - step) - min(each, self.busy(now) - last.busy)  # a part of the next one is over
        for kind, due in self.due.items():
            seconds += max(0.0, due.seconds(each) - (self._pausing(now) if kind == self.kind else 0.0))
        said, unknown = clock(max(0.0, seconds)), self.validations()
        if not unknown or (due := self.due["validation"]).took:
            return said
        return f"{said} and {unknown} validation{'s' * (unknown > 1)}" if due.work is None else f"about {said}"

    def validations(self) -> int:
        """Validations that are not over."""
        return self.due["validation"].to_come() if "validation" in self.due else 0

    def _pausing(self, now: float) -> float:
        return 0.0 if self.since is None else now - self.since
