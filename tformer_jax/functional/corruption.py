"""Masked language modelling's noise: which tokens are hidden, and what stands in their place."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int


def mask_tokens(
    tokens: Int[Array, "B T"],
    key: Array,
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: tuple[int, ...] = (),
    rate: float = 0.15,
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
      rate: in (0, 1].
      word_ids: in [0, T), the same for the tokens of one word: these are chosen together, and
        each is corrupted by itself. Default: every token is a word.

    Returns:
      The corrupted tokens in their own dtype, and which of them are chosen: the set M of `masked_lm_loss`.

    Raises:
      ValueError: `rate` outside (0, 1], an id outside [0, V), or no ordinary token.
    """
    special = sorted({mask_id, *special_ids})
    _check(rate, special, vocab_size)
    choice_key, fate_key, token_key = jax.random.split(key, 3)
    chosen = jax.random.uniform(choice_key, tokens.shape) < rate
    if word_ids is not None:
        chosen = jnp.take_along_axis(chosen, word_ids, axis=1)
    masked = chosen & ~jnp.isin(tokens, jnp.asarray(special))
    ordinary = jnp.asarray(np.setdiff1d(np.arange(vocab_size), special), tokens.dtype)
    drawn = ordinary[jax.random.randint(token_key, tokens.shape, 0, ordinary.size)]
    fate = jax.random.uniform(fate_key, tokens.shape)
    noise = jnp.where(fate < 0.8, jnp.asarray(mask_id, tokens.dtype), jnp.where(fate < 0.9, drawn, tokens))
    return jnp.where(masked, noise, tokens), masked


def _check(rate: float, special: list[int], vocab_size: int) -> None:
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"rate must be in (0, 1], got {rate}")
    if special[0] < 0 or special[-1] >= vocab_size:
        raise ValueError(f"mask_id and special_ids must be in [0, {vocab_size}), got {special}")
    if len(special) == vocab_size:
        raise ValueError(f"all {vocab_size} tokens are special: none is left to mask")
