"""How the members of one program run: how many at a time fit the memory, and which way they are fastest."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ..config import ConfigError
from ..tasks import Task
from .members import Member
from .vectorized import Population, varying_numbers

_SOME = 4  # members of a chunk between one and all
_ROUNDS = 3
# Another way than one after the other must be clearly faster: what is decided by noise would differ from sweep to
# sweep, and with it the last bits of all results.
_CLEARLY = 0.9
_OF_MEMORY = 0.9


@dataclasses.dataclass(frozen=True)
class Way:
    """How members of one program run.

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
) -> tuple[Way, Population]:
    """The fastest way that fits the memory, by the compiler's own figures and some steps that are thrown away.

    Returns the way and, compiled, the first members that are trained together.

    Args:
      members: of one program.
      task: of them.
      batch: such as they will be trained on.
      devices: to spread them over.
      say: is told what was measured.
      together, chunk: given instead of predicted and measured.

    Raises:
      ConfigError: not even one member for each device fits.
    """
    count = len(members) if together is None else min(together, len(members))
    while True:
        fitting, needed = {}, {}
        for size in _chunks(count, len(devices), chunk):
            population = Population(members[:count], task, devices, size, varying_numbers(members))
            needed[size] = _bytes(population, batch)
            if together is not None or needed[size] <= available_bytes(devices[0]):
                fitting[size] = population
        if fitting:
            break
        least, room = min(needed.values()), available_bytes(devices[0])
        if count <= len(devices):
            raise ConfigError(
                f"one member of the sweep needs {least / 2**20:,.0f} MiB of a device that has {room / 2**20:,.0f} left"
            )
        count = max(len(devices), min(count - 1, int(count * room / least)))
        say(f"{len(members)} members would need {least / 2**20:,.0f} MiB a device: {count} are trained at a time")
    if len(fitting) == 1:
        return Way(count, *fitting), *fitting.values()
    times = _times(fitting, batch)
    best = min(times, key=times.get)
    chosen = best if times[best] < _CLEARLY * times[min(times)] else min(times)
    called = {size: _called(size, population) for size, population in fitting.items()}
    measured = ", ".join(f"{called[size]} {1000 * seconds:.1f}" for size, seconds in times.items())
    say(f"ms a member and step: {measured}; they run {called[chosen]}")
    return Way(count, chosen), fitting[chosen]


def available_bytes(device: Any) -> float:
    """Memory of a device that may be used."""
    if (stats := device.memory_stats()) and "bytes_limit" in stats:
        return _OF_MEMORY * (stats["bytes_limit"] - stats["bytes_in_use"])
    lines = Path("/proc/meminfo")
    if not lines.exists():
        return float("inf")
    (kibibytes,) = (line.split()[1] for line in lines.read_text().splitlines() if line.startswith("MemAvailable"))
    return _OF_MEMORY * 1024 * int(kibibytes) / len(jax.local_devices())


def _chunks(count: int, devices: int, given: int | None) -> list[int]:
    """Sizes of chunks to try, ascending; of those that a device has."""
    each = -(-count // devices)
    return sorted({min(size, each) for size in ((1, _SOME, each) if given is None else (given,))})


def _bytes(population: Population, batch: Any) -> int:
    """What the step holds on each device while it runs, by the compiler's figures."""
    figures = population.compiled(population.abstract([batch] * len(population.orders))).memory_analysis()
    held = figures.argument_size_in_bytes + figures.output_size_in_bytes - figures.alias_size_in_bytes
    return held + figures.temp_size_in_bytes


def _times(populations: dict[int, Population], batch: Any) -> dict[int, float]:
    """Seconds a member and step of each, in turns, so that a machine that slows down slows them all."""
    seconds: dict[int, list[float]] = {size: [] for size in populations}
    states = next(iter(populations.values())).initial({})
    for measured in [False] + [True] * _ROUNDS:
        for size, population in populations.items():
            began = time.perf_counter()
            states, _ = population.step(states, [batch] * len(population.orders))
            jax.block_until_ready(states)
            if measured:
                seconds[size].append((time.perf_counter() - began) / len(population.members))
    return {size: statistics.median(times) for size, times in seconds.items()}


def _called(size: int, population: Population) -> str:
    each = population.width // population.device_count
    return "all at once" if size >= each else "one after the other" if size == 1 else f"in chunks of {size}"
