"""The causal language model: GPT, Llama and what lies between (equation 14; Radford et al., 2018)."""

import dataclasses
from collections.abc import Collection
from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from .. import functional as F
from ..config import TransformerConfig
from ..nn import Embedding, EncoderLayer, KVCache, Output, Positions, Stack
from ..nn.layers import split_key
from .inputs import check_captures, token_mask

CAPTURES = ("attention_weights", "residual")


class CausalLM(nnx.Module):
    """A stack of self-attention layers in which no token sees a later one.

        P(x) = Π_t P(x_t | x_<t)

    In every method, `mask` says which tokens may be attended, beside causality and the config's
    window: `AttentionMask(lengths=...)`, or booleans [B T]. Segments, ids [B T] that do not come back
    later in a row, pack several documents into it: attention stays within a segment and positions
    restart at each, so that max_length limits a segment and not the row. `key` is for dropout; None
    means deterministic. `capture` names what to hand out beside the result, of "attention_weights"
    [L B N T T] and "residual" [L B T D].
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        config.check_for("CausalLM")
        self.config = config
        self.embedding = Embedding(config.vocab_size, config, rngs=rngs)
        self.positions = Positions(config, rngs=rngs)
        self.decoder = Stack(EncoderLayer, config.num_layers, config, rngs=rngs, bidirectional=False)
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
          ValueError: more tokens than max_length, or (not under `jax.jit`) one out of the vocabulary.
        """
        hidden, captured = self.hidden(tokens, mask=mask, segments=segments, key=key, capture=capture)
        logits = self.logits(hidden)
        return (logits, captured) if capture else logits

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Any = None,
        segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], dict[str, Array]]:
        """The states h_t [B T D] that `logits` and the fused loss take, and what was captured."""
        check_captures(capture, CAPTURES)
        embed_key, layers_key = split_key(key, 2)
        positions = None if segments is None else F.positions_in_segments(segments)
        x = self.positions(self.embedding(tokens), positions, key=embed_key)
        mask = F.AttentionMask(causal=True, window=self.config.window, segments=segments) & token_mask(mask)
        return self.decoder.self_attend(x, mask, key=layers_key, capture=capture)

    def start_cache(self, batch_size: int, length: int) -> KVCache:
        """An empty cache with room for `length` tokens a row.

        Under a window of w, a cache of w + T - 1 is a ring that `extend` may go round with T tokens at
        a time, as far as positions go (a table's end at max_length, NaN beyond). Without a window, the
        caller sees to it that the tokens fit: past the end, the oldest would be overwritten.

        Raises:
          ValueError: `length` is not between 1 and max_length.
        """
        return KVCache.empty(self.config, self.decoder.num_layers, batch_size, length)

    def extend(
        self, tokens: Int[Array, "B T"], cache: KVCache, *, valid: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T V"], KVCache]:
        """Logits of the next T tokens after those in the cache, and the cache with them.

        Args:
          tokens: of each row, in order.
          cache: from `start_cache` or an earlier call.
          valid: False for padding, which takes a slot but is neither seen nor counted; its logits mean
            nothing. Pad shorter rows on the left, so that all end together. Default: all True.
        """
        hidden, cache = self.extend_hidden(tokens, cache, valid=valid)
        return self.logits(hidden), cache

    def extend_hidden(
        self, tokens: Int[Array, "B T"], cache: KVCache, *, valid: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], KVCache]:
        """`extend`, up to the states that `logits` takes: a prompt needs the logits of its last token alone."""
        T = tokens.shape[1]
        positions, cache, write = cache.reserve(T, valid)
        x = self.positions(self.embedding(tokens), positions)
        mask = F.AttentionMask(
            causal=True, window=self.config.window, query_positions=positions, key_positions=cache.positions
        )
        bias = self.decoder.position_bias(mask, T, cache.slots)

        def body(layer, x, cached, _):
            x, kv, _ = layer(x, mask=mask, bias=bias, extend_cache=lambda new: write(cached, new))
            return x, kv

        hidden, kv = self.decoder(body, x, cache.keys_values)
        return hidden, dataclasses.replace(cache, keys_values=kv)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """W_o h_t in the policy's output dtype."""
        return self.output(hidden, self.embedding)

    def output_weights(self) -> tuple[Float[Array, "D V"], Float[Array, "V"] | None]:
        """W_o and its bias, for `functional.fused_cross_entropy`."""
        return self.output.weights(self.embedding)
