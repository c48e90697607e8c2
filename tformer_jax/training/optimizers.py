"""Optimisers and learning-rate schedules by name."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from ..config import ConfigError, check_choice, check_positive
from ..functional.numbers import is_off
from ..nn.parameters import parameters
from .paths import Table, by_path, check_table, first_match, first_matches, named, path_name
from .patterns import check_pattern

Schedule = Callable[[Array], Array]

# The fields that only some optimisers read; elsewhere they must keep their default.
_READ_BY = {
    "b1": ("adam", "adamw", "lion", "muon", "sgd"),
    "b2": ("adam", "adamw", "lion", "muon"),
    "eps": ("adam", "adamw", "muon"),
    "weight_decay": ("adamw", "adafactor", "lion", "muon", "sgd"),
}
_NAMES = ("adam", "adamw", "adafactor", "lion", "muon", "sgd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The `optimizer` section of an experiment.

    Tables are tuples of (regular expression, value): for each parameter, the value of the first row that matches
    its whole path, such as "decoder.layers.attention.w_q". Every parameter must have a row, and every row (but
    a last ".*") a parameter.

    Attributes:
      name: "adam" (Kingma & Ba, 2015), "adamw" (Loshchilov & Hutter, 2019), "adafactor" (Shazeer & Stern, 2018: its
        learning rate is relative to each parameter's root mean square), "lion" (Chen et al., 2023), "muon" (Jordan
        et al., 2024: the matrices within layers, scaled as by Liu et al., 2025; Adam for the others), or "sgd".
      learning_rate: highest learning rate, at the end of the warm-up.
      schedule: learning rate after a linear warm-up: "rsqrt" (Vaswani et al., 2017, section 5.3: falls as
        1/√step), "cosine" or "linear" (to 0 at the last step), or "constant".
      warmup_steps: number of steps until `learning_rate` is reached.
      b1, b2, eps: Adam's; Lion's b1 and b2; Muon's momentum is b1, as is that of "sgd" (0: none).
      weight_decay: weight decay per step and unit of learning rate, decoupled from the gradient; not with "adam".
      weight_decay_table: factors of weight_decay; by default matrices and tables decay, other parameters do not.
      learning_rate_table: factors of the learning rate.
      freeze: regular expressions of parameters that never change.
      clip_norm: largest global norm of the gradients, to which larger ones are scaled down; None: no clipping.

    Raises:
      ConfigError: an invalid value, by the field's name.
    """

    name: str = "adam"
    learning_rate: float
    schedule: str = "rsqrt"
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-9
    weight_decay: float = 0.0
    weight_decay_table: Table = ((r"(.*\.)?(w\w*|\w*table)", 1.0), (".*", 0.0))
    learning_rate_table: Table = ((".*", 1.0),)
    freeze: Sequence[str] = ()
    clip_norm: float | None = None

    def __post_init__(self):
        check_choice("optimizer.name", self.name, _NAMES)
        check_choice("optimizer.schedule", self.schedule, ("rsqrt", "cosine", "linear", "constant"))
        if self.warmup_steps < 0:
            raise ConfigError(f"optimizer.warmup_steps must not be negative, got {self.warmup_steps}")
        if self.schedule == "rsqrt" and self.warmup_steps == 0:
            raise ConfigError("optimizer.schedule='rsqrt' is defined by its warm-up: warmup_steps must be positive")
        check_positive("optimizer.learning_rate", self.learning_rate)
        if self.clip_norm is not None:
            check_positive("optimizer.clip_norm", self.clip_norm)
        for name in ("b1", "b2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"optimizer.{name} must be in [0, 1), got {getattr(self, name)}")
        check_positive("optimizer.eps", self.eps)
        check_positive("optimizer.weight_decay", self.weight_decay, or_zero=True)
        self._check_read()
        for name in ("weight_decay_table", "learning_rate_table"):
            check_table(f"optimizer.{name}", getattr(self, name), _check_factor)
        if not self.weight_decay and self._changed("weight_decay_table"):
            raise ConfigError("optimizer.weight_decay_table has no meaning while optimizer.weight_decay is 0")
        if not isinstance(self.freeze, tuple | list):
            raise ConfigError(f"optimizer.freeze must be a tuple of regular expressions, got {self.freeze!r}")
        for pattern in self.freeze:
            check_pattern("optimizer.freeze", pattern)

    def _check_read(self) -> None:
        """Refuses what the optimiser would ignore."""
        for field, names in _READ_BY.items():
            if self.name not in names and self._changed(field):
                raise ConfigError(
                    f"optimizer.{field} has no meaning for {self.name!r}, only for {', '.join(names)}; "
                    f"got {getattr(self, field)}, leave it at {self.__dataclass_fields__[field].default}"
                )

    def _changed(self, field: str) -> bool:
        """Returns whether a field has another value than nobody gave it; a list from JSON is a tuple."""
        return json.dumps(getattr(self, field)) != json.dumps(self.__dataclass_fields__[field].default)


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, counted from 0.

    With w = warmup_steps and t = step + 1, the warm-up is learning_rate * t / w. The paper's
    d_model^-0.5 min(t^-0.5, t w^-1.5) is "rsqrt" with learning_rate = (d_model w)^-0.5.
    """
    warmup = config.warmup_steps

    def after_warmup(t):
        done = jnp.clip((t - warmup) / jnp.maximum(1, total_steps - warmup), 0.0, 1.0)
        return {
            "rsqrt": jnp.sqrt(jnp.maximum(1, warmup) / t),
            "cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)),
            "linear": 1 - done,
            "constant": jnp.ones_like(done),
        }[config.schedule]

    def schedule(step):
        t = jnp.asarray(step, jnp.float32) + 1
        return config.learning_rate * jnp.where(t <= warmup, t / jnp.maximum(1, warmup), after_warmup(t))

    return schedule


def make_optimizer(
    config: OptimizerConfig, schedule: Schedule, learning_rate_factors: Mapping[str, float] = MappingProxyType({})
) -> optax.GradientTransformation:
    """Clipping, the optimiser, decoupled weight decay, the schedule: in that order.

    Its memory, its arithmetic and its updates are float32 whatever the parameters are.
    `learning_rate_factors` multiply what the optimiser makes of parameters, by their roles, and not their decay.
    `init` raises a ConfigError where a table does not go with the parameters.
    """
    steps = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    steps.append(_OPTIMIZERS[config.name](config))
    if any(factor != 1 for factor in learning_rate_factors.values()):
        steps.append(_scaled_by_role(learning_rate_factors))
    if not is_off(config.weight_decay):
        steps.append(_scaled_by_table(config.weight_decay_table, _decayed(config.weight_decay)))
    steps.append(optax.scale_by_learning_rate(schedule))
    if _multiplies(config.learning_rate_table):
        steps.append(_scaled_by_table(config.learning_rate_table, _multiplied))
    optimizer = optax.chain(*steps)
    if config.freeze:
        parts = {"trained": optimizer, "frozen": optax.set_to_zero()}
        labels = lambda params: by_path(lambda path, _: "frozen" if is_frozen(config, path) else "trained", params)  # noqa: E731
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


def _checked(
    config: OptimizerConfig, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The same, which first compares the tables with the parameters."""

    def init(params):
        paths = list(named(params))
        for pattern in config.freeze:
            if not any(re.fullmatch(pattern, path) for path in paths):
                raise ConfigError(f"optimizer.freeze: no parameter has a path that matches {pattern!r}")
        if all(is_frozen(config, path) for path in paths):
            raise ConfigError("optimizer.freeze leaves no parameter to train")
        for name in ("weight_decay_table",) * (not is_off(config.weight_decay)) + ("learning_rate_table",):
            first_matches(f"optimizer.{name}", getattr(config, name), paths)
        return optimizer.init(params)

    return optax.GradientTransformation(init, optimizer.update)


def _scaled_by_table(table: Table, function: Callable) -> optax.GradientTransformation:
    """`function(factor, update, parameter)` with the factor that a table has for the parameter."""

    def update(updates, params):
        def one(path, update, param):
            return function(table[first_match(table, path_name(path))][1], update, param)

        return jax.tree_util.tree_map_with_path(one, updates, params)

    return optax.stateless(update)


def _scaled_by_role(factors: Mapping[str, float]) -> optax.GradientTransformation:
    def update(updates, _):
        found = parameters(updates)
        return by_path(lambda path, x: x * factors.get(found[path].role, 1.0), updates)

    return optax.stateless(update)


def _multiplies(table: Table) -> bool:
    return any(factor != 1.0 for _, factor in table)


def _multiplied(factor: float, update: Any, _: Any) -> Any:
    return factor * update


def _decayed(weight_decay: float) -> Callable:
    return lambda factor, update, param: update + factor * weight_decay * param if factor else update


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.b1, config.b2, config.eps)


