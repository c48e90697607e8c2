"""Numbers that the pictures of a sweep show: fields, outcomes, means over seeds, lines, scales; nothing is drawn here.

A result is a row: "member", "status", "steps", "overrides" {field: value} and "final" {metric: number}. A mean is over
members that differ in their seeds alone and all finished. One that diverged has no number; one that was stopped early,
as by successive halving, or still runs, has a number of fewer steps, which is in no mean.
"""

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import nearest

Result = Mapping[str, Any]
Results = Sequence[Result]
Rows = Sequence[Mapping[str, Any]]

# What came of a member.
FINISHED, DIVERGED, UNFINISHED, STOPPED = "finished", "diverged", "not finished", "stopped early"
# Fields, without their sections.
LEARNING_RATE, SEEDS = "learning_rate", ("seed", "order_seed")
_NOT_SET = "not set"


@dataclasses.dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, of logarithms or not; the low end is the good one, or the high one."""

    low: float
    high: float
    log: bool
    lowest: bool = True

    @classmethod
    def between(cls, low: float, high: float, lowest: bool = True) -> "Scale":
        """Logarithmic over more than a decade; around a number that is alone."""
        if low == high:
            low, high = low - 0.1, high + 0.1
        return cls(float(low), float(high), bool(0 < 10 * low < high), lowest)

    def position(self, numbers: Any) -> np.ndarray:
        """Returns where numbers lie on the scale: 0 is the low end, 1 the high one."""
        low, high, at = (np.log(x) if self.log else np.asarray(x, float) for x in (self.low, self.high, numbers))
        return (at - low) / (high - low)

    def at(self, position: float) -> float:
        """The number at a position, which may be outside."""
        if self.log:
            return self.low * (self.high / self.low) ** position
        return self.low + (self.high - self.low) * position

    def beyond(self, number: float) -> bool:
        """Returns whether a number is worse than the bad end."""
        return number > self.high if self.lowest else number < self.low

    def outside(self, distance: float) -> float:
        """The position at a distance from the bad end."""
        return 1 + distance if self.lowest else -distance


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the config, by its name in the overrides, and its values: numbers ascending, then the others."""

    name: str
    values: tuple[Any, ...]

    @property
    def label(self) -> str:
        """The name without its section."""
        return self.name.rpartition(".")[2]

    @property
    def numeric(self) -> bool:
        return all(map(is_number, self.values))

    def index(self, result: Result) -> int:
        """The place of a result's value in `values`."""
        return self.values.index(result["overrides"].get(self.name, _NOT_SET))

    def scale(self) -> Scale:
        """Returns the scale of the values: numbers, logarithmic if they lie more evenly so, or places of other values."""
        if not self.numeric:
            return Scale(-0.5, len(self.values) - 0.5, log=False)
        low, high = self.values[0], self.values[-1]
        scales = [Scale(low, high, log) for log in (False, True) if not log or high >= 3 * low > 0]
        return min(scales, key=lambda scale: abs(scale.position(self.values).mean() - 0.5))


@dataclasses.dataclass(frozen=True)
class Cell:
    """The outcomes of members that differ in their seeds alone: see `outcome`."""

    outcomes: tuple[tuple[str, float], ...]

    @property
    def finished(self) -> list[float]:
        """The numbers of those that finished."""
        return [number for kind, number in self.outcomes if kind == FINISHED]

    @property
    def failure(self) -> str | None:
        """The reason why there is no mean."""
        kinds = {kind for kind, _ in self.outcomes}
        return next((kind for kind in (DIVERGED, UNFINISHED, STOPPED) if kind in kinds), None)

    @property
    def stopped(self) -> list[float]:
        """The numbers of those that were stopped early."""
        return [number for kind, number in self.outcomes if kind == STOPPED and math.isfinite(number)]

    @property
    def mean(self) -> float:
        """The mean; NaN unless all finished, because the mean of the others would flatter."""
        return math.nan if self.failure else float(np.mean(self.finished))


