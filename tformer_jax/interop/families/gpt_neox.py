"""GPT-NeoX and Pythia (Black et al., 2022; Biderman et al., 2023)."""

from ..family import FAMILIES, Family
from ..fields import always, named, same
from ..layers import rope
from ..tensors import Sides, linear, norm, row, within
from .shared import HEADS, mlp, sizes


@FAMILIES.register("gpt_neox")
class GPTNeoX(Family):
    """Queries, keys and values lie head by head in one map; the output has its own name."""

    architectures = {"GPTNeoXForCausalLM": "CausalLM", "GPTNeoXModel": "CausalLM"}
    prefix = "gpt_neox."
    embedding = "gpt_neox.embed_in.weight"
    output = "embed_out.weight"
    fields = (
        *sizes(50_432, 6144, 24_576, 44, 64, 2048, act="gelu", eps=("layer_norm_eps", 1e-5)),
        rope(fraction=0.25),
        named("use_parallel_residual", {
            True: {"layer.parallel": True, "layer.shared_norm": False},
            False: {"layer.parallel": False, "layer.shared_norm": True},
        }, True),
        same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), True),
        same("hidden_dropout", "dropout_rate", 0.0),
        always(scale_embeddings=False, layer=dict(norm_position="pre")),
    )  # fmt: skip
    harmless = ("classifier_dropout", "is_decoder")
    rows = (
        row("gpt_neox.embed_in.weight", "embedding.table"),
        *within("gpt_neox.layers.{}.", "decoder.{}.", [
            *norm("input_layernorm", "attention_residual.norm"),
            *norm("post_attention_layernorm", "feed_forward_residual.norm"),
            *linear("attention.query_key_value", *HEADS, view=Sides(transposed=True, by_head=True)),
            *linear("attention.dense", ("attention.w_o", "attention.b_o")),
            *mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        ]),
        *norm("gpt_neox.final_layer_norm", "decoder.final_norm"),
        *linear("embed_out", ("output.w", "output.b")),
    )  # fmt: skip
