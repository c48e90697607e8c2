"""Checks of decoding's arguments, on the host before anything is compiled."""

from typing import Any

import jax
import numpy as np
from jax import Array

from ..functional.numbers import as_integer
from ..nn.embeddings import check_tokens


def as_count(name: str, value: Any) -> int:
    """An integer of at least 1.

    Raises:
      TypeError: no integer.
      ValueError: less than 1.
    """
    value = as_integer(name, value)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def as_token(name: str, value: Any, vocab_size: int) -> int:
    """A token id.

    Raises:
      TypeError: no integer.
      ValueError: outside [0, vocab_size).
    """
    value = as_integer(name, value)
    if not 0 <= value < vocab_size:
        raise ValueError(f"{name}={value} is outside the vocabulary [0, {vocab_size})")
    return value


def check_source(source: Any, vocab_size: int) -> Array | np.ndarray:
    """Token ids [B S], of lists too.

    Raises:
      TypeError, ValueError: as `check_tokens`; rows of several lengths, no row or no token.
    """
    try:
        source = source if isinstance(source, jax.Array) else np.asarray(source)
    except ValueError:
        raise ValueError("source must be token ids [B S], rows of one length: pad them") from None
    check_tokens(source, vocab_size, "source")
    if 0 in source.shape:
        raise ValueError(f"source must have rows and tokens, got the shape {source.shape}")
    return source
