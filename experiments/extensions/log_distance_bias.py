"""Scores that fall with the logarithm of distance, as steeply as each head learns (KERPLE; Chi et al., 2022).

    python -m experiments.train --config=experiments/configs/causal_lm.py:tiny --workdir=runs/kerple \
        --plugin=experiments/extensions/log_distance_bias.py --config.model.positions.name=log_distance
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tformer_jax import nn
from tformer_jax.config import POSITIVE, field


@nn.POSITIONS.register("log_distance")
class LogDistance(nn.PositionScheme):
    """-r log(1 + s |i - j|), with positive r and s of each head.

    Attributes:
      scale: what the scores are multiplied by at the start, beside log 2.
    """

    scale: float = field(1.0, POSITIVE, traced=True)

    def in_scores(self, model: nn.ModelConfig, *, bidirectional: bool, rngs: nnx.Rngs) -> nnx.Module:
        return LogDistanceBias(self, model)


class LogDistanceBias(nnx.Module):
    """The bias of the scores, shared by all layers of a stack."""

    def __init__(self, config: LogDistance, model: nn.ModelConfig):
        heads = {"heads": model.attention.num_heads}
        self.config = config
        self.r, self.s = nn.zeros(model, heads, role="gain"), nn.zeros(model, heads, role="gain")

    def __call__(self, queries: Array, keys: Array) -> Array:
        """Positions [b T] and [b S] to a bias [b N T S]."""
        # As floats first: the position of an empty slot is the largest integer.
        distances = jnp.abs(queries[:, :, None].astype(jnp.float32) - keys[:, None, :].astype(jnp.float32))  # [b T S]
        r, s = (jax.nn.softplus(x[...].astype(jnp.float32))[:, None, None] for x in (self.r, self.s))  # [N 1 1]
        return -self.config.scale * r * jnp.log1p(s * distances[:, None])
