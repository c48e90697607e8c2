"""ELECTRA (Clark et al., 2020)."""

from ..family import FAMILIES, Family, Head
from ..fields import always, labels
from ..tensors import LINEAR, linear, norm, row
from . import encoders
from .shared import token_width


@FAMILIES.register("electra")
class Electra(Family):
    """The vectors of tokens of a small one are narrower than the model, those of the generator of a large one wider."""

    architectures = {f"Electra{theirs}": ours for theirs, ours in encoders.MODELS.items()}
    prefix, bare = "electra.", ("TextEncoder", "encoder.")
    embedding, output = "electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"
    fields = (*encoders.fields(d=256, ff=1024, heads=4), token_width("embedding_size", "last", 128))
    harmless = ("classifier_dropout", "summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj")
    rows = (
        *encoders.encoder("electra"),
        *linear("electra.embeddings_project", ("encoder.positions.projection.w", "encoder.positions.projection.b")),
    )
    leftovers = (r"discriminator_predictions\..*",)
    heads = {
        "TextClassifier": Head((always(pooler=True, pooler_activation="gelu"), labels()), (
            *linear("classifier.dense", ("encoder.pooler.w", "encoder.pooler.b")),
            *linear("classifier.out_proj", ("classifier.w", "classifier.b")),
        )),
        "MaskedLM": Head((encoders.TIE, always(transform_activation="gelu", output=dict(bias=True))), (
            *linear("generator_predictions.dense", ("transform.w", "transform.b")),
            *norm("generator_predictions.LayerNorm", "transform_norm"),
            row("generator_lm_head.weight", "output.w", view=LINEAR),
            row("generator_lm_head.bias", "output.b"),
        )),
    }  # fmt: skip
