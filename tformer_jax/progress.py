"""Progress of a computation's phases while it runs; by default nobody is told.

A phase is what takes long: reading data, compiling, validating. Whatever has some is given a `Progress` as an argument.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Advance = Callable[..., None]


class Progress:
    """Is told of phases and says nothing; `training.terminal.Terminal` speaks.

    Attributes:
      is_live: whether there are bars.
    """

    is_live = False

    def say(self, *lines: object) -> None:
        """Prints lines that a person should know."""

    @contextlib.contextmanager
    def phase(self, what: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """Announces `what` for its context; gives `advance(count=1)`, to be called whenever so many are done.

        Args:
          what: is done, as it is to be read.
          total: how many there are; None: nothing is counted.
          unit: of the count, such as "batches".
        """
        yield lambda count=1: None

    def each(self, what: str, things: Sequence[Any], unit: str, work: Callable[[Any], Any]) -> list[Any]:
        """Returns `work(thing)` of each of some things, which are counted in a phase."""
        results = []
        with self.phase(what, len(things), unit) as advance:
            for thing in things:
                results.append(work(thing))
                advance()
        return results


SILENT = Progress()


class Counted(Progress):
    """The phases within one that counts for them: each of their steps is one of its own."""

    def __init__(self, advance: Advance):
        """`advance`: of the phase that counts."""
        self._advance = advance

    @contextlib.contextmanager
    def phase(self, what: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """Counts outside what is counted within."""
        yield self._advance if total is not None else lambda count=1: None
