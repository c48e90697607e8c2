"""The directory of a sweep: what was asked for, and everything that came of it.

sweep.json  start.json  groups.json  rungs.json  environment.json  plugins.json  results.csv  results.jsonl  plots/
data/0/tokenizer.json ...   groups/0/metrics.jsonl  groups/0/checkpoints/ ...
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.files import writing
from ..training.directories import RunError, check_free, check_holds, check_layout, check_not_older, steps_in
from ..training.paths import some
from ..training.pretrained import START, keep_start
from ..training.run import (
    LEARNT,
    PLUGINS,
    check_identity,
    differences,
    fixed,
    keep_plugins,
    read_json,
    sums_of_learnt,
    write_json,
)  # fmt: skip

_FILES = (
    "sweep.json",
    START,
    "groups.json",
    "rungs.json",
    "environment.json",
    PLUGINS,
    "results.csv",
    "results.jsonl",
    "lock",
)
_FOLDERS = ("data", "groups", "plots")
# In the folder of a group, or of a data section.
_FILES_OF_PART, _FOLDERS_OF_PART = ("metrics.jsonl", *LEARNT), ("checkpoints", "left")


class SweepDirectory:
    """The directory of one sweep, opened for one config and one space.

    Attributes:
      path: where it is.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._asked = self.path / "sweep.json"
        self._groups, self._rungs = self.path / "groups.json", self.path / "rungs.json"
        self._is_new = False

    @classmethod
    def start(cls, path: str | Path, asked: Mapping[str, Any]) -> "SweepDirectory":
        """Fills the directory, which is locked, or reopens that of the same sweep.

        Args:
          path: of the directory.
          asked: all that decides what is computed: "config", "members" and how they are trained.

        Raises:
          RunError: it holds a single run, a search, a sweep of something else (names what differs), or members that
            were trained nobody knows how.
        """
        sweep, asked = cls(path), json.loads(json.dumps(dict(asked)))
        check_free(sweep.path, "sweep", "sweep.json")
        sweep._check_layout()
        sweep._check_groups_are_there()
        sweep._is_new = not (sweep._asked.exists() and sweep._groups.exists())  # nothing was trained yet
        sweep._forget_data()  # of a killed one, which may have had others
        if sweep._is_new:
            keep_start(sweep.path, asked["config"])
            keep_plugins(sweep.path, asked["config"])
        elif differing := differences(_fixed(sweep.asked), _fixed(asked)):
            raise RunError(
                f"{path} holds another sweep; it differs in {some(differing, 3)}. "
                f"Choose another --workdir, or repeat the same command to go on with this one"
            )
        write_json(sweep._asked, asked)
        return sweep

    @classmethod
    def open(cls, path: str | Path) -> "SweepDirectory":
        """Opens a sweep that exists.

        Raises:
          RunError: there is none.
        """
        check_holds(Path(path), "sweep.json", "the directory of a sweep")
        sweep = cls(path)
        sweep._check_layout()
        return sweep

    def _check_layout(self) -> None:
        check_layout(self.path, _FILES, _FOLDERS)
        for kind in ("data", "groups"):
            parts = [part.name for part in (self.path / kind).glob("[0-9]*")]
            check_layout(self.path / kind, (), parts)
            for part in parts:
                check_layout(self.path / kind / part, _FILES_OF_PART, _FOLDERS_OF_PART)

    def withdraw(self) -> None:
        """Forgets a sweep that could not begin, so that another command may use its directory."""
        if self._is_new:
            for file in (self._asked, self.path / START):
                file.unlink(missing_ok=True)
            self._forget_data()

    def _forget_data(self) -> None:
        if self._groups.exists():  # members were trained on them
            return
        for folder in (self.path / "data").glob("*"):
            for name in sums_of_learnt(folder):
                (folder / name).unlink(missing_ok=True)

    @property
    def asked(self) -> dict[str, Any]:
        """The config and the members that the sweep was started with.

        Raises:
          RunError: the file is damaged.
        """
        asked = read_json(self._asked)
        parts = [asked.get("config"), asked.get("members")]
        parts += parts[1].values() if isinstance(parts[1], dict) else []
        if not all(isinstance(part, dict) for part in parts) or not all(map(str.isdecimal, asked["members"])):
            raise RunError(f"{self._asked} is damaged: it must hold a config, and members with their overrides")
        check_not_older(self._asked, asked["config"])
        return asked

    def identity(self, number: int) -> dict[str, Any]:
        """Returns all that decides what the number-th group computes now; a checkpoint keeps it."""
        asked, group = _fixed(self.asked), (self.groups() or [])[number]
        members = {str(n): asked["members"].get(str(n)) for n in group["members"]}
        learnt = sums_of_learnt(self.data(group["data"]))
        return {"config": asked["config"], "members": members, "group": group, "files": learnt}

    def check_identity(self, number: int, of_checkpoint: Mapping[str, Any], checkpoint: Path) -> None:
        """Compares what the directory says of the number-th group with what a checkpoint of it says.

        Raises:
          RunError: they differ (names the file, or the field and both values).
        """
        group = (self.groups() or [])[number]
        if differing := differences(of_checkpoint.get("group", {}), group):
            raise RunError(
                f"{self._groups} does not fit the checkpoint {checkpoint}: group {number} differs in "
                f"{', '.join(differing)}. Put it back as it was"
            )
        learnt = self.data(group["data"])
        check_identity(self._asked, learnt, self.identity(number), of_checkpoint, checkpoint)

    def data(self, number: int) -> Path:
        """Returns the folder of the number-th data section: tokenizers or names of classes, and digests of the data."""
        return self._made("data", number)

    def group(self, number: int) -> Path:
        """Returns the folder of the number-th group of members, which are trained together."""
        return self._made("groups", number)

    def _made(self, kind: str, number: int) -> Path:
        folder = self.path / kind / str(number)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def groups(self) -> list[dict[str, Any]] | None:
        """The groups of members, once they are decided: numbers of members, "chunk" and "data".

        Raises:
          RunError: the file is damaged, or gone although members were trained.
        """
        self._check_groups_are_there()
        if not self._groups.exists():
            return None
        groups = read_json(self._groups, list)
        if not all(map(_is_group, groups)):
            raise RunError(
                f"{self._groups} is damaged: a group must have numbers of members, a chunk and a number of data"
            )
        found, wanted = sorted(n for group in groups for n in group["members"]), sorted(map(int, self.asked["members"]))
        if found != wanted:
            raise RunError(f"{self._groups} is damaged: each of the {len(wanted)} members must be in one of its groups")
        return groups

    def _check_groups_are_there(self) -> None:
        trained = [folder for folder in self.path.glob("groups/*") if steps_in(folder / "checkpoints")]
        if trained and not self._groups.exists():
            raise RunError(
                f"{self._groups} is gone, and nothing else says how the members in {trained[0]} were put together: "
                f"put it back, or choose another --workdir"
            )

    def keep_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the groups: a sweep goes on as it began, so that its results are the same to the last bit."""
        write_json(self._groups, list(groups))

    def keep_rungs(self, kept: Mapping[int, Sequence[int]]) -> None:
        """Writes down for people who is trained on after each rung; the sweep itself knows it from its metrics."""
        write_json(self._rungs, {str(step): list(numbers) for step, numbers in kept.items()})


def _is_group(record: Any) -> bool:
    """Returns whether a value is what `keep_groups` writes of a group."""
    if not isinstance(record, dict) or not isinstance(record.get("members"), list) or not record["members"]:
        return False
    numbers = [*record["members"], record.get("data"), record.get("chunk")]
    return all(type(n) is int and n >= 0 for n in numbers) and record["chunk"] > 0


def _fixed(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {**asked, "config": fixed(asked["config"])}
