"""Phi 1, 1.5 and 2 (Gunasekar et al., 2023): parallel sublayers, biases everywhere."""

from ..family import FAMILIES, Family
from ..fields import alike, always, kv_heads, named
from ..layers import rope
from ..tensors import linear, norm, row, within
from .shared import attention, mlp, sizes

_QK = ("attention.qk_norm", "attention.qk_norm_bias")


@FAMILIES.register("phi")
class Phi(Family):
    architectures = {"PhiForCausalLM": "CausalLM", "PhiModel": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(51_200, 2048, 8192, 24, 32, 2048, act="gelu_new", eps=("layer_norm_eps", 1e-5)),
        kv_heads(),
        rope(fraction=0.5),
        named("qk_layernorm", {
            False: dict.fromkeys(_QK, False) | {"attention.qk_norm_kind": "rms"},
            True: dict.fromkeys(_QK, True) | {"attention.qk_norm_kind": "layer"},
        }, False),
        alike(("resid_pdrop", "embd_pdrop"), "dropout_rate", 0.0),
        always(scale_embeddings=False, layer=dict(norm_position="pre", parallel=True), output=dict(bias=True)),
    )  # fmt: skip
    rows = (
        row("model.embed_tokens.weight", "embedding.table"),
        *within("model.layers.{}.", "decoder.{}.", [
            *norm("input_layernorm", "attention_residual.norm"),
            *within("self_attn.", "", attention(o="dense")),
            *norm("self_attn.q_layernorm", "attention.q_norm"),
            *norm("self_attn.k_layernorm", "attention.k_norm"),
            *mlp("mlp.fc1", "mlp.fc2"),
        ]),
        *norm("model.final_layernorm", "decoder.final_norm"),
        *linear("lm_head", ("output.w", "output.b")),
    )  # fmt: skip
