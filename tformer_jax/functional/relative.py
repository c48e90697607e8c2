"""Relative positions in attention: biases, buckets."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from .checks import as_array, as_flag
from .numbers import as_size
from .relations import as_ints

# No more is computed, one after the other, on the host.
_MOST_HEADS, MOST_BUCKETS = 1 << 16, 1 << 12


def alibi_slopes(num_heads: int) -> Float[np.ndarray, "N"]:
    """Returns the slopes by which each head's scores fall with distance, float32: 2^(-8 i / N) for i = 1 .. N.

    Where N is no power of two: the slopes for the power of two below it, then every other slope for
    the power of two above it.

    Source: Press et al., 2022, and the code that they published.

    Raises:
      TypeError: a number of heads that is no integer.
      ValueError: no heads, or more than 65,536.
    """
    num_heads = as_size("num_heads", num_heads, _MOST_HEADS, least=1)
    below = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * i / below) for i in range(1, below + 1)]
    slopes += [2.0 ** (-4.0 * i / below) for i in range(1, 2 * (num_heads - below), 2)]
    return np.asarray(slopes, np.float32)


def alibi_bias(
    query_positions: Int[Array, "T"] | Int[Array, "#B T"],
    key_positions: Int[Array, "S"] | Int[Array, "#B S"],
    num_heads: int,
) -> Float[Array, "b N T S"]:
    """Attention with linear biases: -slope * |query position - key position|, float32.

    Any position of an empty cache slot gives a finite number; a mask has to hide the slot.

    Source: Press et al., 2022.

    Args:
      query_positions, key_positions: b is 1 where neither has rows.
      num_heads: N.

    Raises:
      TypeError: what is no array of integers, or a `num_heads` that is no integer.
      ValueError: another number of axes, rows that do not go together, no heads or too many.
    """
    # Unsigned: the difference to the position of an empty slot, the largest int, may overflow an int. As floats,
    # positions from 2^24 on would be rounded before they are subtracted.
    given = (("query_positions", query_positions), ("key_positions", key_positions))
    queries, keys = (jnp.atleast_2d(as_ints(as_array(name, x, kind="integers"))) for name, x in given)
    if not queries.ndim == keys.ndim == 2 or 1 != len(queries) != len(keys) != 1:
        got = f"{jnp.shape(query_positions)} and {jnp.shape(key_positions)}"
        raise ValueError(f"query_positions and key_positions must be [T] or [B T], [S] or [B S], got the shapes {got}")
    queries, keys = queries[:, None, :, None], keys[:, None, None, :]  # [b 1 T 1], [b 1 1 S]
    ends = jnp.maximum(queries, keys), jnp.minimum(queries, keys)
    later, earlier = (x.astype(jnp.uint64 if x.dtype == jnp.int64 else jnp.uint32) for x in ends)
    distances = (later - earlier).astype(jnp.float32)  # [b 1 T S]
    return -alibi_slopes(num_heads)[:, None, None] * distances


def relative_position_buckets(
    relative_positions: Int[Array, "*shape"],
    *,
    bidirectional: bool = True,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> Int[Array, "*shape"]:
    """The bucket of each relative position, in [0, num_buckets): what T5 learns one bias for.

    Of the n buckets of a direction the first e = n // 2 hold one distance each; bucket e + j begins at
    the distance e * (max_distance / e)^(j / (n - e)), and the last one has no end.

    Source: Raffel et al., 2020, section 2.1, and the code that they published.

    Args:
      relative_positions: key position - query position.
      bidirectional: later keys have the second half of the buckets. Otherwise they share bucket 0
        with distance 0, and all buckets are for earlier keys.
      num_buckets: of both directions together.
      max_distance: from about here on, everything is in the last bucket of its direction.

    Raises:
      TypeError: positions or sizes that are no integers, or a `bidirectional` that is not True or False.
      ValueError: an odd number of buckets for two directions, fewer than 2 a direction, more than 4,096, or a
        `max_distance` that the exact buckets already reach.
    """
    relative_positions = as_array("relative_positions", relative_positions, kind="integers").astype(int)
    # The least integer has no absolute value.
    relative_positions = jnp.maximum(relative_positions, -jnp.iinfo(relative_positions.dtype).max)
    bidirectional = as_flag("bidirectional", bidirectional)
    num_buckets = as_size("num_buckets", num_buckets, MOST_BUCKETS)
    max_distance = as_size("max_distance", max_distance)
    if bidirectional and num_buckets % 2:
        raise ValueError(f"num_buckets must be even when bidirectional, got {num_buckets}")
    size = num_buckets // 2 if bidirectional else num_buckets
    starts = jnp.asarray(_bucket_starts(size, max_distance), relative_positions.dtype)
    distances = jnp.abs(relative_positions) if bidirectional else jnp.maximum(-relative_positions, 0)
    buckets = jnp.searchsorted(starts, distances, side="right", method="compare_all")
    return jnp.where(relative_positions > 0, buckets + size, buckets) if bidirectional else buckets


def _bucket_starts(size: int, max_distance: int) -> np.ndarray:
    """The least distance in each of the buckets 1 .. size - 1, exactly: with whole numbers, not logarithms."""
    exact = size // 2
    if exact < 1:
        raise ValueError(f"each direction needs at least 2 buckets, got {size}")
    if max_distance <= exact:
        raise ValueError(f"max_distance must be more than the {exact} exact distances, got {max_distance}")
    starts, steps = list(range(1, exact + 1)), size - exact
    for j in range(1, steps):
        # Just below what logarithms say, which is far more precise than that; the rest of the way in whole numbers.
        distance = max(exact, int(exact * (max_distance / exact) ** (j / steps) * (1 - 1e-12)) - 1)
        while distance**steps < exact ** (steps - j) * max_distance**j:
            distance += 1
        starts.append(distance)
    return np.asarray(starts, np.int32)
