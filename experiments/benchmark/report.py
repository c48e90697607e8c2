"""The results of a suite: a table, and files for people and programs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tformer_jax.data.files import write_whole

from .picture import draw_ratios
from .suites import Row
from .turns import CEILING, PROJECT, Times, ratios

_COLUMNS = {
    "row": "{}", "contender": "{}", "milliseconds": "{:.1f}",
    "ratio": "{:.3f}", "quartiles": "{0[0]:.3f} to {0[1]:.3f}", "rate": "{}",
    "share of ceiling": "{:.2f}", "peak MiB": "{:.0f}", "temporaries MiB": "{:.0f}", "first turn s": "{:.1f}",
}  # fmt: skip


def lines(row: Row, times: Sequence[Times]) -> list[dict[str, Any]]:
    """The numbers of each contender of a row; None where there is none.

    `ratio`: to the project, by round, with its quartiles; `seconds`: of each turn, by round; `notes`: see `Work`.
    """
    base, found = next((t for t in times if t.name == PROJECT), None), []
    ceiling = next((t.facts["flops"] / t.median for t in times if t.name == CEILING), None)
    for t in times:
        first, ratio, third = ratios(t, base) if base else (None, None, None)
        flops, count, predicted = (t.facts[name] for name in ("flops", "count", "predicted"))
        found.append({
            "row": row.name,
            "contender": t.name,
            "milliseconds": 1000 * t.median,
            "ratio": None if t.name == CEILING else ratio,
            "quartiles": None if t.name == CEILING or base is None else [first, third],
            "rate": f"{count / t.median:,.0f} {t.facts['unit']}/s" if count else _flops_per_second(t),
            "share of ceiling": flops / t.median / ceiling if flops and ceiling and t.name != CEILING else None,
            "peak MiB": t.peak_bytes / 2**20,
            "temporaries MiB": None if predicted is None else predicted / 2**20,
            "first turn s": t.first,
            "seconds": t.seconds,
            "notes": t.notes,
        })  # fmt: skip
    return found


def _flops_per_second(times: Times) -> str | None:
    flops = times.facts["flops"]
    return None if flops is None else f"{flops / times.median / 1e9:,.0f} GFLOP/s"


def show(found: Sequence[dict[str, Any]], said: Sequence[str]) -> None:
    """Prints the table, and below it what the suite said of it."""
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for line in found:
        table.add_row(*_cells(line))
    Console(width=160).print(table)
    print(*said, sep="\n", end="\n" if said else "")


def write(suite: str, found: Sequence[dict[str, Any]], said: Sequence[str], folder: Path) -> None:
    """Writes results.json and table.md to a folder, and ratios.png if there are any but the project's own.

    Raises:
      WriteError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"suite": suite, "lines": list(found), "summary": list(said)}
    write_whole(folder / "results.json", json.dumps(whole, indent=1))
    head = [" | ".join(_COLUMNS), " | ".join("---" for _ in _COLUMNS)]
    text = "\n".join(f"| {row} |" for row in (*head, *(" | ".join(_cells(line)) for line in found)))
    write_whole(folder / "table.md", "\n".join([text, *(f"\n{sentence}" for sentence in said)]) + "\n")
    if compared := [line for line in found if line["ratio"] is not None and line["contender"] != PROJECT]:
        draw_ratios(compared, folder / "ratios.png")


def _cells(line: dict[str, Any]) -> list[str]:
    return ["-" if line[name] is None else form.format(line[name]) for name, form in _COLUMNS.items()]
