"""Encoder and decoder layers (equations 7 and 9)."""

from collections.abc import Collection
from typing import Any, NamedTuple

from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import POSITIVE, ConfigError, field, one_of
from .config import LAYERS, LayerConfig, ModelConfig
from .layers import split_key
from .module import Module
from .parameters import ones

Losses = dict[str, Float[Array, ""]]


@LAYERS.register("transformer")
class TransformerLayerConfig(LayerConfig):
    """Attention, then a feed-forward network, each added to the stream.

    Attributes:
      norm_position: place of the norm in each sublayer: "post" (the paper): norm(x + sublayer(x)); "pre":
        x + sublayer(norm(x)); "output": x + norm(sublayer(x)) (OLMo 2); "sandwich": x + norm'(sublayer(norm(x)))
        (Ding et al., 2021). All but the first add a final norm to each stack.
      final_norm: add a norm at the end of each stack, unless norm_position="post"; False: none (early fine-tunings of OPT).
      parallel: attention and feed-forward read the same normed stream and are added together (Wang & Komatsuzaki,
        2021); with norm_position="pre", and not of layers that attend to a memory.
      shared_norm: parallel sublayers read one normed stream; False: each norms it for itself (GPT-NeoX).
      attention_norm: norm what attention reads; False: it reads the stream as it is (ModernBERT's first layer, whose
        embeddings are normed); with norm_position="pre".
      layer_scale: multiply the output of each sublayer by learned gains that start at this (Touvron et al., 2021); None:
        do not.
    """

    norm_position: str = field("post", one_of("post", "pre", "output", "sandwich"))
    parallel: bool = False
    shared_norm: bool = True
    attention_norm: bool = True
    layer_scale: float | None = field(None, POSITIVE)
    final_norm: bool = True

    def check(self) -> None:
        if self.parallel and self.norm_position != "pre":
            raise ConfigError(f"parallel needs norm_position='pre', got {self.norm_position!r}")
        if not (self.parallel or self.shared_norm):
            raise ConfigError("shared_norm=False goes with parallel=True: sublayers one after the other share none")
        if not self.attention_norm and (self.norm_position != "pre" or self.parallel):
            raise ConfigError("attention_norm=False goes with norm_position='pre' and parallel=False")
        if self.layer_scale is not None and self.parallel:
            raise ConfigError("layer_scale goes with parallel=False: sublayers that are added together share one gain")
        if self.norm_position == "post" and not self.final_norm:
            raise ConfigError("final_norm=False goes with another norm_position than 'post', which adds none")

    @property
    def ends_normed(self) -> bool:
        """Says that a stack has no norm at its end: the stream after a layer is normed, or shall not be."""
        return self.norm_position == "post" or not self.final_norm

    def check_cross(self) -> None:
        if self.parallel:
            raise ConfigError("layer.parallel is not for layers that attend to a memory; leave it False")

    def make(self, model: ModelConfig, *, cross: bool, rngs: nnx.Rngs) -> "EncoderLayer":
        return (DecoderLayer if cross else EncoderLayer)(model, rngs=rngs)


class LayerOutput(NamedTuple):
    """The results of a layer beside the stream.

    Attributes:
      cache: with the keys and values of its tokens; None if it was given none.
      captured: what was asked for, by name.
      losses: auxiliary losses, by name.
    """

    cache: Any
    captured: dict[str, Array]
    losses: Losses


