"""Qwen 2 and 3 (Yang et al., 2024, 2025)."""

from ..family import FAMILIES, Family
from ..fields import always, head_dim, kv_heads, same
from ..layers import rope, sliding, windows_of
from .shared import LLAMA_LAYER, QK_NORMS, decoder, sizes

_KEYS = ("use_sliding_window", "max_window_layers")


def _is_sliding(theirs, i):
    return bool(theirs.get("use_sliding_window", False)) and i >= theirs.get("max_window_layers", 28)


def _fields(**attention):
    always_so = always(
        scale_embeddings=False, dropout_rate=0.0, norm=dict(name="rms"), layer=dict(norm_position="pre"),
        attention=attention, feed_forward=dict(name="gated", bias=False),
    )  # fmt: skip
    windows = sliding(_is_sliding, keys=_KEYS, says=lambda config: {
        "use_sliding_window": any(windows_of(config)),
    })  # fmt: skip
    return (*sizes(151_936, 4096, 22_016, 32, 32, 32_768), kv_heads(default=32), rope(), windows, always_so)


@FAMILIES.register("qwen2")
class Qwen2(Family):
    architectures = {"Qwen2ForCausalLM": "CausalLM", "Qwen2Model": "CausalLM"}
    prefix = "model."
    fields = _fields(qkv_bias=True, output_bias=False)
    rows = decoder(LLAMA_LAYER)


@FAMILIES.register("qwen3")
class Qwen3(Family):
    architectures = {"Qwen3ForCausalLM": "CausalLM", "Qwen3Model": "CausalLM"}
    prefix = "model."
    fields = (
        *_fields(qk_norm=True),
        head_dim(default=128),
        same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), False),
    )
    rows = decoder([*LLAMA_LAYER, *QK_NORMS])
