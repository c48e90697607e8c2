"""What is measured, a file a subject.

A suite is a module with

    ROWS                                              all that can be measured
    rows(names) -> list[Row]                          those that are named, or some by default
    prepare(settings, contender, changes) -> Work     in the process of a contender: the work of one of its turns
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: its name, what `prepare` makes the work of, and which peers there are.

    Attributes:
      name: what the table calls it.
      settings: plain values.
      peers: those that can do it, beside the project, which they are compared with.
    """

    name: str
    settings: Mapping[str, Any]
    peers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one turn.

    Attributes:
      turn: does it, and awaits the end.
      count: of what it works through.
      unit: of which.
      flops: of its matrix products, by formula; None: nobody counts them.
      predicted: bytes of temporaries, as the compiler says; None: it does not.
    """

    turn: Callable[[], Any]
    count: int = 0
    unit: str = "tokens"
    flops: float | None = None
    predicted: int | None = None
