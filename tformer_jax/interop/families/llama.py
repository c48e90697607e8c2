"""Llama 1 to 3.2 (Touvron et al., 2023; Grattafiori et al., 2024)."""

from ..family import FAMILIES, Family
from ..fields import always, head_dim, kv_heads, same
from ..layers import rope
from .shared import HARMLESS, LLAMA_LAYER, decoder, sizes


@FAMILIES.register("llama")
class Llama(Family):
    architectures = {"LlamaForCausalLM": "CausalLM", "LlamaModel": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(32_000, 4096, 11_008, 32, 32, 2048),
        kv_heads(),
        head_dim(),
        rope(),
        same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), False),
        same("mlp_bias", "feed_forward.bias", False),
        always(
            scale_embeddings=False, dropout_rate=0.0, norm=dict(name="rms"), layer=dict(norm_position="pre"),
            feed_forward=dict(name="gated"),
        ),
    )  # fmt: skip
    harmless = HARMLESS
    rows = decoder(LLAMA_LAYER)
