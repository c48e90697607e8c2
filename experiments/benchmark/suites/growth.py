"""How time grows: of a training step with the number of layers, of blockwise attention with the length of a row.

    python -m experiments.benchmark growth --peers=torch,tformer_jax@scan_unroll=1

Below the table stand, for each contender, the line through the medians of all depths, and the exponent of the power
law of lengths (see `fits`). Rows are measured one after the other, so that a machine that slows down bends both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .. import fits
from ..turns import CEILING
from . import Row, Work, attention, train_step

_GPT = dict(task="causal_lm", d_model=192, heads=6, rows=8, length=128, vocab_size=65)
_DEPTHS, _LENGTHS = (2, 4, 8, 12, 16, 24), (4096, 8192, 16_384)
ROWS = [
    *(Row(f"depth-{L}", _GPT | dict(layers=L), ("torch", "torch.compile", "transformers", "flax")) for L in _DEPTHS),
    *(Row(f"length-{T}", dict(causal=True, forward=False, length=T), ("torch", "flax")) for T in _LENGTHS),
]
_KERNEL = {"blockwise": ""}


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    if "layers" in settings:
        return train_step.prepare(settings, contender, changes)
    return attention.prepare(settings, contender, changes or _KERNEL)


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fits of each contender of which enough rows were measured."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for line in lines:
        kind, _, size = line["row"].partition("-")
        points.setdefault((kind, line["contender"]), []).append((float(size), line["milliseconds"]))
    return [
        f"{contender} by {kind}: {_SENTENCES[kind](found)}"
        for (kind, contender), found in points.items()
        if contender != CEILING and len(found) >= fits.LEAST_POINTS
    ]


def _line(points: fits.Points) -> str:
    found = fits.line(points)
    return f"{found.start:.3g} + {found.slope:.3g} * depth milliseconds, R² {found.r2:.4f}"


def _power(points: fits.Points) -> str:
    found = fits.power(points)
    return f"time grows as length ** {found.slope:.2f}, R² {found.r2:.4f} of the logarithms"


_SENTENCES = {"depth": _line, "length": _power}
