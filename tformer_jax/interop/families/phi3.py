"""Phi 3 and 4 (Abdin et al., 2024): Llama with fused maps."""

from ..family import FAMILIES, Family
from ..fields import Field, alike, always, at, kv_heads, same
from ..layers import rope
from ..tensors import linear
from .shared import HEADS, PRE_NORMS, decoder, sizes


def _trained_length(config):
    """Theirs says it twice, and reads it here."""
    return {"original_max_position_embeddings": at(config, "positions.trained_length") or config.max_length}


@FAMILIES.register("phi3")
class Phi3(Family):
    architectures = {"Phi3ForCausalLM": "CausalLM", "Phi3Model": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(32_064, 3072, 8192, 32, 32, 4096, eps=("rms_norm_eps", 1e-5)),
        kv_heads(),
        rope(fraction=1.0),
        Field(("original_max_position_embeddings",), lambda theirs: {}, _trained_length, 4096),
        same("sliding_window", "attention.window", None),
        alike(("resid_pdrop", "embd_pdrop"), "dropout_rate", 0.0),
        always(
            scale_embeddings=False, norm=dict(name="rms"), layer=dict(norm_position="pre"),
            attention=dict(qkv_bias=False, output_bias=False), feed_forward=dict(name="gated", bias=False),
        ),
    )  # fmt: skip
    rows = decoder([
        *linear("self_attn.qkv_proj", *HEADS),
        *linear("self_attn.o_proj", ("attention.w_o", "attention.b_o")),
        *linear("mlp.gate_up_proj", ("feed_forward.w_gate", "feed_forward.b_gate"), ("feed_forward.w1", "feed_forward.b1")),
        *linear("mlp.down_proj", ("feed_forward.w2", "feed_forward.b2")),
        *PRE_NORMS,
    ])  # fmt: skip
