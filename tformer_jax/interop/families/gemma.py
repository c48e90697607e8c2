"""Gemma 1 and 2 (Gemma Team, 2024): gains of 1 + w, embeddings times the root of the width."""

from ..family import FAMILIES, Family
from ..fields import Field, always, at, head_dim, kv_heads, named, only, same
from ..layers import rope, sliding
from ..tensors import within
from .shared import GATED, LLAMA_LAYER, SANDWICH_NORMS, attention, decoder, sizes

LAYER = [*within("self_attn.", "", attention()), *GATED, *SANDWICH_NORMS]
# Its "gelu" is the tanh form too.
_ACTS = dict.fromkeys(("gelu_pytorch_tanh", "gelu", None), {"feed_forward.activation": "gelu_tanh"})


def fields(*sizes_, length=8192, norms="sandwich", act="hidden_activation", **more):
    return (
        *sizes(*sizes_, length, act=None, tie=True),
        named(act, _ACTS, "gelu_pytorch_tanh", spelt=("hidden_activation", "hidden_act")),
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


def caps(scores, logits):
    """The soft caps, with a family's defaults."""
    return (
        same("attn_logit_softcapping", "attention.softcap", scores),
        same("final_logit_softcapping", "output.softcap", logits),
    )


@FAMILIES.register("gemma")
class Gemma(Family):
    architectures = {"GemmaForCausalLM": "CausalLM", "GemmaModel": "CausalLM"}
    prefix = "model."
    fields = (*fields(256_000, 3072, 24_576, 28, 16, act="hidden_act", norms="pre"), kv_heads(default=16), rope())
    rows = decoder(LLAMA_LAYER)


@FAMILIES.register("gemma2")
class Gemma2(Family):
    architectures = {"Gemma2ForCausalLM": "CausalLM", "Gemma2Model": "CausalLM"}
    prefix = "model."
    fields = (
        *fields(256_000, 2304, 9216, 26, 8), kv_heads(default=4), rope(), SCALE, *caps(50.0, 30.0),
        sliding(lambda theirs, i: i % 2 == 0),
    )  # fmt: skip
    rows = decoder(LAYER)
