"""Greedy and beam search over an encoder-decoder model, each one compiled program with a KV cache.

They use three methods of a model, all pure: `encode`, `start_cache` and `extend`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from ..functional.checks import check_choice
from ..functional.numbers import NOT_NEGATIVE, Number, as_integer, as_number, as_size, is_known
from ..nn import apart
from ..nn.embeddings import as_token, check_tokens
from ..nn.partitioning import row_groups

Source = Int[Array, "B S"] | Int[np.ndarray, "B S"]


class Hypotheses(NamedTuple):
    """The best hypotheses of each source, best first.

    Attributes:
      tokens: [B num_results max_length], without the start token; all `eos_id` after the end.
      scores: [B num_results], log P(tokens | source) / penalty(length), in nats.
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

    Alive ones have log-probabilities, finished ones have scores; an empty place has -inf. A row that is over takes no
    more finished ones.
    """

    step: Array
    tokens: Int[Array, "B K T"]
    log_probs: Float[Array, "B K"]
    cache: Any
    finished: Hypotheses
    over: Bool[Array, "B"]


# By what a log-probability is divided, of a length and an exponent. All grow with the length.
_PENALTIES: dict[str, Callable] = {
    "gnmt": lambda length, exponent: jnp.float32((5.0 + length) / 6.0) ** exponent,
    "power": lambda length, exponent: jnp.float32(length) ** exponent,
}

# Whether the best alive hypothesis of a row is worth going on with: of its log-probability [B], the scores of the finished
# ones [B K], the number of results, and the penalties of the present and of the largest length.
_GOES_ON: dict[str, Callable] = {
    # Log-probabilities only fall, and the largest penalty makes the most of them.
    "exact": lambda alive, scores, results, present, largest: alive / largest > scores[:, results - 1],
    "heuristic": lambda alive, scores, results, present, largest: alive / present > scores[:, -1],
    "full": lambda alive, scores, results, present, largest: scores[:, -1] == -jnp.inf,
}


def beam_search(
    model: Any,
    source: Source,
    *,
    beam_size: int = 4,
    max_length: int,
    length_penalty: Number = 0.6,
    penalty_kind: Literal["gnmt", "power"] = "gnmt",
    stop: Literal["exact", "heuristic", "full"] = "exact",
    bos_id: int,
    eos_id: int,
    source_mask: Any = None,
    num_results: int | None = None,
) -> Hypotheses:
    """The hypotheses of highest score that a beam of K finds.

        score(y) = log P(y | x) / ((5 + |y|) / 6)^length_penalty

    with |y| counting the end-of-sequence token. A hypothesis that ends counts if it is among the K
    best of its step, ended or not, as in fairseq and `transformers`; at `max_length` those K count as
    they are. By default the search stops once no alive hypothesis can still enter the results of any
    row, so stopping early never changes them.

    With `num_beams`, `transformers` finds by default what `length_penalty=1.0, penalty_kind="power", stop="heuristic"`
    does here, but for what changes logits on the way, such as its `bad_words_ids` and `forced_eos_token_id`.

    Sources: Wu et al., 2016, section 7, the score; Ott et al., 2019, which ends count.

    Args:
      model: an encoder-decoder model.
      source: token ids.
      beam_size: K, hypotheses kept and returned.
      max_length: T, the most tokens to produce, the end-of-sequence token included.
      length_penalty: the exponent; 0 scores by log-probability alone. Another one is other data, not another program;
        may be traced (a negative one makes the scores NaN).
      penalty_kind: what has that exponent: "gnmt", (5 + |y|) / 6, or "power", |y| itself, as in fairseq and `transformers`.
      stop: when a row is over, and takes no more hypotheses: "exact", once none can enter its results; "heuristic", once
        K have ended, and none alive would be better than the last of them with the length that it has now; "full", once K
        have ended. `early_stopping` of `transformers` calls them "never", False and True.
      bos_id: the token that starts a target.
      eos_id: the token that ends it.
      source_mask: as in the model.
      num_results: hypotheses to return, at most K; None: K. With fewer, an "exact" search ends earlier.

    Raises:
      TypeError: ids, sizes or a length that are no integers, or a length penalty that is no number.
      ValueError: `max_length` exceeds the model's, a token out of the vocabulary (says where), no
        beam or too large a one, more results than beams, a length penalty that is negative or not finite, or an unknown
        kind or stop.
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
    check_choice("penalty_kind", penalty_kind, tuple(_PENALTIES))
    check_choice("stop", stop, tuple(_GOES_ON))
    how |= {"penalty_kind": penalty_kind, "stop": stop}
    return _beam_search(apart(model), source, source_mask, length_penalty, **how)


