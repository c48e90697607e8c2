"""Drawing and saving of the pictures of a run, and the curves of its training."""

import contextlib
import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.files import write_whole
from .classes import shortened

# Okabe & Ito (2008), told apart by colour-blind people too; lines of different colours differ in style as well.
BLUE, ORANGE, GREEN, PINK, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000"
GREY = "0.45"
WIDTH = 8.0  # inches; letters of 11 points are then read at 400 pixels too

# Which Matplotlib writes without other programs.
_FORMATS = ("png", "pdf", "svg", "eps", "jpg", "jpeg", "tif", "tiff", "webp")
_STYLE = {"font.size": 11, "axes.titlesize": 12, "figure.titlesize": 13, "axes.grid": False, "lines.linewidth": 1.6}
_LONGEST_NAME = 40
_LINE = 82  # letters of a title in WIDTH


class Subject(NamedTuple):
    """Subject of the pictures of a run: its name, and its task's.

    Attributes:
      run: the name of its directory.
      task: by which it is registered.
      split: what is evaluated; "": nothing is.
    """

    run: str
    task: str
    split: str = ""

    def __str__(self) -> str:
        said = f"run {shortened(self.run, _LONGEST_NAME)}, {shortened(self.task, _LONGEST_NAME)}"
        return said + (f", {self.split} split" if self.split else "")


class Number(NamedTuple):
    """Way to draw a number that a task is judged by.

    Attributes:
      label: with its unit.
      times: what it is multiplied by, to be in that unit.
      highest: whether the highest is best.
      log: whether its axis is logarithmic.
    """

    label: str
    times: float = 1.0
    highest: bool = True
    log: bool = False


_NUMBERS = {
    "loss": Number("loss (nats)", highest=False),
    "perplexity": Number("perplexity of a token", highest=False, log=True),
    "accuracy": Number("accuracy (%)", 100.0),
    "masked_accuracy": Number("masked accuracy (%)", 100.0),
    "bleu": Number("BLEU (of 100)"),
}


@contextlib.contextmanager
def picture(file: Path, title: str, subject: Any = "", height: float = 5.0) -> Iterator[Any]:
    """Gives a figure of Matplotlib, `WIDTH` inches wide, to draw in; saves it afterwards, titled, see `save_picture`.

    Args:
      file: where it goes.
      title: what it shows; long ones are broken into lines.
      subject: of what, a `Subject` or text; stands below, in lines of its own.
      height: in inches.
    """
    import matplotlib  # here: a command that draws nothing starts without Matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        lines = [line for text in (title, *str(subject).split("\n")) for line in textwrap.wrap(text, _LINE)]
        figure = Figure(figsize=(WIDTH, height + 0.22 * len(lines)), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.1)  # of numbers at the ends of axes, one above the other
        figure.suptitle("\n".join(lines))
        yield figure
        save_picture(figure, file)


def shades() -> Any:
    """Returns the colormap of what is never negative: from white to dark, in every kind of sight; between maps, grey."""
    from matplotlib import colormaps  # here: see `picture`
    from matplotlib.colors import LinearSegmentedColormap

    dark = colormaps["viridis_r"](np.linspace(0.25, 1.0, 64))
    nodes = [(0.0, "white"), *zip(np.linspace(0.2, 1.0, 64), dark, strict=True)]
    return LinearSegmentedColormap.from_list("shades", nodes).with_extremes(bad="0.8")


def layer_shades(count: int) -> Any:
    """Returns colours of ordered lines, [count 4]: none too light for white paper."""
    from matplotlib import colormaps  # here: see `picture`

    return colormaps["viridis_r"](np.linspace(0.15, 1.0, count))


def save_picture(figure: Any, file: Path) -> None:
    """Writes a figure of Matplotlib whole or not at all, in the format of the file's suffix, without one as a PNG.

    Raises:
      ValueError: the suffix is of none of `_FORMATS`.
      WriteError: the file cannot be written.
    """
    from matplotlib.text import Text  # here: see `picture`

    kind = file.suffix.removeprefix(".").lower() or "png"
    if kind not in _FORMATS:
        raise ValueError(
            f"Format {kind!r} is not supported: give {file.name} one of the suffixes {', '.join(_FORMATS)}"
        )
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a "$" in a name is no formula
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a letter that the font lacks is drawn as a box
        figure.savefig(content, format=kind, dpi=150)
    write_whole(file, content.getvalue())


