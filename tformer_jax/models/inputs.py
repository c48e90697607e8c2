"""Preparation of the models' arguments, before anything is computed."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from .. import functional as F
from ..config import check_choice
from ..functional.masks import fitting


def token_mask(mask: Any) -> F.Mask:
    """A mask over keys; a rank-2 array says of each token whether it may be attended."""
    if mask is not None and not isinstance(mask, F.Mask) and jnp.ndim(mask) == 2:
        mask = jnp.asarray(mask)[:, None, None, :]
    return F.AttentionMask() & mask


def causal_relation(mask: Any) -> F.Mask:
    """Who sees whom in a causal model: no later token, unless a mask says which of them are seen.

    Booleans [B T] or [B 1 1 T] say which tokens may be attended, beside causality.

    Raises:
      ValueError: a `Mask` that says nothing of later tokens: they would be seen.
    """
    given, mask = mask, token_mask(mask)
    if not isinstance(given, F.Mask) and not mask.differs_by_query:
        return F.AttentionMask(causal=True) & mask
    if not any(map(_tells_of_later_tokens, mask.parts)):
        raise ValueError(
            "the mask of a causal model must say which later tokens are hidden: write AttentionMask(causal=True, ...), "
            "or give booleans [B T] of the tokens that may be attended"
        )
    return mask


def _tells_of_later_tokens(part: F.AttentionMask) -> bool:
    by_query = part.explicit is not None and jnp.shape(part.explicit)[-2:-1] not in ((), (1,))
    ends_here = part.reach is not None and part.reach[1] == 0
    return part.causal or part.prefix is not None or ends_here or by_query


def cross_mask(
    source_mask: Any, target_segments: Int[Array, "B T"] | None, source_segments: Int[Array, "B S"] | None
) -> F.Mask:
    """Returns which source tokens each target token may attend: those of `source_mask` and of its own segment.

    Raises:
      ValueError: segments of one side alone.
    """
    if (source_segments is None) != (target_segments is None):
        raise ValueError("give source_segments and target_segments together: an example has the same id in both")
    segments = None if target_segments is None else (target_segments, source_segments)
    return F.AttentionMask(segments=segments) & token_mask(source_mask)


def memory_mask(mask: Any, B: int, S: int) -> Bool[Array, "B 1 1 S"] | None:
    """A token mask that is the same for every query, as an array; None if it hides nothing.

    Raises:
      ValueError: it depends on the query or the head, or is not for B rows of S tokens.
    """
    mask = token_mask(mask)
    if mask.differs_by_query:
        raise ValueError(
            "the source_mask of a cache must be the same for every query and head: no causal, no window, no segments, "
            "no array but [B S] or [B 1 1 S]"
        )
    if mask.hides_nothing:
        return None
    return jnp.broadcast_to(fitting(mask, B, 1, 1, S).to_array(1, S), (B, 1, 1, S))


def check_captures(capture: Collection[str], known: Collection[str]) -> None:
    """Refuses a name that the model does not hand out."""
    for name in capture:
        check_choice("capture", name, known)


def counted_positions(
    tokens: Int[Array, "B T"], padding_token: int | None, max_length: int
) -> Int[Array, "B T"] | None:
    """The position of each token where one of them takes none, which has -1; None: all take one, 0 .. T-1.

    Raises:
      ValueError: more tokens than max_length.
    """
    if padding_token is None:
        return None
    if tokens.shape[1] > max_length:
        raise ValueError(f"a sequence of {tokens.shape[1]} tokens does not fit max_length={max_length}")
    taken = tokens != padding_token
    return jnp.where(taken, jnp.cumsum(taken, axis=1) - 1, -1)
