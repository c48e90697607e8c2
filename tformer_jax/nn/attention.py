"""Multi-head attention as a module: the projections, what is done to heads, and how a cache takes part."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import COUNT, POSITIVE, RUN, SHARE, TRAINING, ConfigError, field, one_of
from ..functional.kernels import KERNELS
from ..functional.numbers import is_off
from .cache import KVCache
from .config import ATTENTIONS, NORMS, AttentionConfig, ModelConfig
from .module import Module
from .parameters import described, kernel, zeros
from .parametrization import attention_scale
from .partitioning import spread_queries

KeysValues = tuple[Float[Array, "B S K H"], Float[Array, "B S K Hv"]]


@ATTENTIONS.register("multi_head")
class MultiHeadAttention(AttentionConfig):
    """Multi-head attention, in which several query heads may share keys and values.

    Attributes:
      num_heads: N, the number of query heads.
      num_kv_heads: K, the number of key/value heads, a divisor of num_heads; None: num_heads.
      head_dim: H, the width of a head; None: d_model / num_heads.
      window: number of tokens that a token sees: of a causal model the last ones, itself included; of others as many
        on the other side too; None: all.
      scale: multiplies q kᵀ; None: 1 / √H.
      softcap: c of c tanh(score / c), on the scaled scores (Gemma 2); None: no cap.
      qk_norm: normalise queries and keys, each head by itself (Henry et al., 2020).
      joint_qk_norm: normalise all heads together instead of each by itself (OLMo 2); with qk_norm=True.
      own_qk_norms: give each head gains of its own in those norms (StableLM); with qk_norm=True.
      qk_norm_kind: norm of queries and keys: "rms", or "layer", which subtracts the mean.
      qk_norm_bias: add a shift in those norms; with qk_norm_kind="layer".
      qkv_clip: c, to which queries, keys and values are clipped as they are projected, at -c too (OLMo); None: not at all.
      qkv_bias: add biases in the projections to queries, keys and values.
      output_bias: add biases in the projection of the heads.
      dropout_rate: dropout rate of the attention weights.
      implementation: a kernel's name, see `functional.scaled_dot_product_attention`.
    """

    num_heads: int = field(8, COUNT)
    num_kv_heads: int | None = field(None, COUNT)
    head_dim: int | None = field(None, COUNT)
    window: int | None = field(None, COUNT)
    scale: float | None = field(None, POSITIVE)
    softcap: float | None = field(None, POSITIVE)
    qk_norm: bool = False
    joint_qk_norm: bool = False
    own_qk_norms: bool = False
    qk_norm_kind: str = field("rms", one_of("rms", "layer"))
    qk_norm_bias: bool = False
    qkv_clip: float | None = field(None, POSITIVE)
    qkv_bias: bool = True
    output_bias: bool = True
    dropout_rate: float = field(0.0, SHARE, part=TRAINING, traced=True)
    implementation: str = field("auto", among=KERNELS, part=RUN)

    def check(self) -> None:
        if self.num_heads % self.kv_heads:
            raise ConfigError(f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}")
        for name in ("joint_qk_norm", "own_qk_norms", "qk_norm_bias"):
            if getattr(self, name) and not self.qk_norm:
                raise ConfigError(f"{name}=True goes with qk_norm=True: without it, there is no norm")
        if self.joint_qk_norm and self.own_qk_norms:
            raise ConfigError(
                "joint_qk_norm=True and own_qk_norms=True exclude each other: all heads together, or each"
            )
        if self.qk_norm_bias and self.qk_norm_kind != "layer":
            raise ConfigError(f"qk_norm_bias=True goes with qk_norm_kind='layer', got {self.qk_norm_kind!r}")

    @property
    def kv_heads(self) -> int:
        """The number of key/value heads, K."""
        return self.num_kv_heads or self.num_heads

    def head_width(self, d_model: int) -> int:
        """Returns the width of a head, H.

        Raises:
          ConfigError: the heads do not divide the model's width.
        """
        if self.head_dim is None and d_model % self.num_heads:
            raise ConfigError(
                f"d_model must be divisible by attention.num_heads unless attention.head_dim is given, "
                f"got d_model={d_model}, attention.num_heads={self.num_heads}"
            )
        return self.head_dim or d_model // self.num_heads

    def check_model(self, model: ModelConfig) -> None:
        self.head_width(model.d_model)

    def make(self, model: ModelConfig, *, rngs: nnx.Rngs) -> "Attention":
        return Attention(model, rngs=rngs)

    def start_cache(
        self, model: ModelConfig, layers: tuple[int, ...], batch_size: int, slots: int, at_once: int | None = None
    ) -> KVCache:
        shape = (*layers, batch_size, slots, self.kv_heads, self.head_width(model.d_model))
        return KVCache.empty(shape, model.dtypes.compute, self.window, at_once)


class EachHead(Module):
    """A norm of heads [B T N H] in which each has parameters of its own."""

    def __init__(self, model: ModelConfig, norm: Any, heads: Mapping[str, int]):
        (_, count), head = heads.items()
        self.norms = jax.vmap(lambda _: described(norm.make(model, dict([head]))))(jnp.arange(count))

    def __call__(self, heads: Float[Array, "B T N H"]) -> Float[Array, "B T N H"]:
        return jax.vmap(lambda norm, x: norm(x), in_axes=(0, 2), out_axes=2)(self.norms, heads)


def _heads_norm(model: ModelConfig, heads: Mapping[str, int]) -> Any:
    """The norm of queries or keys, of heads with these axes: as the model's norm, but for what `qk_norm_kind` says."""
    config = model.attention
    kind = NORMS[config.qk_norm_kind]
    taken = {n: x for n, x in vars(model.norm).items() if n in ("eps", "unit_offset")}
    norm = kind(**taken, **({"bias": config.qk_norm_bias} if config.qk_norm_kind == "layer" else {}))
    if config.own_qk_norms:
        return EachHead(model, norm, heads)
    return norm.make(model, heads if config.joint_qk_norm else {"head": heads["head"]})


