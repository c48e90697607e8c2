"""Trials of a search, as Optuna keeps them: taken up, told of, and listed.

A trial is running from when a worker takes it up. When its worker was killed, which a silence and the free directory
tell, or gives it back, it is waiting, and the same trial, with its parameters, is the first to be taken up again.
"""

import contextlib
import dataclasses
import json
import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna import distributions as d
from optuna.trial import FrozenTrial, TrialState

from ..data import digest
from ..data.files import write_whole
from ..training.directories import RunError, check_not_older
from ..training.experiment import Experiment
from ..training.metrics import read_metrics
from ..training.paths import some
from ..training.run import differences, fixed, holds, locked, read_json, write_json
from . import database
from .database import open_postgresql, open_sqlite
from .results import Row, take_in, waiting
from .samplers import PRUNERS, SAMPLERS, SearchConfig
from .space import Domain, Overrides, Range

# What a trial is called that a worker has, or had when it was killed; of another one it is decided how it ended.
RUNNING = "running"
_UNFINISHED = {TrialState.RUNNING: RUNNING, TrialState.WAITING: "waiting"}
_PLAIN = (bool, int, float, str, type(None))

# What is told of a trial, in the database, and how it looks.
_TOLD = {
    "status": lambda x: x in (RUNNING, "finished", "pruned", "diverged", "failed"),
    "value": lambda x: x is None or type(x) in (int, float),
    "seconds": lambda x: type(x) in (int, float),
    "message": lambda x: isinstance(x, str),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a trial: how it ended.

    Attributes:
      status: "finished", "pruned", "diverged", or "failed": it could not be trained.
      value: of one that finished.
      message: of one that did not.
    """

    status: str
    value: float | None = None
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Claimed:
    """A trial that this worker has.

    Attributes:
      number: from 0.
      overrides: as the space has them.
      again: another worker had it before.
      decided: how it ended, if that worker was killed before it could tell.
      trial: Optuna's.
      began: by `time.monotonic`.
    """

    number: int
    overrides: Overrides
    again: bool
    decided: Outcome | None
    trial: optuna.Trial
    began: float = dataclasses.field(default_factory=time.monotonic)


class Trials:
    """The trials of one study. Every method wants its caller to hold `locked`, but `kept`, which takes it."""

    def __init__(self, directory: Path, config: Mapping[str, Any], dimensions: Mapping[str, Domain], how: SearchConfig):
        """Makes the study, or joins it.

        Args:
          directory: of the sweep.
          config: of the experiment.
          dimensions: the space.
          how: to search.

        Raises:
          ConfigError: the database cannot be opened.
          RunError: the study is another search's, or the directory is (names what differs); or it is damaged.
        """
        # Hyperband's brackets follow from the study's name: a search in a file is the same in any directory.
        name = how.study or ("search" if how.storage is None else directory.absolute().name)
        opened = open_sqlite(directory) if how.storage is None else open_postgresql(how.storage, name)
        training = Experiment.from_config(config).training
        pruner = PRUNERS[how.pruner](training.evaluate_every, training.steps)
        space = {n: str(d) if isinstance(d, Range) else list(d) for n, d in dimensions.items()}
        same = {n: getattr(how, n) for n in ("sampler", "pruner", "seed", "metric")}
        same["best"] = "lowest" if how.ranking.lowest else "highest"
        asked = {"config": fixed(config), "space": space, **same}
        self.how, self.locked, self.close = how, opened.locked, opened.close
        self._storage, self._directory, self._dimensions = opened.storage, directory, dimensions
        self._ended: dict[int, Row] = {}
        self._distributions = {name: distribution(domain) for name, domain in dimensions.items()}
        with self.locked(), opened.understood():
            mark = _marked(directory)
            if any((directory / "trials").glob("*")) and name not in optuna.get_all_study_names(self._storage):
                raise RunError(
                    f"{directory} holds trials, but the database has no study {name!r}; use the database of these "
                    "trials, or another --workdir"
                )
            direction = "minimize" if how.ranking.lowest else "maximize"
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
            )
            ours = {"mark": mark, "directory": str(directory.absolute()), "asked": asked}
            self._join(name, json.loads(json.dumps(ours)))
            for trial in self._study.get_trials(deepcopy=False):
                self._check(trial)

    def _check(self, trial: FrozenTrial) -> None:
        """Refuses, with a ValueError, a trial that says of itself what none says."""
        for name, is_sound in _TOLD.items():
            if name in trial.user_attrs and not is_sound(value := trial.user_attrs[name]):
                raise ValueError(f"trial {trial.number} has the {name} {value!r}")
        found = self._overrides(trial)
        lost = [name for name in self._dimensions if name not in found]
        if lost and trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            raise ValueError(f"trial {trial.number} lacks its {lost[0]}")

    def hand_on_data(self, number: int, section: Mapping[str, Any]) -> None:
        """Tells the run of a new trial what the data were for an earlier one, if any had this data `section`."""
        to = self.directory(number) / digest.FILE
        if to.exists():
            return
        for earlier in range(number - 1, -1, -1):
            config, found = (self.directory(earlier) / name for name in ("config.json", digest.FILE))
            if not (config.is_file() and found.is_file()):
                continue
            theirs, ours = ({**one, "order_seed": None} for one in (read_json(config)["data"], section))
            if not differences(theirs, ours):
                write_whole(to, found.read_bytes())
                return

    def _join(self, name: str, ours: dict[str, Any]) -> None:
        there = self._study.user_attrs.get("search")
        if there is not None and not holds(there, mark=str, directory=str, asked=dict):
            raise ValueError(f"its study {name!r} has the search {there!r}")
        if there is None:
            if self._study.get_trials(deepcopy=False):
                raise RunError(f"the study {name!r} in this database is not by tformer_jax; choose another --study")
            self._study.set_user_attr("search", ours)
        elif there["mark"] != ours["mark"]:
            raise RunError(
                f"the study {name!r} belongs to the search in {there['directory']}; choose another --study, or, to "
                f"join it from another machine, a --workdir that all of them share"
            )
        check_not_older(self._directory / "search.json", (there or ours)["asked"].get("config"))
        if differing := differences((there or ours)["asked"], ours["asked"]):
            raise RunError(
                f"the search in {self._directory} is another one; it differs in {some(differing, 3)}. "
                f"Choose another --workdir, or ask for the same to join it"
            )

    def directory(self, number: int) -> Path:
        """Returns the directory of a trial's run."""
        return self._directory / "trials" / str(number)

    def claim(self) -> Claimed | None:
        """Claims a trial that waits, or a new one; None if as many as wanted are finished or running."""
        self._requeue()
        good = self._good()
        if sum(t.state != TrialState.WAITING for t in good) >= self.how.trials:
            return None
        # Made anew for each draw: what is drawn follows from the draws before, whoever made them.
        drawn = sum("status" in t.user_attrs for t in self._study.get_trials(deepcopy=False))
        seed = int(np.random.SeedSequence((self.how.seed, drawn)).generate_state(1)[0])
        self._study.sampler = SAMPLERS[self.how.sampler](seed)
        trial = self._study.ask(self._distributions)
        # It is dead when it is silent, and is not before it has said something: this comes before all else.
        self._storage.record_heartbeat(trial._trial_id)
        status = trial.user_attrs.get("status")
        if status is None:
            trial.set_user_attr("status", RUNNING)
        ended = Outcome(status, trial.user_attrs.get("value"), trial.user_attrs.get("message", ""))
        decided = None if status in (None, RUNNING) else ended
        return Claimed(trial.number, self._overrides(trial), status is not None, decided, trial)

    def is_done(self) -> bool:
        """Returns whether as many trials as wanted are finished."""
        return sum(t.state.is_finished() for t in self._good()) >= self.how.trials

    @contextlib.contextmanager
    def kept(self, claimed: Claimed) -> Iterator[None]:
        """Tells the other workers that this one is alive; on an error, that somebody else should go on."""
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(claimed, stop), daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception), self.locked():
                if self._is_running(claimed):
                    self._add_seconds(claimed)
                    self._storage.set_trial_state_values(claimed.trial._trial_id, TrialState.WAITING)
            raise
        finally:
            stop.set()
            thread.join()

    def prunes(self, claimed: Claimed, step: int, value: float, *, last: bool) -> bool:
        """Takes the metric of a validation and returns whether the trial should end here."""
        claimed.trial.report(value, step)
        if last or not claimed.trial.should_prune():
            return False
        claimed.trial.set_user_attr("status", "pruned")
        return True

    def finish(self, claimed: Claimed, outcome: Outcome) -> None:
        """Tells how a trial ended, unless that is told already."""
        if not self._is_running(claimed):
            return
        self._add_seconds(claimed)
        for name in ("value", "message", "status"):  # with the last of which it is decided
            claimed.trial.set_user_attr(name, getattr(outcome, name))
        if outcome.status == "finished":
            self._study.tell(claimed.trial, outcome.value)
            return
        reported = self._storage.get_trial(claimed.trial._trial_id).last_step
        if outcome.status == "diverged" and reported is not None:
            # Samplers learn from the last number of a trial that was ended early, which here was good too long.
            worst = math.inf if self.how.ranking.lowest else -math.inf
            self._storage.set_trial_intermediate_value(claimed.trial._trial_id, reported, worst)
        self._study.tell(claimed.trial, state=TrialState.PRUNED)

    def rows(self) -> list[Row]:
        """The results: a row a trial."""
        return [self._row(trial) for trial in self._good()]

    def _row(self, trial: FrozenTrial) -> Row:
        if trial.number in self._ended:
            return self._ended[trial.number]
        row = waiting(trial.number, self._overrides(trial))
        for metrics in read_metrics(self.directory(trial.number) / "metrics.jsonl", lambda line: None):  # said already
            take_in(metrics, row, self.how.ranking)
        row["status"] = _UNFINISHED.get(trial.state) or trial.user_attrs.get("status", "finished")
        row["seconds"] = round(trial.user_attrs.get("seconds", 0.0), 3)
        told = trial.user_attrs.get("value")
        if told is not None and row["final"].get(self.how.ranking.metric) != told:  # the row of its last step is lost
            row["final"] = {self.how.ranking.metric: told}
        if trial.state.is_finished():
            self._ended[trial.number] = row
        return row

    def _good(self) -> list[FrozenTrial]:
        """All trials but what is left of a worker that was killed while it took one up."""
        return [t for t in self._study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]

    def _requeue(self) -> None:
        """Makes trials wait that nobody works on any more."""
        stale = set(self._storage._get_stale_trial_ids(self._study._study_id))
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "status" not in trial.user_attrs:  # which `claim` sets, under the lock that is ours now
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            elif trial._trial_id in stale and _is_free(self.directory(trial.number)):
                self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _is_running(self, claimed: Claimed) -> bool:
        return self._storage.get_trial(claimed.trial._trial_id).state == TrialState.RUNNING

    def _add_seconds(self, claimed: Claimed) -> None:
        before = claimed.trial.user_attrs.get("seconds", 0.0)
        claimed.trial.set_user_attr("seconds", before + time.monotonic() - claimed.began)

    def _beat(self, claimed: Claimed, stop: threading.Event) -> None:
        while not stop.wait(database.HEARTBEAT_SECONDS):
            with contextlib.suppress(Exception), self.locked():  # the next one may get through
                self._storage.record_heartbeat(claimed.trial._trial_id)
        self._storage.remove_session()

    def _overrides(self, trial: optuna.Trial | FrozenTrial) -> Overrides:
        params = trial.params
        return {n: _as_in_space(domain, params[n]) for n, domain in self._dimensions.items() if n in params}


