"""Multi-head attention as a module: the projections, and how they are used with a cache."""

from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import TransformerConfig
from .layers import glorot, zeros

KeysValues = tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]


class Attention(nnx.Module):
    """`functional.multi_head_attention` in two steps, so that keys and values can come from a cache.

    `attention(x, attention.keys_values(context))` is
    `functional.multi_head_attention(x, context, attention.params(x.dtype))`.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, N, K, H = config.d_model, config.num_heads, config.kv_heads, config.head_width
        self.w_q = glorot(config, rngs, (D, N, H), inputs=1)
        self.w_k = glorot(config, rngs, (D, K, H), inputs=1)
        self.w_v = glorot(config, rngs, (D, K, H), inputs=1)
        self.w_o = glorot(config, rngs, (N, H, D), inputs=2)
        self.b_q = zeros(config, N, H) if config.use_bias else None
        self.b_k = zeros(config, K, H) if config.use_bias else None
        self.b_v = zeros(config, K, H) if config.use_bias else None
        self.b_o = zeros(config, D) if config.use_bias else None

    def params(self, dtype: Any) -> F.AttentionParams:
        """The parameters as the pure function takes them, in the compute dtype."""
        held = (getattr(self, name) for name in F.AttentionParams._fields)
        return F.AttentionParams(*(None if p is None else p[...].astype(dtype) for p in held))

    def keys_values(self, context: Float[Array, "B S D"]) -> KeysValues:
        """The keys and values of `context`."""
        params = self.params(context.dtype)
        return F.project_heads(context, params.w_k, params.b_k), F.project_heads(context, params.w_v, params.b_v)

    def __call__(
        self, x: Float[Array, "B T D"], kv: KeysValues, *, mask: Any = None, key: Array | None = None
    ) -> Float[Array, "B T D"]:
        params = self.params(x.dtype)
        heads = F.scaled_dot_product_attention(
            F.project_heads(x, params.w_q, params.b_q),
            *kv,
            mask=mask,
            dropout_rate=self.config.attention_dropout_rate,
            key=key,
            implementation=self.config.attention_implementation,
        )
        return F.combine_heads(heads, params)

    def weights(self, x: Float[Array, "B T D"], kv: KeysValues, *, mask: Any = None) -> Float[Array, "B N T S"]:
        """The attention weights of the same call, without dropout: for capture."""
        params = self.params(x.dtype)
        return F.attention_weights(F.project_heads(x, params.w_q, params.b_q), kv[0], mask=mask)
