"""Everything that one configuration compiles to."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ..config import ConfigError, check_seed
from ..nn.partitioning import ROWS
from .optimizers import OptimizerConfig, make_optimizer, make_schedule, stop_frozen
from .parallel import Batches, ParallelConfig, PlacedBatches, SplitBatches, make_mesh, row_sharding
from .paths import by_path, some
from .sharding import SHARDING_RULES, Rules, shardings, state_specs, undivided
from .step import Arrays, LossFunction, StateLayout, TrainState, make_train_step

_NO_STEP = 2**32 - 1  # the number of a key that no step has
_PMAP_AXIS = "devices"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The `training` section of an experiment.

    Attributes:
      steps: updates in all.
      seed: of the initial parameters and of dropout.
      accumulate: parts that a batch is split into, one after the other, to save memory.
      average_decay: of a moving average of the parameters, which is then what is evaluated; None: none.
      max_skipped: steps that may be skipped, in the whole run, because their loss or gradient is not finite; one
        more ends it.
      log_every: steps between rows of metrics.jsonl.
      evaluate_every: steps between validations; the last step always has one.
    """

    steps: int
    seed: int = 0
    accumulate: int = 1
    average_decay: float | None = None
    max_skipped: int = 0
    log_every: int = 20
    evaluate_every: int

    def __post_init__(self):
        for name in ("steps", "accumulate", "log_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if self.max_skipped < 0:
            raise ConfigError(f"training.max_skipped must not be negative, got {self.max_skipped}")
        if self.average_decay is not None and not 0.0 < self.average_decay < 1.0:
            raise ConfigError(f"training.average_decay must be in (0, 1), got {self.average_decay}")
        check_seed("training.seed", self.seed)


class Trainer:
    """The model's shape, the layout of the state and where it lies, and the compiled step.

    Attributes:
      config, layout, mesh: as given, or made.
      shardings: of every array of the state, by its path.
    """

    def __init__(
        self,
        make_model: Callable[[nnx.Rngs], nnx.Module],
        loss: LossFunction,
        training: TrainingConfig,
        optimizer: OptimizerConfig,
        *,
        prepare: Callable[[Any, Array], Any] | None = None,
        parallel: ParallelConfig = ParallelConfig(data=1),
        mesh: Mesh | None = None,
        rules: Rules = SHARDING_RULES,
    ):
        """Args:
          make_model: from `nnx.Rngs` to a model.
          loss: `(model, batch, key) -> (mean loss, its weight)`.
          training, optimizer, parallel: sections of an experiment; by default on the first device.
          prepare: see `make_train_step`.
          mesh: where to run; by default what `parallel` says of the devices that there are.
          rules: where each parameter lies, see `SHARDING_RULES`.

        Raises:
          ConfigError: the devices, or the tables of paths, do not go with the model.
        """
        self.config, self._make_model, self._parallel, self._rules = training, make_model, parallel, rules
        self.mesh = make_mesh(parallel) if mesh is None else mesh
        self._schedule = make_schedule(optimizer, training.steps)
        self._key = jax.random.key(training.seed)
        self._transformation = make_optimizer(optimizer, self._schedule)
        self.layout = StateLayout(jax.eval_shape(self._initial))
        specs = state_specs(rules, self.layout.shapes, self.mesh)
        self.shardings = shardings(specs if parallel.mode == "jit" else dict.fromkeys(specs, P()), self.mesh)
        how = {"accumulate": training.accumulate, "average_decay": training.average_decay, "prepare": prepare}

        def trained_loss(model, batch, key):
            return loss(stop_frozen(optimizer, model) if optimizer.freeze else model, batch, key)

        step = make_train_step(trained_loss, self._transformation, self._schedule, **how, axis=self._axis)
        self._step = self._compiled(step)

    @property
    def _axis(self) -> str | None:
        return _PMAP_AXIS if self._parallel.mode == "pmap" else None

    def _compiled(self, step: Callable) -> Callable[[Arrays, Any], tuple[Arrays, Arrays]]:
        def flat_step(arrays, batch):
            if self._axis is None:
                batch = jax.lax.with_sharding_constraint(batch, P(ROWS))
            state, metrics = step(self.layout.unflatten(arrays), batch, self._key)
            return self.layout.flatten(state), metrics

        if self._axis is None:
            return jax.jit(flat_step, donate_argnums=0, out_shardings=(self.shardings, None))
        # With `None` the state has no axis of devices: a replicated array goes in and comes out.
        axes = {"in_axes": (None, 0), "out_axes": (None, None)}
        return jax.pmap(flat_step, self._axis, devices=list(self.mesh.devices.flat), donate_argnums=0, **axes)

    def step(self, arrays: Arrays, batch: Any) -> tuple[Arrays, Arrays]:
        """The state after one more step, and the step's numbers; `arrays` are donated: not to be used again."""
        with contextlib.nullcontext() if self._axis else self.context():
            return self._step(arrays, batch)

    def lower(self, batch: Any) -> jax.stages.Lowered:
        """The step for batches of these shapes, traced for the mesh; nothing is allocated."""

        def placed(x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=row_sharding(self.mesh, x.shape[0]))

        batch = jax.tree.map(placed, batch)
        with self.context():
            return self._step.lower(self.placed_shapes, batch)

    @property
    def placed_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape, dtype and sharding of every array of the state."""
        shapes = self.layout.shapes.items()
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.shardings[name]) for name, x in shapes}

    def context(self) -> contextlib.AbstractContextManager:
        """In which a model's streams are spread over the mesh."""
        return jax.set_mesh(self.mesh)

    def placed(self, batches: Batches) -> Batches:
        """Training batches as the step takes them."""
        if self._axis is None:
            return PlacedBatches(batches, self.mesh)
        return SplitBatches(batches, self.mesh.size, self.config.accumulate)

    def _initial_model(self) -> nnx.Module:
        # NNX gives the i-th parameter `fold_in(key, i)`, which from this key would be the randomness of step i.
        return self._make_model(nnx.Rngs(jax.random.fold_in(self._key, _NO_STEP)))

    def _initial(self) -> TrainState:
        model = self._initial_model()
        average = None if self.config.average_decay is None else model
        skipped = jnp.int32(0) if self.config.max_skipped else None
        return TrainState(jnp.int32(0), model, self._transformation.init(model), average, skipped)

    def initial(self, given: Mapping[str, Any] | None = None) -> Arrays:
        """The state before the first step, each array made where it lies.

        Args:
          given: parameters that start from these values, by path in the state, instead of at random.
        """
        # On the host, so that they go to any mesh.
        given = {name.removeprefix("model."): np.asarray(value) for name, value in (given or {}).items()}

        def flat(given):
            state = self._initial()
            model = by_path(given.get, state.model)
            average = None if state.average is None else model
            return self.layout.flatten(dataclasses.replace(state, model=model, average=average))

        with self.context():
            return jax.jit(flat, out_shardings=self.shardings)(given)

    def model(self, arrays: Arrays) -> Any:
        """The model within a state that is to be evaluated: the moving average, where there is one."""
        state = self.layout.unflatten(arrays)
        return state.model if state.average is None else state.average

    def local_model(self, arrays: Arrays) -> Any:
        """The same, whole on the first device of this process: for searches and samples. All processes take part."""
        device = jax.sharding.SingleDeviceSharding(self.mesh.local_devices[0])

        def gathered(x):
            x = x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)
            return jax.device_put(x, device)

        return jax.tree.map(gathered, self.model(arrays))

    def idle(self, rows: Iterable[int]) -> list[str]:
        """What of the devices is not used, a line each, with batches of so many rows."""
        lines, groups = [], math.prod(self.mesh.shape[axis] for axis in ROWS)
        if uneven := sorted({n for n in rows if n // self.config.accumulate % groups}):
            parts = f", in {self.config.accumulate} parts," if self.config.accumulate > 1 else ""
            which = some([str(n) for n in uneven])
            lines.append(f"batches of {which} rows{parts} leave some of {groups} groups of devices idle")
        if self._parallel.mode == "jit" and (whole := undivided(self._rules, self.layout.shapes, self.mesh)):
            lines.append(f"not split as the sharding table says, because an axis does not divide: {some(whole)}")
        return lines

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(self.layout.shapes[f"model.{name}"].shape) for name in self.layout.parameters)
