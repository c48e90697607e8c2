"""Mistral (Jiang et al., 2023): Llama whose layers see a window."""

from ..family import FAMILIES, Family
from ..fields import always, head_dim, kv_heads, same
from ..layers import rope
from .shared import LLAMA_LAYER, decoder, sizes


@FAMILIES.register("mistral")
class Mistral(Family):
    architectures = {"MistralForCausalLM": "CausalLM", "MistralModel": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(32_000, 4096, 14_336, 32, 32, 131_072),
        kv_heads(default=8),
        head_dim(),
        rope(),
        same("sliding_window", "attention.window", 4096),
        always(
            scale_embeddings=False, dropout_rate=0.0, norm=dict(name="rms"), layer=dict(norm_position="pre"),
            attention=dict(qkv_bias=False, output_bias=False), feed_forward=dict(name="gated", bias=False),
        ),
    )  # fmt: skip
    rows = decoder(LLAMA_LAYER)