def _adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    """Each matrix by itself, as the paper has it: not all layers of a stack as one, nor a head's width as an axis."""
    one = optax.chain(
        optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms(min_scale=1e-3)
    )

    def each(path: str, function: Callable) -> Callable:
        return jax.vmap(function) if _in_layers(path) else function

    def init(params):
        return {path: each(path, one.init)(_as_matrices(path, p)) for path, p in named(params).items()}

    def update(updates, states, params):
        new, states, params = {}, dict(states), named(params)
        for path, u in named(updates).items():
            matrices = _as_matrices(path, u), states[path], _as_matrices(path, params[path])
            changed, states[path] = each(path, one.update)(*matrices)
            new[path] = changed.reshape(u.shape)
        return by_path(lambda path, _: new[path], updates), states

    return optax.GradientTransformation(init, update)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """The momentum of each layer's matrices, made orthogonal; their updates have the size of Adam's."""

    def axes(path: str, x: Any) -> MuonDimensionNumbers:
        inputs = _input_axes(path)
        return MuonDimensionNumbers(tuple(range(1, 1 + inputs)), tuple(range(1 + inputs, x.ndim)))

    def rescale(path: str, x: Any) -> Any:
        return 0.2 * math.sqrt(max(_as_matrices(path, x).shape[1:])) * x

    orthogonal = scale_by_muon(beta=config.b1, weight_dimension_numbers=lambda tree: by_path(axes, tree))
    muon = optax.chain(orthogonal, optax.stateless(lambda updates, _: by_path(rescale, updates)))
    label = lambda path, _: "muon" if _in_layers(path) and _is_matrix(path) else "adam"  # noqa: E731
    return optax.partition({"muon": muon, "adam": _adam(config)}, lambda params: by_path(label, params))


