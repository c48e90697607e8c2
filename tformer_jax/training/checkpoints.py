"""Checkpoints: a dictionary of arrays keyed by path, plus JSON. Written by Orbax, asynchronously."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ..config import ConfigError
from .step import Arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """The `checkpoint` section of an experiment.

    Attributes:
      every: steps between checkpoints; the last step always has one.
      keep: how many of the newest are kept.
    """

    every: int
    keep: int = 2

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"checkpoint.{name} must be at least 1, got {getattr(self, name)}")


class Checkpoints:
    """The checkpoints of a run, by step. Use as a context manager: leaving waits for the last write."""

    def __init__(self, directory: Path, config: CheckpointConfig):
        options = ocp.CheckpointManagerOptions(max_to_keep=config.keep, enable_async_checkpointing=True)
        handlers = {"arrays": ocp.StandardCheckpointHandler(), "config": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest step that has a whole checkpoint."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """All steps that have a whole checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, arrays: Arrays, config: dict) -> None:
        """Starts writing; returns once the arrays are copied and may be donated."""
        if step in self.steps:
            return
        parts = {"arrays": ocp.args.StandardSave(arrays), "config": ocp.args.JsonSave(config)}
        self._manager.save(step, args=ocp.args.Composite(**parts))

    def restore(self, step: int, shapes: dict[str, jax.ShapeDtypeStruct]) -> Arrays:
        """The arrays of a step, with these shapes and dtypes.

        Raises:
          ConfigError: the checkpoint holds other arrays than these (names what differs).
        """
        found, wanted = self.described(step), {name: self.describe(shape) for name, shape in shapes.items()}
        differing = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        if differing:
            name = differing[0]
            raise ConfigError(
                f"the checkpoint of step {step} does not fit this model: {len(differing)} arrays differ, such as "
                f"{name}: {found.get(name, 'absent')} in the checkpoint, {wanted.get(name, 'absent')} in the model"
            )
        return self._restore(step, shapes)

    def restore_as_saved(self, step: int) -> Arrays:
        """All the arrays of a step, whatever they are."""
        saved = self._manager.item_metadata(step)["arrays"]
        return self._restore(step, {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in saved.items()})

    def described(self, step: int) -> dict[str, str]:
        """Dtype and shape of each array of a step."""
        return {name: self.describe(x) for name, x in self._manager.item_metadata(step)["arrays"].items()}

    @staticmethod
    def describe(x: Any) -> str:
        """ "float32 (3, 4)"."""
        return f"{jnp.dtype(x.dtype).name} {tuple(x.shape)}"

    def _restore(self, step: int, shapes: Any) -> Arrays:
        return self._manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes)))["arrays"]
