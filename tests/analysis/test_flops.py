"""Floating-point operations by formula against what the compiler counts in the program."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support import tables

import tformer_jax.functional as F
from tformer_jax import models
from tformer_jax.analysis import flops
from tformer_jax.analysis.flops import attention_flops


def compiled_flops(B, T, S, N, H):
    """Of attention over N heads of width H, as XLA counts them; nothing is run."""
    attention = functools.partial(F.scaled_dot_product_attention, implementation="reference")
    q, kv = (jax.ShapeDtypeStruct((B, length, N, H), jnp.float32) for length in (T, S))
    return jax.jit(attention).lower(q, kv, kv).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(("B", "T", "S", "N", "H"), [(1, 512, 512, 2, 128), (2, 256, 768, 4, 96)])
def test_attention_flops_are_the_compilers(B, T, S, N, H):
    """The count would be off by more than the softmax, which the formula leaves out: a few operations a score."""
    counted = compiled_flops(B, T, S, N, H)
    formula = attention_flops(T, S, N * H, batch=B)
    assert formula <= counted <= 1.04 * formula


def test_attention_flops_are_quadratic_in_the_length():
    """Doubling the sequence would not cost four times as much."""
    assert attention_flops(2048, 2048, 512) == 4 * attention_flops(1024, 1024, 512)


def test_attention_flops_are_those_of_two_matrix_products():
    """By hand: T x S scores of d products and sums each, and as much for the weighted sum, for each example."""
    T, S, d, batch = 3, 5, 7, 2
    products_and_sums = 2 * d
    assert attention_flops(T, S, d, batch=batch) == batch * 2 * (T * S * products_and_sums)


# Whole models ------------------------------------------------------------------------------------

B, T, S = 2, 96, 64
WIDE = dict(d_model=256, num_heads=4, d_ff=640, num_layers=3, scan_unroll=3, attention_implementation="reference")
TEXT = WIDE | dict(vocab_size=1000, max_length=T, positions="none")
IMAGES = WIDE | dict(image_size=32, patch_size=4, num_classes=100, positions="learned")
MODELS = {
    "causal": ("CausalLM", TEXT, lambda m: (tokens(T),), lambda c: flops.causal_lm_flops(c, B, T)),
    "gated, grouped, wide heads": (
        "CausalLM", TEXT | dict(gated=True, num_kv_heads=2, head_dim=96), lambda m: (tokens(T),),
        lambda c: flops.causal_lm_flops(c, B, T),
    ),
    "encoder-decoder": (
        "Transformer", TEXT | dict(num_decoder_layers=5), lambda m: (tokens(S), tokens(T)),
        lambda c: flops.transformer_flops(c, B, S, T),
    ),
    "narrow, causal": (
        "CausalLM", TEXT | dict(embedding_width=160), lambda m: (tokens(T),), lambda c: flops.causal_lm_flops(c, B, T),
    ),
    "narrow, encoder-decoder": (
        "Transformer", TEXT | dict(embedding_width=160), lambda m: (tokens(S), tokens(T)),
        lambda c: flops.transformer_flops(c, B, S, T),
    ),
    "narrow, masked": (
        "MaskedLM", TEXT | dict(embedding_width=160, embedding_projection="last"), lambda m: (tokens(T),),
        lambda c: flops.masked_lm_flops(c, B, T, B * T),
    ),
    "masked": ("MaskedLM", TEXT, lambda m: (tokens(T),), lambda c: flops.masked_lm_flops(c, B, T, B * T)),
    "classifier": (
        "TextClassifier", TEXT | dict(num_classes=7, pooler=True), lambda m: (tokens(T),),
        lambda c: flops.text_classifier_flops(c, B, T),
    ),
    "images": (
        "VisionTransformer", IMAGES, lambda m: (jax.ShapeDtypeStruct((B, 32, 32, 3), jnp.float32),),
        lambda c: flops.vision_flops(c, B),
    ),
    "images, pooled": (
        "VisionTransformer", IMAGES | dict(pooling="mean"),
        lambda m: (jax.ShapeDtypeStruct((B, 32, 32, 3), jnp.float32),), lambda c: flops.vision_flops(c, B),
    ),
    "images, by a learned query": (
        "VisionTransformer", IMAGES | dict(pooling="attention", num_layers=1, num_registers=2, pooler=True),
        lambda m: (jax.ShapeDtypeStruct((B, 32, 32, 3), jnp.float32),), lambda c: flops.vision_flops(c, B),
    ),
    "images, by each token before": (
        "VisionTransformer", IMAGES | dict(pooling="prefix", num_layers=1, num_registers=2),
        lambda m: (jax.ShapeDtypeStruct((B, 32, 32, 3), jnp.float32),), lambda c: flops.vision_flops(c, B),
    ),
}  # fmt: skip


def tokens(length):
    return jax.ShapeDtypeStruct((B, length), jnp.int32)


def counted(function, *arguments):
    """As the compiler counts them in the program before it optimises; nothing is compiled."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.mark.parametrize("name", MODELS)
def test_the_flops_of_a_model_are_the_compilers(name):
    """A prediction of time or MFU would be off by a forgotten projection: by more than norms, softmax and the like."""
    kind, fields, inputs, formula = MODELS[name]
    config = getattr(models, kind).Config(**tables(**fields))
    model = jax.eval_shape(lambda: getattr(models, kind)(config, rngs=nnx.Rngs(0)))
    found = counted(lambda model, *inputs: model(*inputs), model, *inputs(model))
    assert formula(config) <= found <= 1.06 * formula(config)


def test_training_costs_three_forward_passes():
    """A step's time would be predicted without its backward pass, or with another one than there is."""
    config = models.CausalLM.Config(**tables(**TEXT | dict(dropout_rate=0.0)))
    model = jax.eval_shape(lambda: models.CausalLM(config, rngs=nnx.Rngs(0)))
    step = jax.value_and_grad(lambda model, tokens: F.causal_lm_loss(model(tokens), tokens))
    formula = flops.TRAINING * flops.causal_lm_flops(config, B, T)
    assert 0.98 * formula <= counted(step, model, tokens(T)) <= 1.06 * formula
