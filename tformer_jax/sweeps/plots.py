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
from .plot_data import DIVERGED, FINISHED, LEARNING_RATE, SEEDS, STOPPED, UNFINISHED, Line, Results, Rows, Scale, text

_BLANK = {
    DIVERGED: {"facecolor": "0.92", "edgecolor": "0.55", "hatch": "////"},
    UNFINISHED: {"facecolor": "0.88", "edgecolor": "0.88"},
    STOPPED: {"facecolor": "0.96", "edgecolor": "0.8", "hatch": ".."},
}
# Of the lines through an axis for each field, from below to above.
_UPWARD = (DIVERGED, UNFINISHED, STOPPED, FINISHED)


def plot_sweep(
    results: Results, curves: Mapping[int, Rows], directory: Path, *, metric: str = "loss", lowest: bool = True
) -> list[Path]:
    """The pictures that a sweep has the numbers for, as PNGs.

    Args:
      results: a row a member.
      curves: the rows of each member's metrics.jsonl.
      directory: of the sweep's pictures, where curves.png, learning_rate.png, and heat_map.png, scatter.png or
        parallel_coordinates.png go; their titles have the name of the folder that it is in.
      metric: a key of "final".
      lowest: whether the lowest number is the best.

    Returns:
      The files that were written.

    Raises:
      ValueError: no result has this metric, and some have others.
    """
    data.check_metric(results, metric)
    drawings: dict[str, Callable[[Path], None]] = {}
    name = directory.resolve().parent.name
    if any(curves.values()):
        drawings["curves.png"] = lambda file: plot_curves(results, curves, file, title=name)
    if any(data.outcome(result, metric)[0] == FINISHED for result in results):
        goal, fields = {"metric": metric, "lowest": lowest, "title": name}, data.swept_fields(results)
        has_rates = any(field.label == LEARNING_RATE for field in fields)
        if has_rates and data.learning_rate_lines(results, metric):
            drawings["learning_rate.png"] = lambda file: plot_learning_rates({"": results}, file, **goal)
        if data.is_grid(results, fields, metric):
            drawings["heat_map.png"] = lambda file: plot_heat_map(results, file, **goal)
        elif len(fields) == 2 and all(field.numeric for field in fields):
            drawings["scatter.png"] = lambda file: plot_scatter(results, file, **goal)
        elif len(fields) > 1:
            drawings["parallel_coordinates.png"] = lambda file: plot_parallel_coordinates(results, file, **goal)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    for name_of_file, draw in drawings.items():
        draw(directory / name_of_file)
    return [directory / name_of_file for name_of_file in drawings]


def plot_curves(results: Results, curves: Mapping[int, Rows], file: Path, *, title: str = "") -> None:
    """Training and validation loss of every member against the step, coloured by the first field that varies."""
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel=drawing.named("loss"))
    edge, ends = drawing.Edge(axes, data.curve_scale(results, curves)), {}
    for result, colour in zip(results, _member_colours(results, axes), strict=True):
        kind, last = data.outcome(result, "loss")
        for name, style in drawing.CURVES.items():
            drawn = data.curve(curves.get(result["member"], ()), name)
            axes.plot(*drawn, color=colour, **(style | drawing.LIGHT.get(kind, {})))
            last = drawn[1, np.isfinite(drawn[1])][-1:].sum() if name == "validation_loss" and drawn.size else last
        if kind == DIVERGED or edge.scale.beyond(last):
            failed = (DIVERGED, f"{result['member']}") if kind == DIVERGED else _beyond(result["member"], last)
            edge.mark(result["steps"], failed[0], colour, failed[1])
        elif math.isfinite(last):
            ends[result["member"]] = last
    drawing.limit([edge])
    axes.margins(x=0.06)
    numbers = drawing.number_members(axes, axes.dataLim.x1, ends, sorted(ends, key=ends.get))
    axes.set_title(_titled(title, f"loss of {len(results)} members", numbers), fontsize=10)
    drawing.save(figure, file)


