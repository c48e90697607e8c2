"""BERT (Devlin et al., 2018)."""

from ..family import FAMILIES, Family, Head
from ..fields import activation, always, labels
from ..tensors import LINEAR, linear, norm, row
from .encoders import TIE, encoder, fields

POOLED = Head((always(pooler=True),), tuple(linear("bert.pooler.dense", ("encoder.pooler.w", "encoder.pooler.b"))))


@FAMILIES.register("bert")
class Bert(Family):
    architectures = {
        "BertForMaskedLM": "MaskedLM", "BertForPreTraining": "MaskedLM", "BertModel": "TextEncoder",
        "BertForSequenceClassification": "TextClassifier",
    }  # fmt: skip
    prefix, bare = "bert.", ("TextEncoder", "encoder.")
    embedding, output = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    fields = fields()
    harmless = ("classifier_dropout", "directionality", "pooler_fc_size", "pooler_num_attention_heads",
                "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type")  # fmt: skip
    rows = encoder("bert")
    leftovers = (r"cls\.seq_relationship\..*",)
    heads = {
        "TextEncoder": POOLED,
        "TextClassifier": Head(
            (*POOLED.fields, labels()), (*POOLED.rows, *linear("classifier", ("classifier.w", "classifier.b")))
        ),
        "MaskedLM": Head((TIE, activation("hidden_act", "gelu", "transform_activation"), always(output=dict(bias=True))), (
            *linear("cls.predictions.transform.dense", ("transform.w", "transform.b")),
            *norm("cls.predictions.transform.LayerNorm", "transform_norm"),
            row("cls.predictions.decoder.weight", "output.w", view=LINEAR),
            row("cls.predictions.bias", "output.b", without="output.w"),
            row("cls.predictions.decoder.bias", "output.b", beside="output.w"),
        ), carried=(r"cls\.predictions\.bias",)),
    }  # fmt: skip
