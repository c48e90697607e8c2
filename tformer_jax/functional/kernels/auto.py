"""The kernel that a number of scores asks for."""

from jax import Array

from .scores import KERNELS, Kernel

# Up to this many scores a head the dense softmax compiles sooner, and its memory does not matter yet.
_DENSE_SCORES_PER_HEAD = 512 * 512


def kernel_of(implementation: str | Kernel, T: int, S: int) -> Kernel:
    """Returns the kernel for T queries and S keys: a function as it is, or the one that a name stands for.

    Raises:
      ConfigError: no kernel has the name.
    """
    if callable(implementation):
        return implementation
    kernel = KERNELS.named(implementation, "implementation")
    return _by_size(T, S) if kernel is auto_attention else kernel


@KERNELS.register("auto")
def auto_attention(q, k, v, mask, bias, options, key) -> Array:
    """Attends by the dense kernel or, from more than 512 * 512 scores a head, by blocks."""
    return _by_size(q.shape[1], k.shape[1])(q, k, v, mask, bias, options, key)


def _by_size(T: int, S: int) -> Kernel:
    return KERNELS["reference" if T * S <= _DENSE_SCORES_PER_HEAD else "blockwise"]
