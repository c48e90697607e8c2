"""The kernel that a number of scores asks for."""

from jax import Array

from .scores import KERNELS

# Up to this many scores a head the dense softmax compiles sooner, and its memory does not matter yet.
_DENSE_SCORES_PER_HEAD = 512 * 512


@KERNELS.register("auto")
def auto_attention(q, k, v, mask, bias, options, key) -> Array:
    """Attends by the dense kernel or, from more than 512 * 512 scores a head, by blocks."""
    dense = q.shape[1] * k.shape[1] <= _DENSE_SCORES_PER_HEAD
    return KERNELS["reference" if dense else "blockwise"](q, k, v, mask, bias, options, key)
