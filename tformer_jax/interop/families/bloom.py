"""Bloom (BigScience Workshop, 2022): ALiBi, and a norm of the embeddings."""

from ..family import FAMILIES, Family
from ..fields import Field, always, only, same
from ..tensors import Sides, linear, norm, row, within
from .shared import HEADS, mlp


@FAMILIES.register("bloom")
class Bloom(Family):
    """Queries, keys and values lie head by head in one map. No length ends it: ours is that of a cache."""

    architectures = {"BloomForCausalLM": "CausalLM", "BloomModel": "CausalLM"}
    prefix = "transformer."
    embedding = "transformer.word_embeddings.weight"
    fields = (
        same("vocab_size", "vocab_size", 250_880),
        same("hidden_size", "d_model", 64, spelt=("n_embed",)),
        same("n_layer", "num_layers", 2, spelt=("num_hidden_layers",)),
        same("n_head", "attention.num_heads", 8, spelt=("num_attention_heads",)),
        same("seq_length", "max_length", 2048),
        Field((), lambda theirs: {"feed_forward.width": 4 * theirs["hidden_size"]}, lambda config: {}),
        same("layer_norm_epsilon", "norm.eps", 1e-5),
        same("hidden_dropout", "dropout_rate", 0.0),
        same("attention_dropout", "attention.dropout_rate", 0.0),
        same("tie_word_embeddings", "output.tie", True),
        only("apply_residual_connection_post_layernorm", False),
        always(
            scale_embeddings=False, positions=dict(name="alibi"), layer=dict(norm_position="pre"), embedding_norm=True,
            feed_forward=dict(activation="gelu_tanh"),
        ),
    )  # fmt: skip
    harmless = ("slow_but_exact", "pretraining_tp", "skip_bias_add", "skip_bias_add_qkv", "unk_token_id", "n_inner",
                "attention_softmax_in_fp32", "masked_softmax_fusion", "offset_alibi", "bias_dropout_fusion")  # fmt: skip
    rows = (
        row("transformer.word_embeddings.weight", "embedding.table"),
        *norm("transformer.word_embeddings_layernorm", "positions.norm"),
        *within("transformer.h.{}.", "decoder.{}.", [
            *norm("input_layernorm", "attention_residual.norm"),
            *linear("self_attention.query_key_value", *HEADS, view=Sides(transposed=True, by_head=True)),
            *linear("self_attention.dense", ("attention.w_o", "attention.b_o")),
            *norm("post_attention_layernorm", "feed_forward_residual.norm"),
            *mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        ]),
        *norm("transformer.ln_f", "decoder.final_norm"),
        *linear("lm_head", ("output.w", "output.b")),
    )  # fmt: skip