def moving_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Returns the mean of each of n values and its neighbours, [n]: `window` of them, an odd number; at the ends fewer.

    Those at an end are as many on both sides as there are on the shorter one, so that a slope stays a slope.
    """
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    at = np.arange(len(sums) - 1)
    reach = np.minimum(window // 2, np.minimum(at, at[::-1]))
    return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)


def plot_loss(
    rows: Sequence[Mapping[str, Any]],
    file: Path,
    *,
    subject: Any = "",
    metric: str = "loss",
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Draws a training run: its losses, below them its learning rate, and the number that its task is judged by.

    Args:
      rows: of a metrics.jsonl; those that are not finite there are null, and the picture counts them.
      file: where the picture goes.
      subject: see `picture`.
      metric: the number's name: of the rows, after "validation_", and of `scores`; "loss" has no panel of its own.
      scores: the numbers of splits that were evaluated at the end, by the split's name, to stand at the last step.
    """
    has = lambda name: any(name in row for row in rows)
    ends = {split: found[metric] for split, found in (scores or {}).items() if metric in found}
    panels = ["loss", *(["learning_rate"] if has("learning_rate") else [])]
    panels += [metric] if metric != "loss" and (has(f"validation_{metric}") or ends) else []
    sizes = {"loss": 3.2, "learning_rate": 1.4}
    heights = [sizes.get(name, 2.2) for name in panels]
    with picture(file, "Training", subject, sum(heights) + 0.5) as figure:
        found = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        of = dict(zip(panels, found, strict=True))
        _draw_training(of["loss"], rows)
        _draw_number(of["loss"], rows, "loss")
        if "learning_rate" in of:
            of["learning_rate"].plot(*_points(rows, "learning_rate")[:2], color=GREEN)
            of["learning_rate"].set(ylabel="learning rate", ylim=(0, None))
            of["learning_rate"].yaxis.set_major_formatter("{x:.3g}")
        if metric in of and metric != "loss":
            _draw_number(of[metric], rows, metric)
            last = max(row["step"] for row in rows)
            if not has(f"validation_{metric}"):
                of[metric].set_ylim(0, 1.4 * _number(metric).times * max(*ends.values(), 1e-9))
            for split, value in ends.items():
                label = f"{split}, after the last step"
                drawn = value * _number(metric).times
                style = {"fillstyle": "none", "markersize": 13, "markeredgewidth": 2, "zorder": 5}
                of[metric].plot([last], [drawn], "D", color=PINK, label=f"{label}: {drawn:,.4g}", **style)
        for axes in found:
            axes.grid(alpha=0.3)
            axes.margins(x=0.03)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0)
        found[-1].set_xlabel("step")


def _number(name: str) -> Number:
    return _NUMBERS.get(name, Number(name.replace("_", " ")))


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float], int]:
    """The steps and the numbers of rows that have one, and how many have one that is not finite."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    finite = [(step, value) for step, value in found if value is not None and math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite], len(found) - len(finite)


def _left_out(count: int) -> str:
    return f", {count} not finite left out" if count else ""


def _draw_training(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """The loss of batches, and its mean over several rows: of all their steps, where rows have that."""
    steps, values, bad = _points(rows, "loss")
    few = "o" if len(values) == 1 else "-"
    axes.plot(steps, values, few, color=SKY, linewidth=0.8, alpha=0.7, label=f"training, as logged{_left_out(bad)}")
    name, of_all = ("mean_loss", " of all steps") if any("mean_loss" in row for row in rows) else ("loss", "")
    steps, values, _ = _points(rows, name)
    window = max(3, len(values) // 20) | 1 if len(values) > 5 else 1
    if window > 1:
        axes.plot(steps, moving_mean(values, window), color=BLUE, label=f"training, mean{of_all} of {window} rows")


def _draw_number(axes: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """The validations of a number, with the best one."""
    how = _number(name)
    steps, values, bad = _points(rows, f"validation_{name}")
    values = [value * how.times for value in values]
    if steps or bad:
        label = f"validation{_left_out(bad)}"
        axes.plot(steps, values, "o--", color=ORANGE, markersize=5, label=label)
    if steps and name in _NUMBERS:
        at = (np.argmax if how.highest else np.argmin)(values)
        label = f"best: {values[at]:,.4g} at step {steps[at]:,}"
        star = {"markersize": 15, "markeredgecolor": "white", "zorder": 4}
        axes.plot([steps[at]], [values[at]], "*", color=BLACK, label=label, **star)
    axes.set_ylabel(how.label)
    if how.log and values:
        _draw_logarithmic(axes, max(values) / min(values))


def _draw_logarithmic(axes: Any, ratio: float) -> None:
    """An upright logarithmic axis with few numbers, whatever the ratio of what is on it."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter  # here: see `picture`

    axes.set_yscale("log")
    few = MaxNLocator(4) if ratio < 10 else LogLocator(subs=(1.0, 3.0) if ratio < 100 else (1.0,), numticks=6)
    axes.yaxis.set_major_locator(few)
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def plural(count: int, what: str) -> str:
    """Returns "1 image", "2 images"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
