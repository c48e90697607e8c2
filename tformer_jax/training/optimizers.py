"""Optimisers by name: those here, any that is registered, and every transformation of Optax."""

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, ScheduleFreeState, scale_by_muon

from ..config import TRAINING, Component, ConfigError, field, nearest
from ..config.values import NOT_NEGATIVE, POSITIVE, SHARE, UNSIGNED, check_positive
from ..functional.numbers import is_off
from ..nn.parameters import MATRICES, ParameterInfo, by_path, named, parameters
from ..registry import Registry
from .paths import Table, check_pattern, check_rows, check_table, first_match
from .schedules import SCHEDULES, Schedule

choice = functools.partial(field, part=TRAINING)
number = functools.partial(choice, traced=True)


class OptimizerConfig(Component):
    """The `optimizer` section of an experiment; `name` says which: a registered one, or of Optax, as "optax.adabelief".

    Tables are tuples of (regular expression, value): the first row that matches the whole path of a parameter, such as
    "decoder.layers.0.attention.w_q", overrides what is usual for it. Every row, but a last ".*", must decide something.

    Attributes:
      learning_rate: highest learning rate, at the end of the warm-up.
      schedule: learning rate after a linear warm-up, of `SCHEDULES`.
      warmup_steps: number of steps until `learning_rate` is reached.
      weight_decay: weight decay per step and unit of learning rate, decoupled from the gradient.
      weight_decay_table: factors of weight_decay; usual is 1 for matrices and tables, 0 for biases and gains.
      learning_rate_table: factors of the learning rate; usual is 1.
      freeze: regular expressions of parameters that never change.
      clip_norm: largest global norm of the gradients, to which larger ones are scaled down; None: no clipping.
      unit_updates: whether the size of an update is the learning rate, whatever that of the gradient. For others, the
        factors of a maximal update parametrization would be other ones.
    """

    name: ClassVar[str] = "adam"
    unit_updates: ClassVar[bool] = False

    learning_rate: float = number(wanted=POSITIVE)
    schedule: str = choice("rsqrt", among=SCHEDULES)
    warmup_steps: int = number(0, UNSIGNED)
    weight_decay: float = number(0.0, NOT_NEGATIVE)
    weight_decay_table: Table = choice(())
    learning_rate_table: Table = choice(())
    freeze: Sequence[str] = choice(())
    clip_norm: float | None = number(None, POSITIVE)

    def check(self) -> None:
        if self.schedule == "rsqrt" and is_off(self.warmup_steps):
            raise ConfigError("schedule='rsqrt' is defined by its warm-up: warmup_steps must be positive")
        for name in ("weight_decay_table", "learning_rate_table"):
            check_table(name, getattr(self, name), _check_factor)
        if is_off(self.weight_decay) and len(self.weight_decay_table):
            raise ConfigError("weight_decay_table has no meaning while weight_decay is 0")
        if not isinstance(self.freeze, tuple | list):
            raise ConfigError(f"freeze must be a tuple of regular expressions, got {self.freeze!r}")
        for pattern in self.freeze:
            check_pattern("freeze", pattern)

    def make(self) -> optax.GradientTransformation:
        """Makes what turns gradients into the direction of a step, before decay and the learning rate."""
        raise NotImplementedError

    def steps(self, schedule: Schedule, factors: Mapping[str, float]) -> list[optax.GradientTransformation]:
        """Makes what turns gradients into updates: `make`, the factors of roles, decay, and the learning rate."""
        steps = [self.make(), _scaled(lambda info: factors.get(info.role, 1.0))]
        if not is_off(self.weight_decay):
            decays = lambda info: float(info.role in MATRICES)
            steps.append(_scaled(decays, self.weight_decay_table, self.weight_decay))
        return [*steps, optax.scale_by_learning_rate(schedule)]


class _Optimizers(Registry[type[OptimizerConfig]]):
    """Registered optimisers by name, and transformations of Optax by their dotted names."""

    def __getitem__(self, name: str) -> type[OptimizerConfig]:
        return _of_optax(name) if str(name).startswith("optax.") else super().__getitem__(name)

    def named(self, name: Any, where: str) -> type[OptimizerConfig]:
        try:
            return self[name]
        except (KeyError, TypeError):
            made = [
                (m, n) for m in (optax, optax.contrib) for n, x in vars(m).items() if _makes(x).startswith("Gradient")
            ]
            meant = nearest(str(name), [*self, *(f"{module.__name__}.{n}" for module, n in made)])
            raise ConfigError(
                f"{where} must be one of {list(self)} or a transformation of Optax, got {name!r}{meant}"
            ) from None


