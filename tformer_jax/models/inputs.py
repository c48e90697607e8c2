"""What the models do to their arguments before anything is computed."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp

from .. import functional as F
from ..config import check_choice


def token_mask(mask: Any) -> F.AttentionMask:
    """An AttentionMask over keys; a rank-2 array says of each token whether it may be attended."""
    if mask is not None and not isinstance(mask, F.AttentionMask) and jnp.ndim(mask) == 2:
        mask = jnp.asarray(mask)[:, None, None, :]
    return F.AttentionMask() & mask


def check_captures(capture: Collection[str], known: Collection[str]) -> None:
    """Refuses a name that the model does not hand out."""
    for name in capture:
        check_choice("capture", name, known)
