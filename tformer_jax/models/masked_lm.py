"""The bidirectional text encoder and its masked language model (BERT; Devlin et al., 2018)."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from ..config import COUNT, ENDS, UNSIGNED, ConfigError, field
from ..functional.activations import ACTIVATIONS
from ..nn import Beside, Embedding, Linear, Module, Output, OutputConfig, Positions, Stack, TextModelConfig
from ..nn.layers import split_key
from .inputs import check_captures, counted_positions, token_mask

CAPTURES = ("attention_weights", "residual")


class TextEncoderConfig(TextModelConfig):
    """The config of models that read a text from both sides.

    Attributes:
      num_token_types: number of token types, each with an embedding of its own (BERT's segments); None: no types.
      padding_token: a token that takes no position, so that the others are counted without it (RoBERTa); None: all take one.
      pooler: apply pooler_activation(W x + b) to the pooled state, as BERT does.
      pooler_activation: the nonlinearity, by its name; "tanh" with pooler=False.
      pooler_bias: add b; with pooler=True.
      pooler_norm: normalise what the pooler gives, as layers do (ModernBERT); with pooler=True.
      others: see `TextModelConfig`.
    """

    num_token_types: int | None = field(None, COUNT)
    padding_token: int | None = field(None, UNSIGNED)
    pooler: bool = field(False, part=ENDS)
    pooler_activation: str = field("tanh", among=ACTIVATIONS, part=ENDS)
    pooler_bias: bool = field(True, part=ENDS)
    pooler_norm: bool = field(False, part=ENDS)

    def check(self) -> None:
        super().check()
        if self.padding_token is not None and self.padding_token >= self.vocab_size:
            raise ConfigError(f"padding_token={self.padding_token} is outside the vocabulary [0, {self.vocab_size})")
        if self.pooler_activation != "tanh" and not self.pooler:
            raise ConfigError(f"pooler_activation={self.pooler_activation!r} goes with pooler=True")
        if (self.pooler_norm or not self.pooler_bias) and not self.pooler:
            raise ConfigError("pooler_norm=True and pooler_bias=False go with pooler=True")


class MaskedLMConfig(TextEncoderConfig):
    """The config of a `MaskedLM`.

    Attributes:
      transform_activation: the nonlinearity before the output projection, by its name.
      transform_bias: add b before it.
      output: the projection to the vocabulary.
      others: see `TextEncoderConfig`.
    """

    transform_activation: str = field("gelu", among=ACTIVATIONS, part=ENDS)
    transform_bias: bool = field(True, part=ENDS)
    output: OutputConfig = field(lambda: OutputConfig(bias=True))


class TextEncoder(Module):
    """Tokens to contextual states, each of which sees the whole text: what `MaskedLM` and `TextClassifier` share.

    By itself it is a model without a head. With `config.pooler`, it also gives the state of a whole text, `pooled`.
    """

    Config = TextEncoderConfig

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Embedding(config.vocab_size, config, rngs=rngs)
        types = config.num_token_types
        self.token_types = None if types is None else Embedding(types, config, axis="types", rngs=rngs)
        self.positions = Positions(config, rngs=rngs)
        self.layers = Stack(config, config.num_layers, bidirectional=True, rngs=rngs)
        D = config.d_model
        bias = config.pooler_bias
        self.pooler = Linear(config, ("model", D), ("ff", D), bias=bias, rngs=rngs) if config.pooler else None
        self.pooler_norm = config.norm.make(config) if config.pooler_norm else None

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
        positions = counted_positions(tokens, self.config.padding_token, self.config.max_length)
        x = self.positions(x, positions, key=embed_key)
        return self.layers(x, mask=token_mask(mask), key=layers_key, capture=capture)

    def pooled(self, state: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """activation(W x + b) of the state that stands for a text.

        Raises:
          ValueError: the config has no pooler.
        """
        if self.pooler is None:
            raise ValueError("the pooled output needs pooler=True in the config")
        pooled = ACTIVATIONS[self.config.pooler_activation](self.pooler(state))
        return pooled if self.pooler_norm is None else self.pooler_norm(pooled)


class MaskedLM(Module):
    """A text encoder that predicts masked tokens.

        P(x_i | X_without_M) = softmax(W_o LayerNorm(activation(W h_i + b)) + b_o)

    With `config.pooler`, it also gives the state of the whole text, tanh(W h_0 + b).
    """

    Config = MaskedLMConfig

    def __init__(self, config: MaskedLMConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = TextEncoder(config, rngs=rngs)
        # To vectors as wide as those of tokens: where these do not grow with the model, the map is one of an output.
        own, bias = config.embedding_width is not None, config.transform_bias
        to, role = (config.token_axis, "output") if own else (("ff", config.d_model), "hidden")
        self.transform = Linear(config, ("model", config.d_model), to, role=role, bias=bias, rngs=rngs)
        self.transform_norm = config.norm.make(config, dict((config.token_axis,)))
        self.output = Output(config, mapped=True, rngs=rngs)

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

    def transformed(self, states: Float[Array, "*batch D"]) -> Float[Array, "*batch E"]:
        """LayerNorm(activation(W h + b)), as wide as the vectors of tokens: what `logits` and the fused loss take."""
        return self.transform_norm(ACTIVATIONS[self.config.transform_activation](self.transform(states)))

    def pooled(self, states: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """tanh(W h_0 + b), the pooled output."""
        return self.encoder.pooled(states[:, 0])

    def logits(self, transformed: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """W_o x + b_o in the policy's output dtype."""
        return self.output(transformed, self.encoder.embedding)

    def output_weights(self) -> tuple[Float[Array, "E V"], Float[Array, "V"] | None]:
        """W_o and its bias, for `functional.fused_cross_entropy`."""
        return self.output.weights(self.encoder.embedding)
