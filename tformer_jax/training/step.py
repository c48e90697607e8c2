"""One training step as a pure function, and the training state as a flat dictionary of arrays."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ..config import ConfigError
from ..functional.numbers import Number
from ..nn.parameters import parameters, path_name
from .optimizers import in_float32
from .parallel import SplitBatch, filled_up
from .schedules import Schedule

Arrays = dict[str, Array]
LossFunction = Callable[[Any, Any, Array], tuple[Array, Array, dict[str, Array]]]

# The numbers of a step, beside the loss's other means; and what else a row of metrics has.
OWN_METRICS = ("loss", "weight", "gradient_norm", "learning_rate", "finite_gradients", "skipped")
_OF_A_ROW = ("step", "member", "mean_loss", "seconds", "mfu", "peak_memory_bytes", "alive", "diverged")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes while training. Step i draws its randomness from `fold_in(key, i)`.

    Attributes:
      step: updates so far.
      model: its parameters.
      optimizer: what it remembers.
      average: the moving average of what is trained, of its structure, in float32; None: there is none.
      skipped: how many steps changed nothing because their loss or gradient was not finite; None: such a
        step ends the run.
      adapter: what is trained instead of the model, which stays as it is, see `nn.with_adapter`; None: there is none.
    """

    step: Any
    model: Any
    optimizer: Any
    average: Any = None
    skipped: Any = None
    adapter: Any = None

    @property
    def trained(self) -> Any:
        """The tree that is differentiated and updated: the adapter, if there is one, or else the model."""
        return self.model if self.adapter is None else self.adapter

    def changed(self, trained: Any, **others: Any) -> "TrainState":
        """Returns the state with another value of what is trained, and of other fields."""
        return dataclasses.replace(self, **{"model" if self.adapter is None else "adapter": trained}, **others)


class StateLayout:
    """The layout of a `TrainState` as a dictionary of arrays, keyed by path, that is jitted and saved.

    A dictionary of arrays crosses `jax.jit` in C++; a tree of NNX modules is taken apart and put
    together in Python at every call, which costs milliseconds a step.

    Attributes:
      shapes: of each array, by its path.
      parameters: what each of the model's parameters is, by its path in the model, in the order of its leaves.
      trained: the same of what is trained, the adapter's if there is one.
    """

    def __init__(self, abstract: TrainState):
        """`abstract`: a state, or what `jax.eval_shape` says of one."""
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(abstract)
        self.parameters, self.trained = parameters(abstract.model), parameters(abstract.trained)
        self.shapes = {path_name(path): jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in leaves}

    def flatten(self, state: TrainState) -> Arrays:
        """The state's arrays by path."""
        return dict(zip(self.shapes, jax.tree.leaves(state), strict=True))

    def unflatten(self, arrays: Arrays) -> TrainState:
        """The state that has these arrays."""
        return jax.tree.unflatten(self._structure, [arrays[name] for name in self.shapes])


def make_train_step(
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    accumulate: int = 1,
    *,
    prepare: Callable[[Any, Array], Any] | None = None,
    combine: Callable[[Any, Any], Any] = lambda model, trained: trained,
    average_decay: Number | None = None,
    axis: str | None = None,
) -> Callable[[TrainState, Any, Array], tuple[TrainState, Arrays]]:
    """`(state, batch, key) -> (state, metrics)`; pure, to be jitted with the state donated.

    Args:
      loss: `(model, batch, key) -> (mean loss, its weight, other means by name)`.
      optimizer: of what is trained, that is of the model, or of the adapter, as a pytree. Its memory keeps the dtypes
        that it starts with: those of `make_optimizer`, or of any `with_float32_memory`, are float32 whatever those are.
      schedule: only for the metrics.
      accumulate: splits the rows of a batch into this many parts that are differentiated one after the other;
        the weighted mean of their gradients is that of the whole batch. Part j is the rows j, j + accumulate, ...,
        so that each has its share of every device's rows.
      prepare: `(batch, key) -> batch`, what is random about a batch itself and may mix its rows: those of one part,
        and none that only fills up.
      combine: `(model, trained) -> model`, the model that the loss is of.
      average_decay: d of the moving average, see `moving_average`; None: none is kept.
      axis: of `pmap`, each of whose devices has some of the rows, of a `SplitBatch`.

    The metrics are "loss", "weight", "gradient_norm", "learning_rate" of the step, the loss's other means, and
    "finite_gradients" [P]: of each parameter, whether its gradient's norm is. Where the state counts them, a step whose
    loss or gradient norm is not finite changes nothing but the count, "skipped".

    Raises (when traced):
      ConfigError: another mean has a name that a row of metrics has already, or is no scalar.
    """

    def objective(trained, model, batch, key):
        """The mean loss of a batch, or of a part of it; its weight and other means."""
        if axis is not None:
            batch = _prepare_together(prepare, batch, key, axis, accumulate)
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        elif prepare is not None:
            batch = prepare(batch, key)
        value, weight, others = loss(combine(model, trained), batch, key)
        return jnp.float32(value), (jnp.float32(weight), _checked(others))

    gradients = jax.value_and_grad(objective, has_aux=True)
    mean_gradients = gradients if accumulate == 1 else _in_parts(gradients, accumulate)

    def train_step(state: TrainState, batch: Any, key: Array) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(key, state.step)
        (value, (weight, others)), grads = mean_gradients(state.trained, state.model, batch, key)
        means, grads = {"loss": value} | others, in_float32(grads)
        if axis is not None:
            means, weight, grads = _mean_over_devices(means, weight, grads, axis)
        squares = jnp.stack([jnp.square(g).sum() for g in jax.tree.leaves(grads)])
        norm = jnp.sqrt(squares.sum())
        old = in_float32(state.trained)
        updates, memory = optimizer.update(grads, state.optimizer, old)
        trained = with_dtypes_of(state.trained, optax.apply_updates(old, updates))
        average = None if average_decay is None else moving_average(state.average, trained, average_decay, state.step)
        metrics = means | {
            "weight": weight,
            "gradient_norm": norm,
            "learning_rate": schedule(state.step),
            "finite_gradients": jnp.isfinite(squares),
        }
        step = state.step + 1
        memory = with_dtypes_of(state.optimizer, memory)
        new = state.changed(trained, step=step, optimizer=memory, average=average)
        if state.skipped is None:
            return new, metrics
        finite = jnp.isfinite(means["loss"]) & jnp.isfinite(norm)
        old = dataclasses.replace(state, step=step, skipped=state.skipped + 1)
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
        return new, metrics | {"skipped": new.skipped}

    return train_step


