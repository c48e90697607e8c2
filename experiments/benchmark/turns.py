"""Contenders as processes that take turns, and the statistics of their times."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

CEILING, PROJECT = "ceiling", "tformer_jax"


@dataclasses.dataclass
class Times:
    """The measurements of one contender.

    Attributes:
      name: of the contender.
      seconds: of each of its turns.
      first: seconds from the start of its process to the end of its first turn.
      peak_bytes: the most memory that its turns took beyond what stood before its work was made.
      facts: what the worker said of the work: its count, unit, flops and predicted bytes.
      notes: what the work had to say after its last turn.
    """

    name: str
    seconds: list[float]
    first: float
    peak_bytes: int
    facts: Mapping[str, Any]
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Failed(Exception):
    """A contender ended before its time; the message is its last line."""


class Contender:
    """A worker process: it does its work once when it is started, and once more at each turn."""

    def __init__(self, name: str, case: Mapping[str, Any]):
        self.name = name
        command = [sys.executable, "-m", "experiments.benchmark.worker", json.dumps(case | {"contender": name})]
        # A worker that spins while it waits would slow the others down.
        environment = os.environ | {
            "OMP_WAIT_POLICY": "passive",
            "HF_HUB_OFFLINE": "1",
            "JAX_TRACEBACK_FILTERING": "off",
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.ready = self._answer()

    def turn(self) -> float:
        """Lets it work once; returns its seconds."""
        return self._asked("turn")["seconds"]

    def end(self) -> dict[str, Any]:
        """Ends it; returns its last words."""
        said = self._asked("end")
        self._process.communicate()
        return said

    def kill(self) -> None:
        """Ends it in any case."""
        self._process.kill()
        self._process.communicate()

    def _asked(self, what: str) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # what it says of its end is read below
            print(what, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        said = self._process.communicate()[1].strip().splitlines()
        raise Failed(said[-1] if said else f"exit code {self._process.returncode}")


def take_turns(names: Sequence[str], case: Mapping[str, Any], rounds: int, say: Callable[[str], None]) -> list[Times]:
    """Starts a worker for each contender, one after the other, and lets them work in turn, `rounds` times.

    A contender that fails is left out, and `say` told why. The order turns round from one round to the next, so that
    nobody always follows the same neighbour.
    """
    with _started(names, case, say) as contenders:
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds):
            for name in list(contenders)[:: 1 if number % 2 else -1]:
                seconds[name].append(contenders[name].turn())
        ends = {name: contender.end() for name, contender in contenders.items()}
        return [
            Times(name, seconds[name], ready.pop("first"), ends[name]["peak_bytes"], ready, ends[name]["notes"])
            for name, ready in ((name, dict(contender.ready)) for name, contender in contenders.items())
        ]


@contextlib.contextmanager
def _started(
    names: Sequence[str], case: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[dict[str, Contender]]:
    contenders: dict[str, Contender] = {}
    try:
        for name in names:
            try:
                contenders[name] = Contender(name, case)
            except Failed as error:
                say(f"{name} is left out: {error}")
        yield contenders
    finally:
        for contender in contenders.values():
            contender.kill()


def ratios(times: Times, base: Times) -> tuple[float, float, float]:
    """The first quartile, the median and the third of the ratios of turns in the same round."""
    each = [mine / other for mine, other in zip(times.seconds, base.seconds, strict=True)]
    if len(each) == 1:
        return each[0], each[0], each[0]
    first, median, third = statistics.quantiles(each, n=4, method="inclusive")
    return first, median, third
