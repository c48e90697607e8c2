"""Drawing for the pictures of a sweep: colours, marks and their place outside, numbers at axes, legends."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ..analysis.plots import BLACK, BLUE, GREEN, ORANGE, PINK, SKY, save_picture
from .plot_data import DIVERGED, FINISHED, STOPPED, UNFINISHED, Line, Scale, costs, is_number, text

# Okabe & Ito (2008), told apart by colour-blind people too, without the yellow, which white paper swallows.
COLOURS = (BLUE, ORANGE, GREEN, PINK, "#E69F00", SKY, BLACK)
GREY = "0.75"
LIGHT = {kind: {"alpha": 0.45, "label": kind} for kind in (UNFINISHED, STOPPED)}
CURVES = {
    "loss": {"label": "training", "linewidth": 0.6, "alpha": 0.5, "zorder": 1.5},
    "validation_loss": {"label": "validation", "linewidth": 1.2, "marker": "o", "markersize": 2.5},
}
# Viridis without the yellow.
_SEQUENTIAL = LinearSegmentedColormap.from_list("sequential", colormaps["viridis"](np.linspace(0.0, 0.88, 256)))
BEST, SEED, BEYOND = "best", "a seed that finished", "beyond the axis"
_MARKS = {
    BEST: {"marker": "*", "markersize": 13, "markeredgecolor": "white", "zorder": 5},
    SEED: {"marker": "o", "markersize": 4.5, "fillstyle": "none"},
    STOPPED: {"marker": "v", "markersize": 5.5, "fillstyle": "none"},
    DIVERGED: {"marker": "x", "markersize": 6, "markeredgewidth": 1.6, "zorder": 4},
    BEYOND: {"marker": "D", "markersize": 5, "zorder": 4},
    FINISHED: {"marker": "o", "markersize": 7},
    UNFINISHED: {"marker": "^", "markersize": 6, "fillstyle": "none"},
}
# What has many colours, and is grey in a legend.
_EXPLAINED = (*(style["label"] for style in (*CURVES.values(), *LIGHT.values())), *_MARKS)
_MOST_LINES, _MOST_TICKS, _DEEPEST, _MOST_NUMBERS = 14, 8, 6, 24
_UNITS = {"loss": "loss (nats)"}
# Between the numbers of members, as a share of the axis.
_APART = 0.038


def named(metric: str) -> str:
    """A metric with its unit."""
    return _UNITS.get(metric, metric.replace("_", " "))


def mark(axes: Axes, x: float, y: float, kind: str, colour: Any, words: str = "") -> None:
    """Marks a point, with some words beside it."""
    axes.plot(x, y, color=colour, label=kind, linestyle="none", **_MARKS[kind])
    if words:
        axes.annotate(words, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=7, annotation_clip=False)


def number_members(axes: Axes, x: float, ends: Mapping[int, float], best_first: Sequence[int]) -> str:
    """Writes the numbers of members at the ends of their lines, above one another; of very many, of the best.

    Args:
      axes: whose limits are final.
      x: where lines end.
      ends: y of each member, in numbers of the axis.
      best_first: the members in their order.

    Returns:
      What the numbers are, for the title.
    """
    shown = [number for number in best_first if number in ends][:_MOST_NUMBERS]
    to_axis = lambda y: axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]
    heights = {number: min(max(to_axis(ends[number]), 0.0), 1.0) for number in shown}
    last = -1.0
    for number in sorted(shown, key=heights.get):
        heights[number] = last = max(heights[number], last + _APART)
    down = max(0.0, last - 1.0)
    for number in shown:
        words = {"transform": axes.get_xaxis_transform(), "va": "center", "fontsize": 7, "color": "0.25"}
        axes.text(x, heights[number] - down, f" {number}", **words)
    return "numbers: members" if len(shown) == len(ends) else f"numbers: the {len(shown)} best of {len(ends)} members"


class Edge:
    """The bad end of axes, where marks stand for what has no place inside; those of one x are stacked."""

    def __init__(self, axes: Axes, scale: Scale):
        self.axes, self.scale = axes, scale
        self.depths: Counter[float] = Counter()

    def mark(self, x: float, kind: str, colour: Any, words: str = "") -> None:
        self.depths[x] = min(self.depths[x] + 1, _DEEPEST)
        mark(self.axes, x, self.scale.at(self.scale.outside(0.05 * self.depths[x])), kind, colour, words)


def limit(edges: Sequence[Edge]) -> None:
    """Axes that share an upright scale get its limits, with a margin and with room for the marks at the bad end."""
    axes, scale = edges[0].axes, edges[0].scale
    deepest = max(depth for edge in edges for depth in (0, *edge.depths.values()))
    ends = (scale.outside(0.05 * (deepest + 1)), scale.outside(-1.05))
    axes.set(yscale="log" if scale.log else "linear", ylim=sorted(map(scale.at, ends)))
    if scale.log:
        label_numbers(axes.yaxis, scale)
    for edge in edges:
        edge.axes.grid(alpha=0.25)


def ticks(scale: Scale, numbers: Sequence[float] = ()) -> dict[float, str]:
    """The numbers themselves if they are few, round and apart, else other round ones; and their texts."""
    apart = len(numbers) == 1 or (np.diff(scale.position(numbers)) >= 0.08).all()  # one may be the whole scale
    are_round = len(numbers) == 1 or all(isinstance(x, int) or float(f"{x:.1e}") == x for x in numbers)
    if not 0 < len(numbers) <= _MOST_TICKS or not apart or not are_round:
        ratio = scale.high / scale.low if scale.log else 1.0
        digits = (1.0, 2.0, 5.0) if ratio < 30 else (1.0, 3.0) if ratio < 1000 else (1.0,)
        locator = LogLocator(subs=digits) if scale.log else MaxNLocator(6, steps=(1, 2, 5, 10))
        found = locator.tick_values(scale.low, scale.high).tolist()
        numbers = [x for x in found if -1e-9 <= scale.position(x) <= 1 + 1e-9]
    return {x: text(x) for x in numbers}


def label_numbers(axis: Axis, scale: Scale, numbers: Sequence[float] = ()) -> None:
    found = ticks(scale, numbers)
    axis.set_ticks(list(found), list(found.values()))
    axis.set_minor_locator(NullLocator())


def upright(axes: Axes, x: int, label: str, scale: Scale, numbers: Mapping[float, str], side: str = "right") -> None:
    """One of several parallel axes, from 0 to 1; numbers are on its left, aligned right, or the other way round."""
    paper = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}
    axes.plot([x, x], [0, 1], color="black", linewidth=1.0, zorder=3)
    axes.text(x, 1.2, label, ha="center", fontsize=10)
    for number, words in numbers.items():
        tick = f"{words} –" if side == "right" else f"– {words}"
        axes.text(x, float(scale.position(number)), tick, ha=side, va="center", fontsize=8, bbox=paper, zorder=4)


def mappable(scale: Scale) -> ScalarMappable:
    """The colours of numbers; dark is good."""
    norm = (LogNorm if scale.log else Normalize)(scale.low, scale.high)
    return ScalarMappable(norm, _SEQUENTIAL if scale.lowest else _SEQUENTIAL.reversed())


def colour_bar(axes: Axes, scale: Scale, label: str, numbers: Sequence[float] = ()) -> None:
    bar = axes.figure.colorbar(mappable(scale), ax=axes, pad=0.02, label=label)
    label_numbers(bar.ax.yaxis, scale, numbers)


def palette(count: int, ordered: bool = False) -> list[str]:
    """Colours that are far apart; for what is ordered, or for very many, those of a colormap."""
    if count > len(COLOURS) or (ordered and count > 1):
        return [to_hex(colour) for colour in _SEQUENTIAL(np.linspace(0.0, 1.0, count))]
    return list(COLOURS[:count])


def line_colours(lines: Sequence[Line], lowest: bool) -> dict[str, str]:
    """A colour for each label of lines; of too many, or if no line has two points, GREY but for the best."""
    values = {line.label: (*line.values.values(),) for line in lines}
    if len(values) > _MOST_LINES or (len(values) > 1 and all(len(line.cells) == 1 for line in lines)):
        best = min(lines, key=lambda line: costs(line.means, lowest).min()).label
        return {label: COLOURS[1] if label == best else GREY for label in values}
    ordered = all(len(value) == 1 and is_number(value[0]) for value in values.values())
    labels = sorted(values, key=values.get) if ordered else values
    return dict(zip(labels, palette(len(values), ordered), strict=True))


def save(figure: Figure, file: Path) -> None:
    """Saves a figure as a PNG, with a legend of all labels below, for which the figure grows."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    if entries:
        labels = sorted(entries, key=lambda label: label in _EXPLAINED)
        width, height = figure.get_size_inches()
        columns = max(1, int(width / (0.6 + 0.075 * max(map(len, labels)))))
        figure.set_size_inches(width, height + 0.2 * -(-len(labels) // columns))
        handles = [entries[label] for label in labels]
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)
        for line in legend.get_lines():
            if line.get_label() in _EXPLAINED:
                line.set_color("0.3")
    save_picture(figure, file)
