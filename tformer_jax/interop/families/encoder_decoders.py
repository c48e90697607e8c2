"""Tables that BART, mBART, Pegasus, Marian and M2M100 have in common."""

from ..fields import Field, activation, alike, always, only, same
from ..tensors import Sides, linear, norm, row, within
from .shared import attention

SHARED = "model.shared.weight"
# Other names of the one table.
COPIES = (r"model\.(en|de)coder\.embed_tokens\.weight", r"lm_head\.weight")

OPTIONAL = ("final_logits_bias",)


def fields(vocab, act="gelu", dropout=(0.1, 0.0), scale=False, **more):
    """The fields of BART and its kin."""
    return (
        same("vocab_size", "vocab_size", vocab),
        same("d_model", "d_model", 1024),
        same("max_position_embeddings", "max_length", 1024),
        same("encoder_layers", "num_layers", 12, spelt=("num_hidden_layers",)),
        Field(
            ("decoder_layers",),
            lambda theirs: {"num_decoder_layers": _unless(theirs["decoder_layers"], theirs["encoder_layers"])},
            lambda config: {"decoder_layers": config.decoder_layers}, 12,
        ),
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


def _unless(value, other):
    return None if value == other else value


def rows(bias=True):
    """The rows; `bias`: there is one of the logits."""
    side = lambda theirs, ours: [
        *within(f"model.{theirs}.", "", [
            row("embed_positions.weight", f"{ours[1]}.scheme.table"),
            *norm("layernorm_embedding", f"{ours[1]}.norm"),
            *norm("layer_norm", f"{ours[0]}.final_norm"),
        ]),
        *within(f"model.{theirs}.layers.{{}}.", f"{ours[0]}.{{}}.", _LAYER),
    ]  # fmt: skip
    return [
        row(SHARED, "target_embedding.table"),
        *side("encoder", ("encoder", "source_positions")),
        *side("decoder", ("decoder", "target_positions")),
        *([row("final_logits_bias", "output.b", view=Sides(leading=1))] if bias else []),
    ]


_LAYER = [
    *within("self_attn.", "", attention(o="out_proj")),
    *norm("self_attn_layer_norm", "attention_residual.norm"),
    *within("encoder_attn.", "", attention(o="out_proj", to="cross_attention")),
    *norm("encoder_attn_layer_norm", "cross_attention_residual.norm"),
    *linear("fc1", ("feed_forward.w1", "feed_forward.b1")),
    *linear("fc2", ("feed_forward.w2", "feed_forward.b2")),
    *norm("final_layer_norm", "feed_forward_residual.norm"),
]
