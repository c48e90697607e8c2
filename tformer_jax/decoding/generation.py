"""Generation with a causal model and a cache of fixed size: prompts in, continuations out."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Int

from ..functional import AttentionMask
from ..functional.checks import as_flag, as_key, shown
from ..functional.numbers import as_integer
from ..nn import apart
from ..nn.embeddings import as_token
from ..nn.placement import fetched
from .samplers import Sampler, greedy

# Prompts are padded to the next power of two, this at least, and so share programs.
_SHORTEST_BUCKET = 16


class _State(NamedTuple):
    """Between two tokens: the last ones, which rows have ended, and what the next step needs."""

    last: Int[Array, "B"]
    done: Bool[Array, "B"]
    cache: Any
    seen: Any
    key: Any


def generate(
    model: Any,
    prompt: Array | np.ndarray | Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    key: Array | None = None,
    eos_id: int | None = None,
    slide: bool = False,
    pad_to: int = 0,
    prefix: bool = False,
) -> Int[Array, "B T"]:
    """Continues each prompt, in one compiled program: the prompt at once, then a loop over a cache.

    Prompts are padded on the left to a bucket, so that a program serves many lengths. The cache has
    as many slots as prompt and continuation need, or as the model's window has.

    Args:
      model: a `models.CausalLM`; whoever calls this often gives `nn.apart(model)`, which is made of it at every call.
      prompt: token ids, [B T] or a list of B lists of any lengths.
      max_new_tokens: how many to produce.
      sampler: `greedy()` (the default) or `sampling(...)`.
      key: for sampling.
      eos_id: ends a row; None: no row ends early.
      slide: of prompts that leave no room in the context, keep the last tokens only.
      pad_to: the bucket has at least this length, if the context has: so that shorter prompts share a program too.
      prefix: let the tokens of a prompt see all of it, as a prefix language model does.

    Returns:
      [B max_new_tokens] the new tokens alone; all `eos_id` after the end.

    Raises:
      ValueError: an empty prompt, a token out of the vocabulary (says where), a prompt too long for the
        context (says what `slide` would cut), a `max_new_tokens` that fills the context alone, an `eos_id`
        out of the vocabulary, or a sampler that draws without a key.
      TypeError: a `max_new_tokens`, `eos_id` or `pad_to` that is no integer, a `slide` or `prefix` that is not True or False, a
        sampler or a key that is none.
    """
    start, static = _checked(model, prompt, max_new_tokens, sampler, key, eos_id, slide, pad_to, prefix)
    return _generate(apart(model), **start, **static)


def stream(
    model: Any,
    prompt: Array | np.ndarray | Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    key: Array | None = None,
    eos_id: int | None = None,
    slide: bool = False,
    pad_to: int = 0,
    prefix: bool = False,
) -> Iterator[np.ndarray]:
    """The tokens of `generate`, [B] at a time, as soon as they are there; ends when every row has ended.

    Arguments and errors are those of `generate`; errors are raised at the first token.
    """
    start, static = _checked(model, prompt, max_new_tokens, sampler, key, eos_id, slide, pad_to, prefix)
    model = apart(model)
    state = _start(model, **start, **static)
    yield fetched(state.last)
    for _ in range(1, static["max_new_tokens"]):
        if fetched(state.done).all():
            return
        state = _advance(model, state, start["sampler"], eos_id=static["eos_id"])
        yield fetched(state.last)


@functools.partial(jax.jit, static_argnames=("max_new_tokens", "eos_id", "prefix"))
def _generate(model, tokens, valid, sampler: Sampler, key, *, max_new_tokens: int, eos_id: int | None, prefix: bool):
    state = _start(model, tokens, valid, sampler, key, max_new_tokens=max_new_tokens, eos_id=eos_id, prefix=prefix)
    filler = 0 if eos_id is None else eos_id
    produced = jnp.full((tokens.shape[0], max_new_tokens), filler, jnp.int32).at[:, 0].set(state.last)

    def unfinished(carry):
        step, _, state = carry
        return (step < max_new_tokens) & ~state.done.all()

    def advance(carry):
        step, produced, state = carry
        state = _advance(model, state, sampler, eos_id=eos_id)
        return step + 1, produced.at[:, step].set(state.last), state

    return lax.while_loop(unfinished, advance, (1, produced, state))[1]


@functools.partial(jax.jit, static_argnames=("max_new_tokens", "eos_id", "prefix"))
def _start(
    model, tokens, valid, sampler: Sampler, key, *, max_new_tokens: int, eos_id: int | None, prefix: bool
) -> _State:
    """Reads the prompt and draws the first token."""
    B, T = tokens.shape
    mask = AttentionMask(causal=True) | AttentionMask(prefix=valid.sum(1)) if prefix else None
    hidden, cache = model.extend_hidden(tokens, model.start_cache(B, T), valid=valid, mask=mask)
    cache = cache.resized(T + max_new_tokens - 1)
    seen = None
    if sampler.repetition_penalty is not None:
        seen = jnp.zeros((B, model.config.vocab_size), bool)
        seen = seen.at[jnp.arange(B)[:, None], tokens].max(valid)
    state = _State(jnp.zeros(B, jnp.int32), jnp.zeros(B, bool), cache, seen, key)
    return _draw(model, state, hidden[:, -1:], sampler, eos_id)


@functools.partial(jax.jit, static_argnames="eos_id", donate_argnames="state")
def _advance(model, state: _State, sampler: Sampler, *, eos_id: int | None) -> _State:
    """Feeds the last tokens and draws the next ones."""
    hidden, cache = model.extend_hidden(state.last[:, None], state.cache)
    return _draw(model, state._replace(cache=cache), hidden, sampler, eos_id)


def _draw(model, state: _State, hidden, sampler: Sampler, eos_id: int | None) -> _State:
    key, draw = (None, None) if state.key is None else jax.random.split(state.key)
    tokens = sampler(model.logits(hidden)[:, 0], draw, state.seen)
    done, seen = state.done, state.seen
    if eos_id is not None:
        tokens = jnp.where(done, eos_id, tokens)
        done = done | (tokens == eos_id)
    if seen is not None:
        seen = seen.at[jnp.arange(len(tokens)), tokens].set(True)
    return _State(tokens, done, state.cache, seen, key)


def _padded(model, prompt, max_new_tokens: int, slide: bool, pad_to: int) -> tuple[np.ndarray, np.ndarray]:
    """The prompts [B T] at the right end of a bucket, and which of its places hold tokens."""
    limit, vocab_size = model.config.max_length, model.config.vocab_size
    # The last new token is never read, and so needs no place in the context.
    room = limit - max_new_tokens + 1
    if room < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} leaves no room for a prompt in max_length={limit}")
    prompt = prompt if isinstance(prompt, Sequence) else np.asarray(prompt)
    if isinstance(prompt, np.ndarray) and prompt.ndim == 0:
        raise ValueError(f"prompt must be token ids [B T], or B lists of them, got {prompt!r}")
    rows = [np.asarray(row) for row in prompt]
    if not rows:
        raise ValueError("a prompt needs at least one token, and there is no prompt")
    for b, row in enumerate(rows):
        if row.size == 0:
            raise ValueError(f"a prompt needs at least one token, such as a start token; prompt {b} has none")
        if row.ndim != 1 or row.dtype.kind not in "iu":
            raise ValueError(f"prompt must be token ids [B T], or B lists of them; prompt {b} is {row!r}")
        if (outside := np.flatnonzero((row < 0) | (row >= vocab_size))).size:
            at = outside[0]
            raise ValueError(f"prompt {b} has token {row[at]} at {at}, outside the vocabulary [0, {vocab_size})")
        if len(row) > room and not slide:
            raise ValueError(
                f"prompt {b} has {len(row)} tokens; with max_new_tokens={max_new_tokens}, max_length={limit} leaves "
                f"room for {room}. slide=True would cut its first {len(row) - room}"
            )
    rows = [row[-room:] for row in rows]
    wanted = max(_SHORTEST_BUCKET, pad_to, *map(len, rows))
    bucket = min(1 << (wanted - 1).bit_length(), room)
    tokens, valid = np.zeros((len(rows), bucket), np.int32), np.zeros((len(rows), bucket), bool)
    for b, row in enumerate(rows):
        tokens[b, bucket - len(row) :], valid[b, bucket - len(row) :] = row, True
    return tokens, valid


def _checked(model, prompt, max_new_tokens, sampler, key, eos_id, slide, pad_to, prefix) -> tuple[dict, dict]:
    """The arguments of both as their programs take them, and what these are compiled for."""
    sampler = greedy() if sampler is None else sampler
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be greedy() or sampling(...), got {shown(sampler)}")
    if key is not None:
        as_key("key", key)
    eos_id = None if eos_id is None else as_token("eos_id", eos_id, model.config.vocab_size)
    max_new_tokens = as_integer("max_new_tokens", max_new_tokens, least=1)
    tokens, valid = _padded(model, prompt, max_new_tokens, as_flag("slide", slide), as_integer("pad_to", pad_to))
    static = {"max_new_tokens": max_new_tokens, "eos_id": eos_id, "prefix": as_flag("prefix", prefix)}
    return {"tokens": tokens, "valid": valid, "sampler": sampler, "key": key}, static
