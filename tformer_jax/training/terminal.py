"""Progress that a person reads: live bars on a terminal, a line now and then in a file."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress as Bars, ProgressColumn, Task, TextColumn
from rich.text import Text

from ..progress import Advance, Progress

_FIRST_LINE_SECONDS = 1.0  # what is over by then needs no line
_LINE_EVERY_SECONDS = 10.0
_WORTH_SAYING_SECONDS = 2.0


@dataclasses.dataclass
class Phase:
    """One phase on its way.

    Attributes:
      what, total, unit: as given.
      began: by the clock, in seconds.
      done: so many of `total`.
      first: when the first of them were done, and how many; they may have been compiled for.
    """

    what: str
    total: int | None
    unit: str
    began: float
    done: int = 0
    first: tuple[float, int] | None = None

    def advance(self, count: int, now: float) -> None:
        """Counts so many more as done."""
        self.done += count
        self.first = self.first or (now, self.done)

    def left(self, now: float) -> float | None:
        """Seconds that it will still take, at the speed since the first were done; None: nobody knows."""
        if self.total is None or self.first is None or self.done == self.first[1]:
            return None
        since, before = self.first
        return max(0.0, (now - since) / (self.done - before) * (self.total - self.done))

    def line(self, now: float, again: bool) -> str:
        """The phase in a line; `again`: it had one before."""
        return f"{self.what}: {self.numbers(now)}" if again or self.total is not None else f"{self.what} ..."

    def numbers(self, now: float) -> str:
        """Returns how far it is: "12 of 37 batches, 0:25 left"; without a count, how long it has run."""
        if self.total is None:
            return clock(now - self.began)
        left = self.left(now)
        counted = f"{self.done:,} of {self.total:,}{self.unit and ' '}{self.unit}"
        return counted if left is None else f"{counted}, {clock(left)} left"


class _Shown(ProgressColumn):
    """Text of the owner of a bar, asked whenever it is drawn."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["shown"]())


class Terminal(Progress):
    """Says what is done: on a terminal with bars, elsewhere with a line for what lasts, and one every ten seconds.

    Everything that draws on one terminal shares one of these: there is one live region.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        first_line: float = _FIRST_LINE_SECONDS,
        line_every: float = _LINE_EVERY_SECONDS,
    ):
        """Args:
        console: where to; by default standard output.
        first_line: seconds that a phase lasts before it has a line.
        line_every: seconds between its lines.
        """
        self.console = console or Console()
        self._first_line, self._line_every = first_line, line_every
        self._bars = Bars(TextColumn("{task.description}", markup=False), BarColumn(), _Shown(), console=self.console)
        self._above: Any = None
        self._live: Live | None = None
        self._lock = threading.RLock()

    @property
    def is_live(self) -> bool:
        return self.console.is_terminal

    def say(self, *lines: object) -> None:
        """Prints lines as they are, above what is live."""
        for line in lines:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def phase(self, what: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """See `Progress.phase`. What has no count and lasted is said at its end to have taken so long."""
        phase = Phase(what, total, unit, time.monotonic())
        speaking = self._bar_of(phase) if self.is_live else self._lines_of(phase)
        with speaking as changed:

            def advance(count: int = 1) -> None:
                with self._lock:  # several threads may count
                    phase.advance(count, time.monotonic())
                    changed()

            yield advance
        took = time.monotonic() - phase.began
        if total is None and took >= _WORTH_SAYING_SECONDS:
            self.say(f"{what} took {took:.0f} s")

    @contextlib.contextmanager
    def bar(self, description: str, total: int | None, shown: Callable[[], str], completed: int = 0) -> Iterator[Any]:
        """A live bar; gives `update(completed=..., description=...)`.

        Args:
          description: stands before it.
          total: of it; None: nobody knows.
          shown: gives what stands behind it, whenever it is drawn.
          completed: of the total.
        """
        with self._lock:
            task = self._bars.add_task(description, total=total, completed=completed, shown=shown)
            self._redraw()
        try:
            yield lambda **changes: self._bars.update(task, **changes)
        finally:
            with self._lock:
                self._bars.remove_task(task)
                self._redraw()

    def show(self, above: Any) -> None:
        """Shows something above the bars, on a terminal, until it is told to show something else, or None."""
        if self.is_live:
            with self._lock:
                self._above = above
                self._redraw()

    @contextlib.contextmanager
    def _bar_of(self, phase: Phase) -> Iterator[Callable[[], None]]:
        shown = lambda: phase.numbers(time.monotonic())
        with self.bar(phase.what, phase.total, shown) as update:
            yield lambda: update(completed=phase.done)

    @contextlib.contextmanager
    def _lines_of(self, phase: Phase) -> Iterator[Callable[[], None]]:
        """A thread speaks, because what takes long need not come back to count."""
        over = threading.Event()

        def speak() -> None:
            wait, again = self._first_line, False
            while not over.wait(wait):
                with self._lock:
                    if not over.is_set():
                        self.say(phase.line(time.monotonic(), again))
                wait, again = self._line_every, True

        threading.Thread(target=speak, daemon=True, name="progress").start()
        try:
            yield lambda: None
        finally:
            with self._lock:
                over.set()

    def _redraw(self) -> None:
        """Starts, draws or ends the live region."""
        wanted = bool(self._bars.task_ids) or self._above is not None
        if wanted and self._live is None:
            self._live = Live(console=self.console, get_renderable=self._drawn, transient=True)
            self._live.start(refresh=True)
        elif wanted:
            self._live.refresh()
        elif self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _drawn(self) -> Group:
        return Group(*([] if self._above is None else [self._above]), self._bars.get_renderable())


def clock(seconds: float) -> str:
    """ "0:07", "12:30", "1:00:00"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
