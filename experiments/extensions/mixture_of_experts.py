"""A mixture of experts as the feed-forward network, with a load-balancing loss (Shazeer et al., 2017; Fedus et al., 2021).

    python -m experiments.train --config=experiments/configs/causal_lm.py:tiny --workdir=runs/experts \
        --plugin=experiments/extensions/mixture_of_experts.py --config.model.feed_forward.name=experts

Every expert computes every token, and those that a token is not sent to count nothing: right on every mesh, which
splits the experts over its axis "tensor", and slower than sending tokens.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tformer_jax import nn
from tformer_jax.config import COUNT, NOT_NEGATIVE, TRAINING, ConfigError, field
from tformer_jax.functional.activations import ACTIVATIONS


@nn.FEED_FORWARDS.register("experts")
class ExpertsConfig(nn.FeedForwardConfig):
    """`num_experts` networks of some width, `chosen` of which each token is sent to; `balance` weighs the loss."""

    width: int = field(256, COUNT)
    activation: str = field("relu", among=ACTIVATIONS)
    num_experts: int = field(4, COUNT)
    chosen: int = field(2, COUNT)
    balance: float = field(0.01, NOT_NEGATIVE, part=TRAINING, traced=True)

    def check(self) -> None:
        if self.chosen > self.num_experts:
            raise ConfigError(f"chosen={self.chosen} must be at most num_experts={self.num_experts}")

    def make(self, model: nn.ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        return Experts(self, model, rngs=rngs)


class Experts(nnx.Module):
    """y = Σ_e g_e(x) FFN_e(x), with the gates g of the chosen experts, which sum to 1."""

    def __init__(self, config: ExpertsConfig, model: nn.ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        E, D, F = {"experts": config.num_experts}, {"model": model.d_model}, {"ff": config.width}
        self.router = nn.kernel(model, rngs, D | E, contracted=["model"], role="output")
        self.w1 = nn.kernel(model, rngs, E | D | F, contracted=["model"], batch=["experts"])
        self.w2 = nn.kernel(model, rngs, E | F | D, contracted=["ff"], batch=["experts"], residual=True)

    def __call__(self, x: Array, *, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
        config, router = self.config, self.router[...].astype(jnp.float32)
        probabilities = jax.nn.softmax(x.astype(jnp.float32) @ router)  # [B T E]
        best, index = jax.lax.top_k(probabilities, config.chosen)  # [B T K]
        sent = jax.nn.one_hot(index, config.num_experts)  # [B T K E]
        gates = jnp.einsum("BTK,BTKE->BTE", best / best.sum(-1, keepdims=True), sent).astype(x.dtype)
        hidden = ACTIVATIONS[config.activation](jnp.einsum("BTD,EDF->BTEF", x, self.w1[...].astype(x.dtype)))
        out = jnp.einsum("BTE,BTEF,EFD->BTD", gates, hidden, self.w2[...].astype(x.dtype))
        share = sent.sum(2).mean((0, 1)) / config.chosen  # [E] of the tokens; a mean over all, padding included
        balance = config.num_experts * (share * probabilities.mean((0, 1))).sum()  # 1 where experts share alike
        return out, {"load_balance": config.balance * balance}
