"""GPT-J (Wang & Komatsuzaki, 2021): parallel sublayers, heads turned by pairs (2i, 2i + 1)."""

from ..family import FAMILIES, Family
from ..fields import Field, activation, alike, always, at, same, width
from ..tensors import linear, norm, row, within
from .shared import attention, mlp


@FAMILIES.register("gptj")
class GPTJ(Family):
    architectures = {"GPTJForCausalLM": "CausalLM", "GPTJModel": "CausalLM"}
    prefix = "transformer."
    embedding = "transformer.wte.weight"
    fields = (
        same("vocab_size", "vocab_size", 50_400),
        same("n_positions", "max_length", 2048, spelt=("max_position_embeddings",)),
        same("n_embd", "d_model", 4096, spelt=("hidden_size",)),
        same("n_layer", "num_layers", 28, spelt=("num_hidden_layers",)),
        same("n_head", "attention.num_heads", 16, spelt=("num_attention_heads",)),
        Field(
            ("rotary_dim",),
            lambda theirs: {"positions.width": theirs["rotary_dim"] if theirs["rotary_dim"] != _head(theirs) else None},
            lambda config: {"rotary_dim": at(config, "positions.width") or config.attention.head_width(config.d_model)},
            64,
        ),
        width("n_inner", of=("n_embd",)),
        activation("activation_function", "gelu_new"),
        same("layer_norm_epsilon", "norm.eps", 1e-5),
        same("tie_word_embeddings", "output.tie", False),
        alike(("resid_pdrop", "embd_pdrop"), "dropout_rate", 0.0),
        same("attn_pdrop", "attention.dropout_rate", 0.0),
        always(
            scale_embeddings=False, positions=dict(name="rotary", layout="interleaved"), output=dict(bias=True),
            attention=dict(qkv_bias=False, output_bias=False), layer=dict(norm_position="pre", parallel=True),
        ),
    )  # fmt: skip
    harmless = ("n_ctx", "rotary", "scale_attn_weights", "summary_activation", "summary_first_dropout",
                "summary_proj_to_labels", "summary_type", "summary_use_proj")  # fmt: skip
    rows = (
        row("transformer.wte.weight", "embedding.table"),
        *within("transformer.h.{}.", "decoder.{}.", [
            *norm("ln_1", "attention_residual.norm"),
            *within("attn.", "", attention(o="out_proj")),
            *mlp("mlp.fc_in", "mlp.fc_out"),
        ]),
        *norm("transformer.ln_f", "decoder.final_norm"),
        *linear("lm_head", ("output.w", "output.b")),
    )  # fmt: skip


def _head(theirs):
    return theirs["n_embd"] // theirs["n_head"]
