"""A profile of some steps of a run: a trace for XProf and TensorBoard, and the operations that took longest."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from ..analysis.trace import dearest_operations
from ..config import ConfigError
from ..progress import Progress
from .processes import is_first

_SHOWN = 10
Step = Callable[[Any, Any], tuple[Any, Any]]


class Profile:
    """A window of steps that are traced into a folder, where TensorBoard finds them: `plugins/profile/TIME/`.

    Of several processes, the first one traces; all compile what it does, because some compilers work together.

    Attributes:
      first, last: its steps.
      folder: where traces go.
    """

    def __init__(self, first: int, count: int, folder: Path):
        self.first, self.last, self.folder = first, first + count - 1, folder
        self._programs: dict[Any, jax.stages.Compiled] = {}
        self._is_on = False

    def check(self, done: int, steps: int) -> None:
        """Refuses a window that a run will not come to.

        Args:
          done: the step that it goes on from.
          steps: its last one.

        Raises:
          ConfigError: it is so.
        """
        window = f"--profile is of step {self.first} to {self.last}"
        if self.last > steps:
            raise ConfigError(f"{window}, and the run ends at step {steps}: give an earlier STEP or a smaller COUNT")
        if done >= steps:
            raise ConfigError(f"{window}, and the run has made all of its {steps} steps: leave --profile out")
        if self.first <= done:
            raise ConfigError(f"{window}, and the run goes on after step {done}: give a later STEP")

    def watched(
        self, step: Any, start: int, progress: Progress, pause: Callable[[], AbstractContextManager[Any]]
    ) -> Step:
        """The compiled step of a run that goes on from `start`; within the window it is traced.

        `pause`: a context of what is no time of steps.
        """
        number = start

        def one(arrays: Any, batch: Any) -> tuple[Any, Any]:
            nonlocal number
            number += 1
            if not self.first <= number <= self.last:
                return step(arrays, batch)
            with pause():
                program = self._program(step, arrays, batch, progress)
                self._start(arrays)
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                arrays, metrics = program(arrays, batch)
            if number == self.last and self._is_on:
                jax.block_until_ready((arrays, metrics))
                with pause():
                    self._end(progress)
            return arrays, metrics

        return one

    def _start(self, arrays: Any) -> None:
        if not self._is_on and is_first():
            jax.block_until_ready(arrays)  # of the steps before the window
            jax.profiler.start_trace(str(self.folder))
            self._is_on = True

    def _program(self, step: Any, arrays: Any, batch: Any, progress: Progress) -> jax.stages.Compiled:
        """The step, compiled by name: what ran is then known with the code that each of its operations comes from."""
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        if shapes not in self._programs:
            with progress.phase("compiling the step to be profiled"):
                self._programs[shapes] = step.lower(arrays, batch).compile()
        return self._programs[shapes]

    def _end(self, progress: Progress) -> None:
        with progress.phase("writing the profile"):
            self.close()
        with progress.phase("reading the profile"):
            lines = self._lines()
        progress.say(*lines)

    def _lines(self) -> list[str]:
        """The dearest operations, a line each."""
        trace = max(self.folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda file: file.stat().st_mtime)
        texts, steps = [program.as_text() for program in self._programs.values()], self.last - self.first + 1
        found = dearest_operations(trace, texts, _SHOWN)
        lines = [f"{'ms a step':>9}  {'share':>6}  {'operation':<28}  {'in JAX':<24}  code"]
        for one in found:
            numbers = f"{1000 * one.seconds / steps:9.3f}  {100 * one.share:5.1f}%"
            lines.append(f"{numbers}  {one.name:<28}  {one.primitive:<24}  {one.source}")
        seen = f"steps {self.first} to {self.last} are in {self.folder}: tensorboard --logdir={self.folder} shows them"
        return [*lines, f"{seen} (pip install xprof)"]

    def close(self) -> None:
        """Ends a trace that is on, whatever ends the run."""
        if self._is_on:
            self._is_on = False
            jax.profiler.stop_trace()
