"""Gemma 3, its text (Gemma Team, 2025): Gemma 2 with norms of queries and keys, and another rotary base under a window."""

from ..family import FAMILIES, Family
from ..fields import Field, at, kv_heads
from ..layers import of_layers, parameters_of, sliding, turned
from .gemma import LAYER, SCALE, caps, fields
from .shared import QK_NORMS, decoder


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
        *fields(262_208, 2304, 9216, 26, 8, length=131_072, attention=dict(qk_norm=True)), kv_heads(default=4),
        Field(
            ("rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq"),
            lambda theirs: {f"positions.{n}": x for n, x in turned(_ropes(theirs)[0], theirs, 1e6, 1.0).items()},
            _write_ropes,
        ),
        SCALE, *caps(None, None),
        sliding(
            lambda theirs, i: (i + 1) % theirs.get("sliding_window_pattern", 6) != 0,
            keys=("sliding_window_pattern", "_sliding_window_pattern"),
            local=lambda theirs: {"positions": turned(_ropes(theirs)[1], theirs, 1e4, 1.0)},
        ),
    )  # fmt: skip
    rows = decoder([*LAYER, *QK_NORMS])