class Attended(NamedTuple):
    """The results of attention: its output [B T D], the cache with its keys and values, and the weights if asked for."""

    output: Float[Array, "B T D"]
    cache: Any = None
    weights: Float[Array, "B N T S"] | None = None


class Attention(Module):
    """`functional.multi_head_attention` with what the config adds: norms of queries and keys, their rotation, a window.

    Attributes:
      q_norm, k_norm: modules of heads [B T N H], before they are turned, or None; a subclass may put others there.
    """

    def __init__(self, model: ModelConfig, *, rngs: nnx.Rngs):
        self.model = model
        config, D = model.attention, {"model": model.d_model}
        H = {"head": config.head_width(model.d_model)}
        queries, keys = {"heads": config.num_heads} | H, {"kv_heads": config.kv_heads} | H
        self.w_q = kernel(model, rngs, D | queries, contracted=("model",))
        self.w_k = kernel(model, rngs, D | keys, contracted=("model",))
        self.w_v = kernel(model, rngs, D | keys, contracted=("model",))
        self.w_o = kernel(model, rngs, queries | D, contracted=("heads", "head"), residual=True)
        self.b_q = zeros(model, queries) if config.qkv_bias else None
        self.b_k = zeros(model, keys) if config.qkv_bias else None
        self.b_v = zeros(model, keys) if config.qkv_bias else None
        self.b_o = zeros(model, D) if config.output_bias else None
        self.q_norm = nnx.data(_heads_norm(model, queries) if config.qk_norm else None)
        self.k_norm = nnx.data(_heads_norm(model, keys) if config.qk_norm else None)

    def params(self, dtype: Any) -> F.AttentionParams:
        """The parameters as the pure function takes them, in the compute dtype."""
        held = (getattr(self, name) for name in F.AttentionParams._fields)
        return F.AttentionParams(*(None if p is None else p[...].astype(dtype) for p in held))

    def keys_values(self, memory: Float[Array, "B S C"]) -> KeysValues:
        """The keys and values of a memory, for `context`: computed once for all tokens that will look at it."""
        params = self.params(memory.dtype)
        pairs = (params.w_k, params.b_k), (params.w_v, params.b_v)
        k, v = (self._clipped(F.project_heads(memory, *pair)) for pair in pairs)
        return k if self.k_norm is None else self.k_norm(k), v  # [B S K H], [B S K Hv]

    def _clipped(self, heads: Float[Array, "B T N H"]) -> Float[Array, "B T N H"]:
        limit = self.model.attention.qkv_clip
        return heads if limit is None else jnp.clip(heads, -limit, limit)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S C"] | KeysValues | None = None,
        *,
        mask: F.Mask | None = None,
        bias: Float[Array, "b N T S"] | None = None,
        cache: KVCache | None = None,
        key: Array | None = None,
        weights: bool = False,
    ) -> Attended:
        """Attention of the tokens of x to each other, to those in a cache too, or to a context.

        Args:
          x: the stream.
          context: the memory of cross-attention, or its `keys_values`; None: x itself (self-attention), in which
            heads are turned by their positions and the config's window holds.
          mask: over the keys; its query positions are where the tokens of x stand.
          bias: added to the scores.
          cache: of this layer, with room for the tokens of x.
          key: for dropout of the weights.
          weights: hand them out, without dropout.
        """
        config, taken, alone = self.model.attention, {"cache": cache}, context is None
        mask = F.AttentionMask() & mask
        if alone and config.window is not None:
            mask = mask & F.AttentionMask(window=config.window)
        if cache is not None:
            mask = mask.placed(key_positions=cache.positions)
        elif alone and mask.key_positions is None:  # the keys are the tokens of x
            mask = mask.placed(key_positions=mask.query_positions)
        scoring = {"mask": mask, "bias": bias, "scale": attention_scale(self.model), "logit_softcap": config.softcap}

        def prepare(q, k, v):
            q = self._clipped(q)
            if not isinstance(context, tuple):
                k, v = self._clipped(k), self._clipped(v)
            q = q if self.q_norm is None else self.q_norm(q)
            k = k if self.k_norm is None or isinstance(context, tuple) else self.k_norm(k)
            if alone:
                positions = mask.query_block(0, x.shape[1])  # [b T]
                q, k = (self.model.positions.turn(heads, positions) for heads in (q, k))
            if cache is not None:
                taken["cache"] = cache.write(k, v)
                k, v = taken["cache"].keys, taken["cache"].values  # [B S K H], old tokens and new ones
            if weights:
                taken["weights"] = F.attention_weights(q, k, **scoring, implementation=config.implementation)
            return q, k, v

        drops = key is not None and not is_off(config.dropout_rate)
        # What is dropped is drawn for all weights at once, so that it is the same on any mesh.
        kernel = config.implementation if drops else spread_queries(config.implementation, x.shape[1])
        dropout = {"dropout_rate": config.dropout_rate, "key": key} if drops else {}
        context = x if alone else context
        how = {"prepare": prepare, "implementation": kernel, **scoring, **dropout}
        out = F.multi_head_attention(x, context, self.params(x.dtype), **how)
        return Attended(out, taken["cache"], taken.get("weights"))
