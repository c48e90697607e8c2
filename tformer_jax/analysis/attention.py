"""Attention of the heads of a model: the weights of every layer, and numbers that sum them up."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from ..nn import Stack

SELF, CROSS = "attention_weights", "cross_attention_weights"


class _Recorded:
    """A stack of layers that also writes down its attention weights, in all else as itself."""

    def __init__(self, stack: Stack, name: str, found: dict[str, Array]):
        self._stack, self._place, self._found = stack, name, found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def __call__(self, x: Any, *, memory: Any = None, capture: Collection[str] = (), **how: Any) -> Any:
        names = {SELF: self._place} | ({} if memory is None else {CROSS: f"{self._place}.cross"})
        x, beside = self._stack(x, memory=memory, capture=(*{*names, *capture},), **how)
        self._found |= {name: beside.captured[kind] for kind, name in names.items()}
        return x, beside._replace(captured={name: beside.captured[name] for name in capture})


def attention_maps(run: Callable[..., Any], model: Any, *inputs: Any) -> dict[str, Float[Array, "L B N T S"]]:
    """Returns the attention weights of every layer while `run(model, *inputs)` computes; what it returns is not used.

        maps = attention_maps(lambda model, tokens: model(tokens), gpt, tokens)   # {"decoder": [L B N T T]}

    Of any model that is made of `nn.Stack`s. It may be compiled: `jax.jit(attention_maps, static_argnums=0)`.

    Args:
      run: `(model, *inputs)`, runs the model once, with nothing random, and is not compiled by itself.
      model: any.
      inputs: arrays, or trees of them.

    Returns:
      By the place of a stack in the model, such as "encoder", [L B N T S]: layers, rows, heads, queries, keys. The weights
      over a memory are those of "decoder.cross". Each row of weights sums to 1, or to 0 where nothing may be attended;
      of a kernel of one's own to anything, see `functional.attention_weights`.

    Raises:
      ValueError: the model has no stack, or one whose layers cannot be laid on each other (says why).
    """
    found: dict[str, Array] = {}
    is_stack = lambda x: isinstance(x, Stack)

    def recorded(path: Any, part: Any) -> Any:
        if not is_stack(part):
            return part
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        _check_heads(name, part)
        return _Recorded(part, name, found)

    run(jax.tree_util.tree_map_with_path(recorded, model, is_leaf=is_stack), *inputs)
    if not found:
        raise ValueError("the model has no stack of layers that was run: there are no attention weights")
    return found


def _check_heads(name: str, stack: Stack) -> None:
    model = stack.model
    heads = {model.of_layer(i).attention.num_heads for i in range(len(model.pattern))}
    if 0 in heads:
        raise ValueError(f"layers of {name} have attention.name={model.attention.name!r}, which has no weights")
    if len(heads) > 1:
        raise ValueError(f"layers of {name} differ in their number of heads, {sorted(heads)}: no array holds them all")


def attention_entropy(weights: Float[Array, "*batch S"]) -> Float[Array, "*batch"]:
    """The entropy of rows of attention weights in nats, -Σ_s w_s log w_s: 0 looks at one key, log S at all alike.

    Args:
      weights: rows over the S keys, each divided by its sum before (that of a softmax is 1); 0 log 0 is 0.
    """
    total = weights.sum(-1, keepdims=True)
    return jax.scipy.special.entr(weights / jnp.where(total == 0.0, 1.0, total)).sum(-1)


def attended_distance(
    weights: Float[Array, "*batch T S"], queries: Float[Array, "T k"], keys: Float[Array, "S k"]
) -> Float[Array, "*batch T"]:
    """The mean distance from each query to what it attends, Σ_s w_s |x_s - x_t|, over the keys that have a place.

    Source: Dosovitskiy et al., 2021, figure 7 ("attention distance"), and Clark et al., 2019.

    Args:
      weights: rows over the S keys.
      queries, keys: where they stand, in k coordinates: one of tokens, two of patches; NaN for what has no place, such as a
        class token, whose weight is left out and the rest taken as a whole.

    Returns:
      NaN for a query without a place, and for one that attends to nothing that has one.
    """
    distances = jnp.sqrt(jnp.square(keys[None, :] - queries[:, None]).sum(-1))  # [T S]
    placed = jnp.where(jnp.isnan(distances), 0.0, weights)
    return (placed * jnp.nan_to_num(distances)).sum(-1) / placed.sum(-1)


def head_numbers(
    weights: Float[Array, "L B N T S"], counted: Float[Array, "B T"], queries: Array, keys: Array
) -> tuple[Float[Array, "L N"], Float[Array, "L N"]]:
    """Returns the mean entropy in nats and the mean attended distance of each head, over the queries that count.

    Args:
      weights: see `attention_maps`.
      counted: which queries count, 0 or 1: those that are no padding.
      queries, keys: see `attended_distance`; queries without a distance do not count for its mean.
    """
    each = counted[None, :, None]  # [1 B 1 T]
    entropy = (attention_entropy(weights) * each).sum((1, 3)) / each.sum((1, 3))
    distance = attended_distance(weights, queries, keys)
    known = each * ~jnp.isnan(distance)
    return entropy, (jnp.nan_to_num(distance) * known).sum((1, 3)) / known.sum((1, 3))


def sharpest_head(weights: Float[np.ndarray, "L N T S"]) -> tuple[int, int, float]:
    """Returns the layer and the head whose rows of weights have the lowest mean entropy, from 0, and that in nats.

    The first query of a causal model, and others that may look at one key alone, count as all others do.
    """
    entropy = np.asarray(attention_entropy(jnp.asarray(weights))).mean(-1)
    layer, head = np.unravel_index(entropy.argmin(), entropy.shape)
    return int(layer), int(head), float(entropy[layer, head])


def token_places(count: int) -> Float[np.ndarray, "T 1"]:
    """Returns where tokens stand, for `attended_distance`: 0, 1, 2, ..."""
    return np.arange(count, dtype=np.float32)[:, None]


def patch_places(grid: tuple[int, int], before: int = 0) -> Float[np.ndarray, "Q 2"]:
    """Returns where patches stand, for `attended_distance`: row and column, in patches.

    Args:
      grid: patches down and across, row by row.
      before: tokens that come first and have no place, such as a class token.
    """
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    return np.concatenate([np.full((before, 2), np.nan, np.float32), places])
