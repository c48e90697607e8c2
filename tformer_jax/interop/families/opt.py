"""OPT (Zhang et al., 2022)."""

from ..family import FAMILIES, Family
from ..fields import Field, activation, always, at, named, same
from ..tensors import LINEAR, linear, norm, row, within
from .shared import attention, token_width


def _read_final_norm(theirs):
    """Layers that end with a norm have no other after them, whatever the key says."""
    return {"layer.final_norm": not (theirs["do_layer_norm_before"] and theirs["_remove_final_layer_norm"])}


def _write_final_norm(config):
    return {"_remove_final_layer_norm": not at(config, "layer.final_norm")}


@FAMILIES.register("opt")
class OPT(Family):
    """The table of positions begins with two rows that no token of a text has."""

    architectures = {"OPTForCausalLM": "CausalLM", "OPTModel": "CausalLM"}
    prefix = "model."
    embedding = "model.decoder.embed_tokens.weight"
    fields = (
        same("vocab_size", "vocab_size", 50_272),
        same("hidden_size", "d_model", 768),
        token_width("word_embed_proj_dim", "first"),
        same("num_hidden_layers", "num_layers", 12),
        same("ffn_dim", "feed_forward.width", 3072),
        same("max_position_embeddings", "max_length", 2048),
        same("num_attention_heads", "attention.num_heads", 12),
        activation("activation_function", "relu"),
        same("dropout", "dropout_rate", 0.1),
        same("attention_dropout", "attention.dropout_rate", 0.0),
        same("enable_bias", ("attention.qkv_bias", "attention.output_bias", "feed_forward.bias"), True),
        named("do_layer_norm_before", {True: {"layer.norm_position": "pre"}, False: {"layer.norm_position": "post"}}, True),
        Field(("_remove_final_layer_norm",), _read_final_norm, _write_final_norm, False),
        named("layer_norm_elementwise_affine", {
            True: {"norm.gain": True, "norm.bias": True}, False: {"norm.gain": False, "norm.bias": False},
        }, True),
        same("tie_word_embeddings", "output.tie", True),
        always(scale_embeddings=False, positions=dict(name="learned", first=2)),
    )  # fmt: skip
    harmless = ("activation_dropout", "init_std", "layerdrop")
    rows = (
        row("model.decoder.embed_tokens.weight", "embedding.table"),
        row("model.decoder.project_in.weight", "positions.projection.w", view=LINEAR),
        row("model.decoder.embed_positions.weight", "positions.scheme.table"),
        *within("model.decoder.layers.{}.", "decoder.{}.", [
            *within("self_attn.", "", attention(o="out_proj")),
            *norm("self_attn_layer_norm", "attention_residual.norm"),
            *linear("fc1", ("feed_forward.w1", "feed_forward.b1")),
            *linear("fc2", ("feed_forward.w2", "feed_forward.b2")),
            *norm("final_layer_norm", "feed_forward_residual.norm"),
        ]),
        *norm("model.decoder.final_layer_norm", "decoder.final_norm"),
        row("model.decoder.project_out.weight", "output.projection.w", view=LINEAR),
        *linear("lm_head", ("output.w", "output.b")),
    )  # fmt: skip
