"""Attention masks: which key each query may attend. True = may attend, everywhere.

A mask is a value: `AttentionMask` *describes* the relation (causal, windowed, ragged,
segmented, ...) and a kernel asks it for the tiles that it needs, so that a blockwise
kernel can skip what a dense mask would only hide.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Shaped

from .checks import as_array, as_flag, shown
from .numbers import as_integer, as_size, is_known


def _static(default):
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AttentionMask:
    """A description of which key s each query t may attend: the conjunction of every field that is set.

    Causality and windows compare *positions*, never array indices, so the same description
    is right for a whole sequence and for one query against a cache. Combine with `&`; a
    boolean array is accepted on either side.

    Attributes:
      causal: static; key position <= query position.
      window: static; w for |query position - key position| < w, so a causal window of w sees w keys,
        the query's own among them; or (left, right) for
        query position - left <= key position <= query position + right, so that w is (w - 1, w - 1).
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
    lengths: Any = None
    segments: Any = None
    explicit: Any = None
    query_positions: Any = None
    key_positions: Any = None

    # Lets `numpy_array & mask` reach __rand__ instead of broadcasting over the mask.
    __array_ufunc__ = None

    def __post_init__(self):
        object.__setattr__(self, "causal", as_flag("causal", self.causal))
        if self.window is not None:
            object.__setattr__(self, "window", _checked_window(self.window))

    @property
    def reach(self) -> tuple[int, int] | None:
        """The number of positions before and after its own that a query sees, by the window; None without one."""
        return (self.window - 1, self.window - 1) if isinstance(self.window, int) else self.window

    @property
    def segment_pair(self) -> tuple[Int[Array, "b T"], Int[Array, "b S"]]:
        """The segments of the queries and of the keys."""
        queries, keys = self.segments if isinstance(self.segments, tuple) else (self.segments, self.segments)
        return as_ints(queries), as_ints(keys)

    @property
    def hides_nothing(self) -> bool:
        """No field is set that could forbid anything."""
        hiding = (self.window, self.lengths, self.segments, self.explicit)
        return not self.causal and all(field is None for field in hiding)

    def __and__(self, other: "AttentionMask | Array | None") -> "AttentionMask":
        if other is None:
            return self
        other = as_mask(other)
        explicit = _both(self.explicit, other.explicit, jnp.logical_and)
        segments = self.segments if self.segments is not None else other.segments
        if self.segments is not None and other.segments is not None:
            explicit = _both(explicit, _same_segment(*other.segment_pair), jnp.logical_and)
        return AttentionMask(
            causal=self.causal or other.causal,
            window=_both(self.window, other.window, lambda *_: tuple(map(min, self.reach, other.reach))),
            lengths=_both(self.lengths, other.lengths, lambda a, b: jnp.minimum(as_ints(a), as_ints(b))),
            segments=segments,
            explicit=explicit,
            query_positions=_only(self.query_positions, other.query_positions, "query_positions"),
            key_positions=_only(self.key_positions, other.key_positions, "key_positions"),
        )

    __rand__ = __and__

    def to_array(self, query_length: int, key_length: int) -> Bool[Array, "..."]:
        """The mask as booleans [b n T S]; b and n are 1 where the mask does not depend on them.

        Raises:
          TypeError, ValueError: a length that is no integer, or negative; a field that is not for so many.
        """
        T, S = as_size("query_length", query_length), as_size("key_length", key_length)
        if min(T, S) < 0:
            raise ValueError(f"query_length and key_length must be at least 0, got {T} and {S}")
        return fitting(self, *self._rows_and_heads, T, S).tile(0, T, 0, S)

    @property
    def _rows_and_heads(self) -> tuple[int, int]:
        """The most rows and heads that a field has."""
        shape = lambda x: getattr(x, "shape", ())  # noqa: E731
        segments = self.segments if isinstance(self.segments, tuple) else (self.segments,)
        by_row = [shape(x)[0] for x in (*segments, self.lengths) if shape(x)]
        by_row += [shape(x)[0] for x in (self.query_positions, self.key_positions) if len(shape(x)) > 1]
        explicit = (1, 1, 1, 1, *shape(self.explicit))[-4:]
        return max([explicit[0], *by_row]), explicit[1]

    def tile(self, q_start, q_size: int, k_start, k_size: int) -> Bool[Array, "..."]:
        """Queries [q_start, q_start + q_size) x keys [k_start, k_start + k_size), as [b n q k].

        The starts may be traced; `lax.dynamic_slice` clamps a tile that leaves the arrays.
        """
        q_pos, k_pos = self.query_block(q_start, q_size), self.key_block(k_start, k_size)
        q_pos, k_pos = q_pos[:, None, :, None], k_pos[:, None, None, :]
        allowed = jnp.ones((1, 1, q_size, k_size), bool)
        if self.causal:
            allowed &= k_pos <= q_pos
        if self.window is not None:
            left, right = self.reach  # in this form, the largest position, of an empty slot, does not overflow
            allowed &= (k_pos >= earlier(q_pos, left)) & (k_pos <= later(q_pos, right))
        if self.lengths is not None:
            allowed &= _index(k_start, k_size) < as_ints(self.lengths)[:, None, None, None]
        if self.segments is not None:
            q_seg, k_seg = self.segment_pair
            q_seg = lax.dynamic_slice_in_dim(q_seg, q_start, q_size, axis=1)
            k_seg = lax.dynamic_slice_in_dim(k_seg, k_start, k_size, axis=1)
            allowed &= _same_segment(q_seg, k_seg)
        if self.explicit is not None:
            explicit = jnp.asarray(self.explicit)
            explicit = explicit.reshape((1,) * (4 - explicit.ndim) + explicit.shape)
            explicit = _slice_if_wide(explicit, q_start, q_size, axis=2)
            allowed &= _slice_if_wide(explicit, k_start, k_size, axis=3)
        return allowed

    def query_block(self, start, size: int) -> Int[Array, "b q"]:
        """Positions of the queries [start, start + size); b is 1 where rows do not differ."""
        return _positions(self.query_positions, start, size)

    def key_block(self, start, size: int) -> Int[Array, "b k"]:
        """Positions of the keys [start, start + size); b is 1 where rows do not differ."""
        return _positions(self.key_positions, start, size)


