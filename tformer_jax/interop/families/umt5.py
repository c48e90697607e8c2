"""UMT5 (Chung et al., 2023): mT5 whose layers have a table of distances each."""

from ..family import FAMILIES, Family
from ..fields import always
from .text_to_text import HARMLESS, LEFTOVERS, ROWS, SCALE, fields


@FAMILIES.register("umt5")
class UMT5(Family):
    architectures = {"UMT5ForConditionalGeneration": "Transformer", "UMT5Model": "Transformer"}
    embedding = "shared.weight"
    fields = (*fields(250_112, "gated-gelu", 1024, 8, 6), always(positions=dict(by_layer=True)), SCALE)
    harmless, rows, leftovers = HARMLESS, ROWS, LEFTOVERS
