"""The picture of a suite's ratios."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tformer_jax.sweeps import drawing
from tformer_jax.sweeps.plot_data import Scale

from .turns import PROJECT

_OF_A_ROW = 0.7  # of the room of a row is for its contenders
_MARGIN = 1.1
_WIDE = 10  # a span of ratios that has the ticks of a logarithmic axis; a narrower one has those of a linear one


def draw_ratios(compared: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws the ratio of each line between its quartiles: rows from the top, and in each its contenders side by side.

    Args:
      compared: lines of the table that have a ratio.
      file: where the picture goes.
    """
    rows, contenders = (list(dict.fromkeys(line[name] for line in compared)) for name in ("row", "contender"))
    height = 1.2 + len(rows) * (0.25 + 0.15 * len(contenders))
    figure = Figure(figsize=(8.0, height), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel=f"time, as a multiple of that of {PROJECT}: median and quartiles")
    colours = drawing.palette(len(contenders))
    for number, contender in enumerate(contenders):
        mine = [line for line in compared if line["contender"] == contender]
        shift = _OF_A_ROW * ((number + 0.5) / len(contenders) - 0.5)
        _draw_one(axes, mine, [rows.index(line["row"]) + shift for line in mine], colours[number])
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(axis="x", alpha=0.25)
    ends = [1.0, *(quartile for line in compared for quartile in line["quartiles"])]
    low, high = min(ends) / _MARGIN, max(ends) * _MARGIN
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.5))
    drawing.label_numbers(axes.xaxis, Scale(low, high, log=high > _WIDE * low))
    drawing.save(figure, file)


def _draw_one(axes: Axes, mine: Sequence[Mapping[str, Any]], places: Sequence[float], colour: str) -> None:
    """Draws the ratios of one contender."""
    below = [line["ratio"] - line["quartiles"][0] for line in mine]
    above = [line["quartiles"][1] - line["ratio"] for line in mine]
    style = {"fmt": "o", "markersize": 4, "capsize": 2, "color": colour, "label": mine[0]["contender"]}
    axes.errorbar([line["ratio"] for line in mine], places, xerr=[below, above], **style)
