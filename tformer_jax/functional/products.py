"""Products with weights, as one product of two matrices where that is what they are."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .checks import as_array
from .meshes import on_one_device
from .quantization import Int8Matrix, Weight


def as_weight(name: str, w: Any, axes: str) -> Weight:
    """Any array that `product` multiplies with, or a matrix in eight bits, of the axes that are given.

    Raises:
      TypeError, ValueError: as `as_array`.
    """
    if isinstance(w, Int8Matrix) and w.ndim == len(axes.split()):
        return w
    return as_array(name, w, axes)


def product(x: Float[Array, "..."], w: Float[Weight, "..."], *, axes: int = 1, dtype=None) -> Float[Array, "..."]:
    """Sums over the last `axes` axes of x and the first ones of w: x W for each vector, [*batch *out].

    On one device the vectors are the rows of one matrix. The gradient of w, xᵀ dy, then sums over one axis: of
    several, XLA makes one for a CPU by copying x and dy, transposed (a seventh of the time of a feed-forward network,
    forward and backward). To merge axes is nothing on any backend, but that a mesh may split them.

    Args:
      x, w: of sizes that agree, which is not checked here.
      axes: how many to sum over.
      dtype: to accumulate in and to return; by default that of x and w.
    """
    batch, out = x.shape[: x.ndim - axes], w.shape[axes:]
    if isinstance(w, Int8Matrix):
        if w.num_inputs == axes:
            rows = x.reshape(math.prod(batch), math.prod(w.shape[:axes]))
            return w.after(rows, dtype).reshape(*batch, *out)
        w = w.to_array()
    if on_one_device(x):
        size = math.prod(w.shape[:axes])
        x, w, axes = x.reshape(math.prod(batch), size), w.reshape(size, math.prod(out)), 1
    return jnp.tensordot(x, w, axes, preferred_element_type=dtype).reshape(*batch, *out)