def plot_learning_rates(
    panels: Mapping[str, Results],
    file: Path,
    *,
    metric: str = "loss",
    lowest: bool = True,
    by: str | None = None,
    title: str = "",
) -> None:
    """The last number against the learning rate: the mean over seeds, in a band from the lowest to the highest.

    Args:
      panels: results by title, side by side.
      file: where the PNG goes.
      metric: a key of "final".
      lowest: whether the lowest number is the best.
      by: the field that tells the lines apart; without it, all that vary.
      title: above all panels.

    Raises:
      ValueError: see `check_metric` and `learning_rate_lines`; or a panel has no line.
    """
    data.check_metric([result for results in panels.values() for result in results], metric)
    panel_lines = [data.learning_rate_lines(results, metric, by) for results in panels.values()]
    if empty := [panel or "the sweep" for panel, found in zip(panels, panel_lines, strict=True) if not found]:
        raise ValueError(f"no member with a learning rate has finished or diverged in {', '.join(empty)}")
    lines = [line for found in panel_lines for line in found]
    known = [x for line in lines for cell in line.cells.values() for x in (*cell.finished, *cell.stopped)]
    scale = data.metric_scale(known, lowest)
    colours = drawing.line_colours(lines, lowest)
    figure = Figure(figsize=(0.9 + 4.6 * len(panels), 4.2), layout="constrained")
    edges = [drawing.Edge(axes, scale) for axes in figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]]
    for edge, panel, found in zip(edges, panels, panel_lines, strict=True):
        best = min(found, key=lambda line: data.costs(line.means, lowest).min())
        for line in found:
            _draw_line(edge, line, colours[line.label], starred=line is best or len(line.cells) > 2)
        rates = sorted({rate for line in found for rate in line.cells})
        edge.axes.set(xscale="log", xlabel="learning rate", title=panel)
        drawing.label_numbers(edge.axes.xaxis, Scale(rates[0], rates[-1], log=True), rates)
    edges[0].axes.set_ylabel(f"final {drawing.named(metric)}")
    several = any(len(cell.outcomes) > 1 for line in lines for cell in line.cells.values())
    means = "lines: means of members, bands: from lowest to highest" if several else "points: members"
    waiting = sum(kind == UNFINISHED for line in lines for cell in line.cells.values() for kind, _ in cell.outcomes)
    without = [f"without {waiting} that are not finished"] if waiting else []
    figure.suptitle(_titled(title, "learning rates", means, *without), fontsize=10)
    drawing.limit(edges)
    drawing.save(figure, file)


def plot_heat_map(results: Results, file: Path, *, metric: str, lowest: bool, title: str = "") -> None:
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
            if cell.failure == STOPPED and count == len(cell.stopped):
                words = f"{np.mean(cell.finished + cell.stopped):#.4g}"
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
    axes.set_title(_titled(title, "means of members", "the best in a frame"), fontsize=10)
    drawing.colour_bar(axes, scale, f"final {drawing.named(metric)}")
    drawing.save(figure, file)


