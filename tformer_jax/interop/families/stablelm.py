"""StableLM 2 (Bellagente et al., 2024): a quarter of each head is turned; layer norms."""

from ..family import FAMILIES, Family
from ..fields import always, kv_heads, named, same
from ..layers import rope
from ..tensors import row
from .shared import LLAMA_LAYER, decoder, sizes


@FAMILIES.register("stablelm")
class StableLM(Family):
    architectures = {"StableLmForCausalLM": "CausalLM", "StableLmModel": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(50_304, 2560, 6912, 32, 32, 4096, eps=("layer_norm_eps", 1e-5)),
        kv_heads(default=32),
        rope(fraction=0.25),
        same("use_qkv_bias", "attention.qkv_bias", False),
        named("qk_layernorm", {
            False: {"attention.qk_norm": False, "attention.own_qk_norms": False, "attention.qk_norm_kind": "rms"},
            True: {"attention.qk_norm": True, "attention.own_qk_norms": True, "attention.qk_norm_kind": "layer"},
        }, False),
        same("use_parallel_residual", "layer.parallel", False),
        same("hidden_dropout", "dropout_rate", 0.0),
        always(
            scale_embeddings=False, norm=dict(name="layer"), layer=dict(norm_position="pre"),
            attention=dict(output_bias=False), feed_forward=dict(name="gated", bias=False),
        ),
    )  # fmt: skip
    rows = decoder([
        *LLAMA_LAYER,
        row("self_attn.q_layernorm.norms.[].weight", "attention.q_norm.norms.gamma"),
        row("self_attn.k_layernorm.norms.[].weight", "attention.k_norm.norms.gamma"),
    ])  # fmt: skip
