"""Numbers of a row of metrics beside the numbers of its step: the loss since the row before, time, speed and memory."""

import collections
import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ..analysis.peaks import peak_flops

# Counts the model's FLOPs of a step by its batch, whose arrays need but shapes.
StepFlops = Callable[[Mapping[str, Any]], int | float | None]


@dataclasses.dataclass
class IntervalMean:
    """The mean loss of the steps since a row, each by its weight: one step in twenty says little of the others.

    A checkpoint between two rows keeps the sums, so that a run that was killed has the rows of one that was not.

    Attributes:
      total: of the losses, each times its weight.
      weight: of all.
    """

    total: float = 0.0
    weight: float = 0.0

    def add(self, loss: float, weight: float) -> None:
        """Takes in a step; a skipped one, whose loss is no number, is no part of the mean."""
        if math.isfinite(loss):
            self.total += loss * weight
            self.weight += weight

    def take(self) -> float:
        """The mean, which begins anew; not a number where nothing was weighed."""
        mean = self.total / self.weight if self.weight else math.nan
        self.total = self.weight = 0.0
        return mean


class Pace:
    """The loss, the time and the speed of a run, from row to row."""

    def __init__(
        self,
        unit: str,
        devices: Sequence[Any],
        step_flops: StepFlops | None,
        kept: Mapping[str, Any],
    ):
        """Args:
        unit: of what a batch's weight counts.
        devices: where it runs, those of other processes too.
        step_flops: see `StepFlops`; None: there is no formula.
        kept: of the checkpoint that the run goes on from, see the method; empty: it begins.
        """
        self._name = f"{unit.replace(' ', '_')}_per_second"
        self._mean = IntervalMean(**kept.get("loss", {}))
        self._before, self._began = kept.get("seconds", 0.0), time.monotonic()
        peak = peak_flops(devices[0].device_kind)
        self._peak = None if peak is None else peak * len(devices)
        self._step_flops = step_flops if peak is not None else None
        self._own = [device for device in devices if device.process_index == jax.process_index()]
        self._known: dict[tuple, int | float | None] = {}
        self._dispatched: collections.deque[int | float | None] = collections.deque()
        self._count = self._flops = self._busy = 0.0

    @property
    def seconds(self) -> float:
        """Time of training so far, validations and compilation included, in all processes one after the other."""
        return round(self._before + time.monotonic() - self._began, 3)

    def begin(self, batch: Mapping[str, Any]) -> None:
        """Is told of the batch of a step that begins."""
        if self._step_flops is not None:
            shapes = tuple(x.shape for x in jax.tree.leaves(batch))
            if shapes not in self._known:
                self._known[shapes] = self._step_flops(batch)
            self._dispatched.append(self._known[shapes])

    def end(self, loss: float, weight: float) -> None:
        """Is told of a step that is over, the first of those that began."""
        self._mean.add(loss, weight)
        self._count += weight
        if self._dispatched:
            flops = self._dispatched.popleft()
            self._flops += math.nan if flops is None else flops

    def row(self, busy: float) -> dict[str, float]:
        """The numbers since the row before; `busy`: seconds of steps so far, without those of pauses."""
        since = max(busy - self._busy, 1e-9)
        row = {"mean_loss": self._mean.take(), "seconds": self.seconds, self._name: round(self._count / since, 3)}
        if self._flops and math.isfinite(self._flops):
            row["mfu"] = round(self._flops / since / self._peak, 6)
        self._count, self._flops, self._busy = 0.0, 0.0, busy
        return row | {"peak_memory_bytes": _peak_memory(self._own)}

    def kept(self) -> dict[str, Any]:
        """State that a checkpoint keeps of it."""
        return {"loss": dataclasses.asdict(self._mean), "seconds": self.seconds}


def _peak_memory(devices: Sequence[Any]) -> int:
    """The most bytes taken of a device of this process so far; of the process, where devices do not say."""
    stats = [device.memory_stats() for device in devices]
    known = [found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found]
    if known:
        return max(known)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
