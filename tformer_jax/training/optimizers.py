"""Optimisers and learning-rate schedules by name."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ..config import ConfigError, check_choice, check_positive

Schedule = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The `optimizer` section of an experiment.

    Attributes:
      name: "adam" (Kingma & Ba, 2015) or "adamw" (Loshchilov & Hutter, 2019).
      learning_rate: the highest one, at the end of the warm-up.
      schedule: after a linear warm-up: "rsqrt" (Vaswani et al., 2017, section 5.3: falls as
        1/√step), "cosine" or "linear" (to 0 at the last step), or "constant".
      warmup_steps: steps until `learning_rate` is reached.
      b1, b2, eps: Adam's.
      weight_decay: per step and unit of learning rate, on matrices only; "adamw" alone.
      clip_norm: gradients of a larger global norm are scaled down to it; None: never.

    Raises:
      ConfigError: a value that cannot be, by the field's name.
    """

    name: str = "adam"
    learning_rate: float
    schedule: str = "rsqrt"
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-9
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self):
        check_choice("optimizer.name", self.name, ("adam", "adamw"))
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
        if self.name == "adam" and self.weight_decay:
            raise ConfigError("optimizer.weight_decay needs optimizer.name='adamw'")


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, counted from 0.

    With w = warmup_steps and t = step + 1, the warm-up is learning_rate * t / w. The paper's
    d_model^-0.5 min(t^-0.5, t w^-1.5) is "rsqrt" with learning_rate = (d_model w)^-0.5.
    """
    warmup = config.warmup_steps

    def after_warmup(t):
        done = jnp.clip((t - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        return {
            "rsqrt": jnp.sqrt(max(1, warmup) / t),
            "cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)),
            "linear": 1 - done,
            "constant": jnp.ones_like(done),
        }[config.schedule]

    def schedule(step):
        t = jnp.asarray(step, jnp.float32) + 1
        return config.learning_rate * jnp.where(t <= warmup, t / max(1, warmup), after_warmup(t))

    return schedule


def make_optimizer(config: OptimizerConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Clipping, Adam, decoupled weight decay on matrices, the schedule: in that order."""
    steps = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    steps.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
    if config.weight_decay:
        steps.append(optax.add_decayed_weights(config.weight_decay, mask=_matrices))
    return optax.chain(*steps, optax.scale_by_learning_rate(schedule))


def _matrices(params):
    """Which parameters decay: projections and tables, by name; not biases, shifts and scales."""

    def decays(path, _):
        names = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey) and key.name != "value"]
        return names[-1].startswith("w") or names[-1].endswith("table")

    return jax.tree_util.tree_map_with_path(decays, params)
