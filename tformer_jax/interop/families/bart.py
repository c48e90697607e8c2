"""BART (Lewis et al., 2020) and mBART (Liu et al., 2020)."""

from ..family import FAMILIES, Family
from .encoder_decoders import COPIES, OPTIONAL, SHARED, fields, rows

HARMLESS = ("classif_dropout", "classifier_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std", "is_decoder",
             "add_bias_logits", "add_final_layer_norm", "normalize_before", "normalize_embedding", "static_position_embeddings",
             "extra_pos_embeddings", "force_bos_token_to_be_generated")  # fmt: skip
_LEARNED = dict(name="learned", first=2, scaled=False)


@FAMILIES.register("bart")
class Bart(Family):
    architectures = {"BartForConditionalGeneration": "Transformer"}
    embedding = SHARED
    fields = fields(50_265, positions=_LEARNED, embedding_norm=True, output=dict(bias=True))
    harmless = HARMLESS
    rows = rows()
    leftovers, optional = COPIES, OPTIONAL


@FAMILIES.register("mbart")
class MBart(Family):
    architectures = {"MBartForConditionalGeneration": "Transformer"}
    embedding = SHARED
    fields = fields(
        50_265, positions=_LEARNED, embedding_norm=True, output=dict(bias=True), layer=dict(norm_position="pre")
    )
    harmless = HARMLESS
    rows = rows()
    leftovers, optional = COPIES, OPTIONAL
