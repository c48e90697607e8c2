"""ModernBERT (Warner et al., 2024): some layers see a window, which have another rotary base; the first has no norm."""

from ..family import FAMILIES, Family, Head
from ..fields import activation, always, labels, same
from ..layers import FULL, SLIDING, ropes, sliding
from ..tensors import LINEAR, linear, norm, row, within
from .encoders import MODELS, TIE
from .shared import HEADS, HIDDEN, LAST, sizes

_ROPE, _LOCAL = ropes(("global_rope_theta", 160_000.0), ("local_rope_theta", 10_000.0), scaled=(FULL, SLIDING))
_LAYERS = sliding(
    lambda theirs, i: i % theirs.get("global_attn_every_n_layers", 3) != 0, keys=("global_attn_every_n_layers",),
    local=_LOCAL, first={"layer": {"attention_norm": False}}, both_sides=("local_attention", 128),
)  # fmt: skip
_LAYER = [
    *norm("attn_norm", "attention_residual.norm"), *linear("attn.Wqkv", *HEADS),
    *linear("attn.Wo", ("attention.w_o", "attention.b_o")), *norm("mlp_norm", "feed_forward_residual.norm"),
    *linear("mlp.Wi", *HIDDEN), *linear("mlp.Wo", LAST),
]  # fmt: skip


@FAMILIES.register("modernbert")
class ModernBert(Family):
    architectures = {f"ModernBert{theirs}": ours for theirs, ours in MODELS.items()}
    prefix, bare = "model.", ("TextEncoder", "encoder.")
    embedding, output = "model.embeddings.tok_embeddings.weight", "decoder.weight"
    fields = (
        *sizes(50_368, 768, 1152, 22, 12, 8192, act=None, eps=("norm_eps", 1e-5), tie=None),
        activation("hidden_activation", "gelu"), same("norm_bias", "norm.bias", False),
        same("attention_bias", ("attention.qkv_bias", "attention.output_bias"), False),
        same("mlp_bias", "feed_forward.bias", False), same("mlp_dropout", "feed_forward.dropout_rate", 0.0),
        same("embedding_dropout", "dropout_rate", 0.0), _ROPE, _LAYERS,
        always(scale_embeddings=False, embedding_norm=True, layer=dict(norm_position="pre"), feed_forward=dict(name="gated")),
    )  # fmt: skip
    harmless = (
        "classifier_pooling classifier_bias classifier_activation classifier_dropout decoder_bias cls_token_id "
        "deterministic_flash_attn initializer_cutoff_factor layer_norm_eps position_embedding_type reference_compile "
        "repad_logits_with_grad sparse_prediction sparse_pred_ignore_index"
    ).split()
    rows = (
        row("model.embeddings.tok_embeddings.weight", "encoder.embedding.table"),
        *norm("model.embeddings.norm", "encoder.positions.norm"), *within("model.layers.{}.", "encoder.layers.{}.", _LAYER),
        *norm("model.final_norm", "encoder.layers.final_norm"),
    )  # fmt: skip
    heads = {
        "MaskedLM": Head((
            TIE, activation("classifier_activation", "gelu", "transform_activation"),
            same("classifier_bias", "transform_bias", False), same("decoder_bias", "output.bias", True),
        ), (
            *linear("head.dense", ("transform.w", "transform.b")), *norm("head.norm", "transform_norm"),
            row("decoder.weight", "output.w", view=LINEAR), row("decoder.bias", "output.b"),
        )),
        "TextClassifier": Head((
            activation("classifier_activation", "gelu", "pooler_activation"), always(pooler=True, pooler_norm=True),
            same("classifier_bias", "pooler_bias", False), same("classifier_pooling", "pooling", "cls"), labels(),
        ), (
            *linear("head.dense", ("encoder.pooler.w", "encoder.pooler.b")), *norm("head.norm", "encoder.pooler_norm"),
            *linear("classifier", ("classifier.w", "classifier.b")),
        )),
    }  # fmt: skip
