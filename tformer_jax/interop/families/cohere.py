"""Cohere's Command R (2024): parallel sublayers, norms without a shift, logits times a number."""

from ..family import FAMILIES, Family
from ..fields import always, kv_heads, named, same
from ..layers import rope
from ..tensors import row, within
from .shared import GATED, attention, decoder, sizes


@FAMILIES.register("cohere")
class Cohere(Family):
    architectures = {"CohereForCausalLM": "CausalLM", "CohereModel": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(256_000, 8192, 22_528, 40, 64, 8192, eps=("layer_norm_eps", 1e-5), tie=True),
        kv_heads(),
        rope(500_000.0, layout="interleaved"),
        same("logit_scale", "output.scale", 0.0625),
        same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), False),
        named("use_qk_norm", {
            False: {"attention.qk_norm": False, "attention.own_qk_norms": False, "attention.qk_norm_kind": "rms"},
            True: {"attention.qk_norm": True, "attention.own_qk_norms": True, "attention.qk_norm_kind": "layer"},
        }, False),
        always(
            scale_embeddings=False, dropout_rate=0.0, norm=dict(name="layer", bias=False),
            layer=dict(norm_position="pre", parallel=True), feed_forward=dict(name="gated", bias=False),
        ),
    )  # fmt: skip
    rows = decoder([
        *within("self_attn.", "", attention()), *GATED,
        row("input_layernorm.weight", "attention_residual.norm.gamma"),
        row("self_attn.q_norm.weight", "attention.q_norm.norms.gamma"),
        row("self_attn.k_norm.weight", "attention.k_norm.norms.gamma"),
    ])  # fmt: skip
