"""DINOv2 with registers (Darcet et al., 2024), which have no positions."""

import dataclasses

from ..family import FAMILIES, Family
from ..fields import always, same
from ..tensors import Sides, row
from .dinov2 import DinoV2
from .vision import side

_NAME = "dinov2_with_registers"


@FAMILIES.register(_NAME)
class DinoV2WithRegisters(Family):
    architectures = {
        name.replace("Dinov2", "Dinov2WithRegisters"): ours for name, ours in DinoV2.architectures.items()
    }  # fmt: skip
    prefix, bare = f"{_NAME}.", ("Dinov2WithRegistersModel", "")
    fields = (
        *(of for of in DinoV2.fields if not {"use_mask_token", "patch_size"}.intersection(of.keys)), side("patch_size", 16),
        same("num_register_tokens", "num_registers", 4), always(register_positions=False),
    )  # fmt: skip
    harmless = DinoV2.harmless
    rows = (
        *(dataclasses.replace(r, theirs=r.theirs.replace("dinov2.", f"{_NAME}.", 1)) for r in DinoV2.rows),
        row(f"{_NAME}.embeddings.register_tokens", "registers", view=Sides(leading=1)),
    )
    carried = (rf"({_NAME}\.)?embeddings\.mask_token",)
    heads = {name.replace("Dinov2", "Dinov2WithRegisters"): head for name, head in DinoV2.heads.items()}
