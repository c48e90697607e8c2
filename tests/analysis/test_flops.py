"""Floating-point operations by formula against what the compiler counts in the program."""

import functools

import jax
import jax.numpy as jnp
import pytest

import tformer_jax.functional as F
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