@dataclasses.dataclass(frozen=True)
class Line:
    """Cells by learning rate, ascending, and, by their labels, the values that tell the line from others."""

    cells: Mapping[float, Cell]
    values: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={text(value)}" for name, value in self.values.items())

    @property
    def means(self) -> np.ndarray:
        return np.array([cell.mean for cell in self.cells.values()])


def outcome(result: Result, metric: str) -> tuple[str, float]:
    """FINISHED, DIVERGED, STOPPED or UNFINISHED, and the last number of the metric: NaN if there is none."""
    number = result["final"].get(metric)
    number = math.nan if number is None or not math.isfinite(number) else float(number)
    if result["status"] == "diverged":
        return DIVERGED, math.nan
    if result["status"] in ("stopped", "pruned"):
        return STOPPED, number
    if result["status"] != "finished":
        return UNFINISHED, number
    return DIVERGED if math.isnan(number) else FINISHED, number


def check_metric(results: Results, metric: str) -> None:
    """Raises a ValueError if no result has this metric, and some have others."""
    known = sorted({name for result in results for name in result["final"]})
    if known and metric not in known:
        raise ValueError(f"metric must be one of {', '.join(known)}, got {metric!r}{nearest(metric, known)}")


def costs(means: np.ndarray, lowest: bool) -> np.ndarray:
    """The lowest is the best; infinite where there is no mean."""
    return np.where(np.isnan(means), math.inf, means if lowest else -means)


def varying_fields(results: Results) -> list[Field]:
    """The fields with more than one value, not to be set being one too, in the order of the overrides."""
    fields = [_field(results, name) for name in _names(results)]
    return [field for field in fields if len(field.values) > 1]


def swept_fields(results: Results) -> list[Field]:
    """The fields that vary and are no seeds."""
    return [field for field in varying_fields(results) if field.label not in SEEDS]


def is_grid(results: Results, fields: Sequence[Field], metric: str) -> bool:
    """Returns whether two fields were tried with one another, as random draws and continuous values are not."""
    count, sizes = len(cells(results, fields, metric)), [len(field.values) for field in fields]
    return len(fields) == 2 and 2 * count >= math.prod(sizes) and 2 * count >= 3 * max(sizes)


def cells(results: Results, fields: Sequence[Field], metric: str) -> dict[tuple[int, ...], Cell]:
    """The members that share their values of these fields, by the places of the values, ascending."""
    groups: dict[tuple[int, ...], list[tuple[str, float]]] = {}
    for result in results:
        groups.setdefault(tuple(field.index(result) for field in fields), []).append(outcome(result, metric))
    return {place: Cell(tuple(groups[place])) for place in sorted(groups)}


def learning_rate_lines(results: Results, metric: str, by: str | None = None) -> list[Line]:
    """A line for each combination of the fields that vary beside the learning rate and the seeds.

    One none of whose members has a number or diverged is left out.

    Args:
      results: those without a learning rate among their overrides are left out.
      metric: a key of "final".
      by: the one field that tells the lines apart.

    Raises:
      ValueError: no result has a learning rate, or one that is no positive number, or the field `by`; or lines would
        mix members that differ in others.
    """
    known = _names(results)
    rate = next((name for name in known if Field(name, ()).label == LEARNING_RATE), None)
    if rate is None:
        raise ValueError("results must have a learning_rate among their overrides, and none has one")
    if by is not None and by not in known:
        raise ValueError(f"by must be a field of the overrides, got {by!r}{nearest(by, known)}")
    results = [result for result in results if rate in result["overrides"]]
    if bad := [x for x in _field(results, rate).values if not is_number(x) or not 0 < x <= sys.float_info.max]:
        raise ValueError(f"results must have positive numbers as {rate}, and one has {bad[0]!r}")
    rates, swept = _field(results, rate), [field for field in swept_fields(results) if field.name != rate]
    told = swept if by is None else [_field(results, by)]
    found = cells(results, [*told, rates], metric)
    if len(found) < len(cells(results, [*swept, rates], metric)):
        raise ValueError(f"by={by!r} would mix members that also differ in {', '.join(f.name for f in swept)}")
    lines: dict[tuple[int, ...], dict[float, Cell]] = {}
    for (*place, at), cell in found.items():
        lines.setdefault(tuple(place), {})[rates.values[at]] = cell
    return [
        Line(line, {field.label: field.values[i] for field, i in zip(told, place, strict=True)})
        for place, line in lines.items()
        if any(cell.finished or cell.stopped or cell.failure == DIVERGED for cell in line.values())
    ]


