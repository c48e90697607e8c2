"""Learning-rate schedules by name: each is a function of the step."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from ..registry import Registry

Schedule = Callable[[Array], Array]

# `function(t, warmup, total)`: the learning rate of update t, counted from 1, once the linear warm-up is over, as a
# share of the highest. All three are float32 scalars; in a vectorised sweep, `warmup` is known to the program alone.
SCHEDULES: Registry[Callable[[Array, Array, Array], Array]] = Registry("schedule", takes=("t", "warmup", "total"))


def make_schedule(config: Any, total_steps: int) -> Schedule:
    """Makes the learning rate as a function of the step, counted from 0, as an `OptimizerConfig` says.

    With w = warmup_steps and t = step + 1, the warm-up is learning_rate * t / w. The paper's
    d_model^-0.5 min(t^-0.5, t w^-1.5) is "rsqrt" with learning_rate = (d_model w)^-0.5.
    """
    warmup, total = jnp.float32(config.warmup_steps), jnp.float32(total_steps)

    def schedule(step):
        t = jnp.asarray(step, jnp.float32) + 1
        after = SCHEDULES[config.schedule](t, warmup, total)
        return config.learning_rate * jnp.where(t <= warmup, t / jnp.maximum(1, warmup), after)

    return schedule


def after_warmup(t: Array, warmup: Array, total: Array) -> Array:
    """Returns the share of the steps after the warm-up that is done with update t, in [0, 1]."""
    return jnp.clip((t - warmup) / jnp.maximum(1, total - warmup), 0.0, 1.0)


@SCHEDULES.register("rsqrt")
def rsqrt(t: Array, warmup: Array, total: Array) -> Array:
    """Falls as 1/√t (Vaswani et al., 2017, section 5.3)."""
    return jnp.sqrt(jnp.maximum(1, warmup) / t)


@SCHEDULES.register("cosine")
def cosine(t: Array, warmup: Array, total: Array) -> Array:
    """Falls to 0 at the last step, half of a cosine (Loshchilov & Hutter, 2017)."""
    return 0.5 * (1 + jnp.cos(jnp.pi * after_warmup(t, warmup, total)))


@SCHEDULES.register("linear")
def linear(t: Array, warmup: Array, total: Array) -> Array:
    """Falls to 0 at the last step, evenly."""
    return 1 - after_warmup(t, warmup, total)


@SCHEDULES.register("constant")
def constant(t: Array, warmup: Array, total: Array) -> Array:
    """Stays where the warm-up ends."""
    return jnp.ones_like(t)
