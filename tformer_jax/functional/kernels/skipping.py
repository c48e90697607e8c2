"""Runs of keys, one for each block of queries, that hold every key that any of its queries may see.

Causality, windows and known prefixes tell before the program runs, where positions are array indices. Lengths, segments
and traced prefixes, which hide more, and positions that are given, are known to the program alone. Either way a part of
a mask says which keys *some* query of a block may see or, under `~`, which *every* one surely sees: these are what
`~part` hides from the whole block.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from ..masks import AttentionMask, Mask, is_static
from ..relations import as_ints


def is_known(mask: Mask) -> bool:
    """Says whether nothing is left for the program to find: `known_runs` are as narrow as runs can be."""
    parts = [part.lengths is part.segments is None and _knows_prefix(part) for part in mask.parts]
    return mask.query_positions is None and mask.key_positions is None and all(parts)


def known_runs(
    mask: Mask, starts: Int[np.ndarray, "n"], size: int, S: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """The run [first, last) of the S keys for each block of `size` queries, as far as it is known; may be empty."""
    if mask.query_positions is not None or mask.key_positions is not None:
        return np.zeros_like(starts), np.full_like(starts, S)
    low, high = starts, starts + size - 1

    def run(part: AttentionMask, under_not: bool) -> _Runs:
        # From the first key that one query sees to the last that another does, see `AttentionMask.by_position`.
        begins, ends = (high, low) if under_not else (low, high)
        first, last = np.zeros_like(starts), np.full_like(starts, S)
        if part.causal:
            last = np.minimum(last, ends + 1)
        if part.window is not None:
            left, right = (min(side, int(starts[-1]) + size + S) for side in part.reach)
            first, last = begins - left, np.minimum(last, ends + right + 1)
        if part.prefix is not None and _knows_prefix(part):
            last = np.minimum(last, min(part.limit, S))
        unknown = [x for x in (part.explicit, part.lengths, part.segments) if x is not None]
        if under_not and (unknown or not _knows_prefix(part)):
            last = first
        return _Runs(first, last, S, inner=under_not)

    runs = mask.evaluate(run)
    return runs.first, runs.last


def _knows_prefix(part: AttentionMask) -> bool:
    return part.prefix is None or is_static(part.prefix)


def runs_by_program(
    mask: Mask, split: Callable[[Array], Array], T: int, S: int
) -> tuple[Int[Array, "n"], Int[Array, "n"]]:
    """The same, decided from a block's extreme positions and segments; `split` cuts [b T] in blocks [n b t]."""

    def extremes(x: Array) -> tuple[Array, Array]:
        """[b T] to [n b 1], twice."""
        x = split(x)
        return x.min(-1, keepdims=True), x.max(-1, keepdims=True)

    low, high = extremes(mask.query_block(0, T))
    n, keys, index = len(low), mask.key_block(0, S), jnp.arange(S)

    def seen(part: AttentionMask, under_not: bool) -> Array:
        """Booleans that broadcast to [n b 1 S]."""
        seen = part.by_position(high, low, keys) if under_not else part.by_position(low, high, keys)
        if part.lengths is not None:
            seen &= index < as_ints(part.lengths)[:, None, None]
        if part.segments is not None:
            query_segments, key_segments = map(as_ints, part.segment_pair)
            least, most = (x[..., None] for x in extremes(query_segments))
            key_segments = key_segments[:, None]
            seen &= (least <= key_segments) & (key_segments <= most)
            seen &= (least == most) | (not under_not)
        return seen & (part.explicit is None or not under_not)

    needed = mask.evaluate(seen)
    needed = jnp.broadcast_to(needed, jnp.broadcast_shapes(needed.shape, (n, 1, 1, S))).any((1, 2))  # [n S]
    first = jnp.argmax(needed, axis=1)
    return first, jnp.where(needed.any(1), S - jnp.argmax(needed[:, ::-1], axis=1), first)


@dataclasses.dataclass(frozen=True)
class _Runs:
    """A run of keys of [0, length) for each block: at least the keys that are meant or, if `inner`, at most these."""

    first: np.ndarray
    last: np.ndarray
    length: int
    inner: bool

    def __and__(self, other: "_Runs") -> "_Runs":
        return self._with(np.maximum(self.first, other.first), np.minimum(self.last, other.last))

    def __or__(self, other: "_Runs") -> "_Runs":
        both = self._with(np.minimum(self.first, other.first), np.maximum(self.last, other.last))
        if self.inner:  # both where they touch, else the longer one
            touching = (self.first <= other.last) & (other.first <= self.last)
            longer = self._where(self.last - self.first > other.last - other.first, other)
            return both._where(touching, longer)
        mine, theirs = self.first < self.last, other.first < other.last  # whether there is a key
        return both._where(mine & theirs, self._where(mine, other))

    def __invert__(self) -> "_Runs":
        """Returns the keys before and after it."""
        nothing, everything = np.zeros_like(self.first), np.full_like(self.last, self.length)
        rest = dataclasses.replace(self, inner=not self.inner)
        return rest._with(nothing, self.first) | rest._with(self.last, everything)

    def _with(self, first: np.ndarray, last: np.ndarray) -> "_Runs":
        return dataclasses.replace(self, first=first, last=last)

    def _where(self, chosen: np.ndarray, other: "_Runs") -> "_Runs":
        return self._with(np.where(chosen, self.first, other.first), np.where(chosen, self.last, other.last))
