"""Pictures of what a classifier gets wrong, and of what its probabilities are worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .classes import Outcomes, confusion_matrix, most_confused, reliability, shortened
from .plots import BLUE, GREY, ORANGE, WIDTH, picture, plural, shades

_MOST_CLASSES = 30
_MOST_NUMBERS = 12  # classes whose numbers can be read in their cells
MOST_MISTAKES = 12  # that fit into a picture
_COLUMNS = 4


def plot_confusion(outcomes: Outcomes, classes: Sequence[str], file: Path, *, subject: Any = "") -> None:
    """Draws how often each class, a row, is taken for each, a column: shares of the row as shades, counts as numbers.

    Of more than 30 classes, those with the most mistakes; the picture says so.

    Args:
      outcomes: of a split.
      classes: their names.
      file: where the picture goes.
      subject: see `plots.picture`.
    """
    matrix = confusion_matrix(outcomes.labels, outcomes.guesses, len(classes))
    shown = most_confused(matrix, _MOST_CLASSES)
    counts, totals = matrix[np.ix_(shown, shown)], matrix.sum(1)[shown]
    shares = counts / np.maximum(totals, 1)[:, None]
    title = f"Confusion: {outcomes.right.sum():,} of {plural(len(outcomes.labels), 'example')} right"
    if len(shown) < len(classes):
        title += f"; the {len(shown)} most confused of {len(classes)} classes"
    names = [shortened(classes[i], 14) for i in shown]
    side = float(np.clip(0.5 * len(shown), 2.5, 6.5))
    with picture(file, title, subject, side + 0.08 * max(map(len, names)) + 0.5) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, vmin=0.0, vmax=1.0, cmap=shades(), aspect="auto")
        axes.set_xticks(range(len(shown)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(shown)), [f"{name} ({total:,})" for name, total in zip(names, totals, strict=True)])
        axes.set(xlabel="taken for", ylabel="true class (examples)")
        figure.colorbar(image, ax=axes, label="share of the true class")
        if len(shown) <= _MOST_NUMBERS:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    dark = shares[row, column] > 0.4
                    share = "" if len(shown) > 6 else f"\n{100 * shares[row, column]:.1f} %"
                    text = f"{count:,}{share}"
                    axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")


def plot_reliability(outcomes: Outcomes, file: Path, *, bins: int = 10, subject: Any = "") -> None:
    """Draws how often guesses are right against how probable they were called, and how many there are, by bins.

    Args:
      outcomes: of a split.
      file: where the picture goes.
      bins: of one width.
      subject: see `plots.picture`.
    """
    found = reliability(outcomes.probabilities, outcomes.right, bins)
    count = len(outcomes.probabilities)
    title = f"Reliability: expected calibration error {100 * found.error:.2f} %, {plural(count, 'example')}"
    middles, width = (found.edges[:-1] + found.edges[1:]) / 2, 1 / bins
    with picture(file, title, subject, 6.2) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
        above.bar(middles, found.accuracy, width, color=BLUE, edgecolor="white", label="right in a bin")
        above.plot([0, 1], [0, 1], "--", color=GREY, label="what probabilities promise")
        above.plot(found.confidence, found.accuracy, "o", color=ORANGE, markeredgecolor="white", markersize=8,
                   label="mean probability in a bin")  # fmt: skip
        above.set(ylabel="share that is right", ylim=(0, 1), xlim=(0, 1))
        above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0, columnspacing=1)
        bars = below.bar(middles, found.counts, width, color=GREY, edgecolor="white")
        below.bar_label(bars, [f"{n:,}" if n else "" for n in found.counts])
        below.set(ylabel="examples", xlabel="probability of the guess", ylim=(0, 1.25 * found.counts.max()))
        above.grid(alpha=0.3)


def plot_mistakes(
    outcomes: Outcomes, images: np.ndarray, classes: Sequence[str], file: Path, *, subject: Any = ""
) -> None:
    """Draws the mistakes that a classifier of images is surest of, each with its label, the guess and its probability.

    Args:
      outcomes: of a split.
      images: uint8 [m Y X C] of `outcomes.worst(m)`, at least one; C is 1 or 3.
      classes: their names.
      file: where the picture goes.
      subject: see `plots.picture`.
    """
    worst, wrong = outcomes.worst(len(images)), int((~outcomes.right).sum())
    title = f"The {len(worst)} surest of {plural(wrong, 'mistake')}" if len(worst) < wrong else "All mistakes"
    title = f"{title}, of {plural(len(outcomes.labels), 'example')}"
    rows = -(-len(worst) // _COLUMNS)
    size = WIDTH / _COLUMNS
    with picture(file, title, subject, rows * (size + 0.75)) as figure:
        panels = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for axes, image, at in zip(panels.flat, images, worst, strict=False):
            axes.imshow(np.repeat(image, 3, -1) if image.shape[-1] == 1 else image)
            label, guess = (shortened(classes[x[at]], 15) for x in (outcomes.labels, outcomes.guesses))
            where = f"image {outcomes.examples[at]}"
            axes.set_title(f"is {label}\nguess {guess}\np = {outcomes.probabilities[at]:.3f}, {where}", fontsize=11)
