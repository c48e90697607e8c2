"""GPT-Neo (Black et al., 2021): scores that are not scaled, layers by turns with a window."""

from ...config import ConfigError
from ..family import FAMILIES, Family
from ..fields import Field, activation, alike, always, same, width
from ..layers import pattern, windows_of
from ..tensors import linear, norm, row, within
from .shared import attention, mlp


def _read_kinds(theirs):
    types, count = theirs.get("attention_types") or [[["global", "local"], 12]], theirs["num_layers"]
    kinds = theirs.get("attention_layers") or [kind for kinds, times in types for kind in kinds * times]
    if len(kinds) != count or not {"global", "local"}.issuperset(kinds):
        raise ConfigError(f"config.json: attention_types must be {count} of 'global' and 'local' in all, got {kinds}")
    local = {"attention": {"window": theirs.get("window_size", 256)}}
    return pattern([local if kind == "local" else {} for kind in kinds])


def _write_kinds(config):
    kinds = ["global" if window is None else "local" for window in windows_of(config)]
    width = next(filter(None, windows_of(config)), 256)
    return {"attention_types": [[[kind], 1] for kind in kinds], "attention_layers": kinds, "window_size": width}


@FAMILIES.register("gpt_neo")
class GPTNeo(Family):
    architectures = {"GPTNeoForCausalLM": "CausalLM", "GPTNeoModel": "CausalLM"}
    prefix = "transformer."
    embedding = "transformer.wte.weight"
    fields = (
        same("vocab_size", "vocab_size", 50_257),
        same("max_position_embeddings", "max_length", 2048),
        same("hidden_size", "d_model", 2048),
        same("num_layers", "num_layers", 24, spelt=("num_hidden_layers",)),
        same("num_heads", "attention.num_heads", 16, spelt=("num_attention_heads",)),
        Field(("attention_types", "attention_layers", "window_size"), _read_kinds, _write_kinds),
        width("intermediate_size"),
        activation("activation_function", "gelu_new"),
        same("layer_norm_epsilon", "norm.eps", 1e-5),
        same("tie_word_embeddings", "output.tie", True),
        alike(("resid_dropout", "embed_dropout"), "dropout_rate", 0.0),
        same("attention_dropout", "attention.dropout_rate", 0.0),
        always(
            scale_embeddings=False, positions=dict(name="learned"), layer=dict(norm_position="pre"),
            attention=dict(scale=1.0, qkv_bias=False),
        ),
    )  # fmt: skip
    harmless = ("classifier_dropout", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
                "summary_type", "summary_use_proj")  # fmt: skip
    rows = (
        row("transformer.wte.weight", "embedding.table"),
        row("transformer.wpe.weight", "positions.scheme.table"),
        *within("transformer.h.{}.", "decoder.{}.", [
            *norm("ln_1", "attention_residual.norm"), *within("attn.attention.", "", attention(o="out_proj")),
            *norm("ln_2", "feed_forward_residual.norm"), *mlp("mlp.c_fc", "mlp.c_proj"),
        ]),
        *norm("transformer.ln_f", "decoder.final_norm"),
        *linear("lm_head", ("output.w", "output.b")),
    )  # fmt: skip
