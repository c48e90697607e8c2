"""The published models, as fields of `TransformerConfig`."""

from typing import Any

# Vaswani et al., 2017, table 3, with the 37,000 shared tokens of English-German.
_BASE = dict(vocab_size=37_000, d_model=512, num_heads=8, d_ff=2048, num_layers=6, dropout_rate=0.1)

# Radford et al., 2019, and the initialisation of its section 2.3.
_GPT2 = dict(
    vocab_size=50_257, d_model=768, num_heads=12, d_ff=3072, num_layers=12, activation="gelu_tanh",
    norm_position="pre", positions="learned", max_length=1024, scale_embeddings=False,
    dropout_rate=0.1, attention_dropout_rate=0.1, init_std=0.02, scale_residual_init=True,
)  # fmt: skip

# Touvron et al., 2023 (Llama 2), and Grattafiori et al., 2024 (Llama 3: larger vocabulary, GQA throughout). The
# small ones have the shapes of Llama 3.2, without the rotary scaling that takes it beyond 8,192 tokens.
_LLAMA2 = dict(
    vocab_size=32_000, d_model=4096, num_heads=32, d_ff=11_008, num_layers=32, activation="silu", gated=True,
    norm="rms", norm_position="pre", use_bias=False, positions="rotary", max_length=4096,
    scale_embeddings=False, tie_output=False, dropout_rate=0.0, init_std=0.02,
)  # fmt: skip
_LLAMA3 = _LLAMA2 | dict(vocab_size=128_256, num_kv_heads=8, rotary_base=500_000.0, max_length=8192)

# Devlin et al., 2018; the uncased vocabulary.
_BERT = dict(
    vocab_size=30_522, num_token_types=2, d_model=768, num_heads=12, d_ff=3072, num_layers=12, activation="gelu",
    norm_position="post", norm_eps=1e-12, positions="learned", max_length=512, scale_embeddings=False,
    embedding_norm=True, pooler=True, dropout_rate=0.1, attention_dropout_rate=0.1, init_std=0.02,
)  # fmt: skip

# Dosovitskiy et al., 2021, table 1; the small ones are of Touvron et al., 2021. ImageNet's 1,000 classes.
_VIT = dict(
    image_size=224, patch_size=16, num_classes=1000, d_model=768, num_heads=12, d_ff=3072, num_layers=12,
    activation="gelu", norm_position="pre", norm_eps=1e-6, positions="learned", dropout_rate=0.1,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "transformer_base": _BASE,
    "transformer_big": _BASE | dict(d_model=1024, num_heads=16, d_ff=4096, dropout_rate=0.3),
    "gpt2": _GPT2,
    "gpt2_medium": _GPT2 | dict(d_model=1024, num_heads=16, d_ff=4096, num_layers=24),
    "gpt2_large": _GPT2 | dict(d_model=1280, num_heads=20, d_ff=5120, num_layers=36),
    "gpt2_xl": _GPT2 | dict(d_model=1600, num_heads=25, d_ff=6400, num_layers=48),
    "llama_1b": _LLAMA3 | dict(d_model=2048, d_ff=8192, num_layers=16, tie_output=True),
    "llama_3b": _LLAMA3 | dict(d_model=3072, num_heads=24, d_ff=8192, num_layers=28, tie_output=True),
    "llama_7b": _LLAMA2,
    "llama_8b": _LLAMA3 | dict(d_ff=14_336),
    "llama_13b": _LLAMA2 | dict(d_model=5120, num_heads=40, d_ff=13_824, num_layers=40),
    "llama_70b": _LLAMA3 | dict(d_model=8192, num_heads=64, d_ff=28_672, num_layers=80),
    "bert_base": _BERT,
    "bert_large": _BERT | dict(d_model=1024, num_heads=16, d_ff=4096, num_layers=24),
    "vit_ti16": _VIT | dict(d_model=192, num_heads=3, d_ff=768, dropout_rate=0.0),
    "vit_s16": _VIT | dict(d_model=384, num_heads=6, d_ff=1536, dropout_rate=0.0),
    "vit_b16": _VIT,
    "vit_b32": _VIT | dict(patch_size=32),
    "vit_l16": _VIT | dict(d_model=1024, num_heads=16, d_ff=4096, num_layers=24),
}