def as_mask(mask: Any) -> AttentionMask:
    """`mask` itself, or an `AttentionMask` around a boolean array or None.

    Raises:
      TypeError: no array, or one that is not boolean (an additive mask is a `bias`).
    """
    if mask is None or isinstance(mask, AttentionMask):
        return mask or AttentionMask()
    return AttentionMask(explicit=_booleans(mask))


def fitting(given: Any, B: int, N: int, T: int, S: int) -> AttentionMask:
    """Returns `as_mask(given)`, `explicit` with four axes, if it is for scores [B N T S]: else a slice would be taken.

    Raises:
      TypeError: as `as_mask`; `explicit` is not boolean, or another field no integers.
      ValueError: a field of another shape.
    """
    mask = as_mask(given)
    pair = mask.segments if isinstance(mask.segments, tuple) else (mask.segments, mask.segments)
    for name, field, *shapes in (
        ("query_positions", mask.query_positions, (T,), (1, T), (B, T)),
        ("key_positions", mask.key_positions, (S,), (1, S), (B, S)),
        ("segments of the queries", pair[0], (1, T), (B, T)),
        ("segments of the keys", pair[1], (1, S), (B, S)),
        ("lengths", mask.lengths, (1,), (B,)),
    ):
        if field is not None and as_array(name, field, kind="integers").shape not in shapes:
            raise ValueError(f"{name} must have one of the shapes {shapes}, got {np.shape(field)}")
    if mask.explicit is None:
        return mask
    name = "explicit mask" if mask is given else "mask"
    return dataclasses.replace(mask, explicit=as_rank_4(name, _booleans(mask.explicit, name), (B, N, T, S)))