def _checked(others: Mapping[str, Any]) -> Arrays:
    """Means beside the loss, in float32."""
    for name, value in others.items():
        is_kind = name.startswith("validation_") or name.endswith("_per_second")
        if is_kind or name in (*OWN_METRICS, *_OF_A_ROW):
            raise ConfigError(f"the loss's metric {name!r} has the name of another number of a step; rename it")
        if jnp.shape(value) != ():
            raise ConfigError(f"the loss's metric {name!r} must be a scalar, got the shape {jnp.shape(value)}")
    return {name: jnp.float32(value) for name, value in others.items()}


def _in_parts(gradients: Callable, count: int) -> Callable:
    """`gradients` of a batch from those of `count` parts of it: their means, by their weights."""

    def of_parts(trained, model, batch, key):
        rows = batch.rows if isinstance(batch, SplitBatch) else len(jax.tree.leaves(batch)[0])
        if rows % count:
            raise ValueError(f"a batch of {rows} rows does not divide into accumulate={count} parts")
        parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, part_and_key):
            (value, (weight, others)), grads = gradients(trained, model, *part_and_key)
            return jax.tree.map(lambda t, g: t + g * weight, total, in_float32(grads)), (weight, (value, others))

        zero = jax.tree.map(jnp.zeros_like, in_float32(trained))
        total, (weights, means) = jax.lax.scan(add, zero, (parts, jax.random.split(key, count)))
        weight = weights.sum()
        divisor = jnp.where(weight == 0, 1.0, weight)
        value, others = jax.tree.map(lambda x: (x * weights).sum() / divisor, means)
        return (value, (weight, others)), jax.tree.map(lambda g: g / divisor, total)

    return of_parts


def moving_average(average: Any, model: Any, decay: Number, step: Array | int) -> Any:
    """d average + (1 - d) model, d = min(decay, (1 + step) / (10 + step)): early on, the start is soon forgotten.

    Source: Polyak & Juditsky, 1992; the warm-up is TensorFlow's ExponentialMovingAverage(num_updates).

    Raises:
      TypeError: an average of 16 bits, which a slow one would never move; it starts as `in_float32(model)`.
    """
    # 1 - d is what counts: of a d near 1 that is rounded to float32 first, little of it would be right.
    share = jnp.maximum(1 - decay, 9 / (10 + jnp.asarray(step, jnp.float32)))

    def one(a, p):
        if jnp.finfo(a.dtype).bits < 32:
            raise TypeError(f"the moving average must be float32, got {a.dtype}; start it as in_float32(model)")
        return (a + share * (p.astype(a.dtype) - a)).astype(a.dtype)

    return jax.tree.map(one, average, model)


def with_dtypes_of(old: Any, new: Any) -> Any:
    """The new arrays, each in the dtype of the old one in its place."""
    return jax.tree.map(lambda old, new: new.astype(old.dtype), old, new)


def _prepare_together(prepare: Callable | None, batch: SplitBatch, key: Array, axis: str, parts: int) -> Any:
    """Prepares the rows of all devices, and returns this device's: the draw is that of one device.

    Rows that only fill up are taken away before, and filled up again: nothing may be mixed with them. They are the
    last ones of all devices, and so of each of the parts.
    """
    own = dict(batch)
    if prepare is None:
        return own
    each, count = len(next(iter(own.values()))), jax.lax.axis_size(axis)
    gathered = jax.lax.all_gather(own, axis, tiled=True)
    prepared = prepare({name: x[: batch.rows // parts] for name, x in gathered.items()}, key)
    filled = filled_up(prepared, count * each, dict(batch.filler))
    return {name: x.reshape(count, each, *x.shape[1:])[jax.lax.axis_index(axis)] for name, x in filled.items()}


def _mean_over_devices(means: Arrays, weight: Array, grads: Any, axis: str) -> tuple[Arrays, Array, Any]:
    """The means over the targets of all devices: of each device's means, by its weight."""
    total = jax.lax.psum(weight, axis)
    share = weight / jnp.where(total == 0, 1.0, total)
    means, grads = jax.lax.psum(jax.tree.map(lambda x: x * share, (means, grads)), axis)
    return means, total, grads
