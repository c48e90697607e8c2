"""A vectorised sweep: members of one program are trained together, group after group."""

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ConfigError, check_choice
from ..data.files import GrowingFile
from ..progress import Counted
from ..training.checkpoints import CheckpointConfig, Checkpoints
from ..training.directories import RunError, check_free
from ..training.interruption import Interruption
from ..training.loop import Loop, not_finite
from ..training.metrics import drop_later_rows, read_metrics, sayable
from ..training.pace import IntervalMean
from ..training.run import changed_plugins, check_writable, environment, locked, write_json
from ..training.step import Arrays
from .board import Board
from .directory import SweepDirectory
from .groups import Group, make_groups
from .members import Member, make_members
from .results import Ranking, Results, Row, validated, write_results
from .space import Space

MEMBERS = "sweep.members"  # in a checkpoint, whose states it holds
MEANS = "losses"  # what goes on beside the states: an `IntervalMean` of each member


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halving:
    """Successive halving (Karnin et al., 2013; Jamieson & Talwalkar, 2016): at each rung the worse members are dropped.

    Attributes:
      factor: number of members of which one goes on at a rung.
      first_rung: step of the first rung; each of the others is `factor` times the one before.

    Raises:
      ConfigError: a value that cannot be, by its name.
    """

    factor: int
    first_rung: int

    def __post_init__(self):
        if self.factor < 2:
            raise ConfigError(f"halving must be at least 2, got {self.factor}")
        if self.first_rung < 1:
            raise ConfigError(f"first_rung must be at least 1, got {self.first_rung}")

    def rungs(self, steps: int) -> list[int]:
        """The steps of the rungs before the last step.

        Raises:
          ConfigError: there is none.
        """
        if self.first_rung >= steps:
            raise ConfigError(f"first_rung={self.first_rung} must be below training.steps={steps}")
        count = math.ceil(math.log(steps / self.first_rung, self.factor) - 1e-9)
        return [self.first_rung * self.factor**k for k in range(count)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorizedConfig:
    """The settings of a vectorised sweep: how its members are trained.

    Attributes:
      halving: rule by which members are dropped on the way; None: none is dropped.
      together, chunk: see `calibration.Way`; None: what fits, and what is fastest, is measured.
    """

    halving: Halving | None = None
    together: int | None = None
    chunk: int | None = None


def vectorized_sweep(
    path: str | Path, config: Mapping[str, Any], space: Space, ranking: Ranking, how: VectorizedConfig, board: Board
) -> list[Row]:
    """Trains all members of a space to their last step, or to the rung that drops them; returns their results.

    Goes on where an earlier call ended. Results are written whenever a validation comes in.

    Args:
      path: of the sweep's directory.
      config: of an experiment, which the space overrides.
      space: what is tried.
      ranking: by which members are compared.
      how: they are trained.
      board: shows how it stands.

    Raises:
      ConfigError: an override, the data or the devices are not what they must be: nothing was trained.
      RunError: the directory is another sweep's, in use, or says something else than its checkpoints.
      Interrupted: by SIGINT, SIGTERM or SIGHUP; the newest checkpoint is of the last step that was made.
      CheckpointError: a checkpoint cannot be written.
    """
    sets = space.members()
    members = make_members(config, sets)
    check_choice("metric", ranking.metric, members[0].experiment.task_class.validated)
    steps = max(member.experiment.training.steps for member in members)
    stages = [*(how.halving.rungs(steps) if how.halving else ()), steps]
    halving = how.halving and dataclasses.asdict(how.halving)
    asked = {"config": dict(config), "members": {str(member.number): member.overrides for member in members}}
    asked |= {"metric": ranking.metric, "lowest": ranking.lowest, "halving": halving}
    check_free(Path(path), "sweep", "sweep.json")  # before there is a lock in what is somebody else's
    check_writable(Path(path))
    with locked(Path(path)), Interruption() as interruption:
        directory = SweepDirectory.start(path, asked)
        write_json(directory.path / "environment.json", environment())
        if same := len(sets) - len(members):
            board.say(f"{same} of {len(sets)} members equal others and are left out")
        for remark in (*changed_plugins(directory.path, config), *members[0].experiment.remarks):
            board.say(remark)
        given = {"together": how.together, "chunk": how.chunk, "share": _share(len(members), stages, how.halving)}
        try:
            with interruption.at_once("before the first step", directory.withdraw):
                groups = make_groups(directory, members, board.say, progress=board.terminal, **given)
                results, factor = Results(members, ranking), how.halving.factor if how.halving else 1
                sweep = _Sweep(directory, members, groups, stages, factor, results, board, interruption)
                sweep.read_back()
        except BaseException:  # whatever it is, the corrected command must find the directory free
            directory.withdraw()
            raise
        for since, stage in itertools.pairwise((0, *stages)):
            sweep.train_to(stage, since)
            if stage != steps:
                sweep.decide(stage)
        write_results(sweep.results.rows(), directory.path)
    return sweep.results.rows()


def _share(members: int, stages: Sequence[int], halving: Halving | None) -> float:
    """Returns the share of all steps of all members that halving leaves to be made."""
    made, going = 0, members
    for since, stage in itertools.pairwise((0, *stages)):
        made += going * (stage - since)
        going = going if halving is None else -(-going // halving.factor)
    return made / (members * stages[-1])


@dataclasses.dataclass
class _Sweep:
    """The state of a sweep on its way; `stages`: rungs, then the last step; `factor`: so many times fewer members go on
    after each rung; `kept`: those that did so far, by the rung."""

    directory: SweepDirectory
    members: Sequence[Member]
    groups: Sequence[Group]
    stages: Sequence[int]
    factor: int
    results: Results
    board: Board
    interruption: Interruption
    kept: dict[int, list[int]] = dataclasses.field(default_factory=dict)

    def read_back(self) -> None:
        """Reads what the groups have done before, as far as checkpoints hold it.

        Raises:
          RunError: see `vectorized_sweep`; or results would lack what they had, because a metrics.jsonl does.
        """
        trained = []
        for group in self.groups:
            folder = self.directory.group(group.number)
            with Checkpoints(folder / "checkpoints", group.checkpoint) as checkpoints:
                if step := checkpoints.newest_whole(self.board.say) or 0:
                    where = folder / "checkpoints" / str(step)
                    self.directory.check_identity(group.number, checkpoints.identity(step), where)
            file, numbers = folder / "metrics.jsonl", [member.number for member in group.members]
            rows = [row for row in read_metrics(file, self.board.say, members=numbers) if row["step"] <= step]
            trained.append((group, step, rows, file, numbers))
            for row in rows:
                self.results.add(row)
        self._read_rungs({group.number: step for group, step, *_ in trained})
        for group, step, rows, file, _ in trained:
            if lost := self._lost(group, rows, step):
                raise RunError(
                    f"{file} lacks the row of member {lost[0]} at step {lost[1]}: put it "
                    f"back, or delete {file.parent}, and its members are trained again"
                )
        for _, step, _, file, numbers in trained:
            drop_later_rows(file, step, lambda line: None, members=numbers)

    def _read_rungs(self, trained: Mapping[int, int]) -> None:
        """Decides again what was decided, as far as all groups, by their numbers, are `trained`: metrics say it."""
        for rung in self.stages[:-1]:
            if any(trained[g.number] < min(rung, g.training.steps) for g in self.groups if self._going(g)):
                return
            self._choose(rung)

    def _lost(self, group: Group, rows: Sequence[Row], step: int) -> tuple[int, int] | None:
        """A member and a step whose row is not there, although the group is trained to `step`, and results need it."""
        steps, log_every = group.training.steps, group.training.log_every
        ends = {*self.stages, steps}
        of: dict[int, list[Row]] = {member.number: [] for member in group.members}
        for row in rows:
            of[row["member"]].append(row)
        for number, mine in of.items():
            left = [rung for rung, kept in self.kept.items() if number not in kept]
            last = min([step, *left, *(row["step"] - 1 for row in mine if "diverged" in row)])
            validations = {s for s in (*range(0, last + 1, group.training.evaluate_every), *ends) if 0 < s <= last}
            logged = max(last // log_every * log_every, *(s for s in (0, steps) if s <= last))
            lost = validations - {row["step"] for row in mine if validated(row)}
            lost |= {logged} - {row["step"] for row in mine if "loss" in row} - {0}
            if lost:
                return number, min(lost)
        return None

    def train_to(self, stage: int, since: int) -> None:
        """Trains the members that go on, group after group, from a rung to the next, or to their last step."""
        for group in self.groups:
            folder, until = self.directory.group(group.number), min(stage, group.training.steps)
            with (
                Checkpoints(folder / "checkpoints", group.checkpoint) as checkpoints,
                contextlib.closing(GrowingFile(folder / "metrics.jsonl")) as file,
            ):
                _GroupLoop(self, group, checkpoints, file).train(self._going(group), until, since)

    def decide(self, rung: int) -> None:
        """Stops the worse members."""
        if rung not in self.kept:
            self._choose(rung)
        self.directory.keep_rungs(self.kept)
        write_results(self.results.rows(), self.directory.path)

    def _choose(self, rung: int) -> None:
        *_, before = [member.number for member in self.members], *self.kept.values()
        self.kept[rung] = self.results.best_at(rung, before, self.factor)
        self.results.stop([n for n in before if n not in self.kept[rung] and self._goes_on(n)])

    def _going(self, group: Group) -> list[Member]:
        return [member for member in group.members if self._goes_on(member.number)]

    def _goes_on(self, number: int) -> bool:
        return self.results[number]["status"] in ("waiting", "running")


class _GroupLoop(Loop):
    """The loop of one group, from one step to another."""

    def __init__(self, sweep: _Sweep, group: Group, checkpoints: Checkpoints, file: GrowingFile):
        self.sweep, self.group, self.results = sweep, group, sweep.results
        self.evaluate_every, self.checkpoint_every = group.training.evaluate_every, group.checkpoint.every
        self.checkpoints, self.file, self.identity = checkpoints, file, sweep.directory.identity(group.number)
        self.interruption = sweep.interruption
        self.progress = self.terminal = sweep.board.terminal

    def train(self, going: Sequence[Member], until: int, since: int) -> None:
        """Trains these members from the newest checkpoint, unless it is of the step `until`.

        If it is of a step after the rung `since`, those who have diverged are with them again: in its last bits, what
        becomes of a member depends on who stands beside it.
        """
        start = self.checkpoints.latest or 0
        if not going or start >= until:
            return
        with self.terminal.phase("reading the newest checkpoint"):
            states = self.checkpoints.restore_as_saved(start) if start else {}
        if start > since:
            going = [member for member in self.group.members if member.number in states[MEMBERS]]
        self.population = self.group.population.of(going)
        self.numbers = [member.number for member in going]
        means = self.checkpoints.progress(start).get(MEANS, {}) if start else {}
        self.means = {number: IntervalMean(**means.get(str(number), {})) for number in self.numbers}
        with self.terminal.phase(f"making the states of {len(going)} members"):
            arrays = self._restored(start, states) if start else self.population.initial(self.group.pretrained)
        self.step, self.clock = self.population.step, time.perf_counter()
        self.batches = [self.group.batches(order) for order in self.population.orders]
        self.steps(arrays, start, until)

    def batch(self, i: int) -> list[Any]:
        return [batches.batch(i) for batches in self.batches]

    def compiling(self, batch: list[Any]) -> AbstractContextManager:
        if self.population.has_compiled(batch):
            return contextlib.nullcontext()
        return self.terminal.phase(f"compiling the step of {len(self.numbers)} members")

    def where(self, step: int) -> str:
        groups = len(self.sweep.groups)
        group = f", group {self.group.number + 1} of {groups}" if groups > 1 else ""
        return f"after step {step} of {self.group.training.steps}{group}"

    def _restored(self, step: int, states: dict[str, np.ndarray]) -> Arrays:
        """The states of those who go on; those of the others are kept apart, to be exported."""
        there = states.pop(MEMBERS).tolist()
        kept = [there.index(number) for number in self.numbers]
        if left := [i for i in range(len(there)) if i not in kept]:
            folder = self.sweep.directory.group(self.group.number) / "left" / str(step)
            with Checkpoints(folder, CheckpointConfig(every=1)) as checkpoints:
                numbers = np.asarray([there[i] for i in left], np.int32)
                progress = self.checkpoints.progress(step)
                left_behind = {n: x[left] for n, x in states.items()} | {MEMBERS: numbers}
                checkpoints.save(step, left_behind, self.identity, progress=progress)
        return self.population.place({name: x[kept] for name, x in states.items()})

    def save(self, step: int, arrays: Arrays, numbers: None) -> None:
        members = {MEMBERS: np.asarray(self.numbers, np.int32)}
        means = {number: dataclasses.asdict(mean) for number, mean in self.means.items()}
        states = self.population.states(arrays) | members
        self.checkpoints.save(step, states, self.identity, progress={MEANS: means})

    def is_over(self) -> bool:
        return not self._alive()

    def _alive(self) -> list[int]:
        """Places in the population of the members that have not diverged."""
        return [i for i, number in enumerate(self.numbers) if self.results[number]["status"] != "diverged"]

    def record(self, step: int, metrics: Mapping[str, Any]) -> None:
        alive, now = self._alive(), time.perf_counter()
        share, self.clock = (now - self.clock) / max(1, len(alive)), now
        for i in alive:
            result = self.results[self.numbers[i]]
            result["seconds"] += share
            one = {name: x[i] for name, x in metrics.items()}
            is_alive, finite = one.pop("alive"), one.pop("finite_gradients")
            self.means[self.numbers[i]].add(float(one["loss"]), float(one["weight"]))
            if not is_alive:
                self._row(i, step, {"diverged": not_finite(one, self.population.parameters, finite)})
            elif step % self.group.training.log_every == 0 or step == self.group.training.steps:
                numbers = {name: float(x) for name, x in one.items()}
                beside = {"mean_loss": self.means[self.numbers[i]].take(), "seconds": round(result["seconds"], 3)}
                self._row(i, step, numbers | beside)
        self.sweep.board.update(self.results.rows(), self.where(step))

    def _row(self, place: int, step: int, values: Mapping[str, Any]) -> None:
        row = {"member": self.numbers[place], "step": step, **sayable(values)}
        self.file.write(json.dumps(row).encode() + b"\n")
        self.results.add(row)
        if why := values.get("diverged"):
            self.sweep.board.say(f"member {row['member']} diverged at step {step} and is trained no further: {why}")

    def validate(self, step: int, arrays: Arrays) -> None:
        """Passes each member's numbers on; on each device those of its members are found, one after the other."""
        alive, validation = self._alive(), self.group.data.validation
        total, what = len(alive) * len(validation), f"validating {len(alive)} members"
        with self.terminal.phase(what, total, "batches") as advance:
            counted = Counted(advance)

            def on_device(mine: list[int]) -> list[tuple[int, dict[str, float]]]:
                model = lambda i: self.population.model(arrays, i)
                return [(i, self.group.task.validate(model(i), validation, counted)) for i in mine]

            with ThreadPoolExecutor(self.population.device_count) as pool:
                found = [one for part in pool.map(on_device, self.population.by_device(alive)) for one in part]
        for i, numbers in found:
            row = {f"validation_{name}": value for name, value in numbers.items()}
            self._row(i, step, row | {"seconds": round(self.results[self.numbers[i]]["seconds"], 3)})
        write_results(self.results.rows(), self.sweep.directory.path)
        self.sweep.board.update(self.results.rows(), self.where(step), news=True)
