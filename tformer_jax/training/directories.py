"""Kinds of directories: of a run, a sweep or a search, or a part of one."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# What a run's directory holds beside its files.
RUN_FOLDERS = ("checkpoints", "damaged", "plots", "profile", "samples", "tensorboard", "wandb")


class RunError(ValueError):
    """The run directory cannot be used as asked."""


@dataclasses.dataclass(frozen=True)
class _Kind:
    """Kind of a directory.

    Attributes:
      name: in messages.
      files: by which its parts know it; what looks alike may be somebody else's.
      parts: the folders in it that are nothing by themselves.
      way_out: what to do instead with a part, of {whole}.
      runs: the folder in it whose folders are runs of their own, once it has made them.
      instead: what else can be done with it, of {whole}, to follow its name.
    """

    name: str
    files: tuple[str, ...]
    parts: tuple[str, ...]
    way_out: str
    instead: str = ""
    runs: str = ""

    def has_part(self, whole: Path, within: tuple[str, ...], makes_run: bool) -> bool:
        """Returns whether what is `within` a directory is nothing by itself, if that is of this kind.

        `makes_run`: it is the directory itself that makes one of its runs.
        """
        if not all((whole / file).is_file() for file in self.files):
            return False
        is_run = len(within) == 2 and (makes_run or whole.joinpath(*within, "config.json").is_file())
        return within[0] in self.parts or (within[0] == self.runs and not is_run)


_EXPORT = "python -m experiments.export --workdir={whole} --member=NUMBER --to=DIRECTORY makes a run of a member"
# Fields of a model that were numbers and texts before they were components or within them.
_NOW_TABLES = ("num_heads", "d_ff", "norm", "positions")
# By a file that only such a directory has.
_KINDS = {
    "config.json": _Kind(
        "a single run", files=("config.json", "environment.json"), parts=RUN_FOLDERS,
        way_out="--workdir={whole} is the run; a new one needs a directory outside",
    ),
    "sweep.json": _Kind(
        "a sweep of members", files=("sweep.json",), parts=("data", "groups", "plots"), way_out=_EXPORT,
        instead="; " + _EXPORT,
    ),
    "groups.json": _Kind(  # whose sweep.json is lost
        "a sweep of members", files=("groups.json",), parts=("data", "groups", "plots"), way_out=_EXPORT,
    ),
    "search.json": _Kind(
        "a search", files=("search.json",), parts=("plots",), runs="trials",
        way_out="it makes its runs, {whole}/trials/NUMBER, itself", instead="; its runs are in its trials/",
    ),
}  # fmt: skip


def check_free(directory: Path, kind: str, own: str, *, makes_run: bool = False) -> None:
    """Refuses what is the directory of something else, or a part of one.

    Args:
      directory: which need not be there.
      kind: what it is to be of, for the message.
      own: the file that tells such a directory.
      makes_run: it is a search that makes it, for a trial.

    Raises:
      RunError: it is (says of what).
    """
    for file, found in _KINDS.items():
        if found.name != _KINDS[own].name and (directory / file).exists():
            raise RunError(f"{directory} holds {found.name}; choose another --workdir for the {kind}")
    _check_no_part(directory, makes_run)


def check_holds(directory: Path, own: str, kind: str) -> None:
    """Refuses what is not the directory of a `kind`, which the file `own` tells.

    Raises:
      RunError: it is not (says what it is instead, or of what it is a part).
    """
    if (directory / own).exists():
        return
    for file, found in _KINDS.items():
        if found.name != _KINDS[own].name and (directory / file).exists():
            raise RunError(f"{directory} is not {kind}: it holds {found.name}{found.instead.format(whole=directory)}")
    _check_no_part(directory)
    raise RunError(f"{directory} is not {kind}: it has no {own}")


def check_layout(directory: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """Refuses a folder where one of the files of a directory belongs, or the reverse.

    Raises:
      RunError: it is so (names it).
    """
    for name in files:
        if (directory / name).is_dir():
            raise RunError(f"{directory / name} must be a file, and is a folder: move it away")
    for name in folders:
        if (directory / name).exists() and not (directory / name).is_dir():
            raise RunError(f"{directory / name} must be a folder, and is a file: move it away")


def check_not_older(file: Path, config: Any) -> None:
    """Refuses what an older version made, whose models had one table of fields, without components.

    Args:
      file: that holds the config, for the message.
      config: of a run, a sweep or a search, as it was read: it may be anything.

    Raises:
      RunError: it is so.
    """
    model = config.get("model") if isinstance(config, Mapping) else None
    if isinstance(model, Mapping) and any(not isinstance(model.get(name, {}), Mapping) for name in _NOW_TABLES):
        raise RunError(
            f"{file} is of an older layout, whose models had no components: use the version of tformer_jax that made "
            "it (the commit in environment.json), or train anew in another directory"
        )


def _check_no_part(directory: Path, makes_run: bool = False) -> None:
    here = directory.resolve()
    for whole in here.parents:
        within = here.relative_to(whole).parts
        for kind in _KINDS.values():
            if kind.has_part(whole, within, makes_run):
                raise RunError(f"{directory} is part of {kind.name}, in {whole}: {kind.way_out.format(whole=whole)}")
    if _has_members(directory):
        way_out = _EXPORT.format(whole="SWEEP")
        raise RunError(f"{directory} holds the states of members of a sweep, and is no run: {way_out}")


def _has_members(directory: Path) -> bool:
    """Returns whether the newest checkpoint of a directory is of members of a sweep, wherever that is now."""
    for step in steps_in(directory / "checkpoints")[-1:]:
        try:
            identity = json.loads((directory / "checkpoints" / str(step) / "config" / "metadata").read_text("utf-8"))
        except (OSError, ValueError, RecursionError):  # it is damaged: others complain
            return False
        return isinstance(identity, dict) and "members" in identity
    return False


def steps_in(checkpoints: Path) -> list[int]:
    """The steps of the checkpoints in a folder, which need not be there, ascending."""
    try:
        names = [entry.name for entry in checkpoints.iterdir() if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*|0", name))
