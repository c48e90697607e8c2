"""The bidirectional text encoder and its masked language model (BERT; Devlin et al., 2018)."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from ..config import COUNT, ENDS, field
from ..functional.activations import ACTIVATIONS
from ..nn import Beside, Embedding, Linear, Output, OutputConfig, Positions, Stack, TextModelConfig
from ..nn.layers import split_key
from .inputs import check_captures, token_mask

CAPTURES = ("attention_weights", "residual")


class TextEncoderConfig(TextModelConfig):
    """The config of models that read a text from both sides.

    Attributes:
      num_token_types: number of token types, each with an embedding of its own (BERT's segments); None: no types.
      pooler: apply tanh(W x + b) to the pooled state, as BERT does.
      others: see `TextModelConfig`.
    """

    num_token_types: int | None = field(None, COUNT)
    pooler: bool = field(False, part=ENDS)


class MaskedLMConfig(TextEncoderConfig):
    """The config of a `MaskedLM`.

    Attributes:
      transform_activation: the nonlinearity before the output projection, by its name.
      output: the projection to the vocabulary.
      others: see `TextEncoderConfig`.
    """

    transform_activation: str = field("gelu", among=ACTIVATIONS, part=ENDS)
    output: OutputConfig = field(lambda: OutputConfig(bias=True))


class TextEncoder(nnx.Module):
    """Tokens to contextual states, each of which sees the whole text: what `MaskedLM` and `TextClassifier` share."""

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Embedding(config.vocab_size, config, rngs=rngs)
        types = config.num_token_types
        self.token_types = None if types is None else Embedding(types, config, axis="types", rngs=rngs)
        self.positions = Positions(config, rngs=rngs)
        self.layers = Stack(config, config.num_layers, bidirectional=True, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        token_types: Int[Array, "B T"] | None = None,
        mask: Any = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], Beside]:
        """The states [B T D]; what was captured, of "attention_weights" [L B N T T] and "residual" [L B T D], and
        auxiliary losses.

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
        return self.layers(x, mask=token_mask(mask), key=layers_key, capture=capture)


class MaskedLM(nnx.Module):
    """A text encoder that predicts masked tokens.

        P(x_i | X_without_M) = softmax(W_o LayerNorm(activation(W h_i + b)) + b_o)

    With `config.pooler`, it also gives the state of the whole text, tanh(W h_0 + b).
    """

    Config = MaskedLMConfig

    def __init__(self, config: MaskedLMConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = TextEncoder(config, rngs=rngs)
        self.transform = Linear(config, ("model", config.d_model), ("ff", config.d_model), rngs=rngs)
        self.transform_norm = config.norm.make(config)
        self.output = Output(config, rngs=rngs)
        self.pooler = make_pooler(config, rngs=rngs)

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
        states, beside = self.hidden(tokens, token_types=token_types, mask=mask, key=key, capture=wanted)
        pooled = {"pooled": self.pooled(states)} if "pooled" in capture else {}
        logits = self.logits(self.transformed(states))
        return (logits, beside.captured | pooled) if capture else logits

    def hidden(self, tokens: Int[Array, "B T"], **how: Any) -> tuple[Float[Array, "B T D"], Beside]:
        """The states [B T D] that `transformed` and `pooled` take; arguments and errors are those of `TextEncoder`."""
        return self.encoder(tokens, **how)

    def transformed(self, states: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """LayerNorm(activation(W h + b)): what `logits` and the fused loss take."""
        return self.transform_norm(ACTIVATIONS[self.config.transform_activation](self.transform(states)))

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


def make_pooler(config: TextEncoderConfig, *, rngs: nnx.Rngs) -> Linear | None:
    """Makes W and b of tanh(W x + b), if the config has a pooler."""
    return Linear(config, ("model", config.d_model), ("ff", config.d_model), rngs=rngs) if config.pooler else None
