"""Encoder and decoder layers (equations 7 and 9), and the stack that scans over them."""

from collections.abc import Callable, Collection
from typing import Any

import jax
from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import TransformerConfig
from .attention import Attention, KeysValues
from .embeddings import PositionBias
from .layers import FeedForward, Norm, split_key
from .parameters import described
from .partitioning import spread_stream

Captured = dict[str, Array]

_REMAT_POLICIES = {"dots": jax.checkpoint_policies.dots_saveable, "full": None}


class Residual(nnx.Module):
    """x and a sublayer, with norms where the config puts them and dropout on the sublayer's output.

    "post" (equation 7): norm(x + sublayer(x)).   "pre": x + sublayer(norm(x)).
    "sandwich": x + norm'(sublayer(norm(x))).
    """

    def __init__(self, config: TransformerConfig):
        self.norm = Norm(config)
        self.output_norm = Norm(config) if config.norm_position == "sandwich" else None
        self.config = config

    def inner(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns what the sublayer sees: the stream, normed where the norm comes before."""
        return x if self.config.norm_position == "post" else self.norm(x)

    def __call__(self, x: Float[Array, "B T D"], update: Float[Array, "B T D"], key: Array | None):
        """The stream after the sublayer's output `update`."""
        update = update if self.output_norm is None else self.output_norm(update)
        x = x + F.dropout(update, self.config.dropout_rate, key)
        return self.norm(x) if self.config.norm_position == "post" else x


class EncoderLayer(nnx.Module):
    """Self-attention, then the feed-forward network (equation 7). Under a causal mask, a layer of a causal model.

    Z' = LayerNorm(X + MHA(X, X));  Z = LayerNorm(Z' + FFN(Z'))          (post-norm)
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.attention = Attention(config, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.attention_residual = Residual(config)
        self.feed_forward_residual = None if config.parallel_block else Residual(config)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: Any = None,
        bias: Float[Array, "b N T S"] | None = None,
        extend_cache: Callable[[KeysValues], KeysValues] | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], KeysValues, Captured]:
        """The next stream, the keys and values, and what was asked for.

        Args:
          x: the stream.
          mask: over the keys; its `query_positions` are where the tokens of `x` stand.
          bias: added to the attention scores.
          extend_cache: maps the new keys and values to all of them, old ones included.
          key: for dropout.
          capture: of "attention_weights" and "residual".
        """
        keys = split_key(key, 4)
        captured: Captured = {}
        inner = self.attention_residual.inner(x)
        update, kv = self._attend(inner, mask, bias, extend_cache, keys[0], capture, captured)
        if self.feed_forward_residual is None:
            update += self.feed_forward(inner, key=keys[2])
            x = self.attention_residual(x, update, keys[1])
        else:
            x = self._feed_forward(self.attention_residual(x, update, keys[1]), keys[2:])
        if "residual" in capture:
            captured["residual"] = x
        return x, kv, captured

    def _attend(self, inner, mask, bias, extend_cache, key, capture, captured):
        """The self-attention's output, and its keys and values."""
        mask = F.AttentionMask() & mask
        seen = {"mask": mask, "bias": bias, "positions": mask.query_block(0, inner.shape[1])}
        kv = self.attention.keys_values(inner, seen["positions"])
        kv = kv if extend_cache is None else extend_cache(kv)
        if "attention_weights" in capture:
            captured["attention_weights"] = self.attention.weights(inner, kv, **seen)
        return self.attention(inner, kv, **seen, key=key), kv

    def _feed_forward(self, x, keys):
        update = self.feed_forward(self.feed_forward_residual.inner(x), key=keys[0])
        return self.feed_forward_residual(x, update, keys[1])


class DecoderLayer(EncoderLayer):
    """Causal self-attention, cross-attention to the memory (equation 9), feed-forward.

    Z'  = LayerNorm(Y + MHA(Y, Y; causal))
    Z'' = LayerNorm(Z' + MHA(Z', memory)),   softmax(Q_dec K_encᵀ / √d_k) V_enc per head
    Z   = LayerNorm(Z'' + FFN(Z''))                                        (post-norm)
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.cross_attention = Attention(config, rngs=rngs)
        self.cross_attention_residual = Residual(config)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory_kv: tuple[Float[Array, "B M K H"], Float[Array, "B M K H"]],
        *,
        mask: Any,
        bias: Float[Array, "b N T S"] | None = None,
        memory_mask: Any = None,
        extend_cache: Callable[[KeysValues], KeysValues] | None = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], KeysValues, Captured]:
        """The next stream, the self-attention's keys and values, and what was asked for.

        Args:
          x: the target side's stream.
          memory_kv: `cross_attention.keys_values(memory)`.
          mask, bias, extend_cache: of the self-attention (causal), as in `EncoderLayer`.
          memory_mask: over the memory.
          key: for dropout.
          capture: of "attention_weights", "cross_attention_weights", "residual".
        """
        keys = split_key(key, 6)
        captured: Captured = {}
        inner = self.attention_residual.inner(x)
        update, kv = self._attend(inner, mask, bias, extend_cache, keys[0], capture, captured)
        x = self.attention_residual(x, update, keys[1])

        inner = self.cross_attention_residual.inner(x)
        if "cross_attention_weights" in capture:
            captured["cross_attention_weights"] = self.cross_attention.weights(inner, memory_kv, mask=memory_mask)
        update = self.cross_attention(inner, memory_kv, mask=memory_mask, key=keys[2])
        x = self.cross_attention_residual(x, update, keys[3])

        x = self._feed_forward(x, keys[4:])
        if "residual" in capture:
            captured["residual"] = x
        return x, kv, captured


class Stack(nnx.Module):
    """`num_layers` layers as one module, each parameter with a leading layer axis, run by `lax.scan`."""

    def __init__(
        self,
        layer: type[EncoderLayer],
        num_layers: int,
        config: TransformerConfig,
        *,
        rngs: nnx.Rngs,
        bidirectional: bool,
    ):
        self.config = config
        self.layers = jax.vmap(lambda key: described(layer(config, rngs=nnx.Rngs(key))))(
            jax.random.split(rngs.params(), num_layers)
        )
        self.num_layers = num_layers
        self.position_bias = PositionBias(config, bidirectional=bidirectional, rngs=rngs)
        self.final_norm = None if config.norm_position == "post" else Norm(config)

    def __call__(self, body: Callable, x: Float[Array, "B T D"], per_layer: Any = None, *, key: Array | None = None):
        """Scans `body(layer, x, per_layer_slice, key) -> (x, outputs)` over the layers.

        Returns the last stream (normed, unless under post-norm) and the outputs, stacked over layers.
        """

        def step(x, slices):
            layer, extra, layer_key = slices
            return body(layer, spread_stream(x), extra, layer_key)

        if self.config.remat != "none":
            step = jax.checkpoint(step, policy=_REMAT_POLICIES[self.config.remat])
        keys = None if key is None else jax.random.split(key, self.num_layers)
        x, outputs = jax.lax.scan(step, x, (self.layers, per_layer, keys), unroll=self.config.scan_unroll)
        return spread_stream(x if self.final_norm is None else self.final_norm(x)), outputs

    def self_attend(
        self, x: Float[Array, "B T D"], mask: F.Mask, *, key: Array | None, capture: Collection[str]
    ) -> tuple[Float[Array, "B T D"], Captured]:
        """Runs layers that have self-attention alone; returns the last stream and what was captured."""
        bias = self.position_bias(mask, x.shape[1], x.shape[1])

        def body(layer, x, _, layer_key):
            x, _, captured = layer(x, mask=mask, bias=bias, key=layer_key, capture=capture)
            return x, captured

        return self(body, x, key=key)
