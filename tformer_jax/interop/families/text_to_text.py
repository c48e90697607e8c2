"""Tables that T5 and its kin have in common."""

from ..fields import ACTIVATIONS, Field, always, head_dim, named, same
from ..tensors import LINEAR, norm, row, within
from .shared import attention, decoder_layers

_KINDS = {name: ("mlp", act) for name, act in ACTIVATIONS.items()}
_KINDS |= {f"gated-{name}": ("gated", act) for name, act in ACTIVATIONS.items()}
_KINDS["gated-gelu"] = ("gated", "gelu_tanh")  # which is written first


def _side(side, number):
    """The rows of a stack, whose feed-forward network has this number."""
    ff = f"layer.{number}.DenseReluDense"
    return [
        row(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{side}.position_bias.table"),
        row(f"{side}.block.{{}}.layer.0.SelfAttention.relative_attention_bias.weight", f"{side}.position_biases.{{}}.table"),
        *within(f"{side}.block.{{}}.", f"{side}.{{}}.", [
            *within("layer.0.SelfAttention.", "", attention("q", "k", "v", "o")),
            *norm("layer.0.layer_norm", "attention_residual.norm"),
            *within("layer.1.EncDecAttention.", "", attention("q", "k", "v", "o", to="cross_attention")),
            *([] if side == "encoder" else norm("layer.1.layer_norm", "cross_attention_residual.norm")),
            row(f"{ff}.wi.weight", "feed_forward.w1", view=LINEAR, without="feed_forward.w_gate"),
            row(f"{ff}.wi_0.weight", "feed_forward.w_gate", view=LINEAR),
            row(f"{ff}.wi_1.weight", "feed_forward.w1", view=LINEAR, beside="feed_forward.w_gate"),
            row(f"{ff}.wo.weight", "feed_forward.w2", view=LINEAR),
            *norm(f"layer.{number}.layer_norm", "feed_forward_residual.norm"),
        ]),
        *norm(f"{side}.final_layer_norm", f"{side}.final_norm"),
    ]  # fmt: skip


def fields(vocab, act, ff, layers, heads):
    """The fields of sizes, and what is always so."""
    names = {kind: {"feed_forward.name": name, "feed_forward.activation": act} for kind, (name, act) in _KINDS.items()}
    return (
        same("vocab_size", "vocab_size", vocab),
        same("d_model", "d_model", 512, spelt=("hidden_size",)),
        head_dim(64, "d_kv", ("d_model", "num_heads")),
        same("d_ff", "feed_forward.width", ff),
        same("num_layers", "num_layers", layers),
        decoder_layers("num_decoder_layers", "num_layers"),
        same("num_heads", "attention.num_heads", heads),
        same("relative_attention_num_buckets", "positions.num_buckets", 32),
        same("relative_attention_max_distance", "positions.max_distance", 128),
        same("dropout_rate", "dropout_rate", 0.1),
        same("layer_norm_epsilon", "norm.eps", 1e-6),
        named("feed_forward_proj", names, act),
        same("n_positions", "max_length", 512),
        always(
            scale_embeddings=False, positions=dict(name="relative"), norm=dict(name="rms"), layer=dict(norm_position="pre"),
            attention=dict(scale=1.0, qkv_bias=False, output_bias=False), feed_forward=dict(bias=False),
        ),
    )  # fmt: skip


def _read_scale(theirs):
    """Reads what scales the logits of T5 and not of v1.1, which was said by a tie that both have."""
    scaled = theirs.get("scale_decoder_outputs", theirs.get("tie_word_embeddings") is not False)
    return {"output.scale": theirs["d_model"] ** -0.5 if scaled else None}


SCALE = Field(
    ("scale_decoder_outputs", "tie_word_embeddings"), _read_scale,
    lambda config: {"scale_decoder_outputs": config.output.scale is not None, "tie_word_embeddings": True},
)  # fmt: skip
LEFTOVERS = (r"(en|de)coder\.embed_tokens\.weight", r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_.*")
HARMLESS = ("classifier_dropout", "is_decoder", "dense_act_fn", "is_gated_act", "initializer_factor", "output_past")
ROWS = (
    row("shared.weight", "target_embedding.table"), *_side("encoder", 1), *_side("decoder", 2),
    row("lm_head.weight", "output.w", view=LINEAR),
)  # fmt: skip
