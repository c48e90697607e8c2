"""T5, T5 v1.1, Flan and mT5 (Raffel et al., 2020; Shazeer, 2020; Xue et al., 2021)."""

from ..family import FAMILIES, Family
from .text_to_text import HARMLESS, LEFTOVERS, ROWS, SCALE, fields


@FAMILIES.register("t5")
class T5(Family):
    architectures = {"T5ForConditionalGeneration": "Transformer", "T5Model": "Transformer"}
    embedding = "shared.weight"
    fields = (*fields(32_128, "relu", 2048, 6, 8), SCALE)
    harmless, rows, leftovers = HARMLESS, ROWS, LEFTOVERS


@FAMILIES.register("mt5")
class MT5(Family):
    architectures = {"MT5ForConditionalGeneration": "Transformer", "MT5Model": "Transformer"}
    embedding = "shared.weight"
    fields = fields(250_112, "gated-gelu", 1024, 8, 6)
    harmless, rows, leftovers = HARMLESS, ROWS, LEFTOVERS
