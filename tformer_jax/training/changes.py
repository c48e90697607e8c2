"""Fields of its config that may change when a run goes on, and what becomes of its result then.

A field may change if it says so where it is declared: its part is RUN, or it `may_change`. This holds of the sections
that every run has, whatever its task: training and checkpoint.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..config import RUN, kind_of
from .checkpoints import CheckpointConfig
from .optimizers import OptimizerConfig
from .program import TrainingConfig
from .schedules import make_schedule

_SECTIONS = {"training": TrainingConfig, "checkpoint": CheckpointConfig}
# By dotted name, with the value that a config has which does not say it: one of an older version.
_USUAL = {
    f"{section}.{of.name}": None if of.default is dataclasses.MISSING else of.default
    for section, cls in _SECTIONS.items()
    for of in dataclasses.fields(cls)
    if kind_of(of).part == RUN or kind_of(of).may_change
}
FREE_FIELDS = frozenset(_USUAL)


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the fields that may change and did, from one config to another, with both values."""
    pairs = {name: (_at(there, name), _at(here, name)) for name in _USUAL}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _at(config: Mapping[str, Any], name: str) -> Any:
    section, _, field = name.partition(".")
    return config.get(section, {}).get(field, _USUAL[name])


def describe_changes(
    there: Mapping[str, Any], here: Mapping[str, Any], optimizer: OptimizerConfig, done: int
) -> list[str]:
    """Returns lines about what changed since the checkpoint that a run goes on from.

    Args:
      there: config that the checkpoint was saved of.
      here: that of the run now.
      optimizer: of the run.
      done: step of the checkpoint.
    """
    found = changes(there, here)
    lines = [", ".join(f"{name} {old!r} → {new!r}" for name, (old, new) in found.items())] if found else []
    if "training.steps" in found:
        lines.append(_effect_of_steps(optimizer, *found["training.steps"], done))
    return lines


def _effect_of_steps(optimizer: OptimizerConfig, old: int, new: int, done: int) -> str:
    """Describes what another number of steps does to a run, some of whose steps are done."""
    before, now = (jax.vmap(make_schedule(optimizer, total))(jnp.arange(done + 1)) for total in (old, new))
    if jnp.array_equal(before[:done], now[:done], equal_nan=True):
        return f"the learning rates so far do not depend on training.steps: the result is that of {new} steps at once"
    return (
        f"the schedule {optimizer.schedule!r} depends on training.steps: the learning rate jumps from "
        f"{before[done - 1]:.3g} at step {done} to {now[done]:.3g} at step {done + 1}, and the result is not that of "
        f"{new} steps at once"
    )
