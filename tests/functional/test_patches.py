"""Images to patches, against loops and against PyTorch (equation 15)."""

import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, normal

import tformer_jax.functional as F


def test_patchify_flattens_row_by_row():
    """Equation 15: patches, or the pixels in one, come in another order than row by row with channels last."""
    images = np.asarray(normal(0, 2, 4, 6, 3))
    expected = np.zeros((2, 6, 12), np.float32)
    for b in range(2):
        for row in range(2):
            for column in range(3):
                pixels = [images[b, 2 * row + y, 2 * column + x] for y in range(2) for x in range(2)]
                expected[b, 3 * row + column] = np.concatenate(pixels)
    np.testing.assert_array_equal(F.patchify(jnp.asarray(images), 2), expected)


@pytest.mark.parametrize(("size", "height", "width"), [(4, 6, 8), (4, 8, 6), (0, 8, 8)])
def test_a_patch_size_that_does_not_divide_is_refused(size, height, width):
    """The last rows or columns are dropped without a word."""
    message = f"patch_size {size} does not divide an image of {height} x {width}"
    with pytest.raises(ValueError, match=message):
        F.patchify(jnp.zeros((1, height, width, 3)), size)


@pytest.mark.parity
def test_embedded_patches_are_a_strided_convolution():
    """W_e Flatten(patch_i) is not what published weights, which are convolution kernels, compute."""
    torch = pytest.importorskip("torch")
    images, kernel = np.asarray(normal(0, 2, 6, 9, 2)), np.asarray(normal(1, 3, 3, 2, 5))  # [Y X C D]
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
        torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()),
        stride=3,
    )
    ours = np.asarray(F.patchify(jnp.asarray(images), 3)) @ kernel.reshape(-1, 5)
    assert_close(ours, theirs.numpy().reshape(2, 5, -1).swapaxes(1, 2), 1e-6)
