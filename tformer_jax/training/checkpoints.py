"""Checkpoints: a dictionary of arrays keyed by path, plus JSON. Written by Orbax, asynchronously."""

import contextlib
import dataclasses
import itertools
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array
from orbax.checkpoint import checkpoint_managers as policies

from ..config import COUNT, RUN, UNSIGNED, Component, ConfigError, field
from .directories import steps_in
from .json_files import read_json
from .metrics import usual_best
from .processes import agreed, is_first
from .step import Arrays
from .sums import drop_unreadable_times, first_damage, write_sums

_UNFINISHED = ".orbax-checkpoint-tmp"  # is in the name until a checkpoint is whole


class CheckpointError(ValueError):
    """A failed write of a checkpoint, or a damaged checkpoint; the message says which, and what is wrong."""


class CheckpointConfig(Component):
    """The `checkpoint` section of an experiment.

    Attributes:
      every: number of steps between checkpoints; the last step always has one.
      keep: number of the newest checkpoints to keep.
      keep_best: number of the best checkpoints to keep beside them, of steps with a validation.
      best_metric: metric of the validation that decides, such as "loss" or "accuracy".
      best: which best_metric is best, "lowest" or "highest"; None: the highest accuracy, the lowest loss.
      keep_every: keep the checkpoints of multiples of this step for ever; None: of none.
    """

    every: int = field(wanted=COUNT, part=RUN)
    keep: int = field(2, COUNT, part=RUN)
    keep_best: int = field(0, UNSIGNED, part=RUN)
    best_metric: str = field("loss", part=RUN)
    best: str | None = field(None, among=("lowest", "highest"), part=RUN)
    keep_every: int | None = field(None, COUNT, part=RUN)

    def check(self) -> None:
        if self.keep_every is not None and self.keep_every % self.every:
            raise ConfigError(f"keep_every={self.keep_every} must be a multiple of every={self.every}")
        for of in dataclasses.fields(self):
            if of.name in ("best_metric", "best") and not self.keep_best and getattr(self, of.name) != of.default:
                raise ConfigError(f"{of.name} goes with keep_best, which is 0; set both or neither")

    def check_validated(self, evaluate_every: int) -> None:
        """Refuses keep_best where no checkpoint but the last has a validation."""
        if self.keep_best and self.every % evaluate_every and evaluate_every % self.every:
            raise ConfigError(
                f"checkpoint.keep_best needs checkpoints of steps that are validated: of checkpoint.every={self.every} "
                f"and training.evaluate_every={evaluate_every}, one must divide the other"
            )

    def policy(self) -> dict[str, Any]:
        """Returns which checkpoints Orbax keeps, in its options."""
        kept, best_of = [policies.LatestN(self.keep)], None
        if self.keep_best:
            best_of = lambda metrics: metrics[self.best_metric]
            kept.append(_Best(best_of, self.keep_best, (self.best or usual_best(self.best_metric)) == "lowest"))
        if self.keep_every is not None:
            kept.append(policies.EveryNSteps(self.keep_every))
        # Only with `best_fn` are metrics written, to be there after a restart.
        return {"preservation_policy": policies.AnyPreservationPolicy(kept), "best_fn": best_of}


@dataclasses.dataclass(frozen=True)
class _Best:
    """A preservation policy. Orbax's own takes all for the best while they are few, and what is no number for any."""

    value: Callable[[Any], float]
    number: int
    lowest: bool

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        values = {c.step: self.value(c.metrics) for c in checkpoints if c.metrics is not None}
        known = [step for step, value in values.items() if math.isfinite(value)]
        best = sorted(known, key=values.get, reverse=self.lowest)[-self.number :]
        return [c.step in best for c in checkpoints]


