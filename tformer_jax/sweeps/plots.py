"""Pictures of a sweep, to choose by: curves, learning rates, two fields as a map, many fields side by side."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..data.files import writing
from . import drawing, plot_data as data
from .plot_data import DIVERGED, FINISHED, LEARNING_RATE, SEEDS, UNFINISHED, Line, Results, Rows, Scale, text

_BLANK = {
    DIVERGED: {"facecolor": "0.92", "edgecolor": "0.55", "hatch": "////"},
    UNFINISHED: {"facecolor": "0.88", "edgecolor": "0.88"},
}


def plot_sweep(
    results: Results, curves: Mapping[int, Rows], directory: Path, *, metric: str = "loss", lowest: bool = True
) -> list[Path]:
    """The pictures that a sweep has the numbers for, as PNGs.

    Args:
      results: a row a member.
      curves: the rows of each member's metrics.jsonl.
      directory: where curves.png, learning_rate.png, heat_map.png and parallel_coordinates.png go.
      metric: a key of "final".
      lowest: whether the lowest number is the best.

    Returns:
      The files that were written.

    Raises:
      ValueError: no result has this metric, and some have others.
    """
    data.check_metric(results, metric)
    drawings: dict[str, Callable[[Path], None]] = {}
    if any(curves.values()):
        drawings["curves.png"] = lambda file: plot_curves(results, curves, file)
    if any(data.outcome(result, metric)[0] == FINISHED for result in results):
        goal, fields = {"metric": metric, "lowest": lowest}, data.swept_fields(results)
        has_rates = any(field.label == LEARNING_RATE for field in fields)
        if has_rates and data.learning_rate_lines(results, metric):
            drawings["learning_rate.png"] = lambda file: plot_learning_rates({"": results}, file, **goal)
        # Random draws of two fields are no grid.
        pairs = math.prod(len(field.values) for field in fields)
        if len(fields) == 2 and 2 * len(data.cells(results, fields, metric)) >= pairs:
            drawings["heat_map.png"] = lambda file: plot_heat_map(results, file, **goal)
        elif len(fields) > 1:
            drawings["parallel_coordinates.png"] = lambda file: plot_parallel_coordinates(results, file, **goal)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    for name, draw in drawings.items():
        draw(directory / name)
    return [directory / name for name in drawings]


def plot_curves(results: Results, curves: Mapping[int, Rows], file: Path) -> None:
    """Training and validation loss of every member against the step, coloured by the first field that varies."""
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    edge = drawing.Edge(axes, data.curve_scale(results, curves))
    for result, colour in zip(results, _member_colours(results, axes), strict=True):
        kind, last = data.outcome(result, "loss")
        for name, style in drawing.CURVES.items():
            if kind == UNFINISHED:
                style = style | drawing.LIGHT
            axes.plot(*data.curve(curves.get(result["member"], ()), name), color=colour, **style)
        if kind == DIVERGED or edge.scale.beyond(last):
            edge.mark(result["steps"], DIVERGED if kind == DIVERGED else drawing.BEYOND, colour)
    drawing.limit([edge])
    drawing.save(figure, file)


def plot_learning_rates(
    panels: Mapping[str, Results], file: Path, *, metric: str = "loss", lowest: bool = True, by: str | None = None
) -> None:
    """The last number against the learning rate: the mean over seeds, in a band from the lowest to the highest.

    Args:
      panels: results by title, side by side.
      file: where the PNG goes.
      metric: a key of "final".
      lowest: whether the lowest number is the best.
      by: the field that tells the lines apart; without it, all that vary.

    Raises:
      ValueError: see `check_metric` and `learning_rate_lines`; or a panel has no line.
    """
    data.check_metric([result for results in panels.values() for result in results], metric)
    panel_lines = [data.learning_rate_lines(results, metric, by) for results in panels.values()]
    if empty := [title or "the sweep" for title, found in zip(panels, panel_lines, strict=True) if not found]:
        raise ValueError(f"no member with a learning rate has finished or diverged in {', '.join(empty)}")
    lines = [line for found in panel_lines for line in found]
    scale = data.metric_scale([x for line in lines for cell in line.cells.values() for x in cell.finished], lowest)
    colours = drawing.line_colours(lines, lowest)
    figure = Figure(figsize=(0.9 + 4.6 * len(panels), 4.2), layout="constrained")
    edges = [drawing.Edge(axes, scale) for axes in figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]]
    for edge, title, found in zip(edges, panels, panel_lines, strict=True):
        for line in found:
            _draw_line(edge, line, colours[line.label])
        rates = sorted({rate for line in found for rate in line.cells})
        edge.axes.set(xscale="log", xlabel="learning rate", title=title)
        drawing.label_numbers(edge.axes.xaxis, Scale(rates[0], rates[-1], log=True), rates)
    edges[0].axes.set_ylabel(f"final {metric}")
    drawing.limit(edges)
    drawing.save(figure, file)


def plot_heat_map(results: Results, file: Path, *, metric: str, lowest: bool) -> None:
    """The mean over seeds for each pair of values of the two fields that vary; the best pair in a frame."""
    x, y = sorted(data.swept_fields(results), key=lambda field: field.label != LEARNING_RATE)
    found = data.cells(results, [y, x], metric)
    means = np.full((len(y.values), len(x.values)), math.nan)
    for place, cell in found.items():
        means[place] = cell.mean
    scale = data.metric_scale(means.flat, lowest)
    colours = drawing.mappable(scale)
    width = 0.09 * max(7, *(len(text(value)) for value in x.values)) * len(x.values)
    figure = Figure(figsize=(2.2 + max(5.0, width), 1.4 + max(1.8, 0.42 * len(y.values))), layout="constrained")
    axes = figure.add_subplot(xlabel=x.label, ylabel=y.label)
    axes.imshow(means, origin="lower", aspect="auto", cmap=colours.cmap, norm=colours.norm)
    for (row, column), cell in found.items():
        if cell.failure:
            style = {"linewidth": 0, "label": cell.failure, **_BLANK[cell.failure]}
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **style))
            count = sum(kind == cell.failure for kind, _ in cell.outcomes)
            words, ink = f"{count}/{len(cell.outcomes)}", "black"
        else:
            is_dark = np.dot(colours.to_rgba(cell.mean)[:3], (0.299, 0.587, 0.114)) < 0.5
            words, ink = f"{cell.mean:#.4g}", "white" if is_dark else "black"
        axes.text(column, row, words, ha="center", va="center", fontsize=8, color=ink)
    row, column = np.unravel_index(data.costs(means, lowest).argmin(), means.shape)
    if math.isfinite(means[row, column]):
        frame = {"fill": False, "edgecolor": drawing.COLOURS[1], "linewidth": 2.5, "zorder": 3}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
    for axis, field in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_ticks(range(len(field.values)), [text(value) for value in field.values], fontsize=9)
    drawing.colour_bar(axes, scale, f"final {metric}")
    drawing.save(figure, file)


def plot_parallel_coordinates(results: Results, file: Path, *, metric: str, lowest: bool) -> None:
    """A line for each member through an axis for each field that varies, to its number; the best lines on top."""
    fields = data.swept_fields(results)
    positions, scale = data.parallel_positions(results, metric, lowest)
    kinds = [data.outcome(result, metric)[0] for result in results]
    costs, order = data.costs(positions[:, -1], lowest), (DIVERGED, UNFINISHED, FINISHED)
    colours = drawing.mappable(scale)
    figure = Figure(figsize=(1.9 + 1.55 * len(fields), 4.6), layout="constrained")
    axes = figure.add_subplot()
    *others, best = sorted(range(len(results)), key=lambda i: (order.index(kinds[i]), -costs[i]))
    for i in (*others, best):
        end = positions[i, -1]
        style = {"color": colours.to_rgba(scale.at(end)), "linewidth": 1.2, "alpha": 0.9}
        if kinds[i] == DIVERGED:
            style = {"color": "0.55", "linewidth": 0.9, "linestyle": "--"}
        elif kinds[i] == UNFINISHED:
            style |= drawing.LIGHT
        elif i == best:
            style |= {"linewidth": 3.0, "label": drawing.BEST}
        axes.plot(positions[i], **style)
        if end < 0 or end > 1:
            drawing.mark(axes, len(fields), end, DIVERGED if kinds[i] == DIVERGED else drawing.BEYOND, "0.3")
    for x, field in enumerate(fields):
        places = dict(enumerate(map(text, field.values)))
        ticks = drawing.ticks(field.scale(), field.values) if field.numeric else places
        drawing.upright(axes, x, field.label, field.scale(), ticks)
    drawing.upright(axes, len(fields), f"final {metric}", scale, drawing.ticks(scale), side="left")
    axes.set(xlim=(-0.5, len(fields) + 0.5), ylim=(min(0.0, scale.outside(0.14)) - 0.05, 1.3))
    axes.set_axis_off()
    drawing.save(figure, file)


def _member_colours(results: Results, axes: Axes) -> list[Any]:
    """A colour for each result by the first field that varies, numbers before others before seeds; and its legend."""
    fields = sorted(data.varying_fields(results), key=lambda field: (field.label in SEEDS, not field.numeric))
    if not fields:
        return [drawing.COLOURS[0]] * len(results)
    field = fields[0]
    if field.numeric:
        drawing.colour_bar(axes, field.scale(), field.label, field.values)
        colours = drawing.mappable(field.scale()).to_rgba(field.values)
    else:
        colours = drawing.palette(len(field.values))
        for value, colour in zip(field.values, colours, strict=True):
            axes.plot([], [], color=colour, label=f"{field.label}={text(value)}")
    return [colours[field.index(result)] for result in results]


def _draw_line(edge: drawing.Edge, line: Line, colour: str) -> None:
    """The means in their band, the best one marked, and the seeds where there is no mean."""
    axes, rates, means = edge.axes, list(line.cells), line.means
    low, high = ([end(cell.finished, default=math.nan) for cell in line.cells.values()] for end in (min, max))
    label = "others" if colour == drawing.GREY else line.label
    axes.plot(rates, means, "o-", color=colour, label=label, markersize=4.5, linewidth=1.6)
    axes.fill_between(rates, low, high, np.isfinite(means), color=colour, alpha=0.16, linewidth=0)
    for rate, cell in line.cells.items():
        for number in cell.finished if cell.failure else [cell.mean]:
            if edge.scale.beyond(number):
                edge.mark(rate, drawing.BEYOND, colour)
            elif cell.failure:
                drawing.mark(axes, rate, number, drawing.SEED, colour)
        if cell.failure == DIVERGED:
            edge.mark(rate, DIVERGED, colour)
    best = data.costs(means, edge.scale.lowest).argmin()
    if colour != drawing.GREY and math.isfinite(means[best]):
        drawing.mark(axes, rates[best], means[best], drawing.BEST, colour)
