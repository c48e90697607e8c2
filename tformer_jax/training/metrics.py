"""Metrics while training: metrics.jsonl, TensorBoard, and the terminal."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from ..data.files import GrowingFile, write_whole
from ..progress import Progress
from .events import EventFile
from .terminal import Terminal, clock

_LOG_EVERY_SECONDS = 10.0
_LAST_STEP = 2**53  # which other readers of JSON have exactly
_TEXTS = ("diverged",)  # in rows of numbers


def usual_best(metric: str) -> str:
    """Returns which values of a validation's metric are best: the "highest" of an accuracy, the "lowest" of others."""
    return "highest" if metric.endswith("accuracy") else "lowest"


class MetricsWriter:
    """Appends rows to metrics.jsonl and to TensorBoard's event file.

    A resumed run starts at the step of its checkpoint: rows of later steps, which it will write
    again, are dropped, so both files read as if nothing had happened.
    """

    def __init__(self, file: Path, tensorboard: Path, start_step: int, say: Callable[[str], None] = print):
        """Raises:
        WriteError: a file cannot be written; so does `write`.
        """
        drop_later_rows(file, start_step, say)
        self._file = GrowingFile(file)
        self._events = EventFile(tensorboard, read_metrics(file))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One row: the step and its numbers, or a text that says why there are none; what is not finite is null."""
        row = {"step": step, **sayable(values)}
        self._file.write(json.dumps(row).encode() + b"\n")
        self._events.write(row)

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
    ):
        """Args:
        total, start: the last step, and the one that is done already.
        unit: of what `update` counts.
        console: where to, if there is no `terminal`.
        terminal: shared with all that is shown beside the line.
        evaluate_every: steps between validations, whose time is then part of what is left; None: there are none.
        """
        self._terminal, self._unit = terminal or Terminal(console), unit
        self._total, self._start, self._step = total, start, start
        self._left = _Left(total, start, evaluate_every, time.monotonic())
        self._last_log = time.monotonic()
        self._shown: Mapping[str, float] = {}
        self._count = 0.0
        self._bar = contextlib.ExitStack()
        if self._terminal.is_live:
            bar = self._terminal.bar(f"step {start}/{total}", total, self._numbers, start)
            self._moved = self._bar.enter_context(bar)

    def update(self, step: int, loss: float, count: float, others: Mapping[str, float] = MappingProxyType({})) -> None:
        """Takes in a step: its loss, how many targets it saw, in the unit, and the loss's other means."""
        self._step, self._shown, self._count = step, {"loss": loss} | others, self._count + count
        now = time.monotonic()
        if self._terminal.is_live:
            self._moved(completed=step, description=f"step {step}/{self._total}")
        elif now - self._last_log >= _LOG_EVERY_SECONDS or (step == self._total and not self._left.to_come()):
            self._say_step()

    @contextlib.contextmanager
    def pause(self, validates: int | None = None) -> Iterator[None]:
        """Time within is not that of steps; `validates`: the step that is validated meanwhile."""
        self._left.pause(time.monotonic())
        try:
            yield
        finally:
            self._left.go_on(time.monotonic(), validates)
        if validates == self._total and not self._terminal.is_live:
            self._say_step()  # now nothing is left

    def _say_step(self) -> None:
        self.say(f"step {self._step}/{self._total}  {self._numbers()}")
        self._last_log = time.monotonic()

    def _numbers(self) -> str:
        if self._step == self._start:
            return ""
        now = time.monotonic()
        speed = self._count / max(self._left.busy(now), 1e-9)
        left = self._left.text(self._step, now)
        means = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in self._shown.items())
        return f"{means}  {speed:,.0f} {self._unit}/s  {left} left"

    def say(self, *lines: Any) -> None:
        """Prints above the live line."""
        self._terminal.say(*lines)

    def close(self) -> None:
        self._bar.close()
        if self._terminal.is_live and self._step > self._start:
            self._say_step()


@dataclasses.dataclass
class _Left:
    """Time that a run still takes: steps at their speed so far, and validations as long as those before."""

    total: int
    start: int
    evaluate_every: int | None
    began: float
    paused: float = 0.0
    since: float | None = None  # when the pause began that is on
    validations: list[float] = dataclasses.field(default_factory=list)
    validated: int | None = None

    def pause(self, now: float) -> None:
        self.since = now

    def go_on(self, now: float, validated: int | None) -> None:
        """After a pause, for the validation of a step or for something else."""
        took, self.since = now - self.since, None
        self.paused += took
        if validated is not None:
            self.validations.append(took)
            self.validated = validated

    def busy(self, now: float) -> float:
        """Seconds of steps."""
        return now - self.began - self.paused - self._pausing(now)

    def text(self, step: int, now: float) -> str:
        """ "1:20", or "1:20 and 2 validations" before there is one to measure by."""
        seconds = self.busy(now) / (step - self.start) * (self.total - step)
        count = self.to_come()
        if not self.validations:
            return clock(seconds) + (f" and {count} validation{'s' * (count > 1)}" if count else "")
        mean = sum(self.validations) / len(self.validations)
        return clock(seconds + max(0.0, count * mean - self._pausing(now)))

    def _pausing(self, now: float) -> float:
        return 0.0 if self.since is None else now - self.since

    def to_come(self) -> int:
        """Validations that are not over; the last step has one whatever its number."""
        every, after = self.evaluate_every, self.start if self.validated is None else self.validated
        if every is None or after >= self.total:
            return 0
        return self.total // every - after // every + bool(self.total % every)
