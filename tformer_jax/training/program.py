"""The program of one configuration: its state before the first step, and a step, as pure functions of arrays."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Mesh, PartitionSpec as P

from ..config import COUNT, INSIDE, POSITIVE, RUN, SEED, TRAINING, UNSIGNED, Component, ConfigError, field
from ..nn.adapters import Adapter, init_adapter, with_adapter
from ..nn.parameters import by_path, check_unshared
from ..nn.partitioning import ROWS
from .optimizers import OptimizerConfig, in_float32, make_optimizer, schedule_free_average, stop_frozen
from .paths import check_pattern
from .schedules import make_schedule
from .step import Arrays, LossFunction, StateLayout, TrainState, make_train_step, with_dtypes_of

# The numbers of keys that no step has: of the initial parameters, and of an adapter.
_NO_STEP, _OF_ADAPTER = 2**32 - 1, 2**32 - 2


class TrainingConfig(Component):
    """The `training` section of an experiment.

    Attributes:
      steps: number of updates in all. A run trains on with more of them; a schedule that depends on their number then
        says that it jumps.
      seed: random seed of the initial parameters and of dropout.
      accumulate: number of parts of a batch, computed one after the other to save memory.
      average_decay: decay of a moving average of the parameters, which is then evaluated; None: no average.
      adapter: "lora": low-rank matrices A and B beside some of the model's are trained, and nothing else (Hu et al., 2021);
        "none": the model is.
      adapter_rank: rank of A B, the product of an adapter's matrices.
      adapter_alpha: that product is multiplied by adapter_alpha / adapter_rank; None: by 1.
      adapter_on: regular expressions; the matrices that have an adapter are those whose whole path one of them matches,
        such as ".*attention.w_[qv]".
      max_skipped: number of steps of the run that may be skipped because their loss or gradient is not finite; one
        more ends it.
      log_every: number of steps between rows of metrics.jsonl.
      evaluate_every: number of steps between validations; the last step always has one.
      validation_batches: number of batches of the validation split that a validation uses, spread evenly over it
        and always the same; None: all of them. The final report always uses whole splits.
      patience: number of validations without a better value after which the run ends; None: it goes to its last step.
      patience_metric: metric of the validation that is looked at, such as "loss" or "accuracy".
      patience_best: which patience_metric is best, "lowest" or "highest"; None: the highest accuracy, the lowest loss.
    """

    steps: int = field(wanted=COUNT, part=TRAINING, may_change=True)
    seed: int = field(0, SEED, part=TRAINING)
    accumulate: int = field(1, COUNT, part=TRAINING)
    average_decay: float | None = field(None, INSIDE, part=TRAINING, traced=True)
    adapter: str = field("none", among=("none", "lora"), part=TRAINING)
    adapter_rank: int | None = field(None, COUNT, part=TRAINING)
    adapter_alpha: float | None = field(None, POSITIVE, part=TRAINING)
    adapter_on: Sequence[str] = field((), part=TRAINING)
    max_skipped: int = field(0, UNSIGNED, part=TRAINING)
    log_every: int = field(20, COUNT, part=RUN)
    evaluate_every: int = field(wanted=COUNT, part=RUN)
    validation_batches: int | None = field(None, COUNT, part=RUN)
    patience: int | None = field(None, COUNT, part=TRAINING, may_change=True)
    patience_metric: str = field("loss", part=TRAINING, may_change=True)
    patience_best: str | None = field(None, among=("lowest", "highest"), part=TRAINING, may_change=True)

    def check(self) -> None:
        if self.patience is None and (self.patience_metric, self.patience_best) != ("loss", None):
            name = "patience_best" if self.patience_metric == "loss" else "patience_metric"
            raise ConfigError(f"{name} goes with patience, which is None; set both or neither")
        if not isinstance(self.adapter_on, tuple | list):
            raise ConfigError(f"adapter_on must be a tuple of regular expressions, got {self.adapter_on!r}")
        for pattern in self.adapter_on:
            check_pattern("adapter_on", pattern)
        for name in ("adapter_rank", "adapter_alpha", "adapter_on"):
            value = getattr(self, name)
            if self.adapter == "none" and value not in (None, (), []):
                raise ConfigError(f"{name} has no meaning with adapter='none', got {value!r}; set adapter='lora'")
            if self.adapter == "lora" and value in (None, (), []) and name != "adapter_alpha":
                raise ConfigError(f"{name} must be set with adapter='lora', got {value!r}")

    def check_trained(self, optimizer: OptimizerConfig) -> None:
        """Refuses an optimiser that freezes parameters, of an adapter whose model is frozen anyhow."""
        if self.adapter != "none" and optimizer.freeze:
            raise ConfigError(
                f"optimizer.freeze must be empty with training.adapter={self.adapter!r}: nothing of the model is trained"
            )

    @property
    def key(self) -> Array:
        """The key of all that is random in a run but its data."""
        return jax.random.key(self.seed)

    @property
    def adapter_scale(self) -> float:
        """The factor of A B of an adapter."""
        return 1.0 if self.adapter_alpha is None else self.adapter_alpha / self.adapter_rank


class Program:
    """Pure functions of a state's arrays, by path; how they are compiled is not said here.

    Numbers of the configs may be traced: one compiled program then serves many values.

    Attributes:
      training, optimizer: as given.
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
          ConfigError: the tables of paths do not go with the model or the adapter, or it holds one parameter twice.
        """
        training.check_trained(optimizer)
        self.training, self.optimizer, self._make_model = training, optimizer, make_model
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
            combine=self._combined,
            average_decay=training.average_decay,
        )

    def _combined(self, model: Any, trained: Any) -> Any:
        """The model that has learnt what was trained."""
        if self.training.adapter == "none":
            return trained
        return with_adapter(model, trained, self.training.adapter_scale)

    def _initial(self, key: Array, given: Mapping[str, Any] = MappingProxyType({})) -> TrainState:
        # NNX gives the i-th parameter `fold_in(key, i)`, which from this key would be the randomness of step i.
        model = self._make_model(nnx.Rngs(jax.random.fold_in(key, _NO_STEP)))
        check_unshared(model)
        model = by_path(given.get, model)  # before the optimiser, which may remember where parameters started
        adapter = None if self.training.adapter == "none" else self._initial_adapter(model, key)
        trained = model if adapter is None else adapter
        average = None if self.training.average_decay is None else in_float32(trained)
        skipped = jnp.int32(0) if self.training.max_skipped else None
        return TrainState(jnp.int32(0), model, self._transformation.init(trained), average, skipped, adapter)

    def _initial_adapter(self, model: Any, key: Array) -> Adapter:
        drawn = jax.random.fold_in(key, _OF_ADAPTER)
        try:
            return init_adapter(model, self.training.adapter_on, self.training.adapter_rank, drawn)
        except ConfigError as error:
            raise ConfigError(f"training.adapter_on: {error}") from None

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
        """The model within a state that is to be evaluated, in its dtypes, an adapter merged into it.

        It is the moving average, where there is one, or else the point that the optimiser means.
        """
        state = self.layout.unflatten(arrays)
        return self._combined(state.model, _meant(state))

    def apart(self, arrays: Arrays) -> tuple[Any, Adapter, float]:
        """The model within a state of a program with an adapter, the adapter to be evaluated, and its scale."""
        state = self.layout.unflatten(arrays)
        return state.model, _meant(state), self.training.adapter_scale


def _meant(state: TrainState) -> Any:
    """The trained model or adapter as it is to be evaluated, in its dtypes."""
    average = schedule_free_average(state.optimizer, state.trained) if state.average is None else state.average
    return state.trained if average is state.trained else with_dtypes_of(state.trained, average)
