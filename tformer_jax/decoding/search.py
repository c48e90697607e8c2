"""Greedy and beam search over an encoder-decoder model, each one compiled program with a KV cache.

They use three methods of a model, all pure: `encode`, `start_cache` and `extend`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from ..functional.numbers import NOT_NEGATIVE, Number, as_integer, as_number, as_size, is_known
from ..nn import apart
from ..nn.embeddings import as_token, check_tokens

Source = Int[Array, "B S"] | Int[np.ndarray, "B S"]


class Hypotheses(NamedTuple):
    """The best hypotheses of each source, best first.

    Attributes:
      tokens: [B num_results max_length], without the start token; all `eos_id` after the end.
      scores: [B num_results], log P(tokens | source) / length_penalty(tokens), in nats.
    """

    tokens: Int[Array, "B K T"]
    scores: Float[Array, "B K"]


def greedy_search(
    model: Any, source: Source, *, max_length: int, bos_id: int, eos_id: int, source_mask: Any = None
) -> Int[Array, "B T"]:
    """The most probable token at every step, until every row has ended or `max_length`.

    Args:
      model: an encoder-decoder model.
      source: token ids.
      max_length: T, the most tokens to produce, the end-of-sequence token included.
      bos_id: the token that starts a target.
      eos_id: the token that ends it.
      source_mask: as in the model.

    Returns:
      [B max_length] token ids without the start token; all `eos_id` after the end.

    Raises:
      TypeError: ids or a length that are no integers.
      ValueError: `max_length` exceeds the model's, or a token out of the vocabulary (says where).
    """
    source, how = _checked(model, source, max_length, bos_id, eos_id)
    return _greedy_search(apart(model), source, source_mask, **how)


@functools.partial(jax.jit, static_argnames=("max_length", "bos_id", "eos_id"))
def _greedy_search(model, source, source_mask, *, max_length: int, bos_id: int, eos_id: int) -> Int[Array, "B T"]:
    B = source.shape[0]
    memory, _ = model.encode(source, mask=source_mask)
    cache = model.start_cache(memory, max_length, source_mask=source_mask)

    def unfinished(state):
        step, _, _, done, _ = state
        return (step < max_length) & ~done.all()

    def advance(state):
        step, last, tokens, done, cache = state
        logits, cache = model.extend(last[:, None], cache)
        last = jnp.where(done, eos_id, jnp.argmax(logits[:, 0], axis=-1)).astype(jnp.int32)
        return step + 1, last, tokens.at[:, step].set(last), done | (last == eos_id), cache

    start = jnp.full((B,), bos_id, jnp.int32), jnp.full((B, max_length), eos_id, jnp.int32), jnp.zeros((B,), bool)
    return lax.while_loop(unfinished, advance, (0, *start, cache))[2]


class _Beams(NamedTuple):
    """The state of a beam search; K hypotheses a row, alive and finished.

    Alive ones have log-probabilities, finished ones have scores; an empty place has -inf.
    """

    step: Array
    tokens: Int[Array, "B K T"]
    log_probs: Float[Array, "B K"]
    cache: Any
    finished: Hypotheses


def beam_search(
    model: Any,
    source: Source,
    *,
    beam_size: int = 4,
    max_length: int,
    length_penalty: Number = 0.6,
    bos_id: int,
    eos_id: int,
    source_mask: Any = None,
    num_results: int | None = None,
) -> Hypotheses:
    """The hypotheses of highest score that a beam of K finds.

        score(y) = log P(y | x) / ((5 + |y|) / 6)^length_penalty

    with |y| counting the end-of-sequence token. Hypotheses that have not ended by `max_length`
    compete as they are. The search stops once no alive hypothesis can still enter the results
    of any row, so stopping early never changes them.

    Source: Wu et al., 2016, section 7.

    Args:
      model: an encoder-decoder model.
      source: token ids.
      beam_size: K, hypotheses kept and returned.
      max_length: T, the most tokens to produce, the end-of-sequence token included.
      length_penalty: the exponent; 0 scores by log-probability alone. Another one is other data, not another program;
        may be traced (a negative one makes the scores NaN).
      bos_id: the token that starts a target.
      eos_id: the token that ends it.
      source_mask: as in the model.
      num_results: hypotheses to return, at most K; None: K. With fewer, the search ends earlier.

    Raises:
      TypeError: ids, sizes or a length that are no integers, or a length penalty that is no number.
      ValueError: `max_length` exceeds the model's, a token out of the vocabulary (says where), no
        beam or too large a one, more results than beams, or a length penalty that is negative or not finite.
    """
    source, how = _checked(model, source, max_length, bos_id, eos_id)
    most = np.iinfo(np.int32).max // model.config.vocab_size  # their continuations have int32 indices
    how["beam_size"] = as_size("beam_size", beam_size, most, least=1)
    how["num_results"] = as_integer("num_results", beam_size if num_results is None else num_results)
    if not 1 <= how["num_results"] <= how["beam_size"]:
        raise ValueError(f"num_results must be between 1 and beam_size={beam_size}, got {num_results}")
    if is_known(length_penalty) and as_number("length_penalty", length_penalty) < 0:
        raise ValueError(f"length_penalty must not be negative, got {length_penalty}")
    length_penalty = as_number("length_penalty", length_penalty, NOT_NEGATIVE)
    return _beam_search(apart(model), source, source_mask, length_penalty, **how)


_STATIC = ("beam_size", "max_length", "bos_id", "eos_id", "num_results")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _beam_search(
    model, source, source_mask, length_penalty: float | Array, *, beam_size: int, max_length: int, bos_id: int,
    eos_id: int, num_results: int,
) -> Hypotheses:  # fmt: skip
    def penalty(length):
        return jnp.float32((5.0 + length) / 6.0) ** length_penalty

    def unfinished(state: _Beams):
        # Log-probabilities only fall, and the largest penalty makes the most of them.
        attainable = state.log_probs.max(-1) / penalty(max_length)
        return (state.step < max_length) & (attainable > state.finished.scores[:, num_results - 1]).any()

    def advance(state: _Beams):
        return _advance(model, state, penalty, bos_id, eos_id)

    last = lax.while_loop(unfinished, advance, _start(model, source, source_mask, beam_size, max_length, eos_id))
    cut = Hypotheses(last.tokens, last.log_probs / penalty(max_length))
    return _best(last.finished, cut, num_results)


def _start(model, source, source_mask, beam_size: int, max_length: int, eos_id: int) -> _Beams:
    B = source.shape[0]
    memory, _ = model.encode(source, mask=source_mask)
    cache = model.start_cache(memory, max_length, source_mask=source_mask)
    cache = cache.map_rows(lambda x, axis: jnp.repeat(x, beam_size, axis))
    tokens = jnp.full((B, beam_size, max_length), eos_id, jnp.int32)
    # One hypothesis, the empty one: K copies of it would stay copies.
    log_probs = jnp.full((B, beam_size), -jnp.inf).at[:, 0].set(0.0)
    return _Beams(jnp.int32(0), tokens, log_probs, cache, Hypotheses(tokens, jnp.full((B, beam_size), -jnp.inf)))


def _advance(model, state: _Beams, penalty: Callable, bos_id: int, eos_id: int) -> _Beams:
    """One token more: hypotheses that end with it move to the finished ones, the best others stay alive."""
    B, K = state.log_probs.shape
    last = lax.dynamic_index_in_dim(state.tokens, jnp.maximum(state.step - 1, 0), axis=2, keepdims=False)  # [B K]
    logits, cache = model.extend(jnp.where(state.step == 0, bos_id, last).reshape(-1, 1), state.cache)
    log_probs = jax.nn.log_softmax(logits[:, 0].astype(jnp.float32)).reshape(B, K, -1) + state.log_probs[..., None]
    V = log_probs.shape[-1]
    # The best continuations by one token. 2 K are enough: at most K of them end, so K remain to go on with.
    log_probs, index = lax.top_k(log_probs.reshape(B, K * V), min(2 * K, K * V))
    parents, token = index // V, (index % V).astype(jnp.int32)  # [B 2K]
    tokens = jnp.take_along_axis(state.tokens, parents[:, :, None], axis=1).at[:, :, state.step].set(token)
    ended = token == eos_id
    scores = jnp.where(ended, log_probs / penalty(state.step + 1.0), -jnp.inf)
    finished = _best(state.finished, Hypotheses(tokens, scores), K)
    log_probs, chosen = lax.top_k(jnp.where(ended, -jnp.inf, log_probs), K)
    # Each row's history is replaced by its parent's; the memory is the same for all beams.
    rows = (jnp.arange(B)[:, None] * K + jnp.take_along_axis(parents, chosen, axis=1)).reshape(-1)
    cache = cache.map_history(lambda x, axis: jnp.take(x, rows, axis, mode="clip"))  # all are in range
    return _Beams(state.step + 1, jnp.take_along_axis(tokens, chosen[:, :, None], axis=1), log_probs, cache, finished)


def _best(a: Hypotheses, b: Hypotheses, count: int) -> Hypotheses:
    """The best of both."""
    tokens, scores = (jnp.concatenate(pair, axis=1) for pair in zip(a, b, strict=True))
    scores, index = lax.top_k(scores, count)
    return Hypotheses(jnp.take_along_axis(tokens, index[:, :, None], axis=1), scores)


def _checked(model: Any, source: Any, max_length: Any, bos_id: Any, eos_id: Any) -> tuple[Any, dict[str, int]]:
    """Checks the arguments of both searches and gives them as their programs take them."""
    config = model.config
    max_length = as_integer("max_length", max_length, least=1)
    if max_length > config.max_length:
        raise ValueError(f"max_length={max_length} exceeds the model's max_length={config.max_length}")
    tokens = {n: as_token(n, value, config.vocab_size) for n, value in (("bos_id", bos_id), ("eos_id", eos_id))}
    try:
        source = source if isinstance(source, Array) else np.asarray(source)
    except ValueError:
        raise ValueError("source must be token ids [B S], rows of one length: pad them") from None
    check_tokens(source, config.source_vocab_size or config.vocab_size, "source")
    if 0 in source.shape:
        raise ValueError(f"source must have rows and tokens, got the shape {source.shape}")
    return source, tokens | {"max_length": max_length}
