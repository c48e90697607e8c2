"""Results of a sweep: one table of all members, kept in two files."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import check_choice
from ..data.files import write_whole
from ..training.directories import RunError
from ..training.metrics import usual_best
from ..training.run import holds
from .members import Member
from .space import Overrides

Row = dict[str, Any]
_VALIDATION = "validation_"


class Ranking:
    """The order of members: which of two is better.

    Attributes:
      metric: of the last validation, such as "loss" or "accuracy".
      lowest: the lowest is best, else the highest.
    """

    def __init__(self, metric: str = "loss", best: str | None = None):
        """Args:
          metric: see above.
          best: "lowest" or "highest"; None: the highest of an accuracy, the lowest of others.

        Raises:
          ConfigError: `best` is something else.
        """
        best = best or usual_best(metric)
        check_choice("best", best, ("lowest", "highest"))
        self.metric, self.lowest = metric, best == "lowest"

    def value(self, numbers: Mapping[str, Any] | None) -> float:
        """Returns a validation's number to sort by, best first: what is missing or not finite comes last."""
        number = (numbers or {}).get(self.metric)
        if number is None or not math.isfinite(number):
            return math.inf
        return number if self.lowest else -number

    def ranked(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of members that have a result, best first: those that finished before the others."""
        sound = [row for row in rows if row["status"] not in ("diverged", "failed")]
        known = [row for row in sound if self.value(row["final"]) < math.inf]
        return sorted(known, key=lambda row: (row["status"] != "finished", self.value(row["final"])))


class Results:
    """The results of some members, from the rows of their metrics as they come; `ranking`: which are best.

    A row has "member" and "step"; a training row "loss" and "seconds", since the member began; a validation row
    "validation_loss" and others; "diverged" says why a member stands still.
    """

    def __init__(self, members: Sequence[Member], ranking: Ranking):
        self.ranking = ranking
        self._steps = {member.number: member.experiment.training.steps for member in members}
        self._validations: dict[int, dict[int, dict[str, float]]] = {member.number: {} for member in members}
        self._diverged: dict[int, int] = {}
        self._rows = {member.number: waiting(member.number, member.overrides) for member in members}

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes a row of metrics in."""
        result = self._rows[row["member"]]
        if row.get("diverged"):
            result["status"], result["steps"] = "diverged", row["step"] - 1
            self._diverged[row["member"]] = row["step"]
            return
        take_in(row, result, self.ranking)
        if numbers := validated(row):
            self._validations[row["member"]][row["step"]] = numbers
        done = row["step"] == self._steps[row["member"]] and numbers
        result["status"] = "finished" if done else "running"

    def best_at(self, rung: int, going: Sequence[int], factor: int) -> list[int]:
        """Members that go on after a rung, by what was known then, whatever has been trained since.

        Args:
          rung: its step, to which all are trained, or have diverged.
          going: those who were not dropped before.
          factor: one in so many goes on.
        """
        able = [n for n in going if self._steps[n] > rung and self._diverged.get(n, math.inf) > rung]

        def value(number: int) -> float:
            validations = self._validations[number]
            return self.ranking.value(validations.get(max((s for s in validations if s <= rung), default=None)))

        return sorted(sorted(able, key=value)[: -(-len(able) // factor)])

    def stop(self, numbers: Sequence[int]) -> None:
        """Takes note that these members are not trained to their ends."""
        for number in numbers:
            self._rows[number]["status"] = "stopped"

    def __getitem__(self, number: int) -> Row:
        return self._rows[number]

    def rows(self) -> list[Row]:
        """A row a member, in their order."""
        return list(self._rows.values())


def waiting(number: int, overrides: Overrides) -> Row:
    """Returns the result of a member, or a trial, of which nothing is known yet."""
    nothing = {"training_loss": None, "final": {}, "best": {}, "best_step": None}
    return {"member": number, "status": "waiting", "steps": 0, "seconds": 0.0, "overrides": overrides} | nothing


def take_in(row: Mapping[str, Any], result: Row, ranking: Ranking) -> None:
    """Takes a row of metrics into the result of a member, or a trial; its status stays as it is."""
    result["steps"] = row["step"]
    result["seconds"] = row.get("seconds", result["seconds"])
    result["training_loss"] = row.get("loss", result["training_loss"])
    if numbers := validated(row):
        result["final"] = numbers
        if not result["best"] or ranking.value(numbers) < ranking.value(result["best"]):
            result["best"], result["best_step"] = numbers, row["step"]


def validated(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a validation in a row of metrics; none in other rows."""
    return {name.removeprefix(_VALIDATION): x for name, x in row.items() if name.startswith(_VALIDATION)}


def write_results(rows: Sequence[Row], directory: Path) -> None:
    """Writes results.jsonl and, the same in columns, results.csv; each whole or not at all."""
    write_whole(directory / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    parts = [_columns(row) for row in rows]
    names = dict.fromkeys(name for part in zip(*parts, strict=True) for columns in part for name in columns)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(first | overrides | numbers for first, overrides, numbers in parts)
    write_whole(directory / "results.csv", text.getvalue())


def read_results(directory: Path) -> list[Row]:
    """Reads the rows that `write_results` wrote.

    Raises:
      RunError: there are none, or the file is damaged (says the line).
    """
    file = directory / "results.jsonl"
    if not file.is_file():
        raise RunError(f"{directory} has no results.jsonl: give the directory of a sweep")
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{file} is damaged in line {number}: {error}; {_MADE_AGAIN}") from None
        if not _is_result(rows[-1]):
            raise RunError(f"{file} is damaged in line {number}: it is no result of a member; {_MADE_AGAIN}")
    if not rows:
        raise RunError(f"{file} is empty; {_MADE_AGAIN}")
    return rows


_MADE_AGAIN = "the command of the sweep, given again, writes it anew"


def _is_result(row: Any) -> bool:
    """Returns whether a value has what is compared of a member."""
    return holds(row, status=str, overrides=dict, final=dict) and all(
        x is None or type(x) is float or (type(x) is int and abs(x) < 2**63) for x in row["final"].values()
    )


def _columns(row: Row) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Row of a member: what it is, overrides, and numbers; of an override with the name of another, "override_..."."""
    plain = {name: value for name, value in row.items() if not isinstance(value, dict)}
    first = {name: plain.pop(name) for name in ("member", "status", "steps", "seconds")}
    numbers = {f"{part}_{name}": value for part in ("final", "best") for name, value in row[part].items()}
    others = first.keys() | plain.keys() | numbers.keys()
    overrides = {f"override_{n}" if n in others else n: value for n, value in row["overrides"].items()}
    return first, overrides, plain | numbers
