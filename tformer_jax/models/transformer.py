"""The encoder-decoder Transformer (equation 1; Vaswani et al., 2017)."""

import dataclasses
from collections.abc import Collection
from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import COUNT, UNSIGNED, ConfigError, field
from ..nn import Beside, DecoderCache, Embedding, Module, Output, OutputConfig, Positions, Stack, TextModelConfig
from ..nn.config import LAYERS_WANTED
from ..nn.layers import split_key
from .inputs import check_captures, counted_positions, cross_mask, memory_mask, token_mask

Source, Target = Int[Array, "B S"], Int[Array, "B T"]
CAPTURES = ("attention_weights", "cross_attention_weights", "residual")


class TransformerConfig(TextModelConfig):
    """The config of a `Transformer`.

    Attributes:
      source_vocab_size: vocabulary size of the source side; None: source and target share one vocabulary.
      share_embeddings: embed source and target with one table; needs a shared vocabulary.
      num_decoder_layers: number of layers of the decoder; None: num_layers.
      padding_token: of the source, a token that takes no position (M2M100); None: all take one.
      output: the projection to the target's vocabulary.
      others: see `TextModelConfig`.
    """

    source_vocab_size: int | None = field(None, COUNT)
    share_embeddings: bool = True
    num_decoder_layers: int | None = field(None, LAYERS_WANTED)
    padding_token: int | None = field(None, UNSIGNED)
    output: OutputConfig = field(OutputConfig)

    def check(self) -> None:
        super().check()
        if self.share_embeddings and self.source_vocab_size is not None:
            raise ConfigError(
                f"share_embeddings needs one vocabulary, got source_vocab_size={self.source_vocab_size} "
                f"beside vocab_size={self.vocab_size}; leave it None or set share_embeddings=False"
            )
        for i in range(len(self.pattern)):
            self.of_layer(i).layer.check_cross()
        if len(self.pattern) > self.decoder_layers:
            raise ConfigError(
                f"pattern has {len(self.pattern)} layers, more than num_decoder_layers={self.num_decoder_layers}"
            )

    @property
    def decoder_layers(self) -> int:
        """The number of layers of the decoder."""
        return self.num_decoder_layers or self.num_layers


