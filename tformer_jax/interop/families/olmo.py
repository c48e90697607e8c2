"""OLMo 1 and 2 (Groeneveld et al., 2024; OLMo Team, 2025)."""

from ..family import FAMILIES, Family
from ..fields import always, kv_heads, same
from ..layers import rope
from ..tensors import norm, within
from .shared import GATED, LLAMA_LAYER, QK_NORMS, attention, decoder, sizes

_BIASES = same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), False)
_COMMON = dict(scale_embeddings=False, dropout_rate=0.0, feed_forward=dict(name="gated", bias=False))


@FAMILIES.register("olmo")
class Olmo(Family):
    """Its norms have no parameters."""

    architectures = {"OlmoForCausalLM": "CausalLM", "OlmoModel": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(50_304, 4096, 11_008, 32, 32, 2048, eps=None),
        kv_heads(),
        rope(),
        _BIASES,
        same("clip_qkv", "attention.qkv_clip", None),
        always(
            norm=dict(name="layer", eps=1e-5, gain=False, bias=False), layer=dict(norm_position="pre"), **_COMMON
        ),
    )  # fmt: skip
    rows = decoder(LLAMA_LAYER)


@FAMILIES.register("olmo2")
class Olmo2(Family):
    """It norms what sublayers give, and queries and keys of all heads together."""

    architectures = {"Olmo2ForCausalLM": "CausalLM", "Olmo2Model": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(50_304, 4096, 11_008, 32, 32, 2048, eps=("rms_norm_eps", 1e-5)),
        kv_heads(),
        rope(),
        _BIASES,
        always(
            norm=dict(name="rms"), layer=dict(norm_position="output"),
            attention=dict(qk_norm=True, joint_qk_norm=True), **_COMMON,
        ),
    )  # fmt: skip
    rows = decoder([
        *within("self_attn.", "", attention()), *GATED, *QK_NORMS,
        *norm("post_attention_layernorm", "attention_residual.output_norm"),
        *norm("post_feedforward_layernorm", "feed_forward_residual.output_norm"),
    ])  # fmt: skip