_STATIC = ("beam_size", "max_length", "bos_id", "eos_id", "num_results", "penalty_kind", "stop")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _beam_search(
    model, source, source_mask, length_penalty: float | Array, *, beam_size: int, max_length: int, bos_id: int,
    eos_id: int, num_results: int, penalty_kind: str, stop: str,
) -> Hypotheses:  # fmt: skip
    penalty = functools.partial(_PENALTIES[penalty_kind], exponent=length_penalty)

    def unfinished(state: _Beams):
        return (state.step < max_length) & ~state.over.all()

    def advance(state: _Beams):
        state = _advance(model, state, penalty, bos_id, eos_id)
        lengths = penalty(state.step), penalty(max_length)
        goes_on = _GOES_ON[stop](state.log_probs[:, 0], state.finished.scores, num_results, *lengths)
        # A row stays over: a penalty that grows faster than the log-probability falls would bring it back.
        return state._replace(over=state.over | ~goes_on)

    last = lax.while_loop(unfinished, advance, _start(model, source, source_mask, beam_size, max_length, eos_id))
    return Hypotheses(*(x[:, :num_results] for x in last.finished))


def _start(model, source, source_mask, beam_size: int, max_length: int, eos_id: int) -> _Beams:
    B = source.shape[0]
    memory, _ = model.encode(source, mask=source_mask)
    cache = model.start_cache(memory, max_length, source_mask=source_mask)
    cache = cache.map_rows(lambda x, axis: jnp.repeat(x, beam_size, axis))
    tokens = jnp.full((B, beam_size, max_length), eos_id, jnp.int32)
    # One hypothesis, the empty one: K copies of it would stay copies.
    log_probs = jnp.full((B, beam_size), -jnp.inf).at[:, 0].set(0.0)
    finished = Hypotheses(tokens, jnp.full((B, beam_size), -jnp.inf))
    return _Beams(jnp.int32(0), tokens, log_probs, cache, finished, jnp.zeros((B,), bool))


def _advance(model, state: _Beams, penalty: Callable, bos_id: int, eos_id: int) -> _Beams:
    """One token more: of the best, hypotheses that end with it move to the finished ones; the best others stay alive."""
    B, K, T = state.tokens.shape
    last = lax.dynamic_index_in_dim(state.tokens, jnp.maximum(state.step - 1, 0), axis=2, keepdims=False)  # [B K]
    logits, cache = model.extend(jnp.where(state.step == 0, bos_id, last).reshape(-1, 1), state.cache)
    log_probs = jax.nn.log_softmax(logits[:, 0].astype(jnp.float32)).reshape(B, K, -1) + state.log_probs[..., None]
    V = log_probs.shape[-1]
    # The best continuations by one token. 2 K are enough: at most K of them end, so K remain to go on with.
    log_probs, index = lax.top_k(log_probs.reshape(B, K * V), min(2 * K, K * V))
    parents, token = index // V, (index % V).astype(jnp.int32)  # [B 2K]
    tokens = jnp.take_along_axis(state.tokens, parents[:, :, None], axis=1).at[:, :, state.step].set(token)
    ended = token == eos_id
    # An end that is not among the K best is no hypothesis: the beam would not have gone on with it either.
    counts = (ended | (state.step + 1 == T)) & ~state.over[:, None]
    scores = jnp.where(counts, log_probs / penalty(state.step + 1), -jnp.inf)
    finished = _best(state.finished, Hypotheses(tokens[:, :K], scores[:, :K]))
    log_probs, chosen = lax.top_k(jnp.where(ended, -jnp.inf, log_probs), K)
    # Each row's history is replaced by its parent's; the memory is the same for all beams.
    rows = (jnp.arange(B)[:, None] * K + jnp.take_along_axis(parents, chosen, axis=1)).reshape(-1)
    cache = cache.map_history(lambda x, axis: _taken(x, rows, axis, row_groups(B)))
    tokens = jnp.take_along_axis(tokens, chosen[:, :, None], axis=1)
    return _Beams(state.step + 1, tokens, log_probs, cache, finished, state.over)


def _taken(x: Array, rows: Int[Array, "R"], axis: int, groups: int) -> Array:
    """Rows of an array along an axis, for each another one of the same group: each group's devices have all they need."""
    if groups == 1:
        return jnp.take(x, rows, axis, mode="clip")  # all are in range
    each = len(rows) // groups
    apart = x.reshape(*x.shape[:axis], groups, each, *x.shape[axis + 1 :])
    within = rows.reshape(groups, each) - each * jnp.arange(groups)[:, None]
    take = functools.partial(jnp.take, axis=axis, mode="clip")
    return jax.vmap(take, in_axes=(axis, 0), out_axes=axis)(apart, within).reshape(x.shape)


def _best(a: Hypotheses, b: Hypotheses) -> Hypotheses:
    """The best of both, as many as in `a`."""
    tokens, scores = (jnp.concatenate(pair, axis=1) for pair in zip(a, b, strict=True))
    scores, index = lax.top_k(scores, a.scores.shape[1])
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
