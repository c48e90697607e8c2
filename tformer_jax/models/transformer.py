"""The encoder-decoder Transformer (equation 1; Vaswani et al., 2017)."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import TransformerConfig, check_choice
from ..nn import DecoderLayer, Embedding, EncoderLayer, Positions, Stack
from ..nn.layers import glorot, split_key

CAPTURES = ("attention_weights", "cross_attention_weights", "residual")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderCache:
    """What decoding keeps: keys and values of the target so far and of the memory.

    Attributes:
      keys_values: of the target, a pair of [L B T K H] with room for T tokens.
      memory_keys_values: of the memory, a pair of [L B S K H].
      memory_mask: over the memory, booleans [B 1 1 S], or None.
      length: tokens in the cache, the same for every row.
    """

    keys_values: Any
    memory_keys_values: Any
    memory_mask: Any
    length: Any

    def map_history(self, change: Callable[[Array, int], Array]) -> "DecoderCache":
        """`change(array, batch axis)` applied to what was decoded so far: how a beam reorders its rows."""
        return dataclasses.replace(self, keys_values=jax.tree.map(lambda x: change(x, 1), self.keys_values))

    def map_rows(self, change: Callable[[Array, int], Array]) -> "DecoderCache":
        """`change(array, batch axis)` applied to everything that has rows."""
        memory = jax.tree.map(lambda x: change(x, 1), self.memory_keys_values)
        mask = jax.tree.map(lambda x: change(x, 0), self.memory_mask)
        return dataclasses.replace(self.map_history(change), memory_keys_values=memory, memory_mask=mask)


class Transformer(nnx.Module):
    """Encoder: source to contextual embeddings. Decoder: memory and tokens so far to the next token.

        P(y | x) = Π_t P(y_t | y_<t, encode(x))                                    (equation 1)

    In every method, `source_mask` says which source tokens may be attended (by the encoder and by
    the decoder's cross-attention): `AttentionMask(lengths=...)`, or booleans [B S] or [B 1 1 S]
    (`F.padding_mask`). `target_mask` is the same for the target, beside causality. Segments, ids
    [B S] and [B T], pack several examples into a row: attention stays within a segment (source
    and target of an example share its id) and positions restart at each. `key` is for dropout;
    None means deterministic. `capture` names what to hand out beside the result, of
    "attention_weights", "cross_attention_weights" [L B N T S] and "residual" [L B T D].
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.target_embedding = Embedding(config.vocab_size, config, rngs=rngs)
        source_vocab_size = config.source_vocab_size or config.vocab_size
        self.source_embedding = None if config.share_embeddings else Embedding(source_vocab_size, config, rngs=rngs)
        self.source_positions = Positions(config, rngs=rngs)
        self.target_positions = Positions(config, rngs=rngs)
        self.encoder = Stack(EncoderLayer, config.num_layers, config, rngs=rngs)
        self.decoder = Stack(DecoderLayer, config.num_decoder_layers or config.num_layers, config, rngs=rngs)
        self.w_out = None if config.tie_output else glorot(config, rngs, (config.d_model, config.vocab_size), inputs=1)

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        *,
        source_mask: Any = None,
        target_mask: Any = None,
        source_segments: Int[Array, "B S"] | None = None,
        target_segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> Any:
        """Logits [B T V] of the token after each target position.

        With `capture`, (logits, {"encoder": {name: array}, "decoder": {name: array}}).
        """
        encoder_key, decoder_key = split_key(key, 2)
        memory = self.encode(source, mask=source_mask, segments=source_segments, key=encoder_key, capture=capture)
        memory, encoder_captured = memory if capture else (memory, {})
        logits = self.decode(
            target,
            memory,
            source_mask=source_mask,
            target_mask=target_mask,
            source_segments=source_segments,
            target_segments=target_segments,
            key=decoder_key,
            capture=capture,
        )
        if not capture:
            return logits
        return logits[0], {"encoder": encoder_captured, "decoder": logits[1]}

    def encode(
        self,
        source: Int[Array, "B S"],
        *,
        mask: Any = None,
        segments: Int[Array, "B S"] | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> Any:
        """The memory [B S D]; with `capture`, (memory, {name: array})."""
        _check_captures(capture)
        embed_key, layers_key = split_key(key, 2)
        embedding = self.target_embedding if self.source_embedding is None else self.source_embedding
        positions = None if segments is None else F.positions_in_segments(segments)
        x = self._drop(self.source_positions(embedding(source), positions), embed_key)
        mask = _token_mask(mask) & F.AttentionMask(segments=segments)

        def body(layer, x, _, layer_key):
            return layer(x, mask=mask, key=layer_key, capture=capture)

        memory, captured = self.encoder(body, x, key=layers_key)
        return (memory, captured) if capture else memory

    def decode(
        self,
        target: Int[Array, "B T"],
        memory: Float[Array, "B S D"],
        *,
        source_mask: Any = None,
        target_mask: Any = None,
        source_segments: Int[Array, "B S"] | None = None,
        target_segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> Any:
        """Logits [B T V] given the memory; with `capture`, (logits, {name: array})."""
        _check_captures(capture)
        embed_key, layers_key = split_key(key, 2)
        positions = None if target_segments is None else F.positions_in_segments(target_segments)
        x = self._drop(self.target_positions(self.target_embedding(target), positions), embed_key)
        if (source_segments is None) != (target_segments is None):
            raise ValueError("source_segments and target_segments go together: an example has an id in both")
        across = None if target_segments is None else (target_segments, source_segments)
        mask = F.AttentionMask(causal=True, segments=target_segments) & _token_mask(target_mask)
        memory_mask = F.AttentionMask(segments=across) & _token_mask(source_mask)

        def body(layer, x, _, layer_key):
            kv = layer.cross_attention.keys_values(memory)
            x, _, captured = layer(x, kv, mask=mask, memory_mask=memory_mask, key=layer_key, capture=capture)
            return x, captured

        hidden, captured = self.decoder(body, x, key=layers_key)
        logits = self.logits(hidden)
        return (logits, captured) if capture else logits

    def start_cache(self, memory: Float[Array, "B S D"], length: int, *, source_mask: Any = None) -> DecoderCache:
        """An empty cache with room for `length` target tokens, holding the memory's keys and values.

        Raises:
          ValueError: `length` exceeds max_length, or `source_mask` depends on the query.
        """
        config, B = self.config, memory.shape[0]
        if length > config.max_length:
            raise ValueError(f"a cache of {length} tokens exceeds max_length={config.max_length}")
        memory_kv = jax.vmap(lambda layer: layer.cross_attention.keys_values(memory))(self.decoder.layers)
        empty = jnp.zeros((self.decoder.num_layers, B, length, config.kv_heads, config.head_width), memory.dtype)
        mask = _token_mask(source_mask)
        if mask.causal or mask.window is not None:
            raise ValueError("the source_mask of a cache must be the same for every query: no causal, no window")
        if mask.hides_nothing:
            allowed = None
        else:
            allowed = mask.to_array(1, memory.shape[1])
            allowed = jnp.broadcast_to(allowed, (B, *allowed.shape[1:]))
        return DecoderCache((empty, empty), memory_kv, allowed, jnp.int32(0))

    def extend(self, target: Int[Array, "B T"], cache: DecoderCache) -> tuple[Float[Array, "B T V"], DecoderCache]:
        """Logits of the next T tokens after those in the cache, and the cache with them.

        The caller sees to it that they fit: past its end, the last entries would be overwritten.
        """
        T = target.shape[1]
        positions = cache.length + jnp.arange(T)
        x = self.target_positions(self.target_embedding(target), positions)
        mask = F.AttentionMask(causal=True, query_positions=positions)

        def body(layer, x, per_layer, _):
            cached, memory_kv = per_layer

            def append(new):
                return jax.tree.map(
                    lambda c, n: jax.lax.dynamic_update_slice(c, n, (0, cache.length, 0, 0)), cached, new
                )

            x, kv, _ = layer(x, memory_kv, mask=mask, memory_mask=cache.memory_mask, extend_cache=append)
            return x, kv

        hidden, kv = self.decoder(body, x, (cache.keys_values, cache.memory_keys_values))
        return self.logits(hidden), dataclasses.replace(cache, keys_values=kv, length=cache.length + T)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """W_o h_t in the policy's output dtype: the numerator of equation 10 before its softmax."""
        w_out = self.target_embedding.table[...].T if self.w_out is None else self.w_out[...]
        logits = jnp.einsum("BTD,DV->BTV", hidden, w_out.astype(hidden.dtype), preferred_element_type=jnp.float32)
        return logits.astype(self.config.dtypes.output)

    def _drop(self, x: Array, key: Array | None) -> Array:
        return F.dropout(x, self.config.dropout_rate, key)


def _token_mask(mask: Any) -> F.AttentionMask:
    """An AttentionMask over keys; a rank-2 array says of each token whether it may be attended."""
    if mask is not None and not isinstance(mask, F.AttentionMask) and jnp.ndim(mask) == 2:
        mask = jnp.asarray(mask)[:, None, None, :]
    return F.AttentionMask() & mask


def _check_captures(capture: Collection[str]) -> None:
    for name in capture:
        check_choice("capture", name, CAPTURES)
