"""Multi-head attention as a module: the projections, and how they are used with a cache."""

from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import TransformerConfig
from ..functional.numbers import is_off
from .layers import Norm
from .parameters import kernel, zeros
from .parametrization import attention_scale
from .partitioning import spread_queries

KeysValues = tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]


class Attention(nnx.Module):
    """`functional.multi_head_attention` in two steps, so that keys and values can come from a cache.

    `attention(x, attention.keys_values(context))` is
    `functional.multi_head_attention(x, context, attention.params(x.dtype))`, with what the config
    adds: scale and cap of the scores, norms of queries and keys, and (where positions are given) their rotation.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, N, K, H = config.d_model, config.num_heads, config.kv_heads, config.head_width
        self.w_q = kernel(config, rngs, {"model": D, "heads": N, "head": H}, contracted=["model"])
        self.w_k = kernel(config, rngs, {"model": D, "kv_heads": K, "head": H}, contracted=["model"])
        self.w_v = kernel(config, rngs, {"model": D, "kv_heads": K, "head": H}, contracted=["model"])
        axes = {"heads": N, "head": H, "model": D}
        self.w_o = kernel(config, rngs, axes, contracted=["heads", "head"], residual=True)
        self.b_q = zeros(config, {"heads": N, "head": H}) if config.use_bias else None
        self.b_k = zeros(config, {"kv_heads": K, "head": H}) if config.use_bias else None
        self.b_v = zeros(config, {"kv_heads": K, "head": H}) if config.use_bias else None
        self.b_o = zeros(config, {"model": D}) if config.use_bias else None
        self.q_norm = Norm(config, {"head": H}, "rms") if config.qk_norm else None
        self.k_norm = Norm(config, {"head": H}, "rms") if config.qk_norm else None

    def params(self, dtype: Any) -> F.AttentionParams:
        """The parameters as the pure function takes them, in the compute dtype."""
        held = (getattr(self, name) for name in F.AttentionParams._fields)
        return F.AttentionParams(*(None if p is None else p[...].astype(dtype) for p in held))

    def queries(self, x: Float[Array, "B T D"], positions: Int[Array, "#B T"] | None = None) -> Float[Array, "B T N H"]:
        """The queries of `x`, turned by their positions under rotary positions."""
        params = self.params(x.dtype)
        return self._placed(F.project_heads(x, params.w_q, params.b_q), self.q_norm, positions)

    def keys_values(self, context: Float[Array, "B S D"], positions: Int[Array, "#B S"] | None = None) -> KeysValues:
        """The keys and values of `context`, the keys turned by their positions under rotary positions."""
        params = self.params(context.dtype)
        keys = self._placed(F.project_heads(context, params.w_k, params.b_k), self.k_norm, positions)
        return keys, F.project_heads(context, params.w_v, params.b_v)

    def _placed(self, heads: Array, norm: Norm | None, positions: Array | None) -> Array:
        heads = heads if norm is None else norm(heads)
        config = self.config
        if positions is None or config.positions != "rotary":
            return heads
        how = {"base": config.rotary_base, "scaling": config.rotary_scaling, "factor": config.rotary_factor}
        return F.apply_rotary(heads, positions, **how)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        kv: KeysValues,
        *,
        mask: Any = None,
        bias: Float[Array, "b N T S"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        config = self.config
        dropped = key is not None and not is_off(config.attention_dropout_rate)

        def attend(q, k, v, mask, bias):
            dropout = {"dropout_rate": config.attention_dropout_rate, "key": key} if dropped else {}
            how = {"implementation": config.attention_implementation, **self._scoring}
            return F.scaled_dot_product_attention(q, k, v, mask=mask, bias=bias, **how, **dropout)

        seen = self.queries(x, positions), *kv, F.AttentionMask() & mask, bias
        # What is dropped is drawn for all weights at once, so that it is the same on any mesh.
        heads = attend(*seen) if dropped else spread_queries(attend, *seen)
        return F.combine_heads(heads, self.params(x.dtype))

    def weights(
        self,
        x: Float[Array, "B T D"],
        kv: KeysValues,
        *,
        mask: Any = None,
        bias: Float[Array, "b N T S"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
    ) -> Float[Array, "B N T S"]:
        """The attention weights of the same call, without dropout: for capture."""
        return F.attention_weights(self.queries(x, positions), kv[0], mask=mask, bias=bias, **self._scoring)

    @property
    def _scoring(self) -> dict[str, Any]:
        return {"scale": attention_scale(self.config), "logit_softcap": self.config.attention_softcap}
