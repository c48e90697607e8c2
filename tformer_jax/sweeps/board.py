"""The board of a sweep: a live table on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..training.terminal import Terminal
from .members import describe, shown
from .results import Ranking, Row

_LINE_EVERY_SECONDS = 10.0
_TABLE_EVERY_SECONDS = 0.5
_SHOWN = 12


class Board:
    """Shows the best members so far. Use as a context manager.

    Attributes:
      terminal: where it is shown, with the bars of what is done beneath.
    """

    def __init__(self, ranking: Ranking, console: Console | None = None, *, terminal: Terminal | None = None):
        """`terminal`: by default one of its own, on `console`."""
        self._ranking, self.terminal = ranking, terminal or Terminal(console)
        self._last = time.monotonic()

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: Any) -> None:
        self.terminal.show(None)

    def say(self, *lines: object) -> None:
        """Prints lines as they are, above the table."""
        self.terminal.say(*lines)

    def update(self, rows: Sequence[Row], where: str, *, news: bool = False) -> None:
        """Shows the rows, unless it was done just now.

        Args:
          rows: of all members.
          where: the sweep stands, in a few words.
          news: a validation has come in: do it now.
        """
        now, every = time.monotonic(), _TABLE_EVERY_SECONDS if self.terminal.is_live else _LINE_EVERY_SECONDS
        if not news and now - self._last < every:
            return
        self._last = now
        if self.terminal.is_live:
            self.terminal.show(result_table(rows, self._ranking, title=where))
            return
        best = self._ranking.ranked(rows)[:1]
        name = self._ranking.metric
        says = "".join(f"; best {name} {row['final'][name]:.4f}, of {describe(row['overrides'])}" for row in best)
        self.say(f"{where}{says}")


def result_table(rows: Sequence[Row], ranking: Ranking, title: str | None = None, limit: int = _SHOWN) -> Table:
    """The best members, and those without a result after them; the columns are what was tried, fields by their last
    names where these differ.

    No value is cut off where the terminal is narrow: values of a sweep differ in their last digits.
    """
    ranked = ranking.ranked(rows)
    others = [row for row in rows if not any(row is other for other in ranked)]
    names = list(dict.fromkeys(name for row in rows for name in row["overrides"]))
    short = [name.rpartition(".")[2] for name in names]
    headers = [last if short.count(last) == 1 else name for name, last in zip(names, short, strict=True)]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("member", *headers, "status", "steps", "training loss", f"validation {ranking.metric}"):
        table.add_column(name, justify="left" if name == "status" else "right", overflow="fold")
    for row in [*ranked, *others][:limit]:
        tried = [shown(row["overrides"][name]) if name in row["overrides"] else "" for name in names]
        numbers = [_number(row["training_loss"]), _number(row["final"].get(ranking.metric))]
        table.add_row(str(row["member"]), *tried, row["status"], str(row["steps"]), *numbers)
    if len(rows) > limit:
        table.caption = f"and {len(rows) - limit} more in results.csv"
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