OPTIMIZERS = _Optimizers("optimiser", family=OptimizerConfig, needs=("make",))


@OPTIMIZERS.register("adamw")
class AdamW(OptimizerConfig):
    """Loshchilov & Hutter, 2019: Adam with decoupled weight decay.

    Attributes:
      b1: decay of the moving average of gradients, the momentum.
      b2: decay of the moving average of their squares.
      eps: number added to the root of that average, by which the other one is divided.
    """

    unit_updates = True

    b1: float = number(0.9, SHARE)
    b2: float = number(0.98, SHARE)
    eps: float = number(1e-9, POSITIVE)

    def make(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@OPTIMIZERS.register("adam")
class Adam(AdamW):
    """Kingma & Ba, 2015; without weight decay."""

    def check(self) -> None:
        super().check()
        if not is_off(self.weight_decay):
            raise ConfigError(f"weight_decay must be 0 with name='adam', got {self.weight_decay}; take name='adamw'")


@OPTIMIZERS.register("lion")
class Lion(OptimizerConfig):
    """Chen et al., 2023: the sign of a moving average of gradients.

    Attributes:
      b1: weight of the moving average beside the gradient, where the sign is taken.
      b2: decay of the moving average.
    """

    unit_updates = True

    b1: float = number(0.9, SHARE)
    b2: float = number(0.98, SHARE)

    def make(self) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.b1, self.b2)


@OPTIMIZERS.register("sgd")
class Sgd(OptimizerConfig):
    """Gradient descent.

    Attributes:
      momentum: decay of a sum of past gradients that is followed in place of the last one; 0: there is none.
    """

    momentum: float = number(0.9, SHARE)

    def make(self) -> optax.GradientTransformation:
        return optax.identity() if is_off(self.momentum) else optax.trace(self.momentum)


@OPTIMIZERS.register("adafactor")
class Adafactor(OptimizerConfig):
    """Shazeer & Stern, 2018: its learning rate is relative to each parameter's root mean square.

    Each matrix is one by itself, as the paper has it: not all layers of a stack, nor is a head's width an axis.
    """

    def make(self) -> optax.GradientTransformation:
        one = optax.chain(
            optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms(min_scale=1e-3)
        )

        def each(info: ParameterInfo, function: Callable) -> Callable:
            for _ in info.independent:
                function = jax.vmap(function)
            return function

        def init(params):
            found, params = parameters(params), named(params)
            return {path: each(info, one.init)(info.as_matrices(params[path])) for path, info in found.items()}

        def update(updates, states, params):
            found, new, states, params = parameters(updates), {}, dict(states), named(params)
            for path, u in named(updates).items():
                info = found[path]
                given = info.as_matrices(u), states[path], info.as_matrices(params[path])
                changed, states[path] = each(info, one.update)(*given)
                new[path] = info.from_matrices(changed)
            return by_path(lambda path, _: new[path], updates), states

        return optax.GradientTransformation(init, update)


@OPTIMIZERS.register("muon")
class Muon(AdamW):
    """Jordan et al., 2024: the momentum of each hidden matrix, made orthogonal; Adam for the others.

    Scaled as by Liu et al., 2025, so that updates have the size of Adam's. The momentum is b1.
    """

    unit_updates = False

    def make(self) -> optax.GradientTransformation:
        def rescaled(info, x):
            return 0.2 * math.sqrt(max(info.as_matrices(x).shape[-2:])) * x

        def kind(info, _):
            return "muon" if info.is_matrix and info.role == "hidden" else "adam"

        sides = functools.partial(_by_info, lambda info, _: MuonDimensionNumbers(info.inputs, info.outputs))
        orthogonal = scale_by_muon(beta=self.b1, weight_dimension_numbers=sides)
        muon = optax.chain(orthogonal, optax.stateless(lambda updates, _: _by_info(rescaled, updates)))
        return optax.partition({"muon": muon, "adam": super().make()}, functools.partial(_by_info, kind))