def _as_matrices(path: str, x: Any) -> Any:
    """[L inputs outputs] of a stack's matrices, [L size] of its vectors; other parameters as they are."""
    if not _in_layers(path):
        return x
    split = 1 + _input_axes(path)
    parts = (x.shape[1:split], x.shape[split:]) if _is_matrix(path) else (x.shape[1:],)
    return x.reshape(x.shape[0], *(math.prod(part) for part in parts))


def _input_axes(path: str) -> int:
    """Axes that a layer's matrix contracts: N H of [N H D], D of the others."""
    return 2 if path.endswith(".w_o") else 1


def _is_matrix(path: str) -> bool:
    return path.rsplit(".", 1)[-1].startswith("w")


def _in_layers(path: str) -> bool:
    """Returns whether a parameter has a leading axis of layers: it is in `layers` of a stack, not beside them."""
    return re.fullmatch(r"(.*\.)?layers\.(?!layers\.|final_norm\.|position_bias\.).*", path) is not None


_OPTIMIZERS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adam": _adam,
    "adamw": _adam,
    "adafactor": _adafactor,
    "lion": lambda config: optax.scale_by_lion(config.b1, config.b2),
    "muon": _muon,
    "sgd": lambda config: optax.identity() if is_off(config.b1) else optax.trace(config.b1),
}


def _check_factor(name: str, value: Any) -> None:
    if type(value) not in (int, float):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    check_positive(name, value, or_zero=True)
