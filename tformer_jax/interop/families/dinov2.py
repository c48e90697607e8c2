"""DINOv2 (Oquab et al., 2024)."""

from ..family import FAMILIES, Family, Head
from ..fields import Field, activation, always, at, labels, only, same
from ..tensors import linear, norm, row, where, within
from .shared import GATE, HIDDEN, LAST, mlp
from .vision import ATTENTION, DROPOUT, embeddings, fields


def _width(d, ratio, gated):
    return (int(int(d * ratio) * 2 / 3) + 7) // 8 * 8 if gated else int(d * ratio)


def _read(theirs):
    width = {"feed_forward.width": _width(theirs["hidden_size"], theirs["mlp_ratio"], theirs["use_swiglu_ffn"])}
    kind = {"feed_forward.name": "gated", "feed_forward.activation": "silu"}
    return width | (kind if theirs["use_swiglu_ffn"] else {})


def _write(config):
    gated, width, d = _is_gated(config), at(config, "feed_forward.width"), config.d_model
    fitting = [ratio for ratio in range(1, 17) if _width(d, ratio, gated) == width]
    return {"mlp_ratio": fitting[0] if fitting else width / d * (1.5 if gated else 1), "use_swiglu_ffn": gated}


_is_gated, _gelu = lambda config: config.feed_forward.name == "gated", activation("hidden_act", "gelu")
_ACTIVATION = Field(  # which SwiGLU does not ask
    ("hidden_act",), lambda theirs: {} if theirs["use_swiglu_ffn"] else _gelu.read(theirs),
    lambda config: {"hidden_act": "gelu"} if _is_gated(config) else _gelu.write(config), "gelu",
)  # fmt: skip


@FAMILIES.register("dinov2")
class DinoV2(Family):
    architectures = {"Dinov2Model": "VisionTransformer", "Dinov2ForImageClassification": "VisionTransformer"}
    prefix, bare = "dinov2.", ("Dinov2Model", "")
    fields = (
        *fields(14, 1e-6, act=None, ff=None), *DROPOUT, _ACTIVATION, Field(("mlp_ratio",), _read, _write, 4),
        Field(("use_swiglu_ffn",), lambda theirs: {}, lambda config: {}, False),
        same("layerscale_value", "layer.layer_scale", 1.0, null=False), only("drop_path_rate", 0.0),
        Field(("use_mask_token",), lambda theirs: {}, lambda config: {"use_mask_token": False}),
    )  # fmt: skip
    harmless = ("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names")
    rows = (
        *embeddings("dinov2"),
        *within("dinov2.encoder.layer.{}.", "encoder.{}.", [
            *ATTENTION,
            *norm("norm1", "attention_residual.norm"), row("layer_scale1.lambda1", "attention_residual.gain"),
            *norm("norm2", "feed_forward_residual.norm"), row("layer_scale2.lambda1", "feed_forward_residual.gain"),
            *where(mlp("mlp.fc1", "mlp.fc2"), without=GATE),
            *where(linear("mlp.weights_in", *HIDDEN), beside=GATE), *where(linear("mlp.weights_out", LAST), beside=GATE),
        ]),
        *norm("dinov2.layernorm", "encoder.final_norm"),
    )  # fmt: skip
    carried = (r"(dinov2\.)?embeddings\.mask_token",)
    heads = {
        "Dinov2ForImageClassification": Head(
            (labels(), always(pooling="cls_mean")), tuple(linear("classifier", ("classifier.w", "classifier.b")))
        ),
    }  # fmt: skip
