"""What is measured, a file a subject.

A suite is a module with

    ROWS                                              all that can be measured
    rows(names) -> list[Row]                          those that are named, or some by default
    prepare(settings, contender, changes) -> Work     in the process of a contender: the work of one of its turns
    summary(lines) -> list[str]                       if there is one: sentences for below the table, see `report.lines`
    ENVIRONMENT                                       if there is one: variables that contenders start JAX with
"""

import atexit
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: its name, what `prepare` makes the work of, and which peers there are.

    Attributes:
      name: what the table calls it.
      settings: plain values.
      peers: those that can do it, beside the project, which they are compared with.
      ways: contenders that always take turns with the project: its own other ways, where these are the question.
    """

    name: str
    settings: Mapping[str, Any]
    peers: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one turn.

    Attributes:
      turn: does it, and awaits the end.
      count: of what it works through.
      unit: of which.
      flops: of its matrix products, by formula; None: nobody counts them.
      predicted: bytes of temporaries, as the compiler says; None: it does not.
      peak: gives the most bytes that a turn took, where they are not of this process.
      notes: gives what else there is to say after the last turn, by name, for the suite's summary.
    """

    turn: Callable[[], Any]
    count: int = 0
    unit: str = "tokens"
    flops: float | None = None
    predicted: int | None = None
    peak: Callable[[], int] | None = None
    notes: Callable[[], Mapping[str, Any]] = dict


def scratch() -> Path:
    """A new folder, which is there until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
