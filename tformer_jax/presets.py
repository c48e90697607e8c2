"""The published models: tables of the fields of a model's config, by name."""

from collections.abc import Callable
from typing import Any

from .registry import Registry

Table = dict[str, Any]

# Functions of nothing that give a table: fields of a model's config, and tables for its components.
PRESETS: Registry[Callable[[], Table]] = Registry("preset", takes=())


def _transformer(d_model: int, num_heads: int, width: int, dropout_rate: float) -> Table:
    """Vaswani et al., 2017, table 3, with the 37,000 shared tokens of English-German."""
    return dict(
        vocab_size=37_000, d_model=d_model, num_layers=6, dropout_rate=dropout_rate,
        attention=dict(num_heads=num_heads), feed_forward=dict(width=width),
    )  # fmt: skip


def _gpt2(d_model: int, num_heads: int, num_layers: int) -> Table:
    """Radford et al., 2019, and the initialisation of its section 2.3."""
    return dict(
        vocab_size=50_257, max_length=1024, d_model=d_model, num_layers=num_layers, scale_embeddings=False,
        attention=dict(num_heads=num_heads, dropout_rate=0.1),
        feed_forward=dict(width=4 * d_model, activation="gelu_tanh"),
        layer=dict(norm_position="pre"), positions=dict(name="learned"),
        dropout_rate=0.1, init=dict(std=0.02, scale_residual=True),
    )  # fmt: skip


def _llama(
    d_model: int, num_heads: int, width: int, num_layers: int, *, num_kv_heads: int | None = 8,
    vocab_size: int = 128_256, max_length: int = 8192, base: float = 500_000.0, tie: bool = False,
) -> Table:  # fmt: skip
    """Touvron et al., 2023 (Llama 2), and Grattafiori et al., 2024 (Llama 3: larger vocabulary, GQA throughout).

    The small ones have the shapes of Llama 3.2, without the rotary scaling that takes it beyond 8,192 tokens.
    """
    return dict(
        vocab_size=vocab_size, max_length=max_length, d_model=d_model, num_layers=num_layers, scale_embeddings=False,
        attention=dict(num_heads=num_heads, num_kv_heads=num_kv_heads, qkv_bias=False, output_bias=False),
        feed_forward=dict(name="gated", width=width, activation="silu", bias=False),
        norm=dict(name="rms"), layer=dict(norm_position="pre"), positions=dict(name="rotary", base=base),
        output=dict(tie=tie), dropout_rate=0.0, init=dict(std=0.02),
    )  # fmt: skip


def _llama2(d_model: int, num_heads: int, width: int, num_layers: int) -> Table:
    old = dict(num_kv_heads=None, vocab_size=32_000, max_length=4096, base=10_000.0)
    return _llama(d_model, num_heads, width, num_layers, **old)


def _bert(d_model: int, num_heads: int, num_layers: int) -> Table:
    """Devlin et al., 2018; the uncased vocabulary."""
    return dict(
        vocab_size=30_522, num_token_types=2, max_length=512, d_model=d_model, num_layers=num_layers,
        scale_embeddings=False, embedding_norm=True, pooler=True,
        attention=dict(num_heads=num_heads, dropout_rate=0.1),
        feed_forward=dict(width=4 * d_model, activation="gelu"), norm=dict(eps=1e-12),
        positions=dict(name="learned"), dropout_rate=0.1, init=dict(std=0.02),
    )  # fmt: skip


def _vit(
    d_model: int, num_heads: int, num_layers: int = 12, *, patch_size: int = 16, dropout_rate: float = 0.1
) -> Table:
    """Dosovitskiy et al., 2021, table 1; the small ones are of Touvron et al., 2021. ImageNet's 1,000 classes."""
    return dict(
        image_size=224, patch_size=patch_size, num_classes=1000, d_model=d_model, num_layers=num_layers,
        attention=dict(num_heads=num_heads), feed_forward=dict(width=4 * d_model, activation="gelu"),
        norm=dict(eps=1e-6), layer=dict(norm_position="pre"), positions=dict(name="learned"),
        dropout_rate=dropout_rate,
    )  # fmt: skip


_PUBLISHED = {
    "transformer_base": _transformer(512, 8, 2048, 0.1),
    "transformer_big": _transformer(1024, 16, 4096, 0.3),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2_medium": _gpt2(1024, 16, 24),
    "gpt2_large": _gpt2(1280, 20, 36),
    "gpt2_xl": _gpt2(1600, 25, 48),
    "llama_1b": _llama(2048, 32, 8192, 16, tie=True),
    "llama_3b": _llama(3072, 24, 8192, 28, tie=True),
    "llama_7b": _llama2(4096, 32, 11_008, 32),
    "llama_8b": _llama(4096, 32, 14_336, 32),
    "llama_13b": _llama2(5120, 40, 13_824, 40),
    "llama_70b": _llama(8192, 64, 28_672, 80),
    "bert_base": _bert(768, 12, 12),
    "bert_large": _bert(1024, 16, 24),
    "vit_ti16": _vit(192, 3, dropout_rate=0.0),
    "vit_s16": _vit(384, 6, dropout_rate=0.0),
    "vit_b16": _vit(768, 12),
    "vit_b32": _vit(768, 12, patch_size=32),
    "vit_l16": _vit(1024, 16, 24),
}

for _name, _table in _PUBLISHED.items():
    PRESETS.register(_name)(lambda _table=_table: _table)
