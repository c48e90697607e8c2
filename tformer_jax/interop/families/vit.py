"""ViT (Dosovitskiy et al., 2021) and DeiT (Touvron et al., 2021), whose token of distillation is a register."""

from ...config import ConfigError
from ..family import FAMILIES, Family, Head
from ..fields import Field, activation, always, labels
from ..tensors import Sides, linear, row
from .vision import DROPOUT, fields, vit


def _read_width(theirs):
    if theirs.get("pooler_output_size") not in (None, theirs["hidden_size"]):
        raise ConfigError(
            f"config.json says pooler_output_size={theirs['pooler_output_size']}, which is not supported: it must be "
            f"hidden_size={theirs['hidden_size']}"
        )
    return {}


def _pooled(name):
    """The model without a head, which has a pooler."""
    width = Field(("pooler_output_size",), _read_width, lambda config: {"pooler_output_size": config.d_model}, None)
    return Head(
        (always(pooler=True), activation("pooler_act", "tanh", "pooler_activation"), width),
        tuple(linear(f"{name}.pooler.dense", ("pooler.w", "pooler.b"))),
    )


_CLASSIFIED = Head((labels(),), tuple(linear("classifier", ("classifier.w", "classifier.b"))))
_HARMLESS = ("encoder_stride", "pooler_act", "pooler_output_size")


@FAMILIES.register("vit")
class ViT(Family):
    architectures = {"ViTForImageClassification": "VisionTransformer", "ViTModel": "VisionTransformer"}
    prefix, bare, harmless = "vit.", ("ViTModel", ""), _HARMLESS
    fields = (*fields(16, 1e-12), *DROPOUT)
    rows = vit("vit")
    heads = {"ViTModel": _pooled("vit"), "ViTForImageClassification": _CLASSIFIED}


@FAMILIES.register("deit")
class DeiT(Family):
    architectures = {
        "DeiTForImageClassificationWithTeacher": "VisionTransformer", "DeiTForImageClassification": "VisionTransformer",
        "DeiTModel": "VisionTransformer",
    }  # fmt: skip
    prefix, bare, harmless = "deit.", ("DeiTModel", ""), _HARMLESS
    fields = (*fields(16, 1e-12, num_registers=1), *DROPOUT)
    rows = (*vit("deit"), row("deit.embeddings.distillation_token", "registers", view=Sides(leading=1)))
    heads = {
        "DeiTModel": _pooled("deit"), "DeiTForImageClassification": _CLASSIFIED,
        "DeiTForImageClassificationWithTeacher": Head((labels(), always(pooling="prefix")), (
            *linear("cls_classifier", ("classifier.w", "classifier.b")),
            *linear("distillation_classifier", ("register_classifiers.0.w", "register_classifiers.0.b")),
        )),
    }  # fmt: skip
