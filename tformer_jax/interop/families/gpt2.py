"""GPT-2 (Radford et al., 2019)."""

from ..family import FAMILIES, Family
from ..fields import activation, alike, always, named, only, same, width
from ..tensors import AS_IT_IS, linear, norm, row, within
from .shared import HEADS


@FAMILIES.register("gpt2")
class GPT2(Family):
    """Linear maps lie as [inputs, outputs] ("Conv1D"), queries, keys and values in one."""

    architectures = {"GPT2LMHeadModel": "CausalLM", "GPT2Model": "CausalLM"}
    prefix = "transformer."
    embedding = "transformer.wte.weight"
    fields = (
        same("vocab_size", "vocab_size", 50_257),
        same("n_positions", "max_length", 1024, spelt=("max_position_embeddings",)),
        same("n_embd", "d_model", 768, spelt=("hidden_size",)),
        same("n_layer", "num_layers", 12, spelt=("num_hidden_layers",)),
        same("n_head", "attention.num_heads", 12, spelt=("num_attention_heads",)),
        width("n_inner", of=("n_embd", "hidden_size")),
        activation("activation_function", "gelu_new"),
        same("layer_norm_epsilon", "norm.eps", 1e-5),
        named("scale_attn_weights", {True: {"attention.scale": None}, False: {"attention.scale": 1.0}}, True),
        same("tie_word_embeddings", "output.tie", True),
        alike(("resid_pdrop", "embd_pdrop"), "dropout_rate", 0.1),
        same("attn_pdrop", "attention.dropout_rate", 0.1),
        only("scale_attn_by_inverse_layer_idx", False),
        only("add_cross_attention", False),
        always(
            scale_embeddings=False,
            positions=dict(name="learned"),
            layer=dict(norm_position="pre"),
        ),
    )
    harmless = (
        "n_ctx", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
        "summary_type", "summary_use_proj",
    )  # fmt: skip
    rows = (
        row("transformer.wte.weight", "embedding.table"),
        row("transformer.wpe.weight", "positions.scheme.table"),
        *within("transformer.h.{}.", "decoder.{}.", [
            *norm("ln_1", "attention_residual.norm"),
            *linear("attn.c_attn", *HEADS, view=AS_IT_IS),
            *linear("attn.c_proj", ("attention.w_o", "attention.b_o"), view=AS_IT_IS),
            *norm("ln_2", "feed_forward_residual.norm"),
            *linear("mlp.c_fc", ("feed_forward.w1", "feed_forward.b1"), view=AS_IT_IS),
            *linear("mlp.c_proj", ("feed_forward.w2", "feed_forward.b2"), view=AS_IT_IS),
        ]),
        *norm("transformer.ln_f", "decoder.final_norm"),
        *linear("lm_head", ("output.w", "output.b")),
    )  # fmt: skip