class Transformer(Module):
    """Encoder: source to contextual embeddings. Decoder: memory and tokens so far to the next token.

        P(y | x) = Π_t P(y_t | y_<t, encode(x))                                    (equation 1)

    In every method, `source_mask` says which source tokens may be attended (by the encoder and by
    the decoder's cross-attention): `AttentionMask(lengths=...)`, or booleans [B S] or [B 1 1 S].
    `target_mask` is the same for the target, beside causality. Segments, ids
    [B S] and [B T], pack several examples into a row: attention stays within a segment (source and
    target of an example share its id) and positions restart at each, so that max_length limits a
    segment. `key` is for dropout; None means deterministic. `capture` names what to hand out beside
    the result, of "attention_weights", "cross_attention_weights" [L B N T S] and "residual" [L B T D].
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.target_embedding = Embedding(config.vocab_size, config, rngs=rngs)
        source_size = config.source_vocab_size or config.vocab_size
        self.source_embedding = None if config.share_embeddings else Embedding(source_size, config, rngs=rngs)
        self.source_positions = Positions(config, rngs=rngs)
        self.target_positions = Positions(config, rngs=rngs)
        self.encoder = Stack(config, config.num_layers, bidirectional=True, rngs=rngs)
        self.decoder = Stack(config, config.decoder_layers, cross=True, bidirectional=False, rngs=rngs)
        self.output = Output(config, rngs=rngs)

    def __call__(
        self, source: Source, target: Target, *, source_mask: Any = None, source_segments: Source | None = None,
        key: Array | None = None, capture: Collection[str] = (), **target_side: Any,
    ) -> Any:  # fmt: skip
        """Logits [B T V] of the token after each target position.

        `target_side` are `target_mask` and `target_segments`, as in `hidden`. With `capture`, (logits, {name: array});
        names are those of `capture` after "encoder." or "decoder.".
        """
        keys = split_key(key, 2)
        memory, encoder = self.encode(source, mask=source_mask, segments=source_segments, key=keys[0], capture=capture)
        source_side = {"source_mask": source_mask, "source_segments": source_segments}
        hidden, decoder = self.hidden(target, memory, **source_side, **target_side, key=keys[1], capture=capture)
        logits = self.logits(hidden)
        captured = {f"encoder.{name}": x for name, x in encoder.captured.items()}
        captured |= {f"decoder.{name}": x for name, x in decoder.captured.items()}
        return (logits, captured) if capture else logits

    def encode(
        self, source: Source, *, mask: Any = None, segments: Source | None = None,
        key: Array | None = None, capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B S D"], Beside]:  # fmt: skip
        """The memory [B S D]; what was captured, and auxiliary losses."""
        check_captures(capture, CAPTURES)
        embed_key, layers_key = split_key(key, 2)
        embedding = self.target_embedding if self.source_embedding is None else self.source_embedding
        if segments is not None:
            positions = F.positions_in_segments(segments)
        else:
            positions = counted_positions(source, self.config.padding_token, self.config.max_length)
        x = self.source_positions(embedding(source), positions, key=embed_key)
        mask = token_mask(mask) & F.AttentionMask(segments=segments)
        own = [name for name in capture if name != "cross_attention_weights"]
        return self.encoder(x, mask=mask, key=layers_key, capture=own)

    def decode(self, target: Target, memory: Float[Array, "B S D"], **how: Any) -> Float[Array, "B T V"]:
        """Logits [B T V] given the memory; arguments as in `hidden`."""
        return self.logits(self.hidden(target, memory, **how)[0])

    def hidden(
        self, target: Target, memory: Float[Array, "B S D"], *, source_mask: Any = None, target_mask: Any = None,
        source_segments: Source | None = None, target_segments: Target | None = None,
        key: Array | None = None, capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T E"], Beside]:  # fmt: skip
        """The states h_t that `logits` and the fused loss take, as wide as the vectors of tokens; what was captured, and
        auxiliary losses.

        Raises:
          ValueError: segments of one side alone, or an unknown name in `capture`.
        """
        check_captures(capture, CAPTURES)
        embed_key, layers_key = split_key(key, 2)
        positions = None if target_segments is None else F.positions_in_segments(target_segments)
        x = self.target_positions(self.target_embedding(target), positions, key=embed_key)
        mask = F.AttentionMask(causal=True, segments=target_segments) & token_mask(target_mask)
        across = cross_mask(source_mask, target_segments, source_segments)
        seen = {"memory": memory, "memory_mask": across}
        states, beside = self.decoder(x, mask=mask, **seen, key=layers_key, capture=capture)
        return self.output.projected(states), beside

    def start_cache(self, memory: Float[Array, "B S D"], length: int, *, source_mask: Any = None) -> DecoderCache:
        """An empty cache with room for `length` target tokens, holding the memory's keys and values.

        Raises:
          ValueError: `length` exceeds max_length, or `source_mask` depends on the query.
        """
        B, limit = memory.shape[0], self.config.max_length
        if not 1 <= length <= limit:
            raise ValueError(f"a cache has between 1 and max_length={limit} tokens, got {length}")
        mask = memory_mask(source_mask, B, memory.shape[1])
        return DecoderCache.of(self.decoder.start_cache(B, length), self.decoder.memory_keys_values(memory), mask)

    def extend(self, target: Target, cache: DecoderCache) -> tuple[Float[Array, "B T V"], DecoderCache]:
        """Logits of the next T tokens after those in the cache, and the cache with them.

        The caller sees to it that they fit: past its end, the oldest entries are overwritten.
        """
        positions, history = cache.history.reserve(target.shape[1])
        x = self.target_positions(self.target_embedding(target), positions)
        mask = F.AttentionMask(causal=True, query_positions=positions)
        seen = {"memory": cache.memory, "memory_mask": token_mask(cache.memory_mask), "cache": history}
        states, beside = self.decoder(x, mask=mask, **seen)
        return self.logits(self.output.projected(states)), dataclasses.replace(cache, history=beside.cache)

    def logits(self, hidden: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """W_o h_t in the policy's output dtype: the numerator of equation 10 before its softmax."""
        return self.output(hidden, self.target_embedding)

    def output_weights(self) -> tuple[Float[Array, "E V"], Float[Array, "V"] | None]:
        """W_o and its bias, for `functional.fused_cross_entropy`."""
        return self.output.weights(self.target_embedding)
