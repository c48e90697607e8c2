"""Relative positions in attention: rotations of queries and keys, biases, buckets."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from .checks import as_array, as_flag, check_choice
from .meshes import gathered
from .numbers import POSITIVE, Number, as_integer, as_number, as_size, is_known
from .relations import as_ints

# No more is computed, one after the other, on the host.
_MOST_HEADS, MOST_BUCKETS = 1 << 16, 1 << 12


def apply_rotary(
    x: Float[Array, "B T N H"],
    positions: Int[Array, "T"] | Int[Array, "#B T"],
    *,
    base: Number = 10_000.0,
    scaling: Literal["none", "linear", "ntk", "llama3"] = "none",
    factor: Number = 1.0,
    trained_length: int | None = None,
    layout: Literal["half", "interleaved"] = "half",
    width: int | None = None,
) -> Float[Array, "B T N H"]:
    """Rotary position embedding: pair i of each head, turned by the angle position * base^(-2i / width).

        (a, b) -> (a cos - b sin, b cos + a sin)

    A query and a key turned this way have a product that depends on the distance of their positions
    alone. Angles are within 10^-6 radians of the formula at any int32 position; under a traced `base` or
    `factor`, which the result can be differentiated by, they are float32 products. Angles of one's own (other
    scalings, two dimensions, learned ones): `rotate`.

    Sources: Su et al., 2021; "linear" is position interpolation, positions / `factor` (Chen et al.,
    2023); "ntk" has the base `base` * `factor`^(width / (width - 2)) instead, which divides the lowest
    frequency by `factor` and keeps the highest (bloc97, 2023); "llama3" divides by `factor` the frequencies that turn
    less than once within `trained_length`, keeps those that turn more than 4 times, and leads from one to the other
    linearly (Grattafiori et al., 2024, and the code that they published).

    Args:
      x: queries or keys; computed in float32, returned in x's dtype.
      positions: of the tokens; may be traced.
      base: wavelengths run from 2 pi to nearly `base` * 2 pi positions.
      scaling, factor: how to reach `factor` times the length of training.
      trained_length: that length, in tokens, which "llama3" needs, and the others do not.
      layout: as in `rotate`.
      width: how much of each head is turned, its first part; default H, all of it.

    Raises:
      TypeError: x that are no floats, positions that are no integers, or no numbers.
      ValueError: another number of axes, positions that are not those of x, an odd width or one beyond H, an unknown
        scaling or layout, a base that is not positive, a factor below 1, a factor without a scaling, "ntk" with a
        width of 2, or a `trained_length` with another scaling than "llama3", or below 1.
    """
    x, positions = as_array("x", x, "B T N H", kind="floats"), as_array("positions", positions)
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise TypeError(f"positions must be integers (scaling='linear' interpolates them), got {positions.dtype}")
    width = x.shape[-1] if width is None else as_integer("width", width)
    if width > x.shape[-1]:
        raise ValueError(f"width must be at most the head width H={x.shape[-1]}, got {width}")
    B, T = x.shape[:2]
    if positions.shape not in ((T,), (1, T), (B, T)):
        raise ValueError(f"positions must be [T] or [B T] with x's B={B} and T={T}, got the shape {positions.shape}")
    base = as_number("base", base, POSITIVE)
    frequencies = _rotary_frequencies(width, base, scaling, as_number("factor", factor), trained_length)  # [P]
    angles = _angles(positions, frequencies)  # [b T P]
    return _turned(x, jnp.cos(angles), jnp.sin(angles), layout)


def rotate(
    x: Float[Array, "B T N H"],
    cos: Float[Array, "T P"] | Float[Array, "#B T P"],
    sin: Float[Array, "T P"] | Float[Array, "#B T P"],
    *,
    layout: Literal["half", "interleaved"] = "half",
) -> Float[Array, "B T N H"]:
    """Turns the P pairs that begin each head by angles of given cosines and sines; the rest of it stays.

        (a, b) -> (a cos - b sin, b cos + a sin)

    Source: Su et al., 2021.

    Args:
      x: queries or keys; computed in float32, or float64 where x is, and returned in x's dtype.
      cos, sin: of each token's angles, one for each pair: P <= H / 2. (A table with each angle twice, as
        Llama's code has, is `table[..., : H // 2]`.)
      layout: "half" pairs (i, i + P), as Llama's and Gemma's checkpoints do; "interleaved" pairs
        (2i, 2i + 1), as RoFormer's and GPT-J's.

    Raises:
      TypeError: what is no array of floats.
      ValueError: another number of axes, tables that are not those of x or not alike, or an unknown layout.
    """
    x = as_array("x", x, "B T N H", kind="floats")
    B, T, _, H = x.shape
    for name, table in (("cos", cos), ("sin", sin)):
        shape = as_array(name, table, kind="floats").shape
        if len(shape) not in (2, 3) or shape[:-1] not in ((T,), (1, T), (B, T)) or not 1 <= shape[-1] <= H // 2:
            wanted = f"[T P] or [B T P] with x's B={B}, T={T} and P <= H / 2"
            raise ValueError(f"{name} must be {wanted}, got {shape} at H={H}")
    if cos.shape[-1] != sin.shape[-1]:
        raise ValueError(f"cos and sin must have as many angles, got {cos.shape[-1]} and {sin.shape[-1]}")
    return _turned(x, jnp.asarray(cos), jnp.asarray(sin), layout)


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


def _turned(x: Array, cos: Array, sin: Array, layout: str) -> Array:
    check_choice("layout", layout, ("half", "interleaved"))
    dtype, pairs = jnp.float64 if x.dtype == jnp.float64 else jnp.float32, cos.shape[-1]
    cos, sin = (table.astype(dtype)[..., None, :] for table in (cos, sin))  # [T 1 P] or [b T 1 P]
    shape, axis = ((2, pairs), -2) if layout == "half" else ((pairs, 2), -1)
    x = gathered(x, x.ndim - 1)
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    a, b = jnp.unstack(turned.astype(dtype).reshape(*x.shape[:-1], *shape), axis=axis)  # [B T N P]
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=axis).reshape(turned.shape).astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned


def _rotary_frequencies(
    width: int, base: float | Array, scaling: str, factor: float | Array, trained_length: int | None
) -> np.ndarray | Array:
    """Turns a position, of each pair of a head, float64 [width / 2]; float32 where a number is traced."""
    if width % 2 or width < 2:
        raise ValueError(f"rotary positions need an even head width, got {width}")
    check_choice("scaling", scaling, ("none", "linear", "ntk", "llama3"))
    if (is_known(factor) and factor < 1) or (scaling == "none" and not (is_known(factor) and factor == 1)):
        raise ValueError(f"factor must be at least 1, and 1 with scaling='none'; got {factor} with {scaling!r}")
    if scaling == "ntk":
        if width == 2:
            raise ValueError(
                "scaling 'ntk' needs a head width of at least 4: the only pair of 2 has no lower frequency"
            )
    if (scaling == "llama3") != (trained_length is not None):
        raise ValueError(
            f"trained_length goes with scaling='llama3', which needs it; got {trained_length} with {scaling!r}"
        )
    if trained_length is not None:
        trained_length = as_size("trained_length", trained_length, least=1)
    exponents = -np.arange(0, width, 2) / width
    if not (is_known(base) and is_known(factor)):
        exponents = jnp.asarray(exponents, jnp.float32)
    frequencies = base**exponents / (2 * np.pi)
    if scaling == "ntk":  # a factor of its own: the product of base and factor may be beyond all floats
        frequencies = frequencies * factor ** (exponents * (width / (width - 2)))
    if scaling == "llama3":
        kept = ((trained_length * frequencies - 1) / 3).clip(0, 1)  # of each: all from 4 turns on, none up to 1
        return frequencies * (kept + (1 - kept) / factor)
    return frequencies / factor if scaling == "linear" else frequencies


def _angles(positions: Array, frequencies: np.ndarray | Array) -> Array:
    """2 pi * positions * frequencies, up to whole turns, float32 [... H / 2].

    A float32 product would be off by 10^-2 radians at position 10^5. Here a turn is 2^32, so that
    integer products drop whole turns by overflowing and are otherwise exact; what the frequencies
    have below 2^-32 turns is small enough for a float.
    """
    if isinstance(frequencies, Array):
        return positions[..., None].astype(jnp.float32) * frequencies * np.float32(2 * np.pi)
    scaled = frequencies % 1.0 * 2.0**32
    whole = np.round(scaled)
    products = positions[..., None].astype(jnp.uint32) * whole.astype(np.uint64).astype(np.uint32)
    rest = positions[..., None].astype(jnp.float32) * ((scaled - whole) * 2.0**-32).astype(np.float32)
    turns = products.astype(jnp.int32).astype(jnp.float32) * 2.0**-32 + rest
    return turns * np.float32(2 * np.pi)


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
