"""Feed-forward networks as modules."""

from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import COUNT, SHARE, TRAINING, field
from ..functional.activations import ACTIVATIONS
from .config import FEED_FORWARDS, FeedForwardConfig, ModelConfig
from .module import Module
from .parameters import kernel, zeros


class DenseConfig(FeedForwardConfig):
    """The config that dense feed-forward networks share.

    Attributes:
      width: F, the width inside.
      activation: the nonlinearity, by its name.
      bias: add biases.
      dropout_rate: dropout rate of the hidden activations.
    """

    width: int = field(2048, COUNT)
    activation: str = field("relu", among=ACTIVATIONS)
    bias: bool = True
    dropout_rate: float = field(0.0, SHARE, part=TRAINING, traced=True)


@FEED_FORWARDS.register("mlp")
class MLPConfig(DenseConfig):
    """`functional.feed_forward`; its fields are those of `DenseConfig`."""

    def make(self, model: ModelConfig, *, rngs: nnx.Rngs) -> "FeedForward":
        return FeedForward(self, model, gated=False, rngs=rngs)


@FEED_FORWARDS.register("gated")
class GatedConfig(DenseConfig):
    """`functional.gated_feed_forward`, which has a third projection (Shazeer, 2020); its fields are those of `DenseConfig`."""

    def make(self, model: ModelConfig, *, rngs: nnx.Rngs) -> "FeedForward":
        return FeedForward(self, model, gated=True, rngs=rngs)


class FeedForward(Module):
    """`functional.feed_forward`, or with `gated` `functional.gated_feed_forward`."""

    def __init__(self, config: DenseConfig, model: ModelConfig, *, gated: bool, rngs: nnx.Rngs):
        self.config = config
        D, inner = {"model": model.d_model}, {"ff": config.width}
        self.w_gate = kernel(model, rngs, D | inner, contracted=("model",)) if gated else None
        self.w1 = kernel(model, rngs, D | inner, contracted=("model",))
        self.w2 = kernel(model, rngs, inner | D, contracted=("ff",), residual=True)
        self.b_gate = zeros(model, inner) if gated and config.bias else None
        self.b1 = zeros(model, inner) if config.bias else None
        self.b2 = zeros(model, D) if config.bias else None

    def __call__(self, x: Float[Array, "B T D"], *, key: Array | None = None) -> Float[Array, "B T D"]:
        held = (self.w_gate, self.b_gate, self.w1, self.b1, self.w2, self.b2)
        w_gate, b_gate, w1, b1, w2, b2 = (None if p is None else p[...].astype(x.dtype) for p in held)
        how = {"activation": ACTIVATIONS[self.config.activation], "dropout_rate": self.config.dropout_rate, "key": key}
        if w_gate is None:
            return F.feed_forward(x, w1, b1, w2, b2, **how)
        return F.gated_feed_forward(x, w_gate, w1, w2, b_gate=b_gate, b_up=b1, b_down=b2, **how)