def distribution(domain: Domain) -> d.BaseDistribution:
    """Returns a field's domain as Optuna has it. Values that it cannot keep are text there."""
    if not isinstance(domain, Range):
        return d.CategoricalDistribution(_choices(domain))
    return (d.IntDistribution if domain.integers else d.FloatDistribution)(domain.low, domain.high, log=domain.log)


def _choices(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value if isinstance(value, _PLAIN) else repr(value) for value in values)


def _as_in_space(domain: Domain, value: Any) -> Any:
    if isinstance(domain, Range):
        margin = 1e-6 * max(abs(domain.low), abs(domain.high))  # of logarithms and back
        if type(value) not in (int, float) or not domain.low - margin <= value <= domain.high + margin:
            raise ValueError(f"{value!r} is not in {domain}")
        return int(value) if domain.integers else float(value)
    return domain[_choices(domain).index(value)]


def _marked(directory: Path) -> str:
    """Mark that tells the directory from others; it is there before the study, which has it too."""
    file = directory / "search.json"
    if not file.exists():
        write_json(file, {"mark": uuid.uuid4().hex})
    mark = read_json(file).get("mark")
    if not isinstance(mark, str):
        raise RunError(f"{file} is damaged: it must hold a mark, which is a text")
    return mark


def _is_free(directory: Path) -> bool:
    """Returns whether no process trains in a directory."""
    if not directory.is_dir():
        return True
    try:
        with locked(directory):
            return True
    except RunError:
        return False
