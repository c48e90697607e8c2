"""StarCoder 2 (Lozhkov et al., 2024): rotary positions, groups of heads, layer norms and biases."""

from ..family import FAMILIES, Family
from ..fields import alike, always, kv_heads, same
from ..layers import rope
from ..tensors import within
from .shared import PRE_NORMS, attention, decoder, mlp, sizes


@FAMILIES.register("starcoder2")
class Starcoder2(Family):
    architectures = {"Starcoder2ForCausalLM": "CausalLM", "Starcoder2Model": "CausalLM"}
    prefix = "model."
    fields = (
        *sizes(49_152, 3072, 12_288, 30, 24, 4096, act="gelu_pytorch_tanh", eps=("norm_epsilon", 1e-5), tie=True),
        kv_heads(default=2),
        rope(),
        same("sliding_window", "attention.window", None),
        same("use_bias", ("attention.qkv_bias", "attention.output_bias", "feed_forward.bias"), True),
        alike(("residual_dropout", "embedding_dropout"), "dropout_rate", 0.0),
        always(scale_embeddings=False, norm=dict(name="layer"), layer=dict(norm_position="pre")),
    )
    harmless = ("mlp_type", "norm_type")
    rows = decoder([*within("self_attn.", "", attention()), *mlp("mlp.c_fc", "mlp.c_proj"), *PRE_NORMS])
