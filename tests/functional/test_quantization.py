"""Weights in eight bits, and products with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, normal, unchecked_annotations

import tformer_jax.functional as F
from tformer_jax.functional.products import product


def rounded(w, num_inputs):
    """The numbers that eight bits leave of w, float64, from the formula."""
    flat = np.asarray(w, np.float64).reshape(int(np.prod(w.shape[:num_inputs])), -1)
    scales = np.abs(flat).max(0) / 127
    return (np.round(flat / np.where(scales == 0, 1, scales)) * scales).reshape(w.shape)


@pytest.mark.parametrize(("shape", "num_inputs"), [((6, 5), 1), ((6, 2, 3), 1), ((2, 3, 6), 2)])
def test_each_output_is_rounded_to_a_127th_of_its_largest_weight(shape, num_inputs):
    """A scale of all outputs together loses small ones; one of the wrong axes cannot be taken out of the product."""
    w = normal(0, *shape) * jnp.logspace(-3, 3, shape[-1])
    kept = F.quantize_int8(w, num_inputs)
    assert kept.shape == shape and kept.values.dtype == jnp.int8
    assert_close(kept.to_array(), rounded(w, num_inputs), 1e-6)


@pytest.mark.parametrize("vectors", [1, 2, 7, 8, 9, 33])
@pytest.mark.parametrize(("shape", "axes"), [((48, 40), 1), ((48, 4, 10), 1), ((6, 8, 40), 2)])
def test_a_product_is_that_with_the_rounded_matrix(vectors, shape, axes):
    """Inputs count in full: rounded to eight bits as well they would be off by a hundredth; by few rows and many."""
    x, w = normal(1, vectors, *shape[:axes]), normal(2, *shape)
    wanted = np.tensordot(np.asarray(x, np.float64), rounded(w, axes), axes)
    got = jax.jit(lambda x, w: product(x, w, axes=axes))(x, F.quantize_int8(w, axes))
    assert_close(got, wanted, 2e-4)


def test_outputs_and_inputs_of_zeros_give_zeros():
    """A scale of zero divides by zero."""
    x, w = normal(1, 3, 8).at[0].set(0), normal(2, 8, 5).at[:, 2].set(0)
    out = product(x, F.quantize_int8(w))
    assert (out[0] == 0).all() and (out[:, 2] == 0).all() and jnp.isfinite(out).all()


def test_what_is_not_a_number_stays_so():
    """An integer has no NaN: a broken state would look like a number."""
    x = normal(1, 3, 8).at[1, 2].set(jnp.nan)
    out = product(x, F.quantize_int8(normal(2, 8, 5)))
    assert jnp.isnan(out[1]).all() and jnp.isfinite(out[jnp.array([0, 2])]).all()


@pytest.mark.parametrize("vectors", [2, 40])
def test_the_gradient_of_inputs_is_that_of_the_product(vectors):
    """The derivative of a rounding is zero, which would stop all learning before the matrix silently."""
    x, w, d = normal(1, vectors, 8), normal(2, 8, 5), normal(3, vectors, 5)
    (dx,) = jax.vjp(lambda x: product(x, F.quantize_int8(w)), x)[1](d)
    assert_close(dx, np.asarray(d, np.float64) @ rounded(w, 1).T, 1e-5)


def test_functions_take_it_where_they_take_a_weight():
    """Attention, feed-forward networks, logits and losses."""
    x, eight = normal(0, 2, 5, 8), lambda seed, *shape: F.quantize_int8(normal(seed, *shape))
    held = {name: normal(i, 8, 2, 4) for i, name in enumerate(("w_q", "w_k", "w_v"))}
    dense = F.AttentionParams(**held, w_o=normal(4, 2, 4, 8))
    kept = F.AttentionParams(**{n: F.quantize_int8(w) for n, w in held.items()}, w_o=F.quantize_int8(dense.w_o, 2))
    exact = F.AttentionParams(**{n: w.to_array() for n, w in kept._asdict().items() if w is not None})
    assert_close(F.multi_head_attention(x, x, kept), F.multi_head_attention(x, x, exact), 5e-4)
    w1, w2 = eight(5, 8, 16), eight(6, 16, 8)
    got, wanted = (F.feed_forward(x, *ws) for ws in ((w1, None, w2, None), (w1.to_array(), None, w2.to_array(), None)))
    assert_close(got, wanted, 5e-4)
    w_out, targets = eight(7, 8, 30), jnp.zeros((2, 5), int)
    assert_close(F.output_logits(x, w_out), F.output_logits(x, w_out.to_array()), 5e-4)
    loss = F.fused_cross_entropy(x, w_out, targets)
    assert_close(loss, F.cross_entropy(F.output_logits(x, w_out.to_array()), targets), 1e-5)


def test_a_loop_holds_no_floats_of_it():
    """XLA would make the matrix of floats before the loop, and read that."""
    w, x = F.quantize_int8(normal(0, 256, 256)), normal(1, 1, 256)
    run = jax.jit(lambda x, w: jax.lax.fori_loop(0, 9, lambda i, x: jnp.tanh(product(x, w)), x))
    assert run.lower(x, w).compile().memory_analysis().temp_size_in_bytes < 4 * 256 * 256


@pytest.mark.parametrize(
    ("w", "num_inputs", "error"),
    [([1.0], 1, TypeError), (jnp.ones((2, 2), int), 1, TypeError), (jnp.ones(3), 1, ValueError),
     (jnp.ones((2, 2)), 2, ValueError), (jnp.ones((2, 2)), 0, ValueError), (jnp.ones((2, 2)), 1.0, TypeError)],
)  # fmt: skip
def test_what_is_no_matrix_is_refused(w, num_inputs, error):
    """Named, where it is given."""
    with unchecked_annotations(), pytest.raises(error, match=r"^(w|num_inputs) must "):
        F.quantize_int8(w, num_inputs)
