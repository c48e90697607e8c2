"""Tables that BART, mBART, Pegasus, Marian and M2M100 have in common."""

from ..family import Family
from ..fields import activation, alike, always, only, same
from ..tensors import Sides, linear, norm, row, within
from .shared import attention, decoder_layers


def fields(vocab, act="gelu", dropout=(0.1, 0.0), scale=False, **more):
    """The fields of BART and its kin."""
    return (
        same("vocab_size", "vocab_size", vocab),
        same("d_model", "d_model", 1024),
        same("max_position_embeddings", "max_length", 1024),
        same("encoder_layers", "num_layers", 12, spelt=("num_hidden_layers",)),
        decoder_layers("decoder_layers", "encoder_layers", 12),
        alike(("encoder_attention_heads", "decoder_attention_heads"), "attention.num_heads", 16),
        alike(("encoder_ffn_dim", "decoder_ffn_dim"), "feed_forward.width", 4096),
        activation("activation_function", act),
        same("dropout", "dropout_rate", dropout[0]),
        same("attention_dropout", "attention.dropout_rate", dropout[1]),
        same("activation_dropout", "feed_forward.dropout_rate", 0.0),
        same("scale_embedding", "scale_embeddings", scale),
        only("tie_word_embeddings", True),
        always(**more),
    )  # fmt: skip


_LAYER = [
    *within("self_attn.", "", attention(o="out_proj")),
    *norm("self_attn_layer_norm", "attention_residual.norm"),
    *within("encoder_attn.", "", attention(o="out_proj", to="cross_attention")),
    *norm("encoder_attn_layer_norm", "cross_attention_residual.norm"),
    *linear("fc1", ("feed_forward.w1", "feed_forward.b1")),
    *linear("fc2", ("feed_forward.w2", "feed_forward.b2")),
    *norm("final_layer_norm", "feed_forward_residual.norm"),
]


def _side(theirs, ours):
    """The rows of a stack, and of the positions before it."""
    return [
        *within(f"model.{theirs}.", "", [
            row("embed_positions.weight", f"{ours[1]}.scheme.table"),
            *norm("layernorm_embedding", f"{ours[1]}.norm"),
            *norm("layer_norm", f"{ours[0]}.final_norm"),
        ]),
        *within(f"model.{theirs}.layers.{{}}.", f"{ours[0]}.{{}}.", _LAYER),
    ]  # fmt: skip


class EncoderDecoder(Family):
    """BART and its kin: they have one table of tokens, also where a file names it three times."""

    prefix, embedding = "model.", "model.shared.weight"
    harmless = ("classif_dropout", "classifier_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std", "is_decoder",
             "add_bias_logits", "add_final_layer_norm", "normalize_before", "normalize_embedding", "static_position_embeddings",
             "extra_pos_embeddings", "force_bos_token_to_be_generated")  # fmt: skip
    rows = (
        row("model.shared.weight", "target_embedding.table"),
        *_side("encoder", ("encoder", "source_positions")), *_side("decoder", ("decoder", "target_positions")),
        row("final_logits_bias", "output.b", view=Sides(leading=1)),
    )  # fmt: skip
    leftovers = (r"(model\.)?(en|de)coder\.embed_tokens\.weight", r"lm_head\.weight")
    optional = ("final_logits_bias",)