class Residual(Module):
    """x and a sublayer, with norms and gains where the config puts them and dropout on the sublayer's output."""

    def __init__(self, model: ModelConfig, *, normed: bool = True):
        place, self.model, start = model.layer.norm_position, model, model.layer.layer_scale
        self.norm = model.norm.make(model) if place != "output" and normed else None
        self.output_norm = model.norm.make(model) if place in ("output", "sandwich") else None
        self.gain = None if start is None else ones(model, {"model": model.d_model}, times=start)

    def inner(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns what the sublayer sees: the stream, normed where a norm comes before."""
        before = self.norm is not None and self.model.layer.norm_position in ("pre", "sandwich")
        return self.norm(x) if before else x

    def __call__(self, x: Float[Array, "B T D"], update: Float[Array, "B T D"], key: Array | None):
        """The stream after the sublayer's output `update`."""
        update = update if self.output_norm is None else self.output_norm(update)
        update = update if self.gain is None else update * self.gain[...].astype(update.dtype)
        x = x + F.dropout(update, self.model.dropout_rate, key)
        return self.norm(x) if self.model.layer.norm_position == "post" else x


class EncoderLayer(Module):
    """Self-attention, then the feed-forward network (equation 7). Under a causal mask, a layer of a causal model.

    Z' = LayerNorm(X + MHA(X, X));  Z = LayerNorm(Z' + FFN(Z'))          (post-norm)
    """

    def __init__(self, model: ModelConfig, *, rngs: nnx.Rngs):
        self.attention = model.attention.make(model, rngs=rngs)
        self.feed_forward = model.feed_forward.make(model, rngs=rngs)
        self.attention_residual = Residual(model, normed=model.layer.attention_norm)
        self.parallel = model.layer.parallel
        self.feed_forward_residual = None if self.parallel and model.layer.shared_norm else Residual(model)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: F.Mask | None = None,
        bias: Float[Array, "b N T S"] | None = None,
        cache: Any = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], LayerOutput]:
        """The next stream, and what comes beside it.

        Args:
          x: the stream.
          mask: over the keys; its query positions are where the tokens of `x` stand.
          bias: added to the attention scores.
          cache: of this layer, with room for the tokens of x.
          key: for dropout.
          capture: of "attention_weights" and "residual".
        """
        keys = split_key(key, 4)
        inner = self.attention_residual.inner(x)
        how = {"mask": mask, "bias": bias, "cache": cache, "weights": "attention_weights" in capture}
        attended = self.attention(inner, key=keys[0], **how)
        if self.parallel:
            inner = inner if self.feed_forward_residual is None else self.feed_forward_residual.inner(x)
            update, losses = _with_losses(self.feed_forward(inner, key=keys[2]))
            x = self.attention_residual(x, attended.output + update, keys[1])
        else:
            x = self.attention_residual(x, attended.output, keys[1])
            update, losses = _with_losses(self.feed_forward(self.feed_forward_residual.inner(x), key=keys[2]))
            x = self.feed_forward_residual(x, update, keys[3])
        found = {"attention_weights": attended.weights, "residual": x}
        return x, LayerOutput(attended.cache, {name: found[name] for name in capture}, losses)


class DecoderLayer(EncoderLayer):
    """Causal self-attention, cross-attention to the memory (equation 9), feed-forward.

    Z'  = LayerNorm(Y + MHA(Y, Y; causal))
    Z'' = LayerNorm(Z' + MHA(Z', memory)),   softmax(Q_dec K_encᵀ / √d_k) V_enc per head
    Z   = LayerNorm(Z'' + FFN(Z''))                                        (post-norm)
    """

    def __init__(self, model: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(model, rngs=rngs)
        self.cross_attention = model.attention.make(model, rngs=rngs)
        self.cross_attention_residual = Residual(model)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory: Any,
        *,
        mask: F.Mask,
        bias: Float[Array, "b N T S"] | None = None,
        memory_mask: F.Mask | None = None,
        cache: Any = None,
        key: Array | None = None,
        capture: Collection[str] = (),
    ) -> tuple[Float[Array, "B T D"], LayerOutput]:
        """The next stream, and what comes beside it.

        Args:
          x: the target side's stream.
          memory: [B S D], or its keys and values: `cross_attention.keys_values(memory)`.
          mask, bias, cache: of the self-attention (causal), as in `EncoderLayer`.
          memory_mask: over the memory.
          key: for dropout.
          capture: of "attention_weights", "cross_attention_weights", "residual".
        """
        keys = split_key(key, 6)
        inner = self.attention_residual.inner(x)
        how = {"mask": mask, "bias": bias, "cache": cache, "weights": "attention_weights" in capture}
        attended = self.attention(inner, key=keys[0], **how)
        x = self.attention_residual(x, attended.output, keys[1])

        inner = self.cross_attention_residual.inner(x)
        how = {"mask": memory_mask, "weights": "cross_attention_weights" in capture}
        across = self.cross_attention(inner, memory, key=keys[2], **how)
        x = self.cross_attention_residual(x, across.output, keys[3])

        update, losses = _with_losses(self.feed_forward(self.feed_forward_residual.inner(x), key=keys[4]))
        x = self.feed_forward_residual(x, update, keys[5])
        found = {"attention_weights": attended.weights, "cross_attention_weights": across.weights, "residual": x}
        return x, LayerOutput(attended.cache, {name: found[name] for name in capture}, losses)


def _with_losses(found: Any) -> tuple[Array, Losses]:
    """The output of a feed-forward network, and its auxiliary losses, of which it may have none."""
    return found if isinstance(found, tuple) else (found, {})
