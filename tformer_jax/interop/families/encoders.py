"""Tables that BERT and its kin have in common."""

from ..fields import always, only, same
from ..tensors import linear, norm, row, within
from .shared import attention, mlp, sizes

# What follows the name of a family in the names of its models.
MODELS = {"ForMaskedLM": "MaskedLM", "Model": "TextEncoder", "ForSequenceClassification": "TextClassifier"}
TIE = same("tie_word_embeddings", "output.tie", True)


def fields(vocab=30_522, d=768, ff=3072, heads=12):
    """The fields of the encoder."""
    return (
        *sizes(
            vocab, d, ff, 12, heads, 512, act="gelu", eps=("layer_norm_eps", 1e-12), tie=None,
            dropout=("attention_probs_dropout_prob", 0.1),
        ),
        same("type_vocab_size", "num_token_types", 2, null=False),
        same("hidden_dropout_prob", "dropout_rate", 0.1),
        only("position_embedding_type", "absolute"),
        only("is_decoder", False),
        only("add_cross_attention", False),
        always(scale_embeddings=False, embedding_norm=True, positions=dict(name="learned")),
    )  # fmt: skip


def encoder(name):
    """The rows of an encoder whose tensors begin with a name."""
    return (
        row(f"{name}.embeddings.word_embeddings.weight", "encoder.embedding.table"),
        row(f"{name}.embeddings.position_embeddings.weight", "encoder.positions.scheme.table"),
        row(f"{name}.embeddings.token_type_embeddings.weight", "encoder.token_types.table"),
        *norm(f"{name}.embeddings.LayerNorm", "encoder.positions.norm"),
        *within(f"{name}.encoder.layer.{{}}.", "encoder.layers.{}.", [
            *within("attention.self.", "", attention("query", "key", "value")[:6]),
            *linear("attention.output.dense", ("attention.w_o", "attention.b_o")),
            *norm("attention.output.LayerNorm", "attention_residual.norm"),
            *mlp("intermediate.dense", "output.dense"),
            *norm("output.LayerNorm", "feed_forward_residual.norm"),
        ]),
    )  # fmt: skip
