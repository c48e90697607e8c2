"""The bidirectional text encoder and its masked language model (BERT; Devlin et al., 2018)."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import TransformerConfig
from ..nn import Embedding, EncoderLayer, Linear, Norm, Output, Positions, Stack
from ..nn.layers import split_key
from .inputs import check_captures, token_mask

CAPTURES = ("attention_weights", "residual")


class TextEncoder(nnx.Module):
    """Tokens to contextual states, each of which sees the whole text: what `MaskedLM` and `TextClassifier` share."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Embedding(config.vocab_size, config, rngs=rngs)
        types = config.num_token_types
        self.token_types = None if types is None else Embedding(types, config, rngs=rngs, axis="types")
        self.positions = Positions(config, rngs=rngs)
        self.layers = Stack(EncoderLayer, config.num_layers, config, rngs=rngs, bidirectional=True)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        token_types: Int[Array, "B T"] | None = None,
        mask: Any = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], dict[str, Array]]:
        """The states [B T D] and what was captured, of "attention_weights" [L B N T T] and "residual" [L B T D].

        Args:
          tokens: ids.
          token_types: ids of the part that each token is in; default: all 0.
          mask: which tokens may be attended: `AttentionMask(lengths=...)`, or booleans [B T].
          key: for dropout; None means deterministic.
          capture: names.

        Raises:
          ValueError: more tokens than max_length, token types without num_token_types, or (not under
            `jax.jit`) an id out of its vocabulary.
        """
        check_captures(capture, CAPTURES)
        embed_key, layers_key = split_key(key, 2)
        x = self.embedding(tokens)
        if self.token_types is not None:
            types = jnp.zeros_like(tokens) if token_types is None else token_types
            x = x + self.token_types(types, "token_types")
        elif token_types is not None:
            raise ValueError("token_types need num_token_types in the config, which is None")
        x = self.positions(x, key=embed_key)
        return self.layers.self_attend(x, token_mask(mask), key=layers_key, capture=capture)


class MaskedLM(nnx.Module):
    """A text encoder that predicts masked tokens.

        P(x_i | X_without_M) = softmax(W_o LayerNorm(activation(W h_i + b)) + b_o)

    With `config.pooler`, it also gives the state of the whole text, tanh(W h_0 + b).
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        config.check_for("MaskedLM")
        self.config = config
        self.encoder = TextEncoder(config, rngs=rngs)
        sides = {"model": config.d_model}, {"ff": config.d_model}
        self.transform = Linear(config, *sides, rngs=rngs)
        self.transform_norm = Norm(config)
        self.output = Output(config, rngs=rngs, bias=True)
        self.pooler = Linear(config, *sides, rngs=rngs) if config.pooler else None

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        token_types: Int[Array, "B T"] | None = None,
        mask: Any = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> Any:
        """Logits [B T V] of the token at each position; with `capture`, (logits, {name: array}).

        Arguments and errors are those of `TextEncoder`. "pooled" may be captured too, [B D].

        Raises:
          ValueError: "pooled" is asked for without `config.pooler`.
        """
        check_captures(capture, (*CAPTURES, "pooled"))
        wanted = [name for name in capture if name != "pooled"]
        states, captured = self.encoder(tokens, token_types=token_types, mask=mask, key=key, capture=wanted)
        if "pooled" in capture:
            captured = captured | {"pooled": self.pooled(states)}
        logits = self.logits(self.transformed(states))
        return (logits, captured) if capture else logits

    def transformed(self, states: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """LayerNorm(activation(W h + b)): what `logits` and the fused loss take."""
        return self.transform_norm(F.ACTIVATIONS[self.config.activation](self.transform(states)))

    def pooled(self, states: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """tanh(W h_0 + b), the pooled output."""
        if self.pooler is None:
            raise ValueError("the pooled output needs pooler=True in the config")
        return jnp.tanh(self.pooler(states[:, 0]))

    def logits(self, transformed: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """W_o x + b_o in the policy's output dtype."""
        return self.output(transformed, self.encoder.embedding)

    def output_weights(self) -> tuple[Float[Array, "D V"], Float[Array, "V"] | None]:
        """W_o and its bias, for `functional.fused_cross_entropy`."""
        return self.output.weights(self.encoder.embedding)
