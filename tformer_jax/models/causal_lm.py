"""The causal language model: GPT, Llama and what lies between (equation 14; Radford et al., 2018)."""

from collections.abc import Collection
from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from .. import functional as F
from ..config import field
from ..functional.masks import EMPTY
from ..nn import Beside, Cache, Embedding, Module, Output, OutputConfig, Positions, Stack, TextModelConfig
from ..nn.layers import split_key
from .inputs import causal_relation, check_captures

CAPTURES = ("attention_weights", "residual")


class CausalLMConfig(TextModelConfig):
    """The config of a `CausalLM`.

    Attributes:
      output: the projection to the vocabulary.
      others: see `TextModelConfig`.
    """

    output: OutputConfig = field(OutputConfig)


class CausalLM(Module):
    """A stack of self-attention layers in which no token sees a later one.

        P(x) = Π_t P(x_t | x_<t)

    In every method, `mask` says who sees whom, by default `AttentionMask(causal=True)`: give
    `AttentionMask(causal=True, lengths=...)` for rows of several lengths, or
    `AttentionMask(causal=True) | AttentionMask(prefix=...)` for a beginning that is seen from everywhere.
    Booleans [B T] say which tokens may be attended, beside causality. Segments, ids [B T] that do not come back
    later in a row, pack several documents into it: attention stays within a segment and positions
    restart at each, so that max_length limits a segment and not the row. `key` is for dropout; None
    means deterministic. `capture` names what to hand out beside the result, of "attention_weights"
    [L B N T T] and "residual" [L B T D].
    """

    Config = CausalLMConfig

    def __init__(self, config: CausalLMConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Embedding(config.vocab_size, config, rngs=rngs)
        self.positions = Positions(config, rngs=rngs)
        self.decoder = Stack(config, config.num_layers, bidirectional=False, rngs=rngs)
        self.output = Output(config, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Any = None,
        segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> Any:
        """Logits [B T V] of the token after each; with `capture`, (logits, {name: array}).

        Raises:
          ValueError: more tokens than max_length, a mask that hides no later token, or (not under `jax.jit`) a token
            out of the vocabulary.
        """
        hidden, beside = self.hidden(tokens, mask=mask, segments=segments, key=key, capture=capture)
        logits = self.logits(hidden)
        return (logits, beside.captured) if capture else logits

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Any = None,
        segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T E"], Beside]:
        """The states h_t that `logits` and the fused loss take, as wide as the vectors of tokens; what was captured, and
        auxiliary losses.
        """
        check_captures(capture, CAPTURES)
        embed_key, layers_key = split_key(key, 2)
        positions = None if segments is None else F.positions_in_segments(segments)
        x = self.positions(self.embedding(tokens), positions, key=embed_key)
        mask = F.AttentionMask(segments=segments) & causal_relation(mask)
        states, beside = self.decoder(x, mask=mask, key=layers_key, capture=capture)
        return self.output.projected(states), beside

    def start_cache(self, batch_size: int, length: int, *, at_once: int | None = None) -> Cache:
        """An empty cache with room for `length` tokens a row.

        With `at_once`, the most tokens that a call of `extend` will bring, layers under a window of w have
        w + at_once - 1 slots, a ring, if that is less; a model all of whose layers have one may then go on as far as positions
        go (a table's end at max_length, NaN beyond). Else the caller sees to it that the tokens fit: past the
        end, the oldest would be overwritten.

        Raises:
          ValueError: `length` is not between 1 and max_length.
        """
        limit = self.config.max_length
        if not 1 <= length <= limit:
            raise ValueError(f"a cache has between 1 and max_length={limit} tokens, got {length}")
        return self.decoder.start_cache(batch_size, length, at_once)

    def extend(
        self, tokens: Int[Array, "B T"], cache: Cache, *, valid: Bool[Array, "B T"] | None = None, mask: Any = None
    ) -> tuple[Float[Array, "B T V"], Cache]:
        """Logits of the next T tokens after those in the cache, and the cache with them.

        Args:
          tokens: of each row, in order.
          cache: from `start_cache` or an earlier call.
          valid: False for padding, which takes a slot but is neither seen nor counted; its logits mean
            nothing. Pad shorter rows on the left, so that all end together. Default: all True.
          mask: who sees whom, by their positions; by default causal.
        """
        hidden, cache = self.extend_hidden(tokens, cache, valid=valid, mask=mask)
        return self.logits(hidden), cache

    def extend_hidden(
        self, tokens: Int[Array, "B T"], cache: Cache, *, valid: Bool[Array, "B T"] | None = None, mask: Any = None
    ) -> tuple[Float[Array, "B T E"], Cache]:
        """`extend`, up to the states that `logits` takes: a prompt needs the logits of its last token alone."""
        positions, cache = cache.reserve(tokens.shape[1], valid)
        x = self.positions(self.embedding(tokens), positions)
        # Causality hides empty slots; another mask must not show them.
        relation = causal_relation(mask) if mask is None else causal_relation(mask) & F.AttentionMask(prefix=EMPTY)
        mask = relation.placed(query_positions=positions)
        states, beside = self.decoder(x, mask=mask, cache=cache)
        return self.output.projected(states), beside.cache

    def logits(self, hidden: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """W_o h_t in the policy's output dtype."""
        return self.output(hidden, self.embedding)

    def output_weights(self) -> tuple[Float[Array, "E V"], Float[Array, "V"] | None]:
        """W_o and its bias, for `functional.fused_cross_entropy`."""
        return self.output.weights(self.embedding)
