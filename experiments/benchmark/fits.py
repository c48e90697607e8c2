"""How times grow: least squares of points (x, time)."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

LEAST_POINTS = 3  # through two there is always a line

Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """The line of least squares: `start + slope * x`, and the share R² of the variance that it explains."""

    start: float
    slope: float
    r2: float


def line(points: Points) -> Line:
    """Fits a line to points with different x and different times."""
    x, y = zip(*points, strict=True)
    slope, start = statistics.linear_regression(x, y)
    return Line(start, slope, statistics.correlation(x, y) ** 2)


def power(points: Points) -> Line:
    """Fits a power law to positive points, as a line of logarithms: `slope` is its exponent."""
    return line([(math.log(x), math.log(y)) for x, y in points])
