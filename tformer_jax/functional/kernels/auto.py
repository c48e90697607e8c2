"""The kernel that shapes, mask and platform ask for, and why it is none of the others."""

from typing import Any, NamedTuple

import jax
from jax import Array

from ..masks import Mask
from .blockwise import skips_keys
from .scores import KERNELS, MANY_SCORES, Kernel, ScoreOptions

# Queries from which on it pays on a CPU to leave keys out that a mask hides from a block of them.
_LEAST_SKIPPED = 256


class AttentionChoice(NamedTuple):
    """The kernel that "auto" takes.

    Attributes:
      kernel: its name in `KERNELS`.
      ruled_out: of the others, each with what speaks against it.
    """

    kernel: str
    ruled_out: dict[str, str]


def choose(q: Any, k: Any, mask: Mask, key: Array | None, platform: str | None = None) -> AttentionChoice:
    """The choice for arrays, or for what has their shapes; `platform`: by default that of this process."""
    T, S, platform = q.shape[1], k.shape[1], platform or jax.default_backend()
    if T * S > MANY_SCORES:
        return AttentionChoice("blockwise", {"reference": f"{T} x {S} scores a head are more than {MANY_SCORES}"})
    if platform != "cpu":
        said = f"up to {MANY_SCORES} scores a head are faster at once on {platform}"
    elif key is not None:
        said = "with dropout, few weights are drawn at once: the same ones whatever the mask"
    elif T < _LEAST_SKIPPED:
        said = f"{T} queries are too few to leave keys out for some of them"
    elif not skips_keys(mask, T, S):
        said = "the mask is not known to hide any keys from a whole block of queries"
    else:
        return AttentionChoice("blockwise", {"reference": "it computes the scores that the mask hides"})
    return AttentionChoice("reference", {"blockwise": said})


def kernel_of(implementation: str | Kernel, q: Array, k: Array, mask: Mask, key: Array | None) -> Kernel:
    """Returns the kernel: a function as it is, or the one that a name stands for, or that "auto" chooses.

    Raises:
      ConfigError: no kernel has the name.
    """
    if callable(implementation):
        return implementation
    kernel = KERNELS.named(implementation, "implementation")
    return KERNELS[choose(q, k, mask, key).kernel] if kernel is auto_attention else kernel


@KERNELS.register("auto")
def auto_attention(q, k, v, mask: Mask, bias, options: ScoreOptions, key) -> Array:
    """Attends by the kernel that `choose` names."""
    return KERNELS[choose(q, k, mask, key).kernel](q, k, v, mask, bias, options, key)
