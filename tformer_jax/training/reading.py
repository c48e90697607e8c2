"""Reading the checkpoints of a run that may be training, which deletes them meanwhile."""

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .checkpoints import CheckpointConfig, CheckpointError, Checkpoints
from .directories import RunError, steps_in
from .step import Arrays
from .sums import first_damage

# So often is looked again for a checkpoint that is not deleted while its files are opened, which takes milliseconds.
_LOOKS = 100
_SECONDS_BETWEEN = 0.05


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, as long as its context lasts.

    Attributes:
      step: whose it is.
      identity: what its arrays are of.
      progress: what goes on where they do.
      restore, restore_as_saved: those of `Checkpoints`, of this step.
    """

    step: int
    identity: Mapping[str, Any]
    progress: Mapping[str, Any]
    restore: Callable[[Mapping[str, jax.ShapeDtypeStruct]], Arrays]
    restore_as_saved: Callable[[], dict[str, np.ndarray]]


@contextlib.contextmanager
def whole(checkpoints: Path, step: int | None = None, older: str = "") -> Iterator[Checkpoint]:
    """The newest checkpoint in a folder, or that of `step`, held open: deleting it does not take it from its reader.

    Nothing in the folder is changed. What is not whole is damaged only if it stays as it is: another process may be
    deleting it.

    Args:
      checkpoints: the folder.
      step: whose checkpoint; None: the newest.
      older: what to do to have that of another {step}, for the message.

    Raises:
      RunError: there is no (such) checkpoint.
      CheckpointError: it is damaged, or cannot be read (names the file, and the newest other one that is whole).
    """
    before = None
    for _ in range(_LOOKS):
        chosen = _chosen(checkpoints, step)
        with contextlib.ExitStack() as held:
            folder = checkpoints / str(chosen)
            try:
                links = held.enter_context(tempfile.TemporaryDirectory())
                _hold(folder, Path(links) / str(chosen), held)
                problem = first_damage(Path(links) / str(chosen), called=folder)
            except OSError as error:
                problem = f"{error.filename or folder} cannot be read: {error.strerror}"
            if problem is None:
                config = CheckpointConfig(every=1)
                linked = held.enter_context(Checkpoints(Path(links), config, read_only=True))
                restore = functools.partial(linked.restore, chosen, is_whole=True)
                as_saved = functools.partial(linked.restore_as_saved, chosen, is_whole=True)
                yield Checkpoint(chosen, linked.identity(chosen), linked.progress(chosen), restore, as_saved)
                return
        if (chosen, problem) == before:
            other = _other(checkpoints, chosen, older)
            raise CheckpointError(f"the checkpoint of step {chosen} is damaged: {problem}; {other}")
        before = chosen, problem
        time.sleep(_SECONDS_BETWEEN)
    raise CheckpointError(f"the checkpoints in {checkpoints} change faster than they can be opened; try again later")


def _chosen(checkpoints: Path, step: int | None) -> int:
    """The step to read."""
    steps = steps_in(checkpoints)
    if not steps:
        raise RunError(f"{checkpoints.parent} has no checkpoint yet")
    if step is not None and step not in steps:
        raise RunError(f"{checkpoints.parent} has no checkpoint of step {step}, only of {steps}")
    return steps[-1] if step is None else step


def _other(checkpoints: Path, damaged: int, older: str) -> str:
    """Text about the newest whole checkpoint beside a damaged one."""
    others = [step for step in steps_in(checkpoints) if step != damaged]
    for step in reversed(others):
        folder = checkpoints / str(step)
        with contextlib.suppress(OSError):  # it cannot be read either
            if first_damage(folder, called=folder) is None:
                return f"that of step {step} is whole{older.format(step=step)}"
    return "none of the others is whole" if others else "there is no other"


def _hold(folder: Path, links: Path, held: contextlib.ExitStack) -> None:
    """Opens all files of a checkpoint, and makes a folder of links to what is open, which is there until it is closed."""
    links.mkdir()
    for file in sorted(folder.rglob("*")):
        link = links / file.relative_to(folder)
        if file.is_dir():
            link.mkdir()
        else:
            link.symlink_to(f"/dev/fd/{held.enter_context(open(file, 'rb')).fileno()}")
