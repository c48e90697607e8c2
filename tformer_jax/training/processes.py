"""Several processes as one program: who is first, and what all agree on."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from .directories import RunError

_T = TypeVar("_T")
_MOST_BYTES = 4096


def is_first() -> bool:
    """Returns whether this process writes logs, plots and what else there must be one of."""
    return jax.process_index() == 0


def agreed(message: str | None) -> str | None:
    """The first process's message, in all processes, once all have come to this point."""
    if jax.process_count() == 1:
        return message
    sent = np.zeros(_MOST_BYTES, np.uint8)
    text = np.frombuffer((message or "").encode("utf-8")[:_MOST_BYTES], np.uint8)
    sent[: len(text)] = text
    received = bytes(multihost_utils.broadcast_one_to_all(sent)).rstrip(b"\0")
    return received.decode("utf-8", "ignore") or None


def first_then_others(function: Callable[[], _T]) -> _T:
    """Calls a function in the first process, whose files the others then find there, and after that in them.

    Raises:
      RunError: in the others, if it failed in the first.
    """
    if jax.process_count() == 1:
        return function()
    if is_first():
        try:
            result = function()
        except BaseException as error:
            agreed(f"{type(error).__name__}: {error}")
            raise
        agreed(None)
        return result
    if failure := agreed(None):
        raise RunError(f"the first process could not start: {failure}")
    return function()


def in_any(mesh: Mesh | None, mine: bool) -> Any:
    """Returns whether something is so in any process, the same in all; with several, which share the mesh, read
    it once the step is done.

    The answer is computed on the devices, in order with the steps, so that no process waits for it.
    """
    if jax.process_count() == 1:
        return mine
    spread = NamedSharding(mesh, P(mesh.axis_names))
    flags = jax.make_array_from_callback((mesh.size,), spread, lambda index: np.full(1, mine))
    return _any(flags, NamedSharding(mesh, P()))


@jax.jit(static_argnums=1)
def _any(flags: Any, whole: NamedSharding) -> Any:
    return jax.lax.with_sharding_constraint(flags.any(), whole)
