"""Position encodings."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int


def sinusoidal_positions(
    length: int,
    d_model: int,
    *,
    base: float = 10_000.0,
    layout: Literal["interleaved", "concatenated"] = "interleaved",
) -> Float[Array, "T D"]:
    """The sinusoidal position table (equation 6), float32.

        PE(pos, 2i)   = sin(pos / base^(2i / d_model))
        PE(pos, 2i+1) = cos(pos / base^(2i / d_model))

    The angles are computed in float64 on the host: at position 10^4 a float32 angle is
    already off by 10^-3 radians.

    Source: Vaswani et al., 2017, section 3.5.

    Args:
      length: number of positions, T.
      d_model: width, D. An odd width ends in a sine.
      base: wavelengths run from 2 pi to `base` * 2 pi positions.
      layout: "interleaved" is the formula; "concatenated" puts all sines before all cosines,
        as some published checkpoints do.

    Raises:
      ValueError: an unknown layout.
    """
    angles = np.arange(length)[:, None] / base ** (np.arange(0, d_model, 2) / d_model)
    sines, cosines = np.sin(angles), np.cos(angles)[:, : d_model // 2]
    if layout == "concatenated":
        table = np.concatenate([sines, cosines], axis=1)
    elif layout == "interleaved":
        table = np.empty((length, d_model))
        table[:, 0::2], table[:, 1::2] = sines, cosines
    else:
        raise ValueError(f"layout must be 'interleaved' or 'concatenated', got {layout!r}")
    return jnp.asarray(table, jnp.float32)


def positions_in_segments(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Each token's distance from the start of its segment: 0, 1, 2, ... anew wherever the id changes."""
    index = jnp.arange(segments.shape[1])
    starts = jnp.concatenate([jnp.ones_like(segments[:, :1]), segments[:, 1:] - segments[:, :-1]], axis=1) != 0
    return index - lax.cummax(jnp.where(starts, index, 0), axis=1)
