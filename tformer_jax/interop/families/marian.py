"""Marian (Junczys-Dowmunt et al., 2018; Tiedemann & Thottingal, 2020) and Pegasus (Zhang et al., 2020)."""

from ...config import to_dict
from ..family import FAMILIES
from ..fields import only
from .encoder_decoders import EncoderDecoder, fields

SINES = dict(name="sinusoidal", concatenated=True)


class Sinusoidal(EncoderDecoder):
    """A family whose positions are sinusoids, of which a file may hold a table: that wins, and is kept."""

    @classmethod
    def by_tensors(cls, stored):
        held = any("embed_positions" in name for name in stored)
        return {"positions": {"name": "learned", "scaled": False}} if held else {}

    @classmethod
    def said_by_tensors(cls, config):
        held = config.positions.name == "learned"
        return super().said_by_tensors(config) | ({"positions": to_dict(config.positions)} if held else {})


@FAMILIES.register("marian")
class Marian(Sinusoidal):
    architectures = {"MarianMTModel": "Transformer", "MarianModel": "Transformer"}
    fields = (*fields(58_101, positions=SINES, output=dict(bias=True)), only("share_encoder_decoder_embeddings", True))
    harmless = (*EncoderDecoder.harmless, "decoder_vocab_size")


@FAMILIES.register("pegasus")
class Pegasus(Sinusoidal):
    architectures = {"PegasusForConditionalGeneration": "Transformer", "PegasusModel": "Transformer"}
    fields = fields(50_265, positions=SINES, output=dict(bias=True), layer=dict(norm_position="pre"))
