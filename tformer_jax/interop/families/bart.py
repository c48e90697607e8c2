"""BART (Lewis et al., 2020) and mBART (Liu et al., 2020)."""

from ..family import FAMILIES
from .encoder_decoders import EncoderDecoder, fields

_LEARNED = dict(name="learned", first=2, scaled=False)


@FAMILIES.register("bart")
class Bart(EncoderDecoder):
    architectures = {"BartForConditionalGeneration": "Transformer", "BartModel": "Transformer"}
    fields = fields(50_265, positions=_LEARNED, embedding_norm=True, output=dict(bias=True))


@FAMILIES.register("mbart")
class MBart(EncoderDecoder):
    architectures = {"MBartForConditionalGeneration": "Transformer", "MBartModel": "Transformer"}
    fields = fields(
        50_265, positions=_LEARNED, embedding_norm=True, output=dict(bias=True), layer=dict(norm_position="pre")
    )
