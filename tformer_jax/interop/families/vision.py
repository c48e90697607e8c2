"""Tables that models of images have in common."""

from ...config import ConfigError
from ..fields import Field, activation, always, found, same
from ..tensors import Convolution, Sides, linear, norm, row, within
from .shared import attention, mlp

PIXELS = ("patch_embedding.w", "patch_embedding.b")


def side(theirs, default):
    """The field of the side of a square, which may be said twice."""

    def read(config):
        value = found(config, (theirs,), default)
        if isinstance(value, list | tuple):
            if len(set(value)) != 1:
                raise ConfigError(f"config.json says {theirs}={value}, which is not supported: both must be alike")
            value = value[0]
        return {theirs: value}

    return Field((theirs,), read, lambda config: {theirs: getattr(config, theirs)}, default)


def fields(patch, eps, *, act="gelu", ff=3072, **always_so):
    """The fields of sizes, and what is always so."""
    return (
        same("hidden_size", "d_model", 768),
        same("num_hidden_layers", "num_layers", 12),
        same("num_attention_heads", "attention.num_heads", 12),
        *([] if ff is None else [same("intermediate_size", "feed_forward.width", ff)]),
        side("image_size", 224),
        side("patch_size", patch),
        same("num_channels", "num_channels", 3),
        *([] if act is None else [activation("hidden_act", act)]),
        same("layer_norm_eps", "norm.eps", eps),
        always(positions=dict(name="learned"), **dict(layer=dict(norm_position="pre")) | always_so),
    )


# Of ViT and its kin.
DROPOUT = (
    same("hidden_dropout_prob", "dropout_rate", 0.0),
    same("attention_probs_dropout_prob", "attention.dropout_rate", 0.0),
    same("qkv_bias", "attention.qkv_bias", True),
)


def embeddings(name):
    """The rows of what comes before the layers of ViT and its kin."""
    return (
        row(f"{name}.embeddings.cls_token", "class_token", view=Sides(leading=2)),
        row(f"{name}.embeddings.position_embeddings", "positions.table", view=Sides(leading=1)),
        *linear(f"{name}.embeddings.patch_embeddings.projection", PIXELS, view=Convolution()),
    )


ATTENTION = [
    *within("attention.attention.", "", attention("query", "key", "value")[:6]),
    *linear("attention.output.dense", ("attention.w_o", "attention.b_o")),
]


def vit(name):
    """The rows of an encoder whose tensors begin with a name."""
    return (
        *embeddings(name),
        *within(f"{name}.encoder.layer.{{}}.", "encoder.{}.", [
            *ATTENTION,
            *norm("layernorm_before", "attention_residual.norm"),
            *norm("layernorm_after", "feed_forward_residual.norm"),
            *mlp("intermediate.dense", "output.dense"),
        ]),
        *norm(f"{name}.layernorm", "encoder.final_norm"),
    )  # fmt: skip
