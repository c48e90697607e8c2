"""A terminal that keeps what it is told of phases, and counts of what JAX compiles."""

import contextlib
import dataclasses
import io

import jax
from rich.console import Console

from tformer_jax.training.terminal import Terminal


@dataclasses.dataclass
class Recorded:
    """A phase that was: its name, how many there were to do, and how many were done."""

    what: str
    total: int | None
    unit: str
    done: int = 0


class Recorder(Terminal):
    """Speaks into `said`, and has the `phases` that it was told of, in the order of their beginnings."""

    def __init__(self):
        super().__init__(Console(file=io.StringIO(), width=200))
        self.phases: list[Recorded] = []

    @contextlib.contextmanager
    def phase(self, what, total=None, unit=""):
        phase = Recorded(what, total, unit)
        self.phases.append(phase)
        with super().phase(what, total, unit) as advance:

            def counting(count=1):
                phase.done += count
                advance(count)

            yield counting

    @property
    def said(self):
        return self.console.file.getvalue()

    def named(self, beginning):
        """The phases whose names begin so."""
        return [phase for phase in self.phases if phase.what.startswith(beginning)]


@contextlib.contextmanager
def compilations():
    """The seconds of each compilation within, in a list."""
    seconds = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
