"""SmolLM 3 (Bakouch et al., 2025): Llama, some layers of which are not turned."""

from ..family import FAMILIES, Family
from ..fields import Field, always, kv_heads, same
from ..layers import FULL, SLIDING, of_layers, pattern, rope, windows_of
from .shared import HARMLESS, LLAMA_LAYER, decoder, sizes

_KEYS = (
    "no_rope_layers", "no_rope_layer_interval", "layer_types", "use_sliding_window", "sliding_window", "max_window_layers",
)  # fmt: skip


def _read(theirs):
    count, window = theirs["num_hidden_layers"], theirs.get("sliding_window")
    every = theirs.get("no_rope_layer_interval", 4)
    # 1 of a layer that is turned.
    turned = theirs.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(count)]
    windowed = bool(theirs.get("use_sliding_window")) and window is not None
    kinds = theirs.get("layer_types") or [SLIDING if windowed and not turn else FULL for turn in turned]
    tables = []
    for turn, kind in zip(turned[:count], kinds[:count], strict=True):
        tables.append(
            ({} if turn else {"positions": {"name": "none"}})
            | ({"attention": {"window": window}} if kind == SLIDING and window is not None else {})
        )
    return pattern(tables)


def _write(config):
    layers = of_layers(config)
    windows = windows_of(config)
    return {
        "no_rope_layers": [int(layer.positions.name == "rotary") for layer in layers],
        "layer_types": [FULL if window is None else SLIDING for window in windows],
        "use_sliding_window": any(windows),
        "sliding_window": next((window for window in windows if window), None),
    }


@FAMILIES.register("smollm3")
class SmolLM3(Family):
    architectures = {"SmolLM3ForCausalLM": "CausalLM", "SmolLM3Model": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(128_256, 2048, 11_008, 36, 16, 32_768, tie=True),
        kv_heads(default=4),
        rope(2_000_000.0),
        same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), False),
        same("mlp_bias", "feed_forward.bias", False),
        Field(_KEYS, _read, _write),
        always(
            scale_embeddings=False, dropout_rate=0.0, norm=dict(name="rms"), layer=dict(norm_position="pre"),
            feed_forward=dict(name="gated"),
        ),
    )  # fmt: skip
    harmless = HARMLESS
    rows = decoder(LLAMA_LAYER)
