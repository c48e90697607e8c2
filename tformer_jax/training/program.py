"""The program of one configuration: its state before the first step, and a step, as pure functions of arrays."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Mesh, PartitionSpec as P

from ..config import COUNT, INSIDE, RUN, SEED, TRAINING, UNSIGNED, Component, field
from ..nn.parameters import by_path, check_unshared
from ..nn.partitioning import ROWS
from .optimizers import OptimizerConfig, in_float32, make_optimizer, schedule_free_average, stop_frozen
from .schedules import make_schedule
from .step import Arrays, LossFunction, StateLayout, TrainState, make_train_step, with_dtypes_of

_NO_STEP = 2**32 - 1  # the number of a key that no step has


class TrainingConfig(Component):
    """The `training` section of an experiment.

    Attributes:
      steps: number of updates in all.
      seed: random seed of the initial parameters and of dropout.
      accumulate: number of parts of a batch, computed one after the other to save memory.
      average_decay: decay of a moving average of the parameters, which is then evaluated; None: no average.
      max_skipped: number of steps of the run that may be skipped because their loss or gradient is not finite; one
        more ends it.
      log_every: number of steps between rows of metrics.jsonl.
      evaluate_every: number of steps between validations; the last step always has one.
      validation_batches: number of batches of the validation split that a validation uses, spread evenly over it
        and always the same; None: all of them. The final report always uses whole splits.
    """

    steps: int = field(wanted=COUNT, part=TRAINING)
    seed: int = field(0, SEED, part=TRAINING)
    accumulate: int = field(1, COUNT, part=TRAINING)
    average_decay: float | None = field(None, INSIDE, part=TRAINING, traced=True)
    max_skipped: int = field(0, UNSIGNED, part=TRAINING)
    log_every: int = field(20, COUNT, part=RUN)
    evaluate_every: int = field(wanted=COUNT, part=RUN)
    validation_batches: int | None = field(None, COUNT, part=RUN)

    @property
    def key(self) -> Array:
        """The key of all that is random in a run but its data."""
        return jax.random.key(self.seed)


class Program:
    """Pure functions of a state's arrays, by path; how they are compiled is not said here.

    Numbers of the configs may be traced: one compiled program then serves many values.

    Attributes:
      training: as given.
      layout: of the state.
    """

    def __init__(
        self,
        make_model: Callable[[nnx.Rngs], nnx.Module],
        loss: LossFunction,
        training: TrainingConfig,
        optimizer: OptimizerConfig,
        *,
        learning_rate_factors: Mapping[str, float] = MappingProxyType({}),
        prepare: Callable[[Any, Array], Any] | None = None,
    ):
        """Args:
          make_model: from `nnx.Rngs` to a model.
          loss: `(model, batch, key) -> (mean loss, its weight, other means by name)`.
          training, optimizer: sections of an experiment.
          learning_rate_factors: see `make_optimizer`.
          prepare: see `make_train_step`.

        Raises:
          ConfigError: the tables of paths do not go with the model, or it holds one parameter twice.
        """
        self.training, self._make_model = training, make_model
        schedule = make_schedule(optimizer, training.steps)
        self._transformation = make_optimizer(optimizer, schedule, learning_rate_factors)
        self.layout = StateLayout(jax.eval_shape(self._initial, training.key))

        def unfrozen_loss(model, batch, key):
            return loss(stop_frozen(optimizer, model), batch, key)

        self._make_step = functools.partial(
            make_train_step,
            unfrozen_loss if optimizer.freeze else loss,
            self._transformation,
            schedule,
            training.accumulate,
            prepare=prepare,
            average_decay=training.average_decay,
        )

    def _initial(self, key: Array, given: Mapping[str, Any] = MappingProxyType({})) -> TrainState:
        # NNX gives the i-th parameter `fold_in(key, i)`, which from this key would be the randomness of step i.
        model = self._make_model(nnx.Rngs(jax.random.fold_in(key, _NO_STEP)))
        check_unshared(model)
        model = by_path(given.get, model)  # before the optimiser, which may remember where parameters started
        average = None if self.training.average_decay is None else in_float32(model)
        skipped = jnp.int32(0) if self.training.max_skipped else None
        return TrainState(jnp.int32(0), model, self._transformation.init(model), average, skipped)

    def initial(self, key: Array, given: Mapping[str, Any]) -> Arrays:
        """The state before the first step; `given`: parameters that start from these values, by path in the model."""
        return self.layout.flatten(self._initial(key, given))

    def step(
        self, arrays: Arrays, batch: Any, key: Array, axis: str | None = None, mesh: Mesh | None = None
    ) -> tuple[Arrays, Arrays]:
        """The state after one more step, and the step's numbers; see `make_train_step`.

        `mesh`: over which the batch's rows, and what is computed of them, are spread.
        """
        with contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            batch = batch if mesh is None else jax.lax.with_sharding_constraint(batch, P(ROWS))
            state, metrics = self._make_step(axis=axis)(self.layout.unflatten(arrays), batch, key)
        return self.layout.flatten(state), metrics

    def evaluated(self, arrays: Arrays) -> Any:
        """The model within a state that is to be evaluated, in its dtypes.

        It is the moving average, where there is one, or else the point that the optimiser means.
        """
        state = self.layout.unflatten(arrays)
        average = schedule_free_average(state.optimizer, state.model) if state.average is None else state.average
        return state.model if average is state.model else with_dtypes_of(state.model, average)
