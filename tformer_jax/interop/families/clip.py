"""The towers for images of CLIP (Radford et al., 2021) and SigLIP (Zhai et al., 2023)."""

from ..family import FAMILIES, Family
from ..fields import named, same
from ..tensors import LINEAR, Convolution, Sides, linear, norm, row, within
from .shared import HEADS, attention, mlp
from .vision import PIXELS, fields

_TOWER = (
    row("embeddings.position_embedding.weight", "positions.table"),
    *linear("embeddings.patch_embedding", PIXELS, view=Convolution()),
    *within("encoder.layers.{}.", "encoder.{}.", [
        *within("self_attn.", "", attention(o="out_proj")),
        *norm("layer_norm1", "attention_residual.norm"),
        *norm("layer_norm2", "feed_forward_residual.norm"),
        *mlp("mlp.fc1", "mlp.fc2"),
    ]),
    *norm("post_layernorm", "encoder.final_norm"),
)  # fmt: skip
_ATTENTION_DROPOUT = same("attention_dropout", "attention.dropout_rate", 0.0)


@FAMILIES.register("clip_vision_model")
class ClipVision(Family):
    architectures = {"CLIPVisionModel": "VisionTransformer"}
    prefix = "vision_model."
    fields = (
        *fields(32, 1e-5, act="quick_gelu", patch_bias=False, embedding_norm=True, dropout_rate=0.0), _ATTENTION_DROPOUT,
    )  # fmt: skip
    harmless = ("projection_dim",)
    rows = (*_TOWER, row("embeddings.class_embedding", "class_token"), *norm("pre_layrnorm", "embedding_norm"))


@FAMILIES.register("siglip_vision_model")
class SiglipVision(Family):
    architectures = {"SiglipVisionModel": "VisionTransformer"}
    prefix = "vision_model."
    fields = (
        *fields(16, 1e-6, act="gelu_pytorch_tanh", dropout_rate=0.0), _ATTENTION_DROPOUT,
        named("vision_use_head", {True: {"pooling": "attention"}, False: {"pooling": "mean"}}, True),
    )  # fmt: skip
    rows = (
        *_TOWER,
        *within("head.", "attention_pooling.", [
            row("probe", "probe", view=Sides(leading=1)),
            row("attention.in_proj_weight", *(w for w, _ in HEADS), view=LINEAR),
            row("attention.in_proj_bias", *(b for _, b in HEADS)),
            *linear("attention.out_proj", ("attention.w_o", "attention.b_o")),
            *norm("layernorm", "norm"), *mlp("mlp.fc1", "mlp.fc2"),
        ]),
    )  # fmt: skip
