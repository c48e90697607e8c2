"""RoBERTa (Liu et al., 2019) and XLM-R (Conneau et al., 2020): BERT whose padding takes no position."""

from ..family import FAMILIES, Family, Head
from ..fields import Field, always, labels, same
from ..tensors import LINEAR, linear, norm, row
from . import encoders

_PAD = same("pad_token_id", "padding_token", 1)
# The first rows of the table of positions, up to that of padding, are of no token of a text.
_PLACES = Field(
    ("pad_token_id", "max_position_embeddings"),
    lambda theirs: {
        "padding_token": theirs["pad_token_id"], "positions.first": theirs["pad_token_id"] + 1,
        "max_length": theirs["max_position_embeddings"] - theirs["pad_token_id"] - 1,
    },
    lambda config: {
        "pad_token_id": config.padding_token,
        "max_position_embeddings": config.max_length + (config.padding_token or 0) + 1,
    },
)  # fmt: skip


def _fields(vocab):
    return (*encoders.fields(vocab), _PAD, _PLACES)


@FAMILIES.register("roberta")
class Roberta(Family):
    architectures = {f"Roberta{theirs}": ours for theirs, ours in encoders.MODELS.items()}
    prefix, bare = "roberta.", ("TextEncoder", "encoder.")
    embedding, output = "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
    fields = _fields(50_265)
    harmless = ("classifier_dropout",)
    rows = encoders.encoder("roberta")
    heads = {
        "TextEncoder": Head(
            (always(pooler=True),), tuple(linear("roberta.pooler.dense", ("encoder.pooler.w", "encoder.pooler.b")))
        ),
        "TextClassifier": Head((always(pooler=True), labels()), (
            *linear("classifier.dense", ("encoder.pooler.w", "encoder.pooler.b")),
            *linear("classifier.out_proj", ("classifier.w", "classifier.b")),
        )),
        "MaskedLM": Head((encoders.TIE, always(transform_activation="gelu", output=dict(bias=True))), (
            *linear("lm_head.dense", ("transform.w", "transform.b")),
            *norm("lm_head.layer_norm", "transform_norm"),
            row("lm_head.decoder.weight", "output.w", view=LINEAR),
            row("lm_head.bias", "output.b", without="output.w"),
            row("lm_head.decoder.bias", "output.b", beside="output.w"),
        ), carried=(r"lm_head\.bias",)),
    }  # fmt: skip


@FAMILIES.register("xlm-roberta")
class XLMRoberta(Roberta):
    architectures = {f"XLMRoberta{theirs}": ours for theirs, ours in encoders.MODELS.items()}
    fields = _fields(30_522)
