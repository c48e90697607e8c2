"""Scores by the length of what is scored."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .plots import BLUE, GREY, ORANGE, picture, plural


def length_bins(lengths: Sequence[int], most: int = 6) -> list[tuple[int, int]]:
    """Returns bins of lengths, (lowest, highest) each, that hold about as many examples each, at most `most` of them.

    Every length between the shortest and the longest is in one of them.

    Args:
      lengths: of the examples, at least one.
      most: bins; fewer where many examples have one length.
    """
    ends = np.unique(np.quantile(lengths, np.arange(1, most + 1) / most, method="inverted_cdf").astype(int))
    starts = [int(min(lengths)), *(int(end) + 1 for end in ends[:-1])]
    return list(zip(starts, map(int, ends), strict=True))


def plot_by_length(
    lengths: Sequence[int],
    score: Callable[[Sequence[int]], float],
    file: Path,
    *,
    number: str,
    unit: str,
    subject: Any = "",
) -> None:
    """Draws the score of examples by their lengths, with the number of examples of each bin.

    Args:
      lengths: of n examples.
      score: of the examples with these numbers, in [0, n).
      file: where the picture goes.
      number: what the score is called, with its unit.
      unit: of lengths.
      subject: see `plots.picture`.
    """
    bins, lengths = length_bins(lengths), np.asarray(lengths)
    chosen = [np.flatnonzero((lengths >= low) & (lengths <= high)).tolist() for low, high in bins]
    scores, overall = [score(some) for some in chosen], score(range(len(lengths)))
    between = " to " if max(lengths) < 1000 else " to\n"
    names = [f"{low:,}" if low == high else f"{low:,}{between}{high:,}" for low, high in bins]
    title = f"{number.split(' (')[0]} by length of the source: {overall:.2f} of {plural(len(lengths), 'sentence')}"
    with picture(file, title, subject, 5.4) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
        bars = above.bar(range(len(bins)), scores, 0.75, color=BLUE)
        above.bar_label(bars, [f"{value:.1f}" for value in scores])
        above.axhline(overall, color=ORANGE, linestyle="--", label=f"all together: {overall:.2f}")
        above.set(ylabel=number, ylim=(0, 1.15 * max(1e-9, *scores, overall)))
        above.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderpad=0)
        counts = below.bar(range(len(bins)), [len(some) for some in chosen], 0.75, color=GREY)
        below.bar_label(counts, [f"{len(some):,}" for some in chosen])
        below.set(ylabel="sentences", xlabel=f"length of the source ({unit})", ylim=(0, 1.3 * max(map(len, chosen))))
        below.set_xticks(range(len(bins)), names)
