"""Gemma 3, its text (Gemma Team, 2025): Gemma 2 with norms of queries and keys, and another rotary base under a window."""

from ..family import FAMILIES, Family
from ..fields import kv_heads, only, same
from ..layers import ropes, sliding
from .gemma import LAYER, SCALE, fields
from .shared import QK_NORMS, decoder

_ROPE, _LOCAL = ropes(("rope_theta", 1e6), ("rope_local_base_freq", 1e4))


@FAMILIES.register("gemma3_text")
class Gemma3(Family):
    architectures = {"Gemma3ForCausalLM": "CausalLM", "Gemma3TextModel": "CausalLM"}
    prefix = "model."
    fields = (
        *fields(262_208, 2304, 9216, 26, 8, length=131_072, attention=dict(qk_norm=True)), kv_heads(default=4), _ROPE,
        SCALE, same("final_logit_softcapping", "output.softcap", None),
        only("attn_logit_softcapping", None),  # which theirs has, and does not compute
        sliding(
            lambda theirs, i: (i + 1) % theirs.get("sliding_window_pattern", 6) != 0,
            keys=("sliding_window_pattern", "_sliding_window_pattern"),
            local=_LOCAL,
        ),
    )  # fmt: skip
    harmless = ("hidden_act",)
    rows = decoder([*LAYER, *QK_NORMS])
