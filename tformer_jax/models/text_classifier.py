"""The text encoder as a classifier: fine-tuning (Devlin et al., 2018, section 4)."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import COUNT, ENDS, field, one_of
from ..nn import Beside, Classifier, Module
from ..nn.layers import split_key
from .masked_lm import TextEncoder, TextEncoderConfig


class TextClassifierConfig(TextEncoderConfig):
    """The config of a `TextClassifier`.

    Attributes:
      num_classes: number of classes.
      pooling: what the classifier reads: "cls", the first token, or "mean", of all tokens.
      others: see `TextEncoderConfig`.
    """

    num_classes: int = field(wanted=COUNT, part=ENDS)
    pooling: str = field("cls", one_of("cls", "mean"), part=ENDS)


class TextClassifier(Module):
    """A text encoder under a linear classifier.

    It reads the first token's state, or with pooling="mean" the mean over all that are not
    padding; with `config.pooler`, through that.
    """

    Config = TextClassifierConfig

    def __init__(self, config: TextClassifierConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = TextEncoder(config, rngs=rngs)
        self.classifier = Classifier(config, config.num_classes, rngs=rngs)

    def __call__(self, tokens: Int[Array, "B T"], **how: Any) -> Float[Array, "B C"]:
        """Logits of the classes, in the policy's output dtype; arguments as in `hidden`."""
        return self.logits(self.hidden(tokens, **how)[0])

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        lengths: Int[Array, "B"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B D"], Beside]:
        """The pooled state [B D] of each text that `logits` takes, and auxiliary losses.

        Args:
          tokens: ids.
          lengths: of the rows; default: all of T.
          token_types: as in `TextEncoder`.
          key: for dropout; None means deterministic.
        """
        encoder_key, head_key = split_key(key, 2)
        mask = None if lengths is None else F.AttentionMask(lengths=lengths)
        states, beside = self.encoder(tokens, token_types=token_types, mask=mask, key=encoder_key)  # [B T D]
        x = states[:, 0] if self.config.pooling == "cls" else mean_pooled(states, lengths)
        x = self.encoder.pooled(x) if self.config.pooler else x
        return F.dropout(x, self.config.dropout_rate, head_key), beside

    def logits(self, pooled: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """W x + b in the policy's output dtype."""
        return self.classifier(pooled)


def mean_pooled(states: Float[Array, "B T D"], lengths: Int[Array, "B"] | None) -> Float[Array, "B D"]:
    """The mean over each row's first `lengths` states; 0 for a row of length 0."""
    if lengths is None:
        return states.mean(1)
    kept = (jnp.arange(states.shape[1]) < lengths[:, None])[..., None]
    total = jnp.where(kept, states, 0).sum(1, dtype=jnp.float32)
    return (total / jnp.maximum(kept.sum(1), 1)).astype(states.dtype)
