"""The kernel that shapes, dtypes, mask and platform ask for, and why it is none of the others."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from ..masks import Mask
from . import cudnn, splash
from .blockwise import skips_keys
from .request import Request
from .scores import KERNELS, MANY_SCORES, Kernel, ScoreOptions

# Queries from which on it pays on a CPU to leave keys out that a mask hides from a block of them.
_LEAST_SKIPPED = 256

# Queries, and keys, from which on an accelerator's own kernel is taken: a block of it. Not measured yet.
_LEAST_OWN = 128


class AttentionChoice(NamedTuple):
    """The kernel that "auto" takes.

    Attributes:
      kernel: its name in `KERNELS`.
      ruled_out: of the others, each with what speaks against it.
    """

    kernel: str
    ruled_out: dict[str, str]


def _not_blockwise(asked: Request) -> str | None:
    T, S = asked.lengths
    if T * S > MANY_SCORES:
        return None
    if asked.platform != "cpu":
        return f"up to {MANY_SCORES} scores a head are faster at once on {asked.platform}"
    if asked.key is not None:
        return "with dropout, few weights are drawn at once: the same ones whatever the mask"
    if T < _LEAST_SKIPPED:
        return f"{T} queries are too few to leave keys out for some of them"
    if not skips_keys(asked.mask, T, S):
        return "the mask is not known to hide any keys from a whole block of queries"
    return None


def _not_reference(asked: Request) -> str | None:
    T, S = asked.lengths
    if T * S > MANY_SCORES:
        return f"{T} x {S} scores a head are more than {MANY_SCORES}"
    return "it computes the scores that the mask hides" if _not_blockwise(asked) is None else None


def _own(refusal: Callable[[Request], str | None]) -> Callable[[Request], str | None]:
    """The refusal of an accelerator's own kernel, and of too little work for it; by name it is taken then."""

    def why(asked: Request) -> str | None:
        few = min(asked.lengths)
        return refusal(asked) or (f"{few} tokens are fewer than {_LEAST_OWN}" if few < _LEAST_OWN else None)

    return why


# What rules each kernel out, by name, the first to be taken first. Where "blockwise" is ruled out, "reference" is not.
_REFUSALS = {
    "cudnn": _own(cudnn.refusal),
    "splash": _own(splash.refusal),
    "blockwise": _not_blockwise,
    "reference": _not_reference,
}


def choose(asked: Request) -> AttentionChoice:
    """The choice for a request, and why it is no other kernel."""
    reasons = {name: refusal(asked) for name, refusal in _REFUSALS.items()}
    kernel = next(name for name, why in reasons.items() if why is None)
    others = {name: why or f"{kernel} takes it too, and comes first" for name, why in reasons.items() if name != kernel}
    return AttentionChoice(kernel, others)


def averages_by_softmax(implementation: str | Kernel) -> bool:
    """Says that a kernel, or all that "auto" may take, weighs values by the softmax of the scores: each of those here."""
    names = ("auto", *_REFUSALS)
    return implementation in (*names, *map(KERNELS.get, names))


def kernel_of(implementation: str | Kernel, asked: Request) -> Kernel:
    """Returns the kernel: a function as it is, or the one that a name stands for, or that "auto" chooses.

    Raises:
      ConfigError: no kernel has the name.
    """
    if callable(implementation):
        return implementation
    kernel = KERNELS.named(implementation, "implementation")
    return KERNELS[choose(asked).kernel] if kernel is auto_attention else kernel


@KERNELS.register("auto")
def auto_attention(q, k, v, mask: Mask, bias, options: ScoreOptions, key) -> Array:
    """Attends by the kernel that `choose` names."""
    kernel = KERNELS[choose(Request(q, k, v, mask, bias, options, key)).kernel]
    return kernel(q, k, v, mask, bias, options, key)
