"""Groups of a sweep's members that are trained together, and what they share."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..config import ConfigError
from ..data.base import in_order
from ..data.batches import checked
from ..progress import SILENT, Progress
from ..tasks import Task
from ..training.checkpoints import CheckpointConfig
from ..training.directories import RunError
from ..training.experiment import Experiment
from ..training.program import TrainingConfig
from ..training.running import load_data
from ..training.starts import initial_arrays
from .calibration import calibrate
from .directory import SweepDirectory
from .members import Member
from .vectorized import Population, program_of, varying_numbers


class MemberData:
    """The data of members that differ in the order of their batches at most."""

    def __init__(
        self, members: Sequence[Member], number: int, directory: Path, *, fresh: bool, progress: Progress = SILENT
    ):
        """Args:
          members: who have them.
          number: of these data.
          directory: keeps tokenizers.
          fresh: nothing was trained yet.
          progress: is told what takes long.

        Raises:
          DataError: the data cannot be read.
        """
        self.number, self.directory = number, directory
        first = members[0].experiment
        self._data = load_data(first, directory, fresh=fresh, progress=progress)
        with progress.phase("preparing batches"):
            self.validation = first.validation_batches(self._data)
            self.batches(first.data.order_seed, first.training.accumulate)  # complains, and adds to the report
        self.report = list(self._data.report)

    def task_of(self, experiment: Experiment) -> Task:
        """The task of a member that has these data."""
        return experiment.task_class.from_data(experiment.task, self._data)

    @functools.cache
    def batches(self, order: int | None, accumulate: int) -> Any:
        """Training batches in one order."""
        return checked(in_order(self._data, order).train_batches(accumulate), "the training batches")


@dataclasses.dataclass(frozen=True)
class Group:
    """Members that are trained together.

    Attributes:
      number: of the group.
      population: the members and their compiled step.
      data: of them all.
      task: of them all.
      say: is told which parameters start from another run.
    """

    number: int
    population: Population
    data: MemberData
    task: Task
    say: Callable[[str], None]

    @property
    def members(self) -> list[Member]:
        return self.population.members

    @property
    def training(self) -> TrainingConfig:
        """The `training` section of all members, but for seeds and numbers."""
        return self.members[0].experiment.training

    @property
    def checkpoint(self) -> CheckpointConfig:
        """The `checkpoint` section by which the states of all members are saved together."""
        config = self.members[0].experiment.checkpoint
        return CheckpointConfig(every=config.every, keep=config.keep)

    def batches(self, order: int | None) -> Any:
        """Training batches of the members with this `data.order_seed`."""
        return self.data.batches(order, self.training.accumulate)

    @functools.cached_property
    def pretrained(self) -> dict[str, np.ndarray]:
        """Parameters that start from another run.

        Raises:
          ConfigError, RunError: see `initial_arrays`.
        """
        return dict(initial_arrays(self.members[0].experiment, self.task, self.population.shapes, self.say))


@dataclasses.dataclass(eq=False)
class _Program:
    """The members of one program, their data and task, and populations of some of them by the size of the chunks."""

    members: list[Member]
    data: MemberData
    task: Task
    populations: dict[int, Population] = dataclasses.field(default_factory=dict)

    def population(self, members: Sequence[Member], chunk: int) -> Population:
        """The population of some members, compiled already if as many were before."""
        if chunk not in self.populations:
            varying = varying_numbers(self.members)
            self.populations[chunk] = Population(members, self.task, jax.local_devices(), chunk, varying)
        return self.populations[chunk].of(members)


def make_groups(
    directory: SweepDirectory,
    members: Sequence[Member],
    say: Callable[[str], None],
    *,
    together: int | None = None,
    chunk: int | None = None,
    share: float = 1.0,
    progress: Progress = SILENT,
) -> list[Group]:
    """Makes the groups of a sweep: one for each program, or more where memory, or `together`, says so.

    Decided once, and kept in the directory.

    Args:
      directory: of the sweep.
      members: all of them.
      say: is told what was found.
      together, chunk: see `calibration.Way`; by default measured.
      share: of all steps of all members, what is left by halving: as long the sweep is, and measuring may be.
      progress: is told what takes long.

    Raises:
      ConfigError, DataError, RunError: the data, or the run to start from, are not what the config says; a member does
        not fit the memory; the directory has other groups.
    """
    _check_engine(members[0].experiment)
    kept = directory.groups()
    data = _load(directory, members, fresh=kept is None, say=say, progress=progress)
    of = _programs(members, data, say)
    if is_new := kept is None:
        how = {"together": together, "chunk": chunk, "progress": progress}
        kept = _measured(list(dict.fromkeys(program for _, program in of.values())), say, share, how)
    else:
        _check_kept(directory, kept, of, together, chunk)
    groups = []
    for number, record in enumerate(kept):
        some, program = [of[n][0] for n in record["members"]], of[record["members"][0]][1]
        groups.append(Group(number, program.population(some, record["chunk"]), program.data, program.task, say))
    if is_new:
        for group in groups:  # complains while nothing is trained, and the directory is free
            group.pretrained
        directory.keep_groups(kept)
    return groups


def _programs(members, data, say) -> dict[int, tuple[Member, _Program]]:
    """Each member, by its number, with the program that it shares; says how many there are."""
    programs: dict[str, _Program] = {}
    found, several_shapes = {}, False
    for member in members:
        mine, experiment = data[_data_key(member)], member.experiment
        first = mine.batches(experiment.data.order_seed, experiment.training.accumulate)
        several_shapes |= not first.one_shape
        key = program_of(member, one_order=not first.one_shape)
        if key not in programs:
            programs[key] = _Program([], mine, mine.task_of(experiment))
        programs[key].members.append(member)
        found[member.number] = member, programs[key]
    say(f"{len(members)} members, {len(programs)} program(s), {len(jax.local_devices())} device(s)")
    if several_shapes:
        say("batches have several shapes: members with another order of batches are another program")
    return found


def _measured(programs: Sequence[_Program], say, share, how) -> list[dict[str, Any]]:
    """New groups, as they are written down."""
    kept = []
    for program in programs:
        members, first = program.members, program.members[0].experiment
        batch = program.data.batches(first.data.order_seed, first.training.accumulate).batch(0)
        steps = share * sum(member.experiment.training.steps for member in members)
        way, population = calibrate(members, program.task, batch, jax.local_devices(), say, member_steps=steps, **how)
        program.populations[way.chunk] = population
        for part in _parts(members, way.together):
            kept.append({"members": [m.number for m in part], "chunk": way.chunk, "data": program.data.number})
    return kept


def _check_kept(directory, kept, of: Mapping[int, tuple[Member, _Program]], together, chunk) -> None:
    """Refuses groups that are not of these programs and data, and what is asked for now and was not then."""
    file = directory.path / "groups.json"
    for record in kept:
        program, *others = {of[n][1] for n in record["members"]}
        if others or program.data.number != record["data"]:
            raise RunError(f"{file} is damaged: members {record['members']} do not share one program and its data")
        each = -(-len(record["members"]) // len(jax.local_devices()))
        if chunk is not None and min(chunk, each) != min(record["chunk"], each):
            raise RunError(
                f"{file} has chunks of {record['chunk']} members: leave out --chunk={chunk} to go on as before"
            )
    if together is None:
        return
    alike = [program.members for program in {program for _, program in of.values()}]
    parts = [[m.number for m in part] for some in alike for part in _parts(some, min(together, len(some)))]
    if sorted(parts) != sorted(record["members"] for record in kept):
        sizes = ", ".join(str(len(record["members"])) for record in kept)
        raise RunError(f"{file} has groups of {sizes} members: leave out --together={together} to go on as before")


def _load(directory: SweepDirectory, members: Sequence[Member], *, fresh: bool, say, progress) -> dict[str, MemberData]:
    """The data of all members, each once."""
    alike: dict[str, list[Member]] = {}
    for member in members:
        alike.setdefault(_data_key(member), []).append(member)
    found = {}
    for number, (key, some) in enumerate(alike.items()):
        found[key] = MemberData(some, number, directory.data(number), fresh=fresh, progress=progress)
        for line in found[key].report:
            say(line)
    return found


def _data_key(member: Member) -> str:
    """All that data are made of, but the order of their batches."""
    experiment = member.experiment
    key = experiment.task_class.data_key(experiment.task, experiment.data, experiment.model)
    return json.dumps(key, sort_keys=True, default=repr)


def _parts(members: Sequence[Member], together: int) -> list[list[Member]]:
    """Splits into as few parts as may be, as even as may be."""
    count = -(-len(members) // together)
    return [list(members[i * len(members) // count : (i + 1) * len(members) // count]) for i in range(count)]


def _check_engine(experiment: Experiment) -> None:
    """Refuses what spreads one model over several devices, where each has members of its own; and keeps of one member
    what is saved for all."""
    parallel, checkpoint = experiment.parallel, experiment.checkpoint
    if parallel.mode != "jit" or (parallel.fsdp, parallel.tensor, parallel.sequence) != (1, 1, 1):
        raise ConfigError(
            "--engine=vectorized holds whole models on each device: leave config.parallel at its defaults, "
            "or use --engine=search, which trains one model after the other"
        )
    if checkpoint.keep_best or checkpoint.keep_every:
        raise ConfigError(
            "--engine=vectorized keeps the newest states of all members: leave checkpoint.keep_best and "
            "checkpoint.keep_every at their defaults, or use --engine=search"
        )
    if jax.process_count() > 1:
        raise ConfigError("--engine=vectorized runs in one process, got several; start it alone")
