"""Gemma 1 and 2 (Gemma Team, 2024): gains of 1 + w, embeddings times the root of the width."""

from ..family import FAMILIES, Family
from ..fields import Field, activation, always, at, head_dim, kv_heads, only, same
from ..layers import rope, sliding
from ..tensors import within
from .shared import GATED, LLAMA_LAYER, SANDWICH_NORMS, attention, decoder, sizes

LAYER = [*within("self_attn.", "", attention()), *GATED, *SANDWICH_NORMS]
_TANH = "gelu_pytorch_tanh"


def fields(*sizes_, length=8192, norms="sandwich", act=activation("hidden_activation", _TANH), **more):
    return (
        *sizes(*sizes_, length, act=None, tie=True),
        act,
        head_dim(default=256),
        same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), False),
        only("use_bidirectional_attention", None, False),
        always(
            scale_embeddings=True, dropout_rate=0.0, norm=dict(name="rms", unit_offset=True),
            layer=dict(norm_position=norms), feed_forward=dict(name="gated", bias=False), **more,
        ),
    )  # fmt: skip


# Theirs is a whole number, whose root divides scores.
SCALE = Field(
    ("query_pre_attn_scalar",),
    lambda theirs: {"attention.scale": theirs["query_pre_attn_scalar"] ** -0.5},
    lambda config: {"query_pre_attn_scalar": round((at(config, "attention.scale") or 1.0) ** -2)}, 256,
)  # fmt: skip


@FAMILIES.register("gemma")
class Gemma(Family):
    architectures = {"GemmaForCausalLM": "CausalLM", "GemmaModel": "CausalLM"}
    prefix = "model."
    fields = (
        # Its "gelu" is the tanh form too.
        *fields(256_000, 3072, 24_576, 28, 16, act=activation("hidden_act", _TANH, gelu="gelu_tanh"), norms="pre"), rope(),
        kv_heads(default=16),
    )  # fmt: skip
    harmless = ("hidden_activation",)
    rows = decoder(LLAMA_LAYER)


@FAMILIES.register("gemma2")
class Gemma2(Family):
    architectures = {"Gemma2ForCausalLM": "CausalLM", "Gemma2Model": "CausalLM"}
    prefix = "model."
    fields = (
        *fields(256_000, 2304, 9216, 26, 8), kv_heads(default=4), rope(), SCALE,
        same("attn_logit_softcapping", "attention.softcap", 50.0), same("final_logit_softcapping", "output.softcap", 30.0),
        sliding(lambda theirs, i: i % 2 == 0),
    )  # fmt: skip
    harmless = ("hidden_act",)
    rows = decoder(LAYER)
