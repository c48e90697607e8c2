"""M2M100 (Fan et al., 2021) and NLLB (NLLB Team, 2022): padding takes no position."""

from ..family import FAMILIES
from ..fields import Field, same
from .encoder_decoders import EncoderDecoder, fields


def _read(theirs):
    """Its wavelengths are those of equation 6 with half - 1 in the place of half the width."""
    half = theirs["d_model"] // 2
    places = {"positions.base": 10_000.0 ** (half / (half - 1)), "positions.first": theirs["pad_token_id"] + 1}
    return places | {"padding_token": theirs["pad_token_id"]}


@FAMILIES.register("m2m_100")
class M2M100(EncoderDecoder):
    architectures = {"M2M100ForConditionalGeneration": "Transformer", "M2M100Model": "Transformer"}
    fields = (
        *fields(
            128_112, "relu", (0.1, 0.1), True, positions=dict(name="sinusoidal", concatenated=True),
            layer=dict(norm_position="pre"),
        ),
        same("pad_token_id", "padding_token", 1),
        Field((), _read, lambda config: {}),
    )  # fmt: skip
    leftovers = (*EncoderDecoder.leftovers, r"(model\.)?(en|de)coder\.embed_positions\.weights?")