def plot_scatter(results: Results, file: Path, *, metric: str, lowest: bool, title: str = "") -> None:
    """A point for each member at its values of the two fields that vary, with its number; the best with a star."""
    x, y = sorted(data.swept_fields(results), key=lambda field: field.label != LEARNING_RATE)
    kinds, numbers = zip(*(data.outcome(result, metric) for result in results), strict=True)
    scale = data.metric_scale(numbers, lowest)
    colours, places = drawing.mappable(scale), [[f.values[f.index(r)] for f in (x, y)] for r in results]
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    axes = figure.add_subplot(xlabel=x.label, ylabel=y.label)
    finished = [n if kind == FINISHED else math.nan for kind, n in zip(kinds, numbers, strict=True)]
    best = data.costs(np.array(finished), lowest).argmin()
    for i, (kind, number, result) in enumerate(zip(kinds, numbers, results, strict=True)):
        colour = "0.5" if math.isnan(number) else colours.to_rgba(number)
        words = f"{result['member']}"
        if kind == FINISHED and scale.beyond(number):
            kind, words = _beyond(result["member"], number)
        drawing.mark(axes, *places[i], drawing.BEST if i == best else kind, colour, words)
    for axis, field in ((axes.xaxis, x), (axes.yaxis, y)):
        along = field.scale()
        (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log" if along.log else "linear")
        drawing.label_numbers(axis, along, field.values)
    axes.margins(0.08)
    axes.grid(alpha=0.25)
    axes.set_title(_titled(title, f"{len(results)} members", "numbers: members"), fontsize=10)
    drawing.colour_bar(axes, scale, f"final {drawing.named(metric)}")
    drawing.save(figure, file)


def plot_parallel_coordinates(results: Results, file: Path, *, metric: str, lowest: bool, title: str = "") -> None:
    """A line for each member through an axis for each field that varies, to its number; the best lines on top."""
    fields = data.swept_fields(results)
    positions, scale = data.parallel_positions(results, metric, lowest)
    kinds, numbers = zip(*(data.outcome(result, metric) for result in results), strict=True)
    costs = data.costs(positions[:, -1], lowest)
    colours = drawing.mappable(scale)
    figure = Figure(figsize=(2.3 + 1.55 * len(fields), 4.8), layout="constrained")
    axes = figure.add_subplot()
    *others, best = sorted(range(len(results)), key=lambda i: (_UPWARD.index(kinds[i]), -costs[i]))
    for i in (*others, best):
        end = positions[i, -1]
        style = {"color": colours.to_rgba(scale.at(end)), "linewidth": 1.2, "alpha": 0.9}
        if kinds[i] == DIVERGED:
            style = {"color": "0.55", "linewidth": 0.9, "linestyle": "--"}
        elif kinds[i] in drawing.LIGHT:
            style |= drawing.LIGHT[kinds[i]]
        elif i == best:
            style |= {"linewidth": 3.0, "label": drawing.BEST}
        axes.plot(positions[i], **style)
        if end < 0 or end > 1:
            drawing.mark(axes, len(fields), end, DIVERGED if kinds[i] == DIVERGED else drawing.BEYOND, "0.3")
    for x, field in enumerate(fields):
        places = dict(enumerate(map(text, field.values)))
        ticks = drawing.ticks(field.scale(), field.values) if field.numeric else places
        drawing.upright(axes, x, field.label, field.scale(), ticks)
    drawing.upright(axes, len(fields), f"final {drawing.named(metric)}", scale, drawing.ticks(scale), side="left")
    axes.set(xlim=(-0.5, len(fields) + 0.7), ylim=(min(0.0, scale.outside(0.14)) - 0.05, 1.3))
    axes.set_axis_off()
    best_first = [results[i]["member"] for i in (best, *reversed(others))]
    ends = {r["member"]: y for r, y in zip(results, positions[:, -1], strict=True) if math.isfinite(y)}
    said = drawing.number_members(axes, len(fields) + 0.42, ends, best_first)
    beyond = [" ".join(_beyond(r["member"], n)[1:]) for r, n in zip(results, numbers, strict=True) if scale.beyond(n)]
    said += f"; beyond the axis: {', '.join(beyond)}" if beyond else ""
    axes.set_title(_titled(title, f"{len(results)} members", said), fontsize=10)
    drawing.save(figure, file)


def _beyond(member: int, number: float) -> tuple[str, str]:
    """The mark of a number that has no place on an axis, and the words beside it."""
    return drawing.BEYOND, f"{member}: {text(float(f'{number:.3g}'))}"


def _titled(name: str, *parts: str) -> str:
    """A title: the sweep's name, and what is to be seen."""
    return f"{name}: {'; '.join(parts)}" if name else "; ".join(parts).capitalize()


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


def _draw_line(edge: drawing.Edge, line: Line, colour: str, *, starred: bool) -> None:
    """The means in their band, the best one marked if wanted, and members where there is no mean."""
    axes, rates, means = edge.axes, list(line.cells), line.means
    low, high = ([end(cell.finished, default=math.nan) for cell in line.cells.values()] for end in (min, max))
    label = "others" if colour == drawing.GREY else line.label
    axes.plot(rates, means, "o-", color=colour, label=label, markersize=4.5, linewidth=1.6)
    axes.fill_between(rates, low, high, np.isfinite(means), color=colour, alpha=0.16, linewidth=0)
    for rate, cell in line.cells.items():
        shown = [(drawing.SEED, x) for x in cell.finished] if cell.failure else [("", cell.mean)]
        for kind, number in (*shown, *((STOPPED, x) for x in cell.stopped)):
            if edge.scale.beyond(number):
                edge.mark(rate, drawing.BEYOND, colour, text(float(f"{number:.3g}")))
            elif kind:
                drawing.mark(axes, rate, number, kind, colour)
        if cell.failure == DIVERGED:
            edge.mark(rate, DIVERGED, colour)
    best = data.costs(means, edge.scale.lowest).argmin()
    if starred and colour != drawing.GREY and math.isfinite(means[best]):
        drawing.mark(axes, rates[best], means[best], drawing.BEST, colour)