def as_rank_4(name: str, x: Array, shape: tuple[int, int, int, int]) -> Array:
    """An array that broadcasts to scores of this shape, with 1s for the axes that it lacks: of rank 3 it is [N T S].

    Raises:
      ValueError: it does not.
    """
    if x.ndim > 4 or any(a not in (1, b) for a, b in zip(x.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"{name} must broadcast to [B N T S] = {shape}, got shape {x.shape}")
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def as_ints(x: Any) -> Array:
    """Integers of any dtype in the one that indices have, so that they compare under strict promotion too."""
    return jnp.asarray(x).astype(int)


def earlier(positions: Array, by: int) -> Array:
    """positions - by, as far as their integers go."""
    most = jnp.iinfo(positions.dtype).max
    return positions - jnp.minimum(min(by, most), most + jnp.minimum(positions, 0))


def later(positions: Array, by: int) -> Array:
    """positions + by, as far as their integers go."""
    most = jnp.iinfo(positions.dtype).max
    return positions + jnp.minimum(min(by, most), most - jnp.maximum(positions, 0))


def causal_mask(T: int, S: int | None = None) -> Bool[Array, "T S"]:
    """The causal mask (equation 8): True where j ≤ i, for query i and key j; S defaults to T.

    Through `mask_to_bias` it is the bias of the formula: 0 where j ≤ i, −∞ where j > i.
    With S ≠ T both begin at position 0 (aligned top left); for queries at the end of the keys, give an
    `AttentionMask` their positions. `AttentionMask(causal=True)` says the same as this without an array, and lets a
    kernel skip blocks.

    Raises:
      TypeError, ValueError: a length that is no integer, negative, or beyond int32.
    """
    T = as_size("T", T)
    S = T if S is None else as_size("S", S)
    if min(T, S) < 0:
        raise ValueError(f"T and S must be at least 0, got {T} and {S}")
    return jnp.arange(T)[:, None] >= jnp.arange(S)


def padding_mask(tokens: Int[Array, "B S"], pad_id: int | Int[Array, ""]) -> Bool[Array, "B 1 1 S"]:
    """True where a key is a token rather than padding, ready to broadcast over heads and queries.

    Raises:
      TypeError, ValueError: tokens that are no integers [B S], or a `pad_id`, which may be traced, that is none.
    """
    tokens = as_ints(as_array("tokens", tokens, "B S", kind="integers"))
    pad_id = as_integer("pad_id", pad_id) if is_known(pad_id) else as_array("pad_id", pad_id, "", kind="integers")
    if is_known(pad_id) and not jnp.iinfo(tokens.dtype).min <= pad_id <= jnp.iinfo(tokens.dtype).max:
        raise ValueError(f"pad_id must be an {tokens.dtype}, as tokens are, got {shown(pad_id)}")
    return (tokens != as_ints(pad_id))[:, None, None, :]


def mask_to_bias(mask: Bool[Array, "..."]) -> Float[Array, "..."]:
    """The additive form of a mask: 0 where it is True, −∞ where it is False (equation 8), float32."""
    return jnp.where(_booleans(mask), 0.0, -jnp.inf).astype(jnp.float32)


def _slice_if_wide(x: Shaped[Array, "..."], start, size: int, axis: int) -> Shaped[Array, "..."]:
    """`x[start : start + size]` along `axis`, unless that axis is 1 and broadcasts."""
    return x if x.shape[axis] == 1 else lax.dynamic_slice_in_dim(x, start, size, axis)


def _positions(positions, start, size: int):
    if positions is None:
        return _index(start, size)[None]
    return lax.dynamic_slice_in_dim(jnp.atleast_2d(as_ints(positions)), start, size, axis=1)


def _index(start, size: int):
    return as_ints(start) + jnp.arange(size)


def _same_segment(q_segments, k_segments):
    return (q_segments[:, :, None] == k_segments[:, None, :])[:, None]


def _checked_window(window) -> int | tuple[int, int]:
    pair = isinstance(window, (tuple, list)) and len(window) == 2
    sides = tuple(as_integer("window", side) for side in (window if pair else (window,)))
    if pair and min(sides) < 0:
        raise ValueError(f"the sides of a window must be at least 0, got {sides}")
    if not pair and sides[0] < 1:
        raise ValueError(f"window must be at least 1, got {sides[0]}")
    return sides if pair else sides[0]


def _booleans(mask: Any, name: str = "mask") -> Array:
    mask = as_array(name, mask)
    if mask.dtype != bool:
        raise TypeError(f"{name} must be boolean (True = may attend), got {mask.dtype}; pass an additive mask as bias")
    return mask


def _both(a, b, combine):
    if a is None or b is None:
        return b if a is None else a
    return combine(a, b)


def _only(a, b, name: str):
    if a is not None and b is not None and a is not b:
        raise ValueError(f"both masks set {name}; set it on one of them")
    return b if a is None else a
