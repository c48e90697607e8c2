"""Cubic convolution (Keys, 1981) of images in float64, stretched over the area of a new pixel, from the formula."""

import numpy as np


def _weights(old, low, high, new):
    """What each of `new` pixels between two places has of each of `old`: [new old]."""
    step = (high - low) / new
    centres = low + (np.arange(new) + 0.5) * step
    x = np.abs(np.arange(old) + 0.5 - centres[:, None]) / max(step, 1)
    found = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    return found / found.sum(1, keepdims=True)


def bicubic(pixels, box, size):
    """Two answers [size size ...] from [Y X ...]: rows or columns first, rounded to 8 bits after those."""
    left, upper, right, lower = box
    rows, columns = _weights(pixels.shape[0], upper, lower, size), _weights(pixels.shape[1], left, right, size)
    down = lambda x: np.einsum("iy,yx...->ix...", rows, x)
    across = lambda x: np.einsum("jx,yx...->yj...", columns, x)
    eight_bits = lambda x: x.round().clip(0, 255)
    x = pixels.astype(np.float64)
    return [last(eight_bits(first(x))).clip(0, 255) for first, last in ((down, across), (across, down))]


def assert_bicubic(found, pixels, box, size):
    """Asserts that an image is this part of the pixels, resized: of one or the other of two answers.

    To two levels: half of one is what rounding leaves, and a tie may be rounded either way before the second filter.
    """
    assert found.dtype == np.uint8
    off = [np.abs(found - want.reshape(found.shape)).max() for want in bicubic(pixels, box, size)]
    assert min(off) <= 2, f"wrong by {off} levels"