class Checkpoints:
    """The checkpoints of a run, by step. Use as a context manager: leaving waits for the last write.

    A checkpoint gets its name, the step's number, once it is whole; and it holds the SHA-256 of each of its files.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, *, read_only: bool = False):
        """`read_only`: nothing is written or tidied up; see `reading.whole` of a run that may be training.

        Raises:
          CheckpointError: the directory cannot be written.
        """
        self.directory = Path(directory).absolute()
        self._config, self._saving, self._read_only = config, 0, read_only
        self._tidy_up()
        options = ocp.CheckpointManagerOptions(
            **config.policy(),
            create=not read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_sums),
        )
        handlers = {name: ocp.JsonCheckpointHandler() for name in ("config", "progress")}
        handlers["arrays"] = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        # An error that is on its way already says more than one of the last write would.
        try:
            with contextlib.suppress(Exception) if kind else self._explained():
                self._manager.wait_until_finished()
                self._manager.close()
        finally:
            self._tidy_up()

    @property
    def latest(self) -> int | None:
        """The newest step that has a checkpoint."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """All steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        arrays: Mapping[str, Array | np.ndarray],
        identity: Mapping,
        metrics: Mapping[str, float] | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts writing; returns once the arrays are copied and may be donated.

        Args:
          step: what the checkpoint is called; one that is there stays as it is.
          arrays: by path.
          identity: what these are arrays of: a config, say; plain JSON values.
          metrics: of a validation at this step, for `keep_best`.
          progress: what else goes on where these arrays do, such as sums that are not over; plain JSON values.

        Raises:
          CheckpointError: the checkpoint before could not be written.
        """
        if step in self.steps:
            return
        if self._config.keep_best and metrics is not None and self._config.best_metric not in metrics:
            known = ", ".join(metrics)
            raise ConfigError(
                f"checkpoint.best_metric={self._config.best_metric!r} is no metric of the validation, only {known}"
            )
        parts = {"arrays": ocp.args.StandardSave(arrays), "config": ocp.args.JsonSave(dict(identity))}
        if progress is not None:
            parts["progress"] = ocp.args.JsonSave(dict(progress))
        with self._explained():
            self._manager.wait_until_finished()  # it would wait anyway, and the next line is for the next step
            self._saving = step
            self._check_room(sum(x.nbytes for x in arrays.values()))
            self._manager.save(step, args=ocp.args.Composite(**parts), metrics=metrics)

    def wait(self) -> None:
        """Waits until what is being written is written.

        Raises:
          CheckpointError: it cannot be.
        """
        with self._explained():
            self._manager.wait_until_finished()

    def check(self, step: int) -> None:
        """Compares every file of a checkpoint with its SHA-256.

        Raises:
          CheckpointError: a file is missing or not what was written (names the first).
        """
        folder = self.directory / str(step)
        problem = first_damage(folder, called=folder) if is_first() else None
        if problem := agreed(problem):
            raise CheckpointError(f"the checkpoint of step {step} is damaged: {problem}")

    def identity(self, step: int) -> dict[str, Any]:
        """Returns what `save` was told that the arrays of a step are; the checkpoint is known to be whole."""
        return read_json(self.directory / str(step) / "config" / "metadata")

    def progress(self, step: int) -> dict[str, Any]:
        """Returns what `save` was told that goes on with the arrays of a step, if anything."""
        file = self.directory / str(step) / "progress" / "metadata"
        return read_json(file) if file.exists() else {}

    def restore(self, step: int, shapes: Mapping[str, jax.ShapeDtypeStruct], *, is_whole: bool = False) -> Arrays:
        """Restores the arrays of a step, with these shapes, dtypes and shardings.

        `is_whole`: the checkpoint is known to be, and need not be compared with its sums.

        Raises:
          CheckpointError: it is damaged.
          ConfigError: the checkpoint holds other arrays than these (names what differs).
        """
        if not is_whole:
            self.check(step)
        found, wanted = ({n: self.describe(x) for n, x in some.items()} for some in (self._saved(step), shapes))
        differing = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        if differing:
            name = differing[0]
            raise ConfigError(
                f"the checkpoint of step {step} does not fit this model: {len(differing)} arrays differ, such as "
                f"{name}: {found.get(name, 'absent')} in the checkpoint, {wanted.get(name, 'absent')} in the model"
            )
        return self._restore(step, dict(shapes))

    def restore_newest(
        self,
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        say: Callable[[str], None],
        check: Callable[[dict[str, Any], int], None] = lambda identity, step: None,
    ) -> tuple[int, Arrays] | None:
        """The newest step whose checkpoint is whole, and its arrays; None if there is none. See `newest_whole`.

        `check(identity, step)` may refuse it, before its arrays are read.

        Raises:
          ConfigError: see `restore`.
        """
        step = self.newest_whole(say)
        if step is None:
            return None
        check(self.identity(step), step)
        return step, self.restore(step, shapes, is_whole=True)

    def newest_whole(self, say: Callable[[str], None]) -> int | None:
        """The newest step whose checkpoint is whole; None if there is none.

        Those that are damaged are put into `damaged` beside the directory; `say` is told.
        """
        while (step := self.latest) is not None:
            try:
                self.check(step)
                return step
            except CheckpointError as error:
                say(f"{error}; it is now in {self._set_aside(step)}")
        return None

    def restore_as_saved(self, step: int, *, is_whole: bool = False) -> dict[str, np.ndarray]:
        """Restores all the arrays of a step, whatever they are, on the host.

        Raises:
          CheckpointError: it is damaged.
        """
        if not is_whole:
            self.check(step)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        saved = self._saved(step).items()
        return jax.device_get(
            self._restore(step, {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device) for n, x in saved})
        )

    def _saved(self, step: int) -> Mapping[str, Any]:
        """Shape and dtype of each array of a step."""
        return dict(self._manager.item_metadata(step)["arrays"].items())

    @staticmethod
    def describe(x: Any) -> str:
        """Describes an array: "float32 (3, 4)"."""
        return f"{jnp.dtype(x.dtype).name} {tuple(x.shape)}"

    def _restore(self, step: int, shapes: Any) -> Arrays:
        return self._manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes)))["arrays"]

    def _tidy_up(self) -> None:
        """Deletes what is left of writes that were killed or failed.

        Orbax would do so in the background: while the next checkpoint is written, which it may take for such a one.
        """
        if not self._read_only and is_first():
            for folder in self.directory.glob(f"*{_UNFINISHED}*"):
                shutil.rmtree(folder, ignore_errors=True)
            for step in steps_in(self.directory):
                drop_unreadable_times(self.directory / str(step))

    def _check_room(self, needed: int) -> None:
        """Sooner than an attempt would, and without what it leaves behind."""
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise OSError(f"it takes {needed / 2**20:.1f} MiB, and the disk has {free / 2**20:.1f} MiB left")

    def _set_aside(self, step: int) -> Path:
        """Moves a checkpoint out of the way; where to."""
        place = self.directory.parent / "damaged"
        names = itertools.chain([str(step)], (f"{step}-{number}" for number in itertools.count(2)))
        to = next(place / name for name in names if not (place / name).exists())
        if is_first():
            place.mkdir(exist_ok=True)
            shutil.move(self.directory / str(step), to)
        agreed(None)
        self._manager.reload()
        return to

    def _write_sums(self) -> None:
        """Called by Orbax when all files of a checkpoint are there, before it gets its name."""
        (folder,) = (f for f in self.directory.iterdir() if f.name.startswith(f"{self._saving}."))
        write_sums(folder)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises what Orbax raises of a failed write as a CheckpointError with its cause."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            kept = f"the newest complete one is of step {newest}" if (newest := self.latest) else "there is no other"
            system = re.search(r"([^:]+) \[os_error_code", str(error))  # at the end of a sentence as long as its paths
            said = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
            reason = system[1].strip() if system else said.splitlines()[0]
            raise CheckpointError(
                f"the checkpoint of step {self._saving} cannot be written: {reason}; {kept}"
            ) from error
