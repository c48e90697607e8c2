"""Weights in eight bits, and products with them that read eight bits."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Int8

from .checks import as_array, shown
from .numbers import as_integer

# Vectors up to which products of integers are faster on a CPU, although a number is two of them.
_FEW_VECTORS = 8
_MOST, _SECOND = 127.0, 254.0  # of a digit; the second digit counts steps of 1 / 254 of the first


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Matrix:
    """A matrix [*inputs *outputs] in eight bits, with a scale for each output: w[i, o] = values[o, i] scales[o].

    The functions of this package take it where they take a weight. Others, of JAX too, take it for the array that it
    stands for (`to_array`), which they then hold in full.

    Attributes:
      values: [O I] int8 from -127 to 127, a row for each output: a product reads them in their order.
      scales: [O] float32, of the outputs.
      shape: of what it stands for.
      num_inputs: how many of its first axes are summed over in a product.
      dtype: of what it stands for.
    """

    values: Any
    scales: Any
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    num_inputs: int = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> Any:
        """The matrix itself for `[...]`, as modules read their parameters; parts of it as an array."""
        return self if index is ... else self.to_array()[index]

    def astype(self, dtype: Any) -> "Int8Matrix":
        """The same integers, for what computes in another dtype."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def __mul__(self, factor: float) -> "Int8Matrix":
        return dataclasses.replace(self, scales=self.scales * factor)

    def __truediv__(self, divisor: float) -> "Int8Matrix":
        return dataclasses.replace(self, scales=self.scales / divisor)

    def to_array(self) -> Array:
        """The numbers that it holds, [*inputs *outputs]."""
        numbers = self.values.astype(jnp.float32) * self.scales[:, None]  # [O I]
        return numbers.T.reshape(self.shape).astype(self.dtype)

    def __jax_array__(self) -> Array:
        return self.to_array()

    def of_outputs(self, index: Int[Array, "..."]) -> Float[Array, "... I"]:
        """The weights of outputs, such as the vectors of tokens in a table; NaN where there is no such output."""
        values = self.values.at[index].get(mode="fill", fill_value=0).astype(jnp.float32)
        return values * self.scales.at[index].get(mode="fill", fill_value=jnp.nan)[..., None]

    def after(self, x: Float[Array, "M I"], dtype: Any) -> Float[Array, "M O"]:
        """x W, of vectors in rows; x and W count with all of their digits, but for 1 / 64,000 of a row's largest one."""
        if jax.default_backend() != "cpu" or len(x) > _FEW_VECTORS or x.dtype == jnp.float64:
            w = self.to_array().reshape(-1, len(self.values))  # [I O]
            return jnp.matmul(x, w, preferred_element_type=dtype)
        return _integer_product(x.astype(jnp.float32), self.values, self.scales).astype(dtype or x.dtype)


def quantize_int8(w: Float[Array, "..."], num_inputs: int = 1) -> Int8Matrix:
    """Rounds a matrix to eight bits, each output by itself, so that its largest weight is ±127.

        scale_o = max_i |w[i, o]| / 127;  values[o, i] = round(w[i, o] / scale_o)

    Half a step, 1 / 254 of the largest weight of the output, is the most that a weight moves.

    Source: Dettmers et al., 2022, section 2.1 (absmax quantisation, by vector).

    Args:
      w: [*inputs *outputs].
      num_inputs: the number of its first axes that a product sums over.

    Raises:
      TypeError: no array of floats, or a number of axes that is no integer.
      ValueError: no axis of inputs, or none of outputs.
    """
    w = as_array("w", w, kind="floats")
    num_inputs = as_integer("num_inputs", num_inputs, least=1)
    if num_inputs >= w.ndim:
        raise ValueError(
            f"w must have inputs and outputs, got {num_inputs} axes of inputs in the shape {shown(w.shape)}"
        )
    rows = w.reshape(math.prod(w.shape[:num_inputs]), -1).T.astype(jnp.float32)  # [O I]
    scales = jnp.abs(rows).max(1) / _MOST
    values = jnp.round(rows / jnp.where(scales == 0, 1, scales)[:, None]).astype(jnp.int8)
    return Int8Matrix(values, scales, w.shape, num_inputs, w.dtype)


# What functions take as a weight: an annotation is Float[Weight, "D F"].
Weight = Array | Int8Matrix


@jax.custom_jvp
def _integer_product(x: Float[Array, "M I"], values: Int8[Array, "O I"], scales: Float[Array, "O"]) -> Array:
    """x W [M O] on a CPU, by integers: each number of x is two digits, of which one row of products each is made.

    Of eight bits turned into floats within a loop over tokens, XLA:CPU makes all floats before the loop. It multiplies
    int8 as they are. One digit would do for many models; two cost nothing for one vector, since one row of products
    takes the slow way of a vector by a matrix, which makes floats as well.
    """
    unit = jnp.abs(x).max(1, keepdims=True) / _MOST  # [M 1]
    digits = x / jnp.where(unit == 0, 1, unit)
    first = jnp.round(digits)
    rows = jnp.concatenate([first, jnp.round((digits - first) * _SECOND)]).astype(jnp.int8)  # [2M I]
    sums = lax.dot_general(rows, values, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)  # [2M O]
    first, second = jnp.split(sums.astype(jnp.float32), 2)
    return (first + second / _SECOND) * unit * scales


@_integer_product.defjvp
def _integer_product_jvp(primals, tangents):
    """The derivative of x W: that of the rounding is zero almost everywhere, and means nothing."""
    (x, values, scales), (dx, _, d_scales) = primals, tangents
    floats = values.astype(jnp.float32)
    return _integer_product(x, values, scales), (dx @ floats.T) * scales + (x @ floats.T) * d_scales
