"""One vector of many states: attention from a learned query."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from .config import ModelConfig
from .module import Module
from .parameters import table


class AttentionPooling(Module):
    """A learned query attends to all states; a feed-forward network follows (Zhai et al., 2022, section 3.3).

    z = MHA(probe, X);  pooled = z + FFN(norm(z))

    Its attention, norm and feed-forward network are made as those of the model's layers.
    """

    def __init__(self, model: ModelConfig, *, rngs: nnx.Rngs):
        self.probe = table(model, rngs, {"probes": 1, "model": model.d_model})
        self.attention = model.attention.make(model, rngs=rngs)
        self.norm = model.norm.make(model)
        self.feed_forward = model.feed_forward.make(model, rngs=rngs)

    def __call__(self, states: Float[Array, "B P D"], *, key: Array | None = None) -> Float[Array, "B D"]:
        """The pooled state of each row; `key` is for dropout of the attention weights."""
        probe = self.probe[...].astype(states.dtype)  # [1 D]
        x = self.attention(jnp.broadcast_to(probe, (states.shape[0], *probe.shape)), states, key=key).output  # [B 1 D]
        return (x + self.feed_forward(self.norm(x)))[:, 0]