class OptaxOptimizer(OptimizerConfig):
    """A transformation of Optax, by its dotted name: "optax.scale_by_adan", "optax.contrib.muon", "optax.lamb".

    One that takes a `learning_rate`, such as "optax.lamb", is complete: it is given the schedule as that, nothing else
    scales its updates, and it decays by its own arguments. Another one, such as "optax.scale_by_adan", is followed by
    `weight_decay` and the learning rate, as the optimisers here are.

    A schedule-free one is evaluated at its average; a run that starts from it takes the point of its gradients.

    Attributes:
      function: of Optax.
      arguments: of the function, by name, but for the learning rate.
    """

    function: ClassVar[Callable[..., Any]]

    arguments: Mapping[str, Any] = choice(dict)

    def check(self) -> None:
        super().check()
        if not isinstance(self.arguments, Mapping):
            raise ConfigError(f"arguments must be a table of arguments of {self.name}, got {self.arguments!r}")
        signature = inspect.signature(self.function)
        if any(p.kind == p.VAR_POSITIONAL for p in signature.parameters.values()):
            raise ConfigError(
                f"name={self.name!r} puts transformations together, which no table of arguments can hold: register an "
                f"OptimizerConfig in a plugin whose make() returns {self.name}(...)"
            )
        if self._is_complete and "learning_rate" in self.arguments:
            raise ConfigError(f"arguments must not have 'learning_rate': {self.name} is given the schedule as that")
        try:
            signature.bind(**self.arguments, **{"learning_rate": None} if self._is_complete else {})
        except TypeError as error:
            unknown = [name for name in self.arguments if name not in signature.parameters]
            meant = nearest(unknown[0], signature.parameters) if unknown else ""
            raise ConfigError(f"arguments of {self.name}: {error}{meant}") from None
        if self._is_complete and not is_off(self.weight_decay):
            raise ConfigError(
                f"weight_decay must be 0 with name={self.name!r}, which decays, if at all, by its own arguments"
            )

    @property
    def _is_complete(self) -> bool:
        return "learning_rate" in inspect.signature(self.function).parameters

    def steps(self, schedule: Schedule, factors: Mapping[str, float]) -> list[optax.GradientTransformation]:
        if not self._is_complete:
            return super().steps(schedule, factors)
        return [self.make(learning_rate=schedule), _scaled(lambda info: factors.get(info.role, 1.0))]

    def make(self, **more: Any) -> optax.GradientTransformation:
        """Calls the function; what it makes is tried, computing nothing: some need more than a step here has."""
        try:
            made = self.function(**self.arguments, **more)
        except Exception as error:
            raise self._refused(error) from None
        if not isinstance(made, optax.GradientTransformation | optax.GradientTransformationExtraArgs):
            raise ConfigError(f"optimizer.name={self.name!r} makes no transformation of gradients, but {made!r}")

        def init(params):
            try:
                state = made.init(params)
                after = jax.eval_shape(made.update, params, state, params)[1]
            except Exception as error:
                raise self._refused(error) from None
            if jax.tree.structure(after) != jax.tree.structure(state):
                raise ConfigError(f"optimizer.name={self.name!r} changes what its memory is made of in a step")
            return state

        return optax.GradientTransformation(init, made.update)

    def _refused(self, error: Exception) -> ConfigError:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return ConfigError(f"optimizer.name={self.name!r} with these arguments cannot be used: {said}")


def schedule_free_average(memory: Any, model: Any) -> Any:
    """Returns the averaged model of a schedule-free optimiser (Defazio et al., 2024); of another one, the model.

    Gradients are taken between the average and where the steps have come to, and the model stands there.

    Args:
      memory: of the optimiser.
      model: the parameters, which may have parts that it does not train.
    """
    is_one = lambda state: isinstance(state, ScheduleFreeState)
    state = next(filter(is_one, jax.tree.leaves(memory, is_leaf=is_one)), None)
    if state is None:
        return model
    ends = named(state.z)
    average = lambda path, x: (x - (1 - state.b1) * ends[path]) / state.b1 if path in ends else x
    return by_path(average, model)


@functools.cache
def _of_optax(name: str) -> type[OptimizerConfig]:
    """The component of a transformation; a KeyError if Optax has none of this name."""
    function = optax
    for part in name.split(".")[1:]:
        function = getattr(function, part, None)
    if not _makes(function).startswith(("GradientTransformation", "_empty")):
        raise KeyError(name)
    return type(OptaxOptimizer)(name, (OptaxOptimizer,), {"function": staticmethod(function), "name": name})


