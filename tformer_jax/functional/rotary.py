"""Rotary positions: queries and keys, turned by angles that grow with their positions."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from .checks import as_array, as_flag, check_choice
from .meshes import gathered
from .numbers import POSITIVE, Number, as_integer, as_number, as_size, is_known

Scaling = Literal["none", "linear", "ntk", "llama3", "yarn"]
# Those that need the length of training, and between how many turns within it they lead from one to the other.
TURNS = {"llama3": (1.0, 4.0), "yarn": (1.0, 32.0)}


def apply_rotary(
    x: Float[Array, "B T N H"],
    positions: Int[Array, "T"] | Int[Array, "#B T"],
    *,
    base: Number = 10_000.0,
    scaling: Scaling = "none",
    factor: Number = 1.0,
    trained_length: int | None = None,
    layout: Literal["half", "interleaved"] = "half",
    width: int | None = None,
) -> Float[Array, "B T N H"]:
    """Rotary position embedding: pair i of each head, turned by the angle position * base^(-2i / width).

        (a, b) -> (a cos - b sin, b cos + a sin)

    A query and a key turned this way have a product that depends on the distance of their positions
    alone: `rotate` by `rotary_tables`.

    Source: Su et al., 2021.

    Args:
      x: queries or keys; computed in float32, returned in x's dtype.
      positions: of the tokens; may be traced.
      base, scaling, factor, trained_length: as in `rotary_tables`.
      layout: as in `rotate`.
      width: how much of each head is turned, its first part; default H, all of it.

    Raises:
      TypeError: x that are no floats, positions that are no integers, or no numbers.
      ValueError: another number of axes, positions that are not those of x, a width beyond H, an unknown layout, or as
        `rotary_tables`.
    """
    x, positions = as_array("x", x, "B T N H", kind="floats"), as_array("positions", positions)
    width = x.shape[-1] if width is None else as_integer("width", width)
    if width > x.shape[-1]:
        raise ValueError(f"width must be at most the head width H={x.shape[-1]}, got {width}")
    B, T = x.shape[:2]
    if positions.shape not in ((T,), (1, T), (B, T)):
        raise ValueError(f"positions must be [T] or [B T] with x's B={B} and T={T}, got the shape {positions.shape}")
    how = {"base": base, "scaling": scaling, "factor": factor, "trained_length": trained_length}
    return _turned(x, *rotary_tables(positions, width, **how), layout)


def rotary_tables(
    positions: Int[Array, "*shape"],
    width: int,
    *,
    base: Number = 10_000.0,
    scaling: Scaling = "none",
    factor: Number = 1.0,
    trained_length: int | None = None,
    turns: tuple[float, float] | None = None,
    whole_pairs: bool = True,
    divisors: Sequence[float] | None = None,
    magnitude: Number | None = None,
) -> tuple[Float[Array, "*shape P"], Float[Array, "*shape P"]]:
    """The cosines and sines that `rotate` takes, of P = width / 2 angles a position: position * base^(-2i / width).

    Angles are within 10^-6 radians of the formula at any int32 position; under a traced `base` or
    `factor`, which the result can be differentiated by, they are float32 products.

    Sources: Su et al., 2021; "linear" is position interpolation, positions / `factor` (Chen et al.,
    2023); "ntk" has the base `base` * `factor`^(width / (width - 2)) instead, which divides the lowest
    frequency by `factor` and keeps the highest (bloc97, 2023); "llama3" divides by `factor` the frequencies that turn
    less than once within `trained_length`, keeps those that turn more than 4 times, and leads from one to the other
    linearly (Grattafiori et al., 2024, and the code that they published); "yarn" leads, from 1 turn to 32, linearly by
    the number of the pair, and multiplies cosines and sines by 1 + ln(`factor`) / 10 (Peng et al., 2024, and the
    code that they published); `divisors` are LongRoPE's (Ding et al., 2024).

    Args:
      positions: of the tokens; may be traced.
      width: how much of a head they turn.
      base: wavelengths run from 2 pi to nearly `base` * 2 pi positions.
      scaling, factor: how to reach `factor` times the length of training.
      trained_length: that length, in tokens, which "llama3" and "yarn" need, and the others do not.
      turns: of these two, other numbers of turns between which they lead; None: as above.
      whole_pairs: of "yarn", begin and end at whole pairs, as the code that they published does.
      divisors: P numbers, by which each frequency is divided by itself, with scaling="none".
      magnitude: multiplies cosines and sines; None: what the scaling says, 1 but for "yarn".

    Raises:
      TypeError: positions that are no integers, or no numbers.
      ValueError: an odd width, an unknown scaling, a base that is not positive, a factor below 1, a factor without a
        scaling, "ntk" with a width of 2, a `trained_length` or `turns` with another scaling than those two, or
        divisors that are not P positive numbers or are given beside a scaling.
    """
    positions = as_array("positions", positions)
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise TypeError(f"positions must be integers (scaling='linear' interpolates them), got {positions.dtype}")
    base, factor = as_number("base", base, POSITIVE), as_number("factor", factor)
    _check_scaling(width, scaling, factor, trained_length, turns)
    frequencies = _rotary_frequencies(
        width, base, scaling, factor, trained_length, turns, as_flag("whole_pairs", whole_pairs)
    )
    if divisors is not None:
        frequencies = frequencies / _divisors(divisors, width, scaling)
    angles = _angles(positions, frequencies)  # [... P]
    if magnitude is None:
        if scaling != "yarn":
            return jnp.cos(angles), jnp.sin(angles)
        magnitude = 1.0 + 0.1 * (np.log(factor) if is_known(factor) else jnp.log(factor))
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


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


def _check_scaling(
    width: int, scaling: str, factor: float | Array, trained_length: int | None, turns: tuple[float, float] | None
) -> None:
    if width % 2 or width < 2:
        raise ValueError(f"rotary positions need an even head width, got {width}")
    check_choice("scaling", scaling, ("none", "linear", "ntk", "llama3", "yarn"))
    if (is_known(factor) and factor < 1) or (scaling == "none" and not (is_known(factor) and factor == 1)):
        raise ValueError(f"factor must be at least 1, and 1 with scaling='none'; got {factor} with {scaling!r}")
    if scaling == "ntk" and width == 2:
        raise ValueError("scaling 'ntk' needs a head width of at least 4: the only pair of 2 has no lower frequency")
    needing = " or ".join(f"scaling={name!r}" for name in TURNS)
    if (scaling in TURNS) != (trained_length is not None):
        raise ValueError(f"trained_length goes with {needing}, which needs it; got {trained_length} with {scaling!r}")
    if turns is not None and (scaling not in TURNS or not 0 < turns[0] < turns[1]):
        raise ValueError(
            f"turns are two positive numbers, the lower one first, with {needing}; got {turns} with {scaling!r}"
        )
    if trained_length is not None:
        as_size("trained_length", trained_length, least=1)


def _rotary_frequencies(
    width: int, base: float | Array, scaling: str, factor: float | Array, trained_length: int | None,
    turns: tuple[float, float] | None, whole_pairs: bool,
) -> np.ndarray | Array:  # fmt: skip
    """Turns a position, of each pair of a head, float64 [width / 2]; float32 where a number is traced."""
    exponents = -np.arange(0, width, 2) / width
    if not (is_known(base) and is_known(factor)):
        exponents = jnp.asarray(exponents, jnp.float32)
    frequencies = base**exponents / (2 * np.pi)
    if scaling == "ntk":  # a factor of its own: the product of base and factor may be beyond all floats
        return frequencies * factor ** (exponents * (width / (width - 2)))
    if scaling in TURNS:
        few, many = turns or TURNS[scaling]
        if scaling == "llama3":
            kept = ((trained_length * frequencies - few) / (many - few)).clip(0, 1)  # of each: all from `many` turns on
        else:
            kept = _kept_by_pair(width, base, trained_length, few, many, whole_pairs)
        return frequencies * (kept + (1 - kept) / factor)
    return frequencies / factor if scaling == "linear" else frequencies


def _kept_by_pair(
    width: int, base: float | Array, trained_length: int, few: float, many: float, whole_pairs: bool
) -> np.ndarray | Array:
    """The share of each frequency that "yarn" keeps, by the number of the pair."""
    xp = np if is_known(base) else jnp
    first, last = (width * np.log(trained_length / (n * 2 * np.pi)) / (2 * xp.log(base)) for n in (many, few))
    if whole_pairs:
        first, last = xp.floor(first), xp.ceil(last)
    first, last = xp.maximum(first, 0), xp.minimum(last, width - 1)
    last = xp.where(first == last, last + 0.001, last)
    return 1 - ((np.arange(width // 2) - first) / (last - first)).clip(0, 1)


def _divisors(divisors: Sequence[float], width: int, scaling: str) -> np.ndarray:
    numbers = np.asarray(divisors, np.float64)
    if scaling != "none" or numbers.shape != (width // 2,) or not (numbers > 0).all():
        raise ValueError(
            f"divisors must be {width // 2} positive numbers, one for each pair, with scaling='none'; got "
            f"{divisors} with {scaling!r}"
        )
    return numbers


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
