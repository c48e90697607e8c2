"""Position encodings: tables with a vector a position."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from .checks import as_array, check_choice, shown, width
from .numbers import POSITIVE, Number, as_number, as_size, is_known


def sinusoidal_positions(
    length: int,
    d_model: int,
    *,
    base: Number = 10_000.0,
    layout: Literal["interleaved", "concatenated"] = "interleaved",
) -> Float[Array, "T D"]:
    """The sinusoidal position table (equation 6), float32.

        PE(pos, 2i)   = sin(pos / base^(2i / d_model))
        PE(pos, 2i+1) = cos(pos / base^(2i / d_model))

    The angles are computed in float64 on the host: at position 10^4 a float32 angle is
    already off by 10^-3 radians. (Under a traced `base` they are float32.)

    Source: Vaswani et al., 2017, section 3.5.

    Args:
      length: number of positions, T.
      d_model: width, D. An odd width ends in a sine.
      base: wavelengths run from 2 pi to `base` * 2 pi positions.
      layout: "interleaved" is the formula; "concatenated" puts all sines before all cosines,
        as some published checkpoints do.

    Raises:
      TypeError: a length or width that is no integer, or a base that is no number.
      ValueError: a negative length, no width, a base that is not positive, or an unknown layout.
    """
    length, d_model = as_size("length", length, least=0), as_size("d_model", d_model, least=1)
    base = as_number("base", base, POSITIVE)
    check_choice("layout", layout, ("interleaved", "concatenated"))
    xp = np if is_known(base) else jnp
    positions, exponents = np.arange(length)[:, None], np.arange(0, d_model, 2) / d_model  # [T 1], [D/2]
    if xp is jnp:
        positions, exponents = (jnp.asarray(x, jnp.float32) for x in (positions, exponents))
    angles = positions / base**exponents  # [T D/2]
    sines, cosines = xp.sin(angles), xp.cos(angles)  # [T D/2]
    if layout == "interleaved":
        table = xp.stack([sines, cosines], axis=-1).reshape(length, 2 * sines.shape[1])[:, :d_model]
    else:
        table = xp.concatenate([sines, cosines[:, : d_model // 2]], axis=1)
    return jnp.asarray(table, jnp.float32)


def sinusoidal_positions_2d(height: int, width: int, d_model: int, *, base: Number = 10_000.0) -> Float[Array, "P D"]:
    """The sinusoidal table of a grid, row by row (P = `height` * `width`), float32.

        PE(row, column) = [sinusoidal(row), sinusoidal(column)], each D / 2 wide

    Sources: Vaswani et al., 2017, section 3.5, for each half; Carion et al., 2020, appendix A.4, for the grid.

    Args:
      height, width: of the grid.
      d_model: width of the vectors, D.
      base: as in `sinusoidal_positions`.

    Raises:
      TypeError: sizes that are no integers, or a base that is no number.
      ValueError: a negative height or width, a base that is not positive, or a D that is not a multiple of 4, so that a
        half ends in a sine without its cosine.
    """
    height, width, d_model = (
        as_size(name, x) for name, x in (("height", height), ("width", width), ("d_model", d_model))
    )
    if min(height, width) < 0:
        raise ValueError(f"height and width must be at least 0, got {height} and {width}")
    if d_model % 4:
        raise ValueError(f"d_model must be a multiple of 4, got {d_model}")
    rows, columns = (sinusoidal_positions(length, d_model // 2, base=base) for length in (height, width))
    return jnp.concatenate([jnp.repeat(rows, width, axis=0), jnp.tile(columns, (height, 1))], axis=1)


def interpolate_positions(
    table: Float[Array, "P D"], grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Array, "P2 D"]:
    """Position vectors of a grid, resized to another by cubic convolution: for images of another size.

    Both grids cover the same rectangle, and the kernel is that of Keys, 1981, with a = -1/2: away from
    the border a linear ramp stays one.

    Source: Dosovitskiy et al., 2020, section 3.2.

    Args:
      table: one vector a cell, row by row; computed in float32, returned in its dtype.
      grid: its rows and columns, P = rows * columns.
      new_grid: the rows and columns of the result.

    Raises:
      TypeError: a table that is no array of floats, or a grid that is not two integers.
      ValueError: the table is not of that grid, or one of the grids is empty.
    """
    table = as_array("table", table, "P D", kind="floats")
    width("table", table)
    grid, new_grid = _sides("grid", grid), _sides("new_grid", new_grid)
    if min(*grid, *new_grid) < 1:
        raise ValueError(f"a grid must have rows and columns, got {grid} and {new_grid}")
    if table.shape[0] != grid[0] * grid[1]:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} has {grid[0] * grid[1]} positions, got {table.shape[0]}")
    cells = table.astype(jnp.float32).reshape(*grid, -1)  # [rows columns D]
    resized = jax.image.resize(cells, (*new_grid, cells.shape[-1]), "bicubic", antialias=False)
    return resized.reshape(-1, cells.shape[-1]).astype(table.dtype)


def positions_in_segments(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Returns each token's distance from the start of its segment: 0, 1, 2, ... anew wherever the id changes."""
    segments = as_array("segments", segments, "B T", kind="integers")
    index = jnp.arange(segments.shape[1])
    starts = jnp.concatenate([segments[:, :1] == segments[:, :1], segments[:, 1:] != segments[:, :-1]], axis=1)
    return index - lax.cummax(jnp.where(starts, index, 0), axis=1)


def _sides(name: str, grid: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise TypeError(f"{name} must be two integers, rows and columns, got {shown(grid)}")
    return as_size(name, grid[0]), as_size(name, grid[1])