def _makes(function: Any) -> str:
    """The name of the type that a function says it makes: "_empty" if it does not say."""
    made = inspect.signature(function).return_annotation if inspect.isfunction(function) else None
    return str(getattr(made, "__name__", made))


def make_optimizer(
    config: OptimizerConfig, schedule: Schedule, learning_rate_factors: Mapping[str, float] = MappingProxyType({})
) -> optax.GradientTransformation:
    """Makes what turns gradients into updates: clipping, the optimiser, decoupled weight decay, the learning rate.

    Its memory, its arithmetic and its updates are float32 whatever the parameters are. What is usual for a parameter
    follows from its role, see `nn.parameters`.

    Args:
      config: which optimiser. Its numbers may be traced.
      schedule: see `make_schedule`.
      learning_rate_factors: of roles; they multiply what the optimiser makes of gradients, and not the decay.

    Its `init` raises a ConfigError where tables or patterns do not go with the parameters.
    """
    steps = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    steps += config.steps(schedule, learning_rate_factors)
    optimizer = optax.chain(*steps, _scaled(lambda info: 1.0, config.learning_rate_table))
    if config.freeze:
        parts = {"trained": optimizer, "frozen": optax.set_to_zero()}
        labels = lambda params: by_path(lambda path, _: "frozen" if is_frozen(config, path) else "trained", params)
        optimizer = optax.partition(parts, labels)
    return _checked(config, with_float32_memory(optimizer))


def in_float32(tree: Any) -> Any:
    """The tree with float32 in place of floats of 16 bits; other arrays are as they were."""

    def wide(x):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wide, tree)


def with_float32_memory(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Shows an optimiser parameters and gradients in float32: what Optax keeps has the dtype that it sees.

    In bfloat16 a moving average stands still as soon as a step changes it by less than 1/512; in float16 the square
    of a small gradient is 0, and so is eps.
    """

    def update(updates, state, params=None):
        return optimizer.update(in_float32(updates), state, in_float32(params))

    return optax.GradientTransformation(lambda params: optimizer.init(in_float32(params)), update)


def is_frozen(config: OptimizerConfig, path: str) -> bool:
    """Returns whether the parameter of this path never changes."""
    return any(re.fullmatch(pattern, path) for pattern in config.freeze)


def stop_frozen(config: OptimizerConfig, model: Any) -> Any:
    """The model, whose frozen parameters have the gradient 0: nothing is spent on it, and no norm has it in."""
    return by_path(lambda path, x: jax.lax.stop_gradient(x) if is_frozen(config, path) else x, model)


def _checked(config: OptimizerConfig, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same, which first compares the tables with the parameters."""

    def init(params):
        paths = list(named(params))
        for pattern in config.freeze:
            if not any(re.fullmatch(pattern, path) for path in paths):
                raise ConfigError(f"optimizer.freeze: no parameter has a path that matches {pattern!r}")
        if all(is_frozen(config, path) for path in paths):
            raise ConfigError("optimizer.freeze leaves no parameter to train")
        for name in ("weight_decay_table", "learning_rate_table"):
            check_rows(f"optimizer.{name}", getattr(config, name), paths)
        return optimizer.init(params)

    return optax.GradientTransformation(init, optimizer.update)


def _by_info(function: Callable[[ParameterInfo, Any], Any], tree: Any) -> Any:
    """The tree of `function(what a parameter is, leaf)`."""
    found = parameters(tree)
    return by_path(lambda path, x: function(found[path], x), tree)


def _scaled(
    usual: Callable[[ParameterInfo], float], table: Table = (), decay: float | None = None
) -> optax.GradientTransformation:
    """Updates times the factor that a table, or else what a parameter is, says; with `decay`, that of them is added."""

    def update(updates, params):
        found, held = parameters(updates), named(params)

        def one(path, x):
            row = first_match(table, path)
            factor = usual(found[path]) if row is None else table[row][1]
            if decay is None:
                return x if factor == 1 else factor * x
            return x + factor * decay * held[path] if factor else x

        return by_path(one, updates)

    return optax.stateless(update)


def _check_factor(name: str, value: Any) -> None:
    if type(value) not in (int, float):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    check_positive(name, value, or_zero=True)
