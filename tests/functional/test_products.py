"""Products with weights, whose gradient is one product as well."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, normal

from tformer_jax.functional.products import product

SHAPES = [
    ((2, 5, 3), (3, 4), 1),
    ((2, 5, 3), (3, 4, 6), 1),
    ((2, 5, 3, 4), (3, 4, 6), 2),
    ((3,), (3, 4), 1),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "axes"), SHAPES)
def test_a_product_and_its_gradients_are_those_of_numpy(x_shape, w_shape, axes):
    """Vectors that become rows of one matrix come back in another order or shape."""
    x, w = normal(0, *x_shape), normal(1, *w_shape)
    out, pull = jax.vjp(lambda x, w: product(x, w, axes=axes), x, w)
    d_out = normal(2, *out.shape)
    x64, w64, d64 = (np.asarray(a, np.float64) for a in (x, w, d_out))
    assert_close(out, np.tensordot(x64, w64, axes), 1e-6)
    dx, dw = pull(d_out)
    outs, batch = w64.ndim - axes, x64.ndim - axes
    assert_close(dx, np.tensordot(d64, w64, (range(batch, batch + outs), range(axes, w64.ndim))), 1e-5, "dx")
    assert_close(dw, np.tensordot(x64, d64, (range(batch), range(batch))), 1e-5, "dw")


def test_no_batch_is_no_batch():
    """The size of an axis cannot be found from no elements."""
    assert product(jnp.zeros((0, 5, 3)), jnp.ones((3, 4))).shape == (0, 5, 4)


def test_the_gradient_of_weights_copies_nothing_transposed():
    """A sum over two axes: XLA:CPU would transpose both operands first, a seventh of a feed-forward network's time."""
    x, w, d = normal(0, 4, 32, 64), normal(1, 64, 128), normal(2, 4, 32, 128)
    compiled = jax.jit(lambda x, w, d: jax.vjp(lambda w: product(x, w), w)[1](d)).lower(x, w, d).compile()
    assert not re.findall(r"= \S+ transpose\(|f32\[(64|128),128\]\S* (copy|fusion)\(.*4,32", compiled.as_text())


def test_an_explicit_mesh_keeps_its_axes_apart():
    """Axes that devices split cannot be merged."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    x, w = normal(0, 2, 4, 3), normal(1, 3, 4)
    with jax.set_mesh(mesh):
        spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P("a", "b")))
        assert_close(jax.jit(product)(spread, w), np.tensordot(x, w, 1), 1e-6)
