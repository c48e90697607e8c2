"""Attention masks: which key each query may attend. True = may attend, everywhere.

A mask is a value: `AttentionMask` *describes* the relation (causal, windowed, ragged, segmented, ...), masks are
combined by `&`, `|` and `~`, and a kernel asks for the tiles that it needs, so that a blockwise kernel can skip what a
dense mask would only hide.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int

from .checks import as_flag, check_integers
from .numbers import as_size
from .relations import (
    as_booleans,
    as_ints,
    as_rank_4,
    as_window,
    causal_mask,
    indices,
    positions_of,
    same_segment,
    slice_if_wide,
    window_mask,
)

# The position of an empty slot of a cache: after every token.
EMPTY = np.iinfo(np.int32).max


class Mask:
    """A relation, which key s each query t may attend: an `AttentionMask`, or several of them combined.

        prefix_lm = AttentionMask(causal=True) | AttentionMask(prefix=lengths)

    `a & b` shows what both show, `a | b` what one of them shows, `~a` what `a` hides. A boolean array, broadcastable to
    [B N T S], is accepted on either side; None hides nothing. Positions are those of the whole expression: those that
    a part has are every part's.

    A slot of a cache that is empty holds no token: its position is the largest int32, causality, windows and prefixes
    hide it, and `~` hides it too. Padding that is hidden by its index (`lengths`) or by a boolean is a token like others
    to `~`: `~AttentionMask(lengths=n)` shows the padding alone.

    Attributes:
      query_positions: [T] or [B T] int; default 0 .. T-1.
      key_positions: [S] or [B S] int; default 0 .. S-1.
    """

    query_positions: Any
    key_positions: Any

    # Lets `numpy_array & mask` reach __rand__ instead of broadcasting over the mask.
    __array_ufunc__ = None

    def __and__(self, other: "Mask | Array | None") -> "Mask":
        return self if other is None else _combined("and", self, as_mask(other))

    def __or__(self, other: "Mask | Array | None") -> "Mask":
        return _combined("or", self, as_mask(other))

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> "Mask":
        return _combined("not", self)

    def placed(self, *, query_positions: Any = None, key_positions: Any = None) -> "Mask":
        """The same mask, told where queries and keys stand: [T] or [B T], [S] or [B S]; None leaves it as it is.

        Raises:
          ValueError: it stands elsewhere already.
        """
        return dataclasses.replace(
            self,
            query_positions=_only(self.query_positions, query_positions, "query_positions"),
            key_positions=_only(self.key_positions, key_positions, "key_positions"),
        )

    @property
    def parts(self) -> list["AttentionMask"]:
        """Every `AttentionMask` in it, from left to right."""
        return [x for x in jax.tree.leaves(self, is_leaf=_is_part) if _is_part(x)]

    def map_parts(self, change: Callable[["AttentionMask"], "AttentionMask"]) -> "Mask":
        """The same expression of `change(part)`, for each `AttentionMask` in it; the positions stay."""
        return jax.tree.map(lambda x: change(x) if _is_part(x) else x, self, is_leaf=_is_part)

    def evaluate(self, part: Callable[["AttentionMask", bool], Any], under_not: bool = False) -> Any:
        """Evaluates the expression with other values than masks.

        Args:
          part: gives what stands for an `AttentionMask`, and has `&`, `|` and `~` itself; it is told whether an odd
            number of `~` are over the part, so that a bound from above has to be one from below.
          under_not: what to tell it.
        """
        if isinstance(self, AttentionMask):
            return part(self, under_not)
        if self.by == "not":
            return ~self.of[0].evaluate(part, not under_not) & part(_TOKENS, under_not)
        values = [mask.evaluate(part, under_not) for mask in self.of]
        return functools.reduce(operator.and_ if self.by == "and" else operator.or_, values)

    @property
    def hides_nothing(self) -> bool:
        """Says whether it is known to show every key to every query."""
        return bool(self.evaluate(lambda part, under_not: np.bool_(under_not or not part.hides_something)))

    @property
    def differs_by_query(self) -> bool:
        """Says whether queries, or heads, may see different keys."""
        by_position = any(part.causal or part.window is not None or part.segments is not None for part in self.parts)
        return by_position or any(n != 1 for part in self.parts for n in np.shape(part.explicit)[-3:-1])

    def to_array(self, query_length: int, key_length: int) -> Bool[Array, "..."]:
        """The mask as booleans [b n T S]; b and n are 1 where the mask does not depend on them.

        Raises:
          TypeError, ValueError: a length that is no integer, or negative; a field that is not for so many.
        """
        T, S = as_size("query_length", query_length, least=0), as_size("key_length", key_length, least=0)
        return fitting(self, *_rows_and_heads(self), T, S).tile(0, T, 0, S)

    def tile(self, q_start, q_size: int, k_start, k_size: int) -> Bool[Array, "..."]:
        """Queries [q_start, q_start + q_size) x keys [k_start, k_start + k_size), as [b n q k].

        The starts may be traced; `lax.dynamic_slice` clamps a tile that leaves the arrays.
        """
        q_pos, k_pos = self.query_block(q_start, q_size), self.key_block(k_start, k_size)

        def part(mask: AttentionMask, _) -> Array:
            allowed = mask.by_position(q_pos, q_pos, k_pos)[:, None]  # [b 1 q k]
            return allowed & mask.by_index(q_start, q_size, k_start, k_size)

        return self.evaluate(part)

    @property
    def num_heads(self) -> int:
        """The number of heads that it tells apart; 1 where all see the same."""
        return _rows_and_heads(self)[1]

    def query_block(self, start, size: int) -> Int[Array, "b q"]:
        """Positions of the queries [start, start + size); b is 1 where rows do not differ."""
        return positions_of(self.query_positions, start, size)

    def key_block(self, start, size: int) -> Int[Array, "b k"]:
        """Positions of the keys [start, start + size); b is 1 where rows do not differ."""
        return positions_of(self.key_positions, start, size)

    def cuttable(self, length: int) -> "Mask":
        """The same mask for `length` queries, in which everything that they differ by has an axis of queries.

        What a part of the queries sees is then described by this part of the arrays: see `query_axes`.
        """
        positions = jnp.atleast_2d(jnp.arange(length) if self.query_positions is None else self.query_positions)

        def change(part: AttentionMask) -> AttentionMask:
            segments, explicit = part.segments, part.explicit
            return dataclasses.replace(
                part,
                segments=None if segments is None else part.segment_pair,
                explicit=None if explicit is None else jnp.reshape(explicit, _shape_of_4(explicit)),  # [b n t s]
            )

        return dataclasses.replace(self.map_parts(change), query_positions=positions)

    @property
    def query_axes(self) -> "Mask":
        """The same structure with a number for each array of a `cuttable` mask: its axis of queries, -1 for none."""

        def change(part: AttentionMask) -> AttentionMask:
            explicit = None if part.explicit is None else 2 if part.explicit.shape[2] > 1 else -1
            return dataclasses.replace(
                jax.tree.map(lambda _: -1, part), segments=part.segments and (1, -1), explicit=explicit
            )

        keys = None if self.key_positions is None else -1
        return dataclasses.replace(self.map_parts(change), query_positions=1, key_positions=keys)


def _static(default):
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AttentionMask(Mask):
    """A description of which key s each query t may attend: the conjunction of every field that is set.

    Causality, windows and prefixes compare *positions*, never array indices, so the same description
    is right for a whole sequence and for one query against a cache. Combine with `&`, `|` and `~`: see `Mask`.

    Attributes:
      causal: static; key position <= query position.
      window: static; w for |query position - key position| < w, so a causal window of w sees w keys,
        the query's own among them; or (left, right) for
        query position - left <= key position <= query position + right, so that w is (w - 1, w - 1).
      prefix: int or [B] int; key position < prefix, whatever the query: the p first tokens of a row.
      lengths: [B] int; row b has its first `lengths[b]` keys (by index), the rest is padding.
      segments: [B T] int, or a pair ([B T], [B S]); query and key in the same segment.
      explicit: bool, broadcastable to [B N T S].
      query_positions: [T] or [B T] int; default 0 .. T-1.
      key_positions: [S] or [B S] int; default 0 .. S-1.

    Raises:
      TypeError: `causal` is not True or False, `window` no int and no pair of them, or they are traced: kernels skip
        blocks by them.
      ValueError: a window that is not positive, or one of its sides negative.
    """

    causal: bool = _static(False)
    window: Any = _static(None)
    prefix: Any = None
    lengths: Any = None
    segments: Any = None
    explicit: Any = None
    query_positions: Any = None
    key_positions: Any = None

    def __post_init__(self):
        object.__setattr__(self, "causal", as_flag("causal", self.causal))
        if self.window is not None:
            object.__setattr__(self, "window", as_window(self.window))

    @property
    def reach(self) -> tuple[int, int] | None:
        """The number of positions before and after its own that a query sees, by the window; None without one."""
        return (self.window - 1, self.window - 1) if isinstance(self.window, int) else self.window

    @property
    def limit(self) -> int | Array | None:
        """The prefix as far as positions of tokens go, an int where it is known."""
        if self.prefix is None or is_static(self.prefix):
            return None if self.prefix is None else max(min(int(self.prefix), EMPTY), -EMPTY)
        return jnp.minimum(as_ints(self.prefix), EMPTY)

    @property
    def segment_pair(self) -> tuple[Any, Any]:
        """The segments of the queries [b T] and of the keys [b S], or None twice."""
        return self.segments if isinstance(self.segments, tuple) else (self.segments, self.segments)

    @property
    def hides_something(self) -> bool:
        """Says whether a field is set that may hide a key."""
        may_hide = (self.window, self.prefix, self.lengths, self.segments, self.explicit)
        return self.causal or any(field is not None for field in may_hide)

    def by_position(
        self, low: Int[Array, "... q"], high: Int[Array, "... q"], keys: Int[Array, "... k"]
    ) -> Bool[Array, "... #q #k"]:
        """Shows keys by causality, window and prefix: from the first that `low` sees to the last that `high` sees.

        With a query's position as both, these are its keys. With the least and the greatest position of a block, they
        are those that any of its queries sees; the other way round, those that all of them see.
        """
        allowed = jnp.ones((1, 1, 1), bool)  # [b q k]
        if self.causal:
            allowed &= causal_mask(high, keys)
        if self.window is not None:
            allowed &= window_mask(low, high, keys, *self.reach)
        if self.prefix is not None:
            allowed &= keys[..., None, :] < jnp.reshape(self.limit, (-1, 1, 1))
        return allowed

    def by_index(self, q_start, q_size: int, k_start, k_size: int) -> Bool[Array, "... #q #k"]:
        """A tile of what lengths, segments and booleans show."""
        allowed = jnp.ones((1, 1, q_size, k_size), bool)
        if self.lengths is not None:
            allowed &= indices(k_start, k_size) < as_ints(self.lengths)[:, None, None, None]
        if self.segments is not None:
            q_segments, k_segments = map(as_ints, self.segment_pair)
            q_segments = slice_if_wide(q_segments, q_start, q_size, axis=1)
            allowed &= same_segment(q_segments, slice_if_wide(k_segments, k_start, k_size, axis=1))
        if self.explicit is not None:
            explicit = jnp.reshape(self.explicit, _shape_of_4(self.explicit))  # [b n t s]
            explicit = slice_if_wide(explicit, q_start, q_size, axis=2)
            allowed &= slice_if_wide(explicit, k_start, k_size, axis=3)
        return allowed


_TOKENS = AttentionMask(prefix=EMPTY)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CombinedMask(Mask):
    """Masks combined by "and", "or" or "not": what `&`, `|` and `~` make.

    Attributes:
      by: static; the name.
      of: the masks, which have no positions of their own; one for "not".
      query_positions, key_positions: those of all of them.
    """

    by: str = _static("and")
    of: tuple[Mask, ...] = ()
    query_positions: Any = None
    key_positions: Any = None


def _combined(by: str, *masks: Mask) -> Mask:
    """The expression, its positions outside; of two descriptions, "and" makes another."""
    places = {}
    for name in ("query_positions", "key_positions"):
        places[name] = functools.reduce(lambda a, b, n=name: _only(a, b, n), [getattr(m, name) for m in masks])
    masks = tuple(dataclasses.replace(mask, query_positions=None, key_positions=None) for mask in masks)
    if by == "and":
        if any(mask.hides_nothing for mask in masks):
            return dataclasses.replace(masks[0] if masks[1].hides_nothing else masks[1], **places)
        if all(map(_is_part, masks)):
            return dataclasses.replace(_conjunction(*masks), **places)
    return CombinedMask(by=by, of=masks, **places)


def _conjunction(a: AttentionMask, b: AttentionMask) -> AttentionMask:
    explicit = _both(a.explicit, b.explicit, jnp.logical_and)
    if a.segments is not None and b.segments is not None:
        explicit = _both(explicit, same_segment(*map(as_ints, b.segment_pair)), jnp.logical_and)
    return AttentionMask(
        causal=a.causal or b.causal,
        window=_both(a.window, b.window, lambda *_: tuple(map(min, a.reach, b.reach))),
        prefix=_both(a.limit, b.limit, lambda x, y: (min if is_static(x) and is_static(y) else jnp.minimum)(x, y)),
        lengths=_both(a.lengths, b.lengths, lambda x, y: jnp.minimum(as_ints(x), as_ints(y))),
        segments=b.segments if a.segments is None else a.segments,
        explicit=explicit,
    )


def as_mask(mask: Any) -> Mask:
    """`mask` itself, or an `AttentionMask` around a boolean array or None.

    Raises:
      TypeError: no array, or one that is not boolean (an additive mask is a `bias`).
    """
    if mask is None or isinstance(mask, Mask):
        return AttentionMask() if mask is None else mask
    return AttentionMask(explicit=as_booleans(mask))


def fitting(given: Any, B: int, N: int, T: int, S: int) -> Mask:
    """Returns `as_mask(given)`, `explicit` with four axes, if it is for scores [B N T S]: else a slice would be taken.

    Raises:
      TypeError: as `as_mask`; `explicit` is not boolean, or another field no integers.
      ValueError: a field of another shape.
    """
    mask = as_mask(given)
    check_integers("query_positions", mask.query_positions, (T,), (1, T), (B, T))
    check_integers("key_positions", mask.key_positions, (S,), (1, S), (B, S))
    explicit_name = "explicit mask" if mask is given else "mask"

    def fitted(part: AttentionMask) -> AttentionMask:
        check_integers("segments of the queries", part.segment_pair[0], (1, T), (B, T))
        check_integers("segments of the keys", part.segment_pair[1], (1, S), (B, S))
        check_integers("lengths", part.lengths, (1,), (B,))
        check_integers("prefix", None if is_static(part.prefix) else part.prefix, (), (1,), (B,))
        if part.explicit is None:
            return part
        explicit = as_rank_4(explicit_name, as_booleans(part.explicit, explicit_name), (B, N, T, S))
        return dataclasses.replace(part, explicit=explicit)

    return mask.map_parts(fitted)


def _rows_and_heads(mask: Mask) -> tuple[int, int]:
    """The most that a field has."""
    fields = [x for part in mask.parts for x in (*part.segment_pair, part.lengths, part.prefix)]
    places = [np.shape(x) for x in (mask.query_positions, mask.key_positions) if np.ndim(x) > 1]
    explicit = [_shape_of_4(part.explicit) for part in mask.parts]
    by_row = [*places, *explicit, *(np.shape(x) for x in fields if np.ndim(x))]
    return max(shape[0] for shape in by_row), max(shape[1] for shape in explicit)


def _shape_of_4(x: Any) -> tuple[int, ...]:
    """The shape of booleans with 1s for the axes that they lack; all 1 for None."""
    return (1,) * (4 - np.ndim(x)) + np.shape(x)


def _is_part(x: Any) -> bool:
    return isinstance(x, AttentionMask)


def is_static(prefix: Any) -> bool:
    """Returns whether a prefix is known when the program is traced."""
    return isinstance(prefix, (int, np.integer)) and not isinstance(prefix, bool)


def _both(a, b, combine):
    if a is None or b is None:
        return b if a is None else a
    return combine(a, b)


def _only(a, b, name: str):
    if a is not None and b is not None and a is not b:
        raise ValueError(f"both masks set {name}; set it on one of them")
    return b if a is None else a
