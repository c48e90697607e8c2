"""Calibration of a sweep: how many members fit the memory at a time, and which way they are fastest."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ..config import ConfigError
from ..progress import SILENT, Progress
from ..tasks import Task
from .members import Member
from .vectorized import Population, varying_numbers

_SOME = 4  # members of a chunk between one and all
_ROUNDS = 3
# Another way than one after the other must be clearly faster: what is decided by noise would differ from sweep to
# sweep, and with it the last bits of all results.
_CLEARLY = 0.9
_OF_MEMORY = 0.9
# Of what the sweep will take: so much is spent on measuring at most; with fewer steps not even one is.
_OF_TIME = 0.1


@dataclasses.dataclass(frozen=True)
class Way:
    """The way in which members of one program run.

    Attributes:
      together: so many are trained at a time; the others after them.
      chunk: of these, on each device, so many at once by `jax.vmap`, chunk after chunk.
    """

    together: int
    chunk: int


def calibrate(
    members: Sequence[Member],
    task: Task,
    batch: Any,
    devices: Sequence[Any],
    say: Callable[[str], None],
    *,
    together: int | None = None,
    chunk: int | None = None,
    member_steps: float = math.inf,
    progress: Progress = SILENT,
) -> tuple[Way, Population]:
    """Finds the fastest way that fits the memory, by the compiler's own figures and some steps that are thrown away.

    Compiling and measuring other ways than the first one takes at most a tenth of what the sweep takes that way.
    Returns the way and, compiled, the first members that are trained together.

    Args:
      members: of one program.
      task: of them.
      batch: such as they will be trained on.
      devices: to spread them over.
      say: is told what was measured.
      together, chunk: given instead of predicted and measured.
      member_steps: how many steps all members will make, all in all; by default so many that all ways are measured.
      progress: is told what takes long.

    Raises:
      ConfigError: not even one member for each device fits.
    """
    trial = _Trial(members, task, batch, devices, progress, forced=together is not None)
    count = len(members) if together is None else min(together, len(members))
    while True:
        each = -(-count // len(devices))
        sizes = (1, _SOME, each) if chunk is None else (chunk,)
        first, *others = sorted({min(size, each) for size in sizes})  # the first has least at once
        least, room = trial.compile(count, first), available_bytes(devices[0])
        if first in trial.fitting:
            break
        if count <= len(devices):
            raise ConfigError(
                f"a member of the sweep needs {least / 2**20:,.0f} MiB, but the device has {room / 2**20:,.0f} MiB left"
            )
        count = max(len(devices), min(count - 1, int(count * room / least)))
        say(f"{len(members)} members would need {least / 2**20:,.0f} MiB a device: training {count} at a time")
    chosen, said = trial.fastest(count, first, others[::-1], member_steps / count) if others else (first, None)
    if said is not None:
        say(said)
    return Way(count, chosen), trial.fitting[chosen]


class _Trial:
    """The ways that are tried.

    Attributes:
      fitting: of those that fit the memory, by the size of their chunks.
    """

    def __init__(self, members, task, batch, devices, progress: Progress, *, forced: bool):
        """`forced`: whatever the compiler says that it needs."""
        self._members, self._task, self._batch, self._devices = members, task, batch, devices
        self._progress, self._forced = progress, forced
        self.fitting: dict[int, Population] = {}
        self._compiling = 0.0  # seconds, of the last way

    def compile(self, count: int, size: int) -> int:
        """Compiles the step of `count` members in chunks of a size; what it needs, in bytes."""
        began = time.perf_counter()
        population = Population(self._members[:count], self._task, self._devices, size, varying_numbers(self._members))
        with self._progress.phase(f"compiling the step of {count} members, {_called(size, population)}"):
            needed = _bytes(population, self._batch)
        self._compiling = time.perf_counter() - began
        if self._forced or needed <= available_bytes(self._devices[0]):
            self.fitting[size] = population
        return needed

    def fastest(self, count: int, first: int, others: Sequence[int], steps: float) -> tuple[int, str]:
        """The size to choose, and what was measured.

        Args:
          count: of members.
          first: the size that is there already, and is chosen unless another one is clearly faster.
          others: to try in this order, as far as time allows.
          steps: that all will make.
        """
        called = _called(first, self.fitting[first])
        if steps * _OF_TIME < 1:
            return first, f"members run {called}: measuring other ways does not pay for {steps:.0f} steps"
        compiling, one = self._compiling, self._times(0)[first]
        seconds = one * count
        left = _OF_TIME * (compiling + steps * seconds) - seconds
        tried = 1
        for size in others:
            # Another program takes about as long to compile; then each has a step to warm up and one that counts.
            if compiling + 2 * (tried + 1) * seconds > left:
                continue
            self.compile(count, size)
            left, tried = left - self._compiling, len(self.fitting)
        rounds = 0 if left < 0 else int(min(_ROUNDS, left / (tried * seconds) - 1))
        if tried == 1 or rounds < 1:
            return first, (
                f"milliseconds per member and step: {called} {1000 * one:.1f}; members run so, "
                "because the sweep is too short to measure other ways"
            )
        times = self._times(rounds)
        best = min(times, key=times.get)
        chosen = best if times[best] < _CLEARLY * times[first] else first
        ways = {size: _called(size, population) for size, population in sorted(self.fitting.items())}
        measured = ", ".join(f"{ways[size]} {1000 * times[size]:.1f}" for size in ways)
        return chosen, f"milliseconds per member and step: {measured}; members run {ways[chosen]}"

    def _times(self, rounds: int) -> dict[int, float]:
        """Seconds a member and step of each way, in turns, so that a machine that slows down slows them all.

        Those of the first turn do not count, unless it is the only one.
        """
        seconds: dict[int, list[float]] = {size: [] for size in self.fitting}
        states = jax.block_until_ready(next(iter(self.fitting.values())).initial({}))
        what, total = "measuring how members run fastest", (1 + rounds) * len(self.fitting)
        with self._progress.phase(what, total, "steps") as advance:
            for _ in range(1 + rounds):
                for size, population in self.fitting.items():
                    began = time.perf_counter()
                    states, _ = population.step(states, [self._batch] * len(population.orders))
                    jax.block_until_ready(states)
                    seconds[size].append((time.perf_counter() - began) / len(population.members))
                    advance()
        return {size: statistics.median(times[1:] or times) for size, times in seconds.items()}


def available_bytes(device: Any) -> float:
    """Returns the memory of a device that may be used."""
    if (stats := device.memory_stats()) and "bytes_limit" in stats:
        return _OF_MEMORY * (stats["bytes_limit"] - stats["bytes_in_use"])
    lines = Path("/proc/meminfo")
    if not lines.exists():
        return float("inf")
    (kibibytes,) = (line.split()[1] for line in lines.read_text().splitlines() if line.startswith("MemAvailable"))
    return _OF_MEMORY * 1024 * int(kibibytes) / len(jax.local_devices())


def _bytes(population: Population, batch: Any) -> int:
    """Bytes that the step holds on each device while it runs, by the compiler's figures."""
    figures = population.compiled(population.abstract([batch] * len(population.orders))).memory_analysis()
    held = figures.argument_size_in_bytes + figures.output_size_in_bytes - figures.alias_size_in_bytes
    return held + figures.temp_size_in_bytes


def _called(size: int, population: Population) -> str:
    each = population.width // population.device_count
    return "all at once" if size >= each else "one after the other" if size == 1 else f"in chunks of {size}"
