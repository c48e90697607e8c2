"""Cubic convolution of images (Keys, 1981), stretched over the area of a new pixel: float64, from the formula."""

import numpy as np


def _weights(old, low, high, new):
    """What each of `new` pixels between two places has of each of `old`: [new old]."""
    step = (high - low) / new
    centres = low + (np.arange(new) + 0.5) * step
    x = np.abs(np.arange(old) + 0.5 - centres[:, None]) / max(step, 1)
    found = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    return found / found.sum(1, keepdims=True)


def bicubic(pixels, box, size, columns_first=False):
    """A part of [Y X ...] as [size size ...]: each row is filtered and rounded to 8 bits, then each column."""
    left, upper, right, lower = box
    rows, columns = _weights(pixels.shape[0], upper, lower, size), _weights(pixels.shape[1], left, right, size)
    down = lambda x: np.einsum("iy,yx...->ix...", rows, x)
    across = lambda x: np.einsum("jx,yx...->yj...", columns, x)
    first, last = (down, across) if columns_first else (across, down)
    return last(first(pixels.astype(np.float64)).round().clip(0, 255)).clip(0, 255)


def assert_bicubic(found, pixels, box, size, **how):
    """Asserts that an image is this part of the pixels, resized.

    To two levels: half of one is what rounding leaves, and a tie may be rounded either way before the second filter.
    """
    assert found.dtype == np.uint8
    off = np.abs(found - bicubic(pixels, box, size, **how).reshape(found.shape)).max()
    assert off <= 2, f"wrong by {off} levels"
