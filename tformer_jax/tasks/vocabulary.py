"""Losses over a vocabulary: what the language models and translation share."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from .. import functional as F
from ..config import NOT_NEGATIVE, RUN, SHARE, TRAINING, field
from .base import Loss, Measured, TaskConfig

# Logits from which on a chunk of them at a time was no slower on a CPU: 0.83 of the time at 16 million, 1.02 at 200 million
# with a quarter of the memory.
_MANY_LOGITS = 16_000_000


class VocabularyLossConfig(TaskConfig):
    """The fields that losses over a vocabulary share. They hold for training; evaluation has plain cross-entropy.

    Attributes:
      label_smoothing: share of each target that is spread evenly over the vocabulary; see `functional.cross_entropy`.
      z_loss: coefficient of the square of the log-normaliser, which keeps that near 0; see `functional.cross_entropy`.
      fused_loss: use `functional.fused_cross_entropy`, which never holds all logits; None: where they are many.
    """

    label_smoothing: float = field(0.0, SHARE, part=TRAINING, traced=True)
    z_loss: float = field(0.0, NOT_NEGATIVE, part=TRAINING, traced=True)
    fused_loss: bool | None = field(None, part=RUN)


def loss_inputs(
    model: Any, hidden: Float[Array, "*batch D"], config: VocabularyLossConfig | None
) -> tuple[Float[Array, "*batch _"], dict[str, Any]]:
    """Returns what `functional.causal_lm_loss` and `masked_lm_loss` take for the model's states, and how: the logits,
    or the states themselves where the loss is fused. Without a config, that of an evaluation, nothing is added to it.
    """
    if config is None:
        return model.logits(hidden), {}
    how = {"label_smoothing": config.label_smoothing, "z_loss": config.z_loss}
    if not (_are_many(model, hidden) if config.fused_loss is None else config.fused_loss):
        return model.logits(hidden), how
    return hidden, how | {"loss": functools.partial(F.fused_cross_entropy, **projection(model, hidden))}


def _are_many(model: Any, hidden: Float[Array, "*batch D"]) -> bool:
    """Returns whether the logits of states would be many on each device."""
    mesh = jax.sharding.get_abstract_mesh()
    states = math.prod(hidden.shape[:-1]) / (1 if mesh.empty else mesh.size)
    return states * model.config.vocab_size >= _MANY_LOGITS


def projection(model: Any, hidden: Float[Array, "*batch D"]) -> dict[str, Any]:
    """Returns the arguments by which functions make a model's logits of its states."""
    w_out, b_out = model.output_weights()
    return {"w_out": w_out.astype(hidden.dtype), "b_out": b_out, "logit_softcap": model.config.output.softcap}


@functools.partial(jax.jit, static_argnums=0)  # of the module, not of a task: all that have such a model share it
def plain_loss(loss: Callable[..., Loss], model: Any, batch: Any) -> Measured:
    """Measures a `loss(model, batch, key, config)` as evaluations do: cross-entropy alone, with nothing random."""
    mean, weight, _ = loss(model, batch, None, None)
    return {"loss": mean}, weight, None


def target_weights(
    tokens: Int[Array, "B T"], lengths: Int[Array, "B"] | None, segments: Int[Array, "B T"] | None
) -> Bool[Array, "B T"]:
    """Returns which tokens are predicted from one before them: all but the first of each row's `lengths`, or of each
    of its segments (0 is padding)."""
    if segments is None:
        inside = jnp.arange(1, tokens.shape[1]) < lengths[:, None]  # [B T-1]
    else:
        inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    return jnp.pad(inside, ((0, 0), (1, 0)))


def perplexity(nats: float) -> float:
    """Returns the exponential of a mean negative log-likelihood; infinite above 709.78 nats, beyond float64."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(nats)))
