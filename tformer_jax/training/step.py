"""One training step as a pure function, and the training state as a flat dictionary of arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from .optimizers import Schedule

Arrays = dict[str, Array]
LossFunction = Callable[[Any, Any, Array], tuple[Array, Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes while training. Step i draws its randomness from `fold_in(key, i)`."""

    step: Any
    model: Any
    optimizer: Any


class StateLayout:
    """Between a `TrainState` and the dictionary of arrays, keyed by path, that is jitted and saved.

    A dictionary of arrays crosses `jax.jit` in C++; a tree of NNX modules is taken apart and put
    together in Python at every call, which costs milliseconds a step.
    """

    def __init__(self, abstract: TrainState):
        """`abstract`: a state, or what `jax.eval_shape` says of one."""
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(abstract)
        self.shapes = {_path_name(path): jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in leaves}

    def flatten(self, state: TrainState) -> Arrays:
        """The state's arrays by path."""
        return dict(zip(self.shapes, jax.tree.leaves(state), strict=True))

    def unflatten(self, arrays: Arrays) -> TrainState:
        """The state that has these arrays."""
        return jax.tree.unflatten(self._structure, [arrays[name] for name in self.shapes])


def make_train_step(
    loss: LossFunction, optimizer: optax.GradientTransformation, schedule: Schedule, accumulate: int = 1
) -> Callable[[TrainState, Any, Array], tuple[TrainState, Arrays]]:
    """`(state, batch, key) -> (state, metrics)`; pure, to be jitted with the state donated.

    Args:
      loss: `(model, batch, key) -> (mean loss, its weight)`.
      optimizer: of the parameters, that is of the model as a pytree.
      schedule: only for the metrics.
      accumulate: splits the rows of a batch into this many parts that are differentiated one
        after the other; the weighted mean of their gradients is that of the whole batch.
    """

    def gradients(model, batch, key):
        (value, weight), grads = jax.value_and_grad(loss, has_aux=True)(model, batch, key)
        return value, weight, grads

    def accumulated(model, batch, key):
        parts = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)

        def add(total, part_and_key):
            value, weight, grads = gradients(model, *part_and_key)
            weighted = jax.tree.map(lambda x: x * weight, (value, jnp.float32(1.0), grads))
            return jax.tree.map(jnp.add, total, weighted), None

        zero = jax.tree.map(jnp.zeros_like, (jnp.float32(0), jnp.float32(0), model))
        (value, weight, grads), _ = jax.lax.scan(add, zero, (parts, jax.random.split(key, accumulate)))
        mean = jnp.where(weight == 0, 1.0, weight)
        return value / mean, weight, jax.tree.map(lambda g: g / mean, grads)

    def train_step(state: TrainState, batch: Any, key: Array) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(key, state.step)
        value, weight, grads = (gradients if accumulate == 1 else accumulated)(state.model, batch, key)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.model)
        metrics = {
            "loss": value,
            "weight": weight,
            "gradient_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        model = optax.apply_updates(state.model, updates)
        return TrainState(state.step + 1, model, optimizer_state), metrics

    return train_step


def _path_name(path: tuple) -> str:
    """ "model.decoder.layers.attention.w_q": NNX wraps each array in a `value`, which says nothing."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
