"""The directory of a sweep: what was asked for, and everything that came of it.

sweep.json  groups.json  rungs.json  environment.json  results.csv  results.jsonl  plots/
data/0/tokenizer.json ...   groups/0/metrics.jsonl  groups/0/checkpoints/ ...
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..training.run import RunError, differences, read_json, write_json
from .members import Member

# Where a sweep runs may change from start to start: what it computes does not.
_FREE = ("parallel",)
# What a directory holds, by a file that it has.
_HELD = {"config.json": "a single run", "groups.json": "a sweep that is no search", "search.json": "a search"}


class SweepDirectory:
    """The directory of one sweep, opened for one config and one space.

    Attributes:
      path: where it is.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._asked = self.path / "sweep.json"
        self._groups, self._rungs = self.path / "groups.json", self.path / "rungs.json"

    @classmethod
    def start(cls, path: str | Path, asked: Mapping[str, Any]) -> "SweepDirectory":
        """Fills the directory, which is locked, or reopens that of the same sweep.

        Args:
          path: of the directory.
          asked: all that decides what is computed: "config", "members" and how they are trained.

        Raises:
          RunError: it holds a single run, a search, or a sweep of something else (names what differs).
        """
        sweep, asked = cls(path), json.loads(json.dumps(dict(asked)))
        check_free(sweep.path, "sweep", "groups.json")
        if sweep._asked.exists() and sweep._groups.exists():  # else nothing was trained yet
            differing = differences(_fixed(read_json(sweep._asked)), _fixed(asked))
            if differing:
                more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
                raise RunError(
                    f"{path} holds another sweep; it differs in {', '.join(differing[:3])}{more}. "
                    f"Choose another --workdir, or ask for the same to go on with this one"
                )
        write_json(sweep._asked, asked)
        return sweep

    @classmethod
    def open(cls, path: str | Path) -> "SweepDirectory":
        """A sweep that exists.

        Raises:
          RunError: there is none.
        """
        sweep = cls(path)
        if not sweep._asked.is_file():
            raise RunError(f"{path} is not the directory of a sweep: it has no sweep.json")
        return sweep

    @property
    def asked(self) -> dict[str, Any]:
        """What the sweep was started with."""
        return read_json(self._asked)

    def data(self, number: int) -> Path:
        """What the number-th data section left: tokenizers, or the names of classes."""
        return self._made("data", number)

    def group(self, number: int) -> Path:
        """Of the members that are trained together."""
        return self._made("groups", number)

    def _made(self, kind: str, number: int) -> Path:
        folder = self.path / kind / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def groups(self) -> list[dict[str, Any]] | None:
        """How members were put together, once that is decided: their numbers, "chunk" and "data"."""
        return read_json(self._groups, list) if self._groups.exists() else None

    def keep_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Keeps it: a sweep goes on as it began, so that its results are the same to the last bit."""
        write_json(self._groups, list(groups))

    def rungs(self) -> dict[int, list[int]]:
        """The members that were trained on after each rung of successive halving so far."""
        return {int(step): kept for step, kept in read_json(self._rungs).items()} if self._rungs.exists() else {}

    def keep_rung(self, step: int, kept: Sequence[int]) -> None:
        """Keeps who is trained on after a rung."""
        write_json(self._rungs, {str(s): list(numbers) for s, numbers in {**self.rungs(), step: kept}.items()})


def check_free(directory: Path, kind: str, own: str) -> None:
    """Refuses what is the directory of something else; `own`: the file that tells a `kind`'s directory.

    Raises:
      RunError: it is (says of what).
    """
    for file, what in _HELD.items():
        if file != own and (directory / file).exists():
            raise RunError(f"{directory} holds {what}; choose another --workdir for the {kind}")


def asked_of(config: Mapping[str, Any], members: Sequence[Member], how: Mapping[str, Any]) -> dict[str, Any]:
    """What `SweepDirectory.start` compares."""
    return {"config": dict(config), "members": {str(m.number): m.overrides for m in members}, **how}


def _fixed(asked: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: section for name, section in asked["config"].items() if name not in _FREE}
    return {**asked, "config": config}
