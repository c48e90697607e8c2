"""The text encoder as a classifier: fine-tuning (Devlin et al., 2018, section 4)."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import TransformerConfig
from ..nn import Classifier, Linear
from ..nn.layers import split_key
from .masked_lm import TextEncoder


class TextClassifier(nnx.Module):
    """A text encoder under a linear classifier.

    It reads the first token's state, or with pooling="mean" the mean over all that are not
    padding; with `config.pooler`, through tanh(W x + b).
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        config.check_for("TextClassifier")
        self.config = config
        self.encoder = TextEncoder(config, rngs=rngs)
        sides = {"model": config.d_model}, {"ff": config.d_model}
        self.pooler = Linear(config, *sides, rngs=rngs) if config.pooler else None
        self.classifier = Classifier(config, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        lengths: Int[Array, "B"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "B C"]:
        """Logits of the classes, in the policy's output dtype; `lengths` of the rows, default all of T."""
        encoder_key, head_key = split_key(key, 2)
        mask = None if lengths is None else F.AttentionMask(lengths=lengths)
        states, _ = self.encoder(tokens, token_types=token_types, mask=mask, key=encoder_key)
        x = states[:, 0] if self.config.pooling == "cls" else mean_pooled(states, lengths)
        x = x if self.pooler is None else jnp.tanh(self.pooler(x))
        x = F.dropout(x, self.config.dropout_rate, head_key)
        return self.classifier(x)


def mean_pooled(states: Float[Array, "B T D"], lengths: Int[Array, "B"] | None) -> Float[Array, "B D"]:
    """The mean over each row's first `lengths` states; 0 for a row of length 0."""
    if lengths is None:
        return states.mean(1)
    kept = (jnp.arange(states.shape[1]) < lengths[:, None])[..., None]
    total = jnp.where(kept, states, 0).sum(1, dtype=jnp.float32)
    return (total / jnp.maximum(kept.sum(1), 1)).astype(states.dtype)