def metric_scale(numbers: Iterable[float], lowest: bool) -> Scale:
    """Returns the scale from the best number to the worst; far outliers lie beyond it and do not flatten the others.

    Far is six times as far from the best as the better two thirds are, and at least half as good: what is cut is no
    small difference, however near to each other the others are.
    """
    found = np.array([x for x in numbers if math.isfinite(x)] or [0.0, 1.0])
    merit = np.log(found) if lowest and found.min() > 0 else found
    distance = merit - merit.min() if lowest else merit.max() - merit
    half = math.log(2) if lowest and found.min() > 0 else abs(merit.min() if lowest else merit.max()) / 2
    reach = max(6 * np.sort(distance)[(len(found) - 1) * 2 // 3], half)
    kept = found[distance <= reach] if reach > 0 else found
    return Scale.between(kept.min(), kept.max(), lowest)


def curve(rows: Rows, name: str) -> np.ndarray:
    """Steps and numbers [2 points] of one metric, NaN where it was not finite."""
    return np.array([(row["step"], row[name]) for row in rows if name in row], float).reshape(-1, 2).T


def curve_scale(results: Results, curves: Mapping[int, Rows]) -> Scale:
    """Returns the scale from the lowest loss to where members start or end, without far outliers and diverged members."""
    calm = [result for result in results if result["status"] != "diverged"] or results
    rows = [curves.get(result["member"], ()) for result in calm]
    drawn = [curve(some, name)[1] for some in rows for name in ("loss", "validation_loss")]
    drawn = [numbers[np.isfinite(numbers)] for numbers in drawn if np.isfinite(numbers).any()] or [np.zeros(1)]
    ends = metric_scale([numbers[-1] for numbers in drawn], lowest=True)
    return Scale.between(min(map(np.min, drawn)), max(ends.high, np.median([numbers[0] for numbers in drawn])))


def parallel_positions(results: Results, metric: str, lowest: bool) -> tuple[np.ndarray, Scale]:
    """Returns where results cross the axes of varying fields and metric [results axes], and the metric's scale.

    What is beyond the metric's scale, or diverged, is outside; what has no number yet is NaN. Results with the same
    value of a field that is no number lie beside each other, as their ranks are.
    """
    kinds, numbers = zip(*(outcome(result, metric) for result in results), strict=True)
    scale = metric_scale(numbers, lowest)
    ranks = np.argsort(np.argsort(numbers)) / len(results) - 0.5
    columns = []
    for field in swept_fields(results):
        places = np.array([field.index(result) for result in results])
        at = np.array(field.values)[places] if field.numeric else places + 0.5 * ranks
        columns.append(field.scale().position(at))
    last = scale.position(numbers)
    last[[scale.beyond(number) for number in numbers]] = scale.outside(0.07)
    last[[kind == DIVERGED for kind in kinds]] = scale.outside(0.14)
    return np.stack([*columns, last], axis=1), scale


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def text(value: Any) -> str:
    """A value on paper: 0.0003 is 3e-4."""
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 0.01 <= abs(value) < 1e5:
        return exact if len(exact := f"{value:g}") <= 7 else f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _names(results: Results) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result["overrides"]))


def _field(results: Results, name: str) -> Field:
    values: list[Any] = []
    for result in results:
        value = result["overrides"].get(name, _NOT_SET)
        if value not in values:
            values.append(value)
    return Field(name, (*sorted(filter(is_number, values)), *(x for x in values if not is_number(x))))
