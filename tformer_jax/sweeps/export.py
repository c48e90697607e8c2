"""A member of a sweep as an ordinary run, to evaluate, to predict with, or to train on."""

import json
import shutil
from pathlib import Path

import numpy as np

from ..training.checkpoints import CheckpointConfig, Checkpoints
from ..training.metrics import read_metrics
from ..training.run import Run, RunError, environment, write_json
from .directory import SweepDirectory
from .loop import MEMBERS
from .members import make_members
from .vectorized import member_arrays


def export_member(sweep: SweepDirectory, number: int, to: str | Path) -> Run:
    """Makes the run directory of a member: its config, metrics, data's tokenizers and newest state.

    Args:
      sweep: vectorised.
      number: of the member.
      to: where the run goes; nothing must be there yet.

    Raises:
      RunError: the sweep has no such member, nothing was trained of it yet, or something is there.
      CheckpointError: its checkpoint is damaged.
    """
    asked = sweep.asked
    if str(number) not in asked["members"]:
        raise RunError(f"{sweep.path} has no member {number}, only {len(asked['members'])} from 0")
    (member,) = make_members(asked["config"], [asked["members"][str(number)]])
    records = sweep.groups() or []
    groups = [i for i, record in enumerate(records) if number in record["members"]]
    found = _newest_state(sweep.group(groups[0]), number) if groups else None
    if found is None:
        raise RunError(f"member {number} of {sweep.path} has no checkpoint yet")
    if Path(to).exists():
        raise RunError(f"{to} is there already; an exported member needs a directory of its own")
    run = Run.start(to, member.config)
    for file in sweep.data(records[groups[0]]["data"]).iterdir():
        shutil.copyfile(file, run.directory / file.name)
    rows = read_metrics(sweep.group(groups[0]) / "metrics.jsonl", members=records[groups[0]]["members"])
    mine = ({n: x for n, x in row.items() if n != "member"} for row in rows if row["member"] == number)
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in mine), "utf-8")
    write_json(run.directory / "environment.json", environment())
    with Checkpoints(run.checkpoints, member.experiment.checkpoint) as checkpoints:
        checkpoints.save(int(found["step"]), found, run.config)
    return run


def _newest_state(folder: Path, number: int) -> dict[str, np.ndarray] | None:
    """The last state of a member: in the group's checkpoints, or with those that were left behind at a rung."""
    places = [folder / "checkpoints", *sorted((folder / "left").glob("*"), key=lambda p: int(p.name), reverse=True)]
    for place in (place for place in places if place.is_dir()):
        with Checkpoints(place, CheckpointConfig(every=1), read_only=True) as checkpoints:
            if checkpoints.latest is None:
                continue
            states = checkpoints.restore_as_saved(checkpoints.latest)
        numbers = states.pop(MEMBERS).tolist()
        if number in numbers:
            return member_arrays(states, numbers.index(number))
    return None
