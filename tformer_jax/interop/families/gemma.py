"""Gemma 1, 2 and 3, its text (Gemma Team, 2024, 2025): gains of 1 + w, embeddings times the root of the width."""

from ..family import FAMILIES, Family
from ..fields import Field, always, at, head_dim, kv_heads, named, only, same
from ..layers import of_layers, parameters_of, rope, sliding, turned
from ..tensors import within
from .shared import GATED, LLAMA_LAYER, QK_NORMS, SANDWICH_NORMS, attention, decoder, sizes

_LAYER = [*within("self_attn.", "", attention()), *GATED, *SANDWICH_NORMS]


# Its "gelu" is the tanh form too.
_ACT = {"feed_forward.activation": "gelu_tanh"}
_ACTS = {"gelu_pytorch_tanh": _ACT, "gelu": _ACT, None: _ACT}


def _fields(*sizes_, length=8192, norms="sandwich", act="hidden_activation", **more):
    old = ("hidden_act",) if act == "hidden_activation" else ("hidden_activation",)
    return (
        *(field for field in sizes(*sizes_, length, tie=True) if "hidden_act" not in field.keys),
        named(act, _ACTS, "gelu_pytorch_tanh", spelt=old),
        head_dim(default=256),
        same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), False),
        only("use_bidirectional_attention", None, False),
        always(
            scale_embeddings=True, dropout_rate=0.0, norm=dict(name="rms", unit_offset=True),
            layer=dict(norm_position=norms), feed_forward=dict(name="gated", bias=False), **more,
        ),
    )  # fmt: skip


# The scale of scores is the root of a whole number in theirs, and no power of it in ours is exact.
_SCALE = Field(
    ("query_pre_attn_scalar",),
    lambda theirs: {"attention.scale": theirs["query_pre_attn_scalar"] ** -0.5},
    lambda config: {"query_pre_attn_scalar": round((at(config, "attention.scale") or 1.0) ** -2)},
    256,
)
_CAPS = lambda scores, logits: (
    same("attn_logit_softcapping", "attention.softcap", scores),
    same("final_logit_softcapping", "output.softcap", logits),
)


@FAMILIES.register("gemma")
class Gemma(Family):
    architectures = {"GemmaForCausalLM": "CausalLM", "GemmaModel": "CausalLM"}
    prefix = "model."
    fields = (*_fields(256_000, 3072, 24_576, 28, 16, act="hidden_act", norms="pre"), kv_heads(default=16), rope())
    rows = decoder(LLAMA_LAYER)


@FAMILIES.register("gemma2")
class Gemma2(Family):
    architectures = {"Gemma2ForCausalLM": "CausalLM", "Gemma2Model": "CausalLM"}
    prefix = "model."
    fields = (
        *_fields(256_000, 2304, 9216, 26, 8), kv_heads(default=4), rope(), _SCALE, *_CAPS(50.0, 30.0),
        sliding(lambda theirs, i: i % 2 == 0),
    )  # fmt: skip
    rows = decoder(_LAYER)


def _ropes(theirs):
    """The tables of `rope_parameters` of full layers and of those with a window, also in the old form."""
    both = theirs.get("rope_parameters") or {}
    full = {"rope_theta": theirs.get("rope_theta", 1e6), **(theirs.get("rope_scaling") or {})}
    local = {"rope_theta": theirs.get("rope_local_base_freq", 1e4)}
    return full | (both.get("full_attention") or {}), local | (both.get("sliding_attention") or {})


def _write_ropes(config):
    layers = of_layers(config)
    full, local = (
        [parameters_of(x) for x in layers if bool(at(x, "attention.window")) == there] for there in (False, True)
    )
    either = [*full, *local]
    return {"rope_parameters": {"full_attention": [*full, *either][0], "sliding_attention": [*local, *either][0]}}


@FAMILIES.register("gemma3_text")
class Gemma3(Family):
    architectures = {"Gemma3ForCausalLM": "CausalLM", "Gemma3TextModel": "CausalLM"}
    prefix = "model."
    fields = (
        *_fields(262_208, 2304, 9216, 26, 8, length=131_072, attention=dict(qk_norm=True)), kv_heads(default=4),
        Field(
            ("rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq"),
            lambda theirs: {f"positions.{n}": x for n, x in turned(_ropes(theirs)[0], theirs, 1e6, 1.0).items()},
            _write_ropes,
        ),
        _SCALE, *_CAPS(None, None),
        sliding(
            lambda theirs, i: (i + 1) % theirs.get("sliding_window_pattern", 6) != 0,
            keys=("sliding_window_pattern", "_sliding_window_pattern"),
            local=lambda theirs: {"positions": turned(_ropes(theirs)[1], theirs, 1e4, 1.0)},
        ),
    )  # fmt: skip
    rows = decoder([*_LAYER, *QK_NORMS])
