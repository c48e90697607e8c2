"""Masks as arrays, made of positions: what `AttentionMask` makes its tiles of. True = may attend."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Shaped

from .checks import as_array
from .numbers import as_integer, as_size

Start = int | np.integer | Int[Array, ""]  # may be traced


def causal_mask(T: int | Int[Array, "... T"], S: int | Int[Array, "... S"] | None = None) -> Bool[Array, "... T S"]:
    """The causal mask (equation 8): True where j ≤ i, for query i and key j.

    Through `mask_to_bias` it is the bias of the formula: 0 where j ≤ i, −∞ where j > i. `AttentionMask(causal=True)`
    is made of this, tile by tile, and lets a kernel skip blocks.

    Args:
      T: the positions i of the queries [T] or [B T], or how many there are: 0, 1, ...
      S: likewise of the keys; default T. Of numbers with S ≠ T both begin at position 0 (aligned top left).

    Raises:
      TypeError: a number that is no integer, or positions that are none.
      ValueError: a number that is negative, or beyond int32.
    """
    given = [("T", T), ("S", T if S is None else S)]
    sizes = [None if np.ndim(x) else as_size(name, x) for name, x in given]
    if any(size is not None and size < 0 for size in sizes):
        raise ValueError(f"T and S must be at least 0, got {sizes[0]} and {sizes[1]}")
    queries, keys = (
        as_ints(as_array(name, x, kind="integers")) if size is None else jnp.arange(size)
        for (name, x), size in zip(given, sizes, strict=True)
    )
    return keys[..., None, :] <= queries[..., :, None]  # [... T S]


def window_mask(
    low: Int[Array, "... T"], high: Int[Array, "... T"], keys: Int[Array, "... S"], left: int, right: int
) -> Bool[Array, "... T S"]:
    """Compares low - left <= key <= high + right, as far as integers go.

    Keys are not subtracted from: the position of an empty slot, the largest, would overflow.
    """
    most = jnp.iinfo(low.dtype).max
    first = low - jnp.minimum(min(left, most), most + jnp.minimum(low, 0))
    last = high + jnp.minimum(min(right, most), most - jnp.maximum(high, 0))
    keys = keys[..., None, :]  # [... 1 S]
    return (keys >= first[..., :, None]) & (keys <= last[..., :, None])


def as_window(window: Any) -> int | tuple[int, int]:
    """A window of one size, or its two sides.

    Raises:
      TypeError: no integers.
      ValueError: a size that is not positive, or a negative side.
    """
    if not (isinstance(window, (tuple, list)) and len(window) == 2):
        return as_integer("window", window, least=1)
    sides = tuple(as_integer("window", side) for side in window)
    if min(sides) < 0:
        raise ValueError(f"the sides of a window must be at least 0, got {sides}")
    return sides


def mask_to_bias(mask: Bool[Array, "..."], scores: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
    """The additive form of a mask: 0 where it is True, −∞ where it is False (equation 8), float32.

    With `scores`, their sum with it, in their dtype: −∞ where False even if the score is infinite or NaN.
    """
    bias = jnp.where(as_booleans(mask), 0.0 if scores is None else scores, -jnp.inf)
    return bias.astype(jnp.float32) if scores is None else bias


def slice_if_wide(x: Shaped[Array, "..."], start: Start, size: int, axis: int) -> Shaped[Array, "..."]:
    """`x[start : start + size]` along `axis`, unless that axis is 1 and broadcasts."""
    return x if x.shape[axis] == 1 else lax.dynamic_slice_in_dim(x, start, size, axis)


def indices(start: Start, size: int) -> Int[Array, "size"]:
    """start, start + 1, ..., `size` of them."""
    return as_ints(start) + jnp.arange(size)


def positions_of(positions: Any, start: Start, size: int) -> Int[Array, "b {size}"]:
    """Positions [T] or [B T] from `start` on; None are indices."""
    if positions is None:
        return indices(start, size)[None]
    return lax.dynamic_slice_in_dim(jnp.atleast_2d(as_ints(positions)), start, size, axis=1)


def same_segment(queries: Int[Array, "b q"], keys: Int[Array, "b k"]) -> Bool[Array, "b 1 q k"]:
    """Compares the ids of queries and keys."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]


def as_ints(x: Any) -> Array:
    """Converts integers to the dtype that indices have, so that they compare under strict promotion too."""
    return jnp.asarray(x).astype(int)


def as_rank_4(name: str, x: Array, shape: tuple[int, int, int, int]) -> Array:
    """An array that broadcasts to scores of this shape, with 1s for the axes that it lacks: of rank 3 it is [N T S].

    Raises:
      ValueError: it does not.
    """
    if x.ndim > 4 or any(a not in (1, b) for a, b in zip(x.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"{name} must broadcast to [B N T S] = {shape}, got shape {x.shape}")
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def as_booleans(mask: Any, name: str = "mask") -> Array:
    """The mask as an array.

    Raises:
      TypeError: it is not boolean.
    """
    mask = as_array(name, mask)
    if mask.dtype != bool:
        raise TypeError(f"{name} must be boolean (True = may attend), got {mask.dtype}; pass an additive mask as bias")
    return mask
