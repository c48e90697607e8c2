"""A worker of a search: trains one trial after another."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ..config import ConfigError
from ..data.digest import OtherData
from ..data.files import DataError
from ..training.experiment import Experiment
from ..training.interruption import Interrupted, Interruption
from ..training.loop import Diverged
from ..training.metrics import read_metrics
from ..training.run import Run
from ..training.running import run_training
from ..training.terminal import Terminal
from .members import Fields, describe
from .results import Row, validated
from .trials import Claimed, Outcome, Trials

# So many trials in a row whose data cannot be read, or do not fit the model: it is not what they tried.
_MOST_FAILURES = 3
_POLL_SECONDS = 1.0


@dataclasses.dataclass
class Worker:
    """One worker; its arguments are as in `search.search`."""

    trials: Trials
    config: Mapping[str, Any]
    say: Callable[[str], None]
    changed: Callable[[list[Row]], None]
    interruption: Interruption
    terminal: Terminal | None = None
    failures: int = 0

    def work(self) -> None:
        """Trains until as many trials are finished as there shall be.

        Raises:
          Interrupted, RunError, CheckpointError, DataError, ConfigError: see `search.search` and `run_training`.
        """
        waits = False
        while True:
            if self.interruption.requested:
                raise Interrupted("stopped between two trials")
            if self._one():
                waits = False
                continue
            with self.trials.locked():
                if self.trials.is_done():
                    return
            if not waits:
                self.say("other workers train the last trials; waiting in case one of them stops early")
            waits = True
            time.sleep(_POLL_SECONDS)

    def _one(self) -> bool:
        """Trains a trial; False if there is none to be had."""
        with contextlib.ExitStack() as held:
            with self.trials.locked():
                if (claimed := self.trials.claim()) is None:
                    return False
                held.enter_context(self.trials.kept(claimed))
                # The run's lock is taken under the other one: nobody finds it free as long as this worker lives.
                begun = self._begun(claimed, held)
            about = f"trial {claimed.number}"
            self.say(f"{about}: {describe(claimed.overrides)}{'; resumed' if claimed.again else ''}")
            outcome = self._trained(begun, claimed) if isinstance(begun, Run) else begun
            with self.trials.locked():
                self.trials.finish(claimed, outcome)
                self.changed(self.trials.rows())
            said = f"{self.trials.how.metric} {outcome.value:.4f}" if outcome.value is not None else outcome.message
            self.say(f"{about} {outcome.status}{said and ': '}{said}")
        jax.clear_caches()  # of programs that no other trial needs
        return True

    def _begun(self, claimed: Claimed, held: contextlib.ExitStack) -> Run | Outcome:
        """The trial's run, locked; or how the trial ended, if nothing is to be trained."""
        if claimed.decided is not None:
            return claimed.decided
        config = Fields(self.config).applied(self.config, claimed.overrides)
        try:
            Experiment.from_config(config)
        except (ConfigError, TypeError) as error:
            return Outcome("failed", message=str(error))
        run = Run.start(self.trials.directory(claimed.number), config, trial=True)
        held.enter_context(run.locked())
        self.trials.hand_on_data(claimed.number, config["data"])
        return run

    def _trained(self, run: Run, claimed: Claimed) -> Outcome:
        """Trains, or goes on; how it ended."""
        steps, pruned = run.config["training"]["steps"], False

        def told(step: int, numbers: Mapping[str, float]) -> bool:
            nonlocal pruned
            with self.trials.locked():
                pruned = self.trials.prunes(claimed, step, numbers[self.trials.how.metric], last=step == steps)
            return pruned

        failures, self.failures = self.failures + 1, 0
        try:
            run_training(run, self.say, told, **({} if self.terminal is None else {"terminal": self.terminal}))
        except Interrupted as error:
            if not pruned:
                raise Interrupted(f"trial {claimed.number} {error}") from None
            return Outcome("pruned")
        except Diverged as error:
            return Outcome("diverged", message=str(error))
        except OtherData:  # no trial could be compared with those before
            raise
        except (DataError, ConfigError) as error:
            if failures == _MOST_FAILURES:
                raise
            self.failures = failures
            return Outcome("failed", message=str(error))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Outcome("failed", message=str(error).splitlines()[0])
        return self._result(run, steps)

    def _result(self, run: Run, steps: int) -> Outcome:
        """Outcome by what the run has written, whoever trained it."""
        rows = [row for row in read_metrics(run.metrics_file, self.say) if row["step"] == steps and validated(row)]
        if not rows:
            return Outcome("failed", message=f"{run.metrics_file} has no validation of step {steps}")
        value = validated(rows[-1])[self.trials.how.metric]
        if value is None:
            return Outcome("diverged", message=f"the {self.trials.how.metric} of its last validation is not finite")
        return Outcome("finished", value)
