"""Normalisation as modules."""

from collections.abc import Mapping

from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import POSITIVE, field
from .config import NORMS, ModelConfig, NormConfig
from .parameters import ones, zeros


@NORMS.register("layer")
class LayerNormConfig(NormConfig):
    """`functional.layer_norm`.

    Attributes:
      eps: number added to the variance.
      bias: add a shift.
      unit_offset: multiply by 1 + gain, with gains that start at 0.
    """

    eps: float = field(1e-5, POSITIVE)
    bias: bool = True
    unit_offset: bool = False

    def make(self, model: ModelConfig, axes: Mapping[str, int] | None = None) -> "Norm":
        return Norm(self, F.layer_norm, model, axes or {"model": model.d_model}, bias=self.bias)


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


class Norm(nnx.Module):
    """`functional.layer_norm` or `functional.rms_norm` over the last axis, or as many together as `axes` names."""

    def __init__(self, config, function, model: ModelConfig, axes: Mapping[str, int], *, bias: bool):
        self.config, self.function = config, function
        self.gamma = zeros(model, axes, role="gain") if config.unit_offset else ones(model, axes)
        self.beta = zeros(model, axes) if bias else None

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        vectors = [p[...].reshape(-1) for p in (self.gamma, self.beta) if p is not None]
        joined = x.reshape(*x.shape[: x.ndim - self.gamma.ndim], -1)  # [... D]
        how = {"eps": self.config.eps, "unit_offset": self.config.unit_offset}
        return self.function(joined, *vectors, **how).reshape(x.shape)
