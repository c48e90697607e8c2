"""Images as sequences of patches. Axis letters: Y rows, X columns, C channels, P patches."""

from jax import Array
from jaxtyping import Float

from .checks import as_array
from .numbers import as_size


def patchify(images: Float[Array, "B Y X C"], patch_size: int) -> Float[Array, "B P {patch_size}*{patch_size}*C"]:
    """Flatten(patch_i) for every patch i, to be embedded as x_i = W_e Flatten(patch_i) (equation 15).

    Patches come row by row; each is flattened row by row, with its channels last.

    Source: Dosovitskiy et al., 2020.

    Args:
      images: channels last.
      patch_size: of both sides; divides Y and X.

    Raises:
      TypeError: images that are no array, or a `patch_size` that is no integer.
      ValueError: images that are not [B Y X C], or a `patch_size` that is not positive or does not divide them.
    """
    images, patch_size = as_array("images", images, "B Y X C"), as_size("patch_size", patch_size)
    B, Y, X, C = images.shape
    if patch_size < 1 or Y % patch_size or X % patch_size:
        raise ValueError(f"patch_size {patch_size} does not divide an image of {Y} x {X}")
    rows, columns = Y // patch_size, X // patch_size
    # One axis at a time: an explicit mesh, which the batch may be spread over, follows no more than that.
    grid = images.reshape(B, rows, patch_size, X, C).reshape(B, rows, patch_size, columns, patch_size, C)
    grid = grid.swapaxes(2, 3).reshape(B, rows * columns, patch_size, patch_size, C)  # [B P y x C]
    return grid.reshape(B, rows * columns, patch_size * patch_size * C)
