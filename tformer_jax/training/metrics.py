"""Where numbers go while training: metrics.jsonl, TensorBoard, and the terminal."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.files import GrowingFile, write_whole
from .events import EventFile

_LOG_EVERY_SECONDS = 10.0
_LAST_STEP = 2**53  # which other readers of JSON have exactly
_TEXTS = ("diverged",)  # in rows of numbers


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

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row: the step and its numbers; what is not finite, which JSON cannot say, is null."""
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
        if row is None or members is not None and not (type(row.get("member")) is int and row["member"] in members):
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
    return value is None or type(value) in (int, float) and math.isfinite(float(value))


class ProgressLine:
    """Step, loss, speed and time left: one live line on a terminal, a plain line now and then elsewhere."""

    def __init__(self, total: int, start: int, unit: str = "tokens", console: Console | None = None):
        self._console, self._unit = console or Console(), unit
        self._total, self._start = total, start
        self._began = self._last_log = time.monotonic()
        self._count = 0.0
        self._live: Progress | None = None
        if self._console.is_terminal:
            columns = (
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
            )
            self._live = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._bar = self._live.add_task("train", total=total, completed=start, numbers="")
            self._live.start()

    def update(self, step: int, loss: float, count: float) -> None:
        """After a step: its loss, and how many targets it saw, in the unit."""
        self._count += count
        now = time.monotonic()
        speed = self._count / max(now - self._began, 1e-9)
        numbers = f"loss {loss:.3f}  {speed:,.0f} {self._unit}/s"
        if self._live is not None:
            self._live.update(self._bar, completed=step, numbers=numbers)
        elif now - self._last_log >= _LOG_EVERY_SECONDS or step == self._total:
            left = (now - self._began) / max(1, step - self._start) * (self._total - step)
            self.say(f"step {step}/{self._total}  {numbers}  {_clock(left)} left")
            self._last_log = now

    def say(self, *lines: Any) -> None:
        """Prints above the live line."""
        for line in lines:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


@dataclasses.dataclass(frozen=True)
class Report:
    """Of a run, on its way: rows for the files, lines for the terminal."""

    writer: MetricsWriter
    progress: ProgressLine

    def step(self, step: int, metrics: Mapping[str, float], *, row: bool) -> None:
        """The numbers of a step; `row`: worth keeping."""
        self.progress.update(step, metrics["loss"], metrics["weight"])
        if row:
            self.writer.write(step, metrics)

    def validation(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a validation."""
        self.writer.write(step, {f"validation_{name}": value for name, value in numbers.items()})
        line = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items())
        self.progress.say(f"step {step}: validation {line}")

    def say(self, line: str) -> None:
        """What a person should know."""
        self.progress.say(line)

    def close(self) -> None:
        self.writer.close()
        self.progress.close()


class NoReport:
    """What the processes report that are not the first: nothing."""

    def step(self, step: int, metrics: Mapping[str, float], *, row: bool) -> None: ...

    def validation(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def say(self, line: str) -> None: ...

    def close(self) -> None: ...


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"

