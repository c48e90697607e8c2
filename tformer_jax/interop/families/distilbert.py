"""DistilBERT (Sanh et al., 2019): BERT without token types."""

from ..family import FAMILIES, Family, Head
from ..fields import activation, always, labels, only, same
from ..tensors import LINEAR, linear, norm, row, within
from .encoders import MODELS, TIE
from .shared import attention, mlp


@FAMILIES.register("distilbert")
class DistilBert(Family):
    architectures = {f"DistilBert{theirs}": ours for theirs, ours in MODELS.items()}
    prefix, bare = "distilbert.", ("TextEncoder", "encoder.")
    embedding, output = "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"
    fields = (
        same("vocab_size", "vocab_size", 30_522),
        same("dim", "d_model", 768, spelt=("hidden_size",)),
        same("hidden_dim", "feed_forward.width", 3072),
        same("n_layers", "num_layers", 6, spelt=("num_hidden_layers",)),
        same("n_heads", "attention.num_heads", 12, spelt=("num_attention_heads",)),
        same("max_position_embeddings", "max_length", 512),
        activation("activation", "gelu"),
        same("dropout", "dropout_rate", 0.1),
        same("attention_dropout", "attention.dropout_rate", 0.1),
        only("sinusoidal_pos_embds", False),
        always(
            scale_embeddings=False, embedding_norm=True, positions=dict(name="learned"), norm=dict(eps=1e-12),
        ),
    )  # fmt: skip
    harmless = ("qa_dropout", "seq_classif_dropout", "tie_weights_")
    rows = (
        row("distilbert.embeddings.word_embeddings.weight", "encoder.embedding.table"),
        row("distilbert.embeddings.position_embeddings.weight", "encoder.positions.scheme.table"),
        *norm("distilbert.embeddings.LayerNorm", "encoder.positions.norm"),
        *within("distilbert.transformer.layer.{}.", "encoder.layers.{}.", [
            *within("attention.", "", attention("q_lin", "k_lin", "v_lin", "out_lin")),
            *norm("sa_layer_norm", "attention_residual.norm"),
            *mlp("ffn.lin1", "ffn.lin2"),
            *norm("output_layer_norm", "feed_forward_residual.norm"),
        ]),
    )  # fmt: skip
    heads = {
        "TextClassifier": Head((always(pooler=True, pooler_activation="relu"), labels()), (
            *linear("pre_classifier", ("encoder.pooler.w", "encoder.pooler.b")),
            *linear("classifier", ("classifier.w", "classifier.b")),
        )),
        "MaskedLM": Head((TIE, activation("activation", "gelu", "transform_activation"), always(output=dict(bias=True))), (
            *linear("vocab_transform", ("transform.w", "transform.b")),
            *norm("vocab_layer_norm", "transform_norm"),
            row("vocab_projector.weight", "output.w", view=LINEAR),
            row("vocab_projector.bias", "output.b"),
        )),
    }  # fmt: skip
