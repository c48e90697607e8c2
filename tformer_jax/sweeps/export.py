"""A member of a sweep as an ordinary run, to evaluate, to predict with, or to train on."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..data.files import write_whole
from ..progress import SILENT, Progress
from ..training import reading
from ..training.checkpoints import Checkpoints
from ..training.directories import RunError, steps_in
from ..training.metrics import read_metrics
from ..training.pretrained import START
from ..training.run import PLUGINS, Run, check_writable, environment, locked, read_json, sums_of_learnt, write_json
from .directory import SweepDirectory
from .loop import MEANS, MEMBERS
from .members import Member, make_members
from .vectorized import member_arrays


def export_member(sweep: SweepDirectory, number: int, to: str | Path, progress: Progress = SILENT) -> Run:
    """Makes the run directory of a member: its config, metrics, data's tokenizers and newest state.

    It is there whole or not at all: it is made beside its place, where what a killed process left is made again.

    Args:
      sweep: vectorised.
      number: of the member.
      to: where the run goes; nothing must be there yet.
      progress: is told what takes long.

    Raises:
      RunError: the sweep has no such member, nothing was trained of it yet, its directory says something else than its
        checkpoint, or something is there.
      CheckpointError: its checkpoint is damaged.
    """
    to, members = Path(to), sweep.asked["members"]
    if str(number) not in members:
        last = max(map(int, members), default=-1)
        why = f"only 0 to {last}" if number > last else "which equals another one and is left out"
        raise RunError(f"{sweep.path} has no member {number}, {why}")
    records = sweep.groups() or []
    groups = [i for i, record in enumerate(records) if number in record["members"]]
    with progress.phase("reading the states of the members"):
        found = _newest_state(sweep, groups[0], number) if groups else None
    if found is None:
        raise RunError(f"member {number} of {sweep.path} has no checkpoint yet")
    (member,) = make_members(sweep.asked["config"], [members[str(number)]])
    if to.exists():
        if _is_exported(to, member, int(found[0]["step"])):  # by a process that was killed as it ended, say
            return Run.open(to)
        raise RunError(f"{to} exists already; choose a new directory for the exported member")
    unfinished = to.with_name(f".{to.name}.unfinished")
    check_writable(unfinished)
    with progress.phase("writing the run"), locked(unfinished):
        for entry in unfinished.iterdir():  # of a process that was killed
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            _fill(unfinished, sweep, groups[0], number, member, *found)
            os.rename(unfinished, to)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return Run.open(to)


def _is_exported(to: Path, member: Member, step: int) -> bool:
    """Returns whether a directory is already what it is to become."""
    config = to / "config.json"
    return config.is_file() and read_json(config) == member.config and steps_in(to / "checkpoints") == [step]


def _fill(
    directory: Path,
    sweep: SweepDirectory,
    group: int,
    number: int,
    member: Member,
    arrays: dict[str, np.ndarray],
    mean: Mapping[str, float],
) -> None:
    """Writes what a run has that was trained as far as `arrays`; `mean`: of its losses since its last row."""
    run, record, step = Run(directory, member.config), sweep.groups()[group], int(arrays["step"])
    write_json(run.config_file, run.config)
    for folder in (run.samples, run.plots):
        folder.mkdir()
    learnt = sweep.data(record["data"])
    for name in sums_of_learnt(learnt):
        write_whole(directory / name, (learnt / name).read_bytes())
    for name in (START, PLUGINS):
        if (kept := sweep.path / name).exists():
            write_whole(directory / name, kept.read_bytes())
    rows = read_metrics(sweep.group(group) / "metrics.jsonl", members=record["members"])
    mine = [row for row in rows if row["member"] == number and row["step"] <= step]
    kept = [{n: x for n, x in row.items() if n != "member"} for row in mine]
    write_whole(run.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))
    write_json(directory / "environment.json", environment())
    with Checkpoints(run.checkpoints, member.experiment.checkpoint) as checkpoints:
        seconds = next((row["seconds"] for row in reversed(mine) if "seconds" in row), 0.0)
        checkpoints.save(step, arrays, run.identity, progress={"loss": dict(mean), "seconds": seconds})


def _newest_state(
    sweep: SweepDirectory, group: int, number: int
) -> tuple[dict[str, np.ndarray], Mapping[str, float]] | None:
    """The last state of a member: in the group's checkpoints, or with those that were left behind at a rung.

    And the mean of its losses since its last row.
    """
    folder = sweep.group(group)
    rungs = steps_in(folder / "left")
    for place in (folder / "checkpoints", *(folder / "left" / str(step) for step in reversed(rungs))):
        if not steps_in(place):
            continue
        with reading.whole(place) as checkpoint:
            sweep.check_identity(group, checkpoint.identity, place / str(checkpoint.step))
            states, means = checkpoint.restore_as_saved(), checkpoint.progress.get(MEANS, {})
        numbers = states.pop(MEMBERS).tolist()
        if number in numbers:
            return member_arrays(states, numbers.index(number)), means.get(str(number), {})
    return None
