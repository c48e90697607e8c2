"""Plans of batches by themselves, which are made once before training: which pairs are in which bucket, or share a row.

A turn makes the plan of a million pairs whose lengths are like those of news in 32,000 subwords (WMT14 has 4.5 million):
log-normal, of mean 28 and standard deviation 15 tokens, those of both sides correlated. Their tokens are not there: a
plan follows from lengths. Compared are versions of the project.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import Row, Work

_PAIRS = dict(pairs=1_000_000, row_length=256)
ROWS = [Row("buckets", _PAIRS | dict(buckets=8)), Row("packed", _PAIRS)]


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    from tformer_jax.data.batches.buckets import Buckets, choose_buckets
    from tformer_jax.data.batches.packed import Packed
    from tformer_jax.data.ragged import Ragged, longest_sides

    count, row = settings["pairs"], settings["row_length"]
    offsets = np.pad(np.cumsum(lengths(count, row), 1), ((0, 0), (1, 0)))
    sides, names = tuple(Ragged(np.zeros(0, np.uint16), side) for side in offsets), ("source", "target")
    shares = []

    def turn() -> None:
        if "buckets" in settings:
            chosen = choose_buckets(longest_sides(sides), settings["buckets"])
            batches = Buckets(sides, names, chosen, 100 * row, 0)
        else:
            batches = Packed(sides, names, (row, row), 100, 0)
        shares.append(batches.padding_share())

    return Work(turn, count, "pairs", notes=lambda: {"padding": shares[-1]})


def lengths(count: int, longest: int) -> np.ndarray:
    """Draws the lengths of both sides of pairs, none above `longest`: int64 [2 count]."""
    draw, variance = np.random.default_rng(0), np.log(1 + (15 / 28) ** 2)
    common, own = draw.standard_normal(count), draw.standard_normal((2, count))
    logarithms = np.log(28) - variance / 2 + np.sqrt(variance) * (np.sqrt(0.9) * common + np.sqrt(0.1) * own)
    return np.clip(np.exp(logarithms).round().astype(np.int64), 1, longest)


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says how much of an epoch is padding, by the plan of each contender."""
    return [
        f"{line['row']}, {line['contender']}: {100 * notes['padding']:.1f} % padding"
        for line in lines
        if "padding" in (notes := line["notes"])
    ]
