"""Early stopping: a run ends when its validations have not become better for a while."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from .metrics import usual_best
from .processes import agreed


class Patience:
    """Count of validations since the best one. It follows from the numbers of all validations, in order, and from nothing else.

    Where training went on after a stop, because more steps were asked for, the count began anew there.

    Attributes:
      most: validations without a better value that end a run; None: it never ends before its last step.
      metric: whose value it is.
      best, best_step: the best value so far, and its step; None: no value was a number yet.
      waited: validations since then, or since training went on after a stop.
      last: step of the last validation.
    """

    def __init__(self, most: int | None, metric: str = "loss", best: str | None = None):
        """Args:
        most, metric: see above.
        best: value of the metric, "lowest" or "highest"; None: see `usual_best`.
        """
        self.most, self.metric = most, metric
        self._sign = -1 if (best or usual_best(metric)) == "highest" else 1
        self.best: float | None = None
        self.best_step: int | None = None
        self.last, self.waited = 0, 0

    @property
    def is_over(self) -> bool:
        """Returns whether training ends with the last validation."""
        return self.most is not None and self.waited >= self.most

    def take(self, step: int, value: float | None) -> None:
        """Takes in the value of a validation; what is not finite is no better one."""
        self.waited = 0 if self.is_over else self.waited  # training went on
        self.last = step
        known = value is not None and math.isfinite(value)
        if known and (self.best is None or self._sign * value < self._sign * self.best):
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1

    def read(self, rows: Iterable[Mapping[str, Any]], until: int) -> None:
        """Takes in the rows of metrics.jsonl up to a step; of several processes, the first one's count."""
        name = f"validation_{self.metric}"
        for row in rows:
            if name in row and row["step"] <= until:
                self.take(row["step"], row[name])
        kept = json.loads(agreed(json.dumps([self.best, self.best_step, self.last, self.waited])))
        self.best, self.best_step, self.last, self.waited = kept

    def describe(self) -> str:
        """Describes what the last validations were, and which was the best."""
        counted = "a validation" if self.waited == 1 else f"{self.waited} validations"
        name = self.metric.replace("_", " ")
        if self.best is None:
            return f"after {counted} without a finite {name}"
        return f"after {counted} without a better {name}; the best, {self.best:.4f}, is that of step {self.best_step}"
