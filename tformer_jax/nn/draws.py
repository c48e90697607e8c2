"""Draws of initial values: bit for bit those of `jax.random`, by programs that compile several times as fast.

On a CPU, `jax.random` goes through the rounds of its generator in a loop over whole arrays, which takes a second to compile for
each shape of stacked layers, and writes them to memory five times. Here a value is one expression of its key and its number.
"""

import functools
import math
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jaxtyping import Float, UInt32

from ..functional.numbers import Number

# Threefry-2x32 with 20 rounds (Salmon et al., 2011): rotations of four rounds, in turns, and the parity of a third key.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_BITS_OF_ONE = np.uint32(0x3F800000)  # of 1.0; the mantissa is the last 23


@functools.partial(jax.jit, static_argnums=1)
def normal(key: Array, shape: tuple[int, ...], std: Number = 1.0) -> Float[Array, "..."]:
    """N(0, std²) in float32: std · √2 erf⁻¹(u) of a uniform u, as `std * jax.random.normal(...)` has it by itself."""
    above = np.nextafter(np.float32(-1), np.float32(0))
    standard = np.float32(np.sqrt(2)) * lax.erf_inv(_between(key, shape, above, np.float32(1)))
    return std * lax.optimization_barrier(standard)  # XLA would make one number of std and √2, and round otherwise


@functools.partial(jax.jit, static_argnums=1)
def uniform(key: Array, shape: tuple[int, ...], limit: Number) -> Float[Array, "..."]:
    """Uniform in [-limit, limit), in float32, as `jax.random.uniform` has it."""
    limit = lax.convert_element_type(limit, np.float32)
    return _between(key, shape, -limit, limit)


def _between(key: Array, shape: tuple[int, ...], low: Any, high: Any) -> Array:
    ones = _bits(key, shape) >> np.uint32(9) | _BITS_OF_ONE
    share = lax.bitcast_convert_type(ones, np.float32) - np.float32(1)
    return lax.max(lax.broadcast(low, shape), share * (high - low) + low)


def _bits(key: Array, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """32 random bits each, those of `jax.random.bits`: element i is Threefry of i under the key, its two halves joined."""
    if jax.random.key_impl(key) != "threefry2x32" or math.prod(shape) >= 2**32:
        return jax.random.bits(key, shape)
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ _PARITY)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    numbers = [lax.broadcasted_iota(np.uint32, shape, i) * np.uint32(stride) for i, stride in enumerate(strides)]
    x, y = keys[0], sum(numbers, keys[1])
    for i in range(5):
        for distance in _ROTATIONS[i % 2]:
            x = x + y
            y = x ^ (y << np.uint32(distance) | y >> np.uint32(32 - distance))
        x, y = x + keys[(i + 1) % 3], y + (keys[(i + 2) % 3] + np.uint32(i + 1))
    return x ^ y
