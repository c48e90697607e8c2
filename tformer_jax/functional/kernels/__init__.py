"""The implementations behind `scaled_dot_product_attention(implementation=...)`.

A kernel is `kernel(q, k, v, mask, bias, options, key) -> [B T N H]` with an `AttentionMask` and
`ScoreOptions`. To add one, write it in a file of its own and put it in the table.
"""

from collections.abc import Callable

from jax import Array

from ..checks import shown
from .blockwise import blockwise_attention
from .reference import reference_attention

IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "reference": reference_attention,
    "blockwise": blockwise_attention,
}

# Up to this many scores a head the dense softmax compiles sooner, and its memory does not matter yet.
_DENSE_SCORES_PER_HEAD = 512 * 512


def choose(implementation: str, query_length: int, key_length: int) -> Callable[..., Array]:
    """The kernel called `implementation`; "auto" decides by the number of scores per head.

    Raises:
      ValueError: no such implementation.
    """
    if isinstance(implementation, str) and implementation == "auto":
        dense = query_length * key_length <= _DENSE_SCORES_PER_HEAD
        implementation = "reference" if dense else "blockwise"
    if not isinstance(implementation, str) or implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {['auto', *IMPLEMENTATIONS]}, got {shown(implementation)}")
    return IMPLEMENTATIONS[implementation]
