"""Masked language modelling's noise: which tokens are hidden, and what stands in their place."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int

from .checks import as_array, as_key, check_below, shown
from .meshes import gathered, spread_like
from .numbers import RATE, Number, as_integer, as_number, as_size


def mask_tokens(
    tokens: Int[Array, "B T"],
    key: Array,
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: tuple[int, ...] = (),
    rate: Number = 0.15,
    word_ids: Int[Array, "B T"] | None = None,
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Chooses each ordinary token with probability `rate` and corrupts what is chosen.

    Of the chosen, 80 % become `mask_id`, 10 % an ordinary token drawn uniformly (it may be the
    same) and 10 % stay. Ordinary is what is neither `mask_id` nor in `special_ids`.

    Source: Devlin et al., 2018, section 3.1; whole words, the authors' release of May 2019.

    Args:
      tokens: the sequences.
      key: a typed key.
      mask_id: the id that hides a token.
      vocab_size: V.
      special_ids: never chosen and never drawn: padding, separators.
      rate: in (0, 1]; may be traced (out of its range it chooses nothing).
      word_ids: in [0, T), the same for the tokens of one word: these are chosen together, and
        each is corrupted by itself. Traced ones outside of it choose nothing. Default: every token is a word.

    Returns:
      The corrupted tokens in their own dtype, and which of them are chosen: the set M of `masked_lm_loss`.

    Raises:
      TypeError: tokens or words that are no integers, an id or a V that is none, a rate that is no number,
        or no key.
      ValueError: tokens that are not [B T], words of another shape or known to be outside [0, T), `rate` known to be
        outside (0, 1], an id outside [0, V), a V that the tokens' dtype cannot hold, or no ordinary token.
    """
    tokens, rate = as_array("tokens", tokens, "B T", kind="integers"), as_number("rate", rate, RATE)
    if not np.iterable(special_ids):
        raise TypeError(f"special_ids must be a tuple of integers, got {shown(special_ids)}")
    special = sorted({as_integer("mask_id", mask_id), *(as_integer("special_ids", i) for i in special_ids)})
    vocab_size = as_size("vocab_size", vocab_size, least=1)
    _check(special, vocab_size, tokens.dtype)
    choice_key, fate_key, token_key = jax.random.split(as_key("key", key), 3)
    chosen = spread_like(jax.random.uniform(choice_key, tokens.shape, jnp.float32), tokens, axes=2) < rate
    if word_ids is not None:
        word_ids = as_array("word_ids", word_ids, kind="integers", shape=tokens.shape)
        check_below("word_ids", word_ids, tokens.shape[1])
        inside = (word_ids >= 0) & (word_ids < tokens.shape[1])
        chosen = inside & jnp.take_along_axis(gathered(chosen, 1), gathered(word_ids, 1), axis=1)
    masked = chosen & ~(tokens[..., None] == jnp.asarray(special, tokens.dtype)).any(-1)
    drawn = jax.random.randint(token_key, tokens.shape, 0, vocab_size - len(special), jnp.int32)
    for i in special:  # in order: what is drawn counts the ordinary tokens alone
        drawn = jnp.where(drawn >= i, drawn + 1, drawn)
    drawn = drawn.astype(tokens.dtype)
    fate = jax.random.uniform(fate_key, tokens.shape, jnp.float32)
    drawn, fate = (spread_like(x, tokens, axes=2) for x in (drawn, fate))
    noise = jnp.where(fate < 0.8, jnp.asarray(mask_id, tokens.dtype), jnp.where(fate < 0.9, drawn, tokens))
    return jnp.where(masked, noise, tokens), masked


def _check(special: list[int], vocab_size: int, dtype: np.dtype) -> None:
    if vocab_size - 1 > jnp.iinfo(dtype).max:
        raise ValueError(f"tokens of {dtype} cannot hold a vocab_size of {vocab_size}")
    if special[0] < 0 or special[-1] >= vocab_size:
        raise ValueError(f"mask_id and special_ids must be in [0, {vocab_size}), got {special}")
    if len(special) == vocab_size:
        raise ValueError(f"all {vocab_size} tokens are special: none is left to mask")
