"""The encoder-decoder Transformer (equation 1; Vaswani et al., 2017)."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import TransformerConfig
from ..nn import DecoderCache, DecoderLayer, Embedding, EncoderLayer, KVCache, Output, Positions, Stack
from ..nn.layers import split_key
from .inputs import check_captures, cross_mask, memory_mask, token_mask

Source, Target = Int[Array, "B S"], Int[Array, "B T"]
CAPTURES = ("attention_weights", "cross_attention_weights", "residual")


class Transformer(nnx.Module):
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

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        config.check_for("Transformer")
        self.config = config
        self.target_embedding = Embedding(config.vocab_size, config, rngs=rngs)
        source_size = config.source_vocab_size or config.vocab_size
        self.source_embedding = None if config.share_embeddings else Embedding(source_size, config, rngs=rngs)
        self.source_positions = Positions(config, rngs=rngs)
        self.target_positions = Positions(config, rngs=rngs)
        layers = config.num_decoder_layers or config.num_layers
        self.encoder = Stack(EncoderLayer, config.num_layers, config, rngs=rngs, bidirectional=True)
        self.decoder = Stack(DecoderLayer, layers, config, rngs=rngs, bidirectional=False)
        self.output = Output(config, rngs=rngs)

    def __call__(
        self, source: Source, target: Target, *, source_mask: Any = None, source_segments: Source | None = None,
        key: Array | None = None, capture: Collection[str] = (), **target_side: Any,
    ) -> Any:  # fmt: skip
        """Logits [B T V] of the token after each target position.

        `target_side` are `target_mask` and `target_segments`, as in `hidden`. With `capture`,
        (logits, {"encoder": {name: array}, "decoder": {name: array}}).
        """
        keys = split_key(key, 2)
        memory = self.encode(source, mask=source_mask, segments=source_segments, key=keys[0], capture=capture)
        memory, encoder_captured = memory if capture else (memory, {})
        source_side = {"source_mask": source_mask, "source_segments": source_segments}
        hidden, captured = self.hidden(target, memory, **source_side, **target_side, key=keys[1], capture=capture)
        logits = self.logits(hidden)
        return (logits, {"encoder": encoder_captured, "decoder": captured}) if capture else logits

    def encode(
        self, source: Source, *, mask: Any = None, segments: Source | None = None,
        key: Array | None = None, capture: Collection[str] = (),
    ) -> Any:  # fmt: skip
        """The memory [B S D]; with `capture`, (memory, {name: array})."""
        check_captures(capture, CAPTURES)
        embed_key, layers_key = split_key(key, 2)
        embedding = self.target_embedding if self.source_embedding is None else self.source_embedding
        positions = None if segments is None else F.positions_in_segments(segments)
        x = self.source_positions(embedding(source), positions, key=embed_key)
        mask = token_mask(mask) & F.AttentionMask(segments=segments)
        memory, captured = self.encoder.self_attend(x, mask, key=layers_key, capture=capture)
        return (memory, captured) if capture else memory

    def decode(self, target: Target, memory: Float[Array, "B S D"], **how: Any) -> Any:
        """Logits [B T V] given the memory; arguments as in `hidden`. With `capture`, (logits, {name: array})."""
        hidden, captured = self.hidden(target, memory, **how)
        logits = self.logits(hidden)
        return (logits, captured) if how.get("capture") else logits

    def hidden(
        self, target: Target, memory: Float[Array, "B S D"], *, source_mask: Any = None, target_mask: Any = None,
        source_segments: Source | None = None, target_segments: Target | None = None,
        key: Array | None = None, capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], dict[str, Array]]:  # fmt: skip
        """The states h_t [B T D] that `logits` and the fused loss take, and what was captured.

        Raises:
          ValueError: segments of one side alone, or an unknown name in `capture`.
        """
        check_captures(capture, CAPTURES)
        embed_key, layers_key = split_key(key, 2)
        positions = None if target_segments is None else F.positions_in_segments(target_segments)
        x = self.target_positions(self.target_embedding(target), positions, key=embed_key)
        mask = F.AttentionMask(causal=True, segments=target_segments) & token_mask(target_mask)
        across = cross_mask(source_mask, target_segments, source_segments)
        bias = self.decoder.position_bias(mask, target.shape[1], target.shape[1])

        def body(layer, x, _, layer_key):
            kv = layer.cross_attention.keys_values(memory)
            how = {"mask": mask, "bias": bias, "memory_mask": across, "key": layer_key, "capture": capture}
            x, _, captured = layer(x, kv, **how)
            return x, captured

        return self.decoder(body, x, key=layers_key)

    def start_cache(self, memory: Float[Array, "B S D"], length: int, *, source_mask: Any = None) -> DecoderCache:
        """An empty cache with room for `length` target tokens, holding the memory's keys and values.

        Raises:
          ValueError: `length` exceeds max_length, or `source_mask` depends on the query.
        """
        B = memory.shape[0]
        history = KVCache.empty(self.config, self.decoder.num_layers, B, length)
        memory_kv = jax.vmap(lambda layer: layer.cross_attention.keys_values(memory))(self.decoder.layers)
        return DecoderCache(history, memory_kv, memory_mask(source_mask, B, memory.shape[1]))

    def extend(self, target: Target, cache: DecoderCache) -> tuple[Float[Array, "B T V"], DecoderCache]:
        """Logits of the next T tokens after those in the cache, and the cache with them.

        The caller sees to it that they fit: past its end, the oldest entries are overwritten.
        """
        positions, history, write = cache.history.reserve(target.shape[1])
        x = self.target_positions(self.target_embedding(target), positions)
        mask = F.AttentionMask(causal=True, query_positions=positions, key_positions=history.positions)
        bias = self.decoder.position_bias(mask, target.shape[1], history.slots)

        def body(layer, x, per_layer, _):
            cached, memory_kv = per_layer
            how = {"mask": mask, "bias": bias, "memory_mask": cache.memory_mask}
            x, kv, _ = layer(x, memory_kv, **how, extend_cache=lambda new: write(cached, new))
            return x, kv

        hidden, kv = self.decoder(body, x, (history.keys_values, cache.memory_keys_values))
        history = dataclasses.replace(history, keys_values=kv)
        return self.logits(hidden), dataclasses.replace(cache, history=history)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """W_o h_t in the policy's output dtype: the numerator of equation 10 before its softmax."""
        return self.output(hidden, self.target_embedding)

    def output_weights(self) -> tuple[Float[Array, "D V"], Float[Array, "V"] | None]:
        """W_o and its bias, for `functional.fused_cross_entropy`."""
        return self.output.weights(self.target_embedding)
