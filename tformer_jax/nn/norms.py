"""Normalisation as modules."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import POSITIVE, ConfigError, field
from .config import NORMS, ModelConfig, NormConfig
from .module import Module
from .parameters import ones, zeros


@NORMS.register("layer")
class LayerNormConfig(NormConfig):
    """`functional.layer_norm`.

    Attributes:
      eps: number added to the variance.
      bias: add a shift.
      gain: multiply by a learned gain.
      unit_offset: multiply by 1 + gain, with gains that start at 0.
    """

    eps: float = field(1e-5, POSITIVE)
    bias: bool = True
    gain: bool = True
    unit_offset: bool = False

    def check(self) -> None:
        if self.unit_offset and not self.gain:
            raise ConfigError("unit_offset=True goes with gain=True: without it, there is nothing to add 1 to")

    def make(self, model: ModelConfig, axes: Mapping[str, int] | None = None) -> "Norm":
        axes = axes or {"model": model.d_model}
        return Norm(self, F.layer_norm, model, axes, bias=self.bias, gain=self.gain)


@NORMS.register("rms")
class RMSNormConfig(NormConfig):
    """`functional.rms_norm`.

    Attributes:
      eps: number added to the mean square.
      unit_offset: multiply by 1 + gain, with gains that start at 0 (Gemma).
    """

    eps: float = field(1e-5, POSITIVE)
    unit_offset: bool = False

    def make(self, model: ModelConfig, axes: Mapping[str, int] | None = None) -> "Norm":
        return Norm(self, F.rms_norm, model, axes or {"model": model.d_model}, bias=False)


class Norm(Module):
    """`functional.layer_norm` or `functional.rms_norm` over the last axis, or as many together as `axes` names."""

    def __init__(self, config, function, model: ModelConfig, axes: Mapping[str, int], *, bias: bool, gain: bool = True):
        self.config, self.function, self.shape = config, function, tuple(axes.values())
        start = functools.partial(zeros, role="gain") if config.unit_offset else ones
        self.gamma = start(model, axes) if gain else None
        self.beta = zeros(model, axes) if bias else None

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        gamma = jnp.ones(self.shape) if self.gamma is None else self.gamma[...]
        vectors = [gamma.reshape(-1), *([] if self.beta is None else [self.beta[...].reshape(-1)])]
        joined = x.reshape(*x.shape[: x.ndim - len(self.shape)], -1)  # [... D]
        how = {"eps": self.config.eps, "unit_offset": self.config.unit_offset}
        return self.function(joined, *vectors, **how).reshape(x.shape)
