"""Attention of one block of queries after the other, each with the keys that it may see: O(T + S) memory.

The scores of a block live while it is computed; `jax.checkpoint` has them computed again for derivatives. No rule
of its own: whatever JAX does with `jax.numpy` it does with this, derivatives of any order included.

Which keys a block may see (`skipping`) is known before the program runs where positions are array indices and the
mask is made of causality, windows and known prefixes: blocks then go in a few groups, and a group never reads the
others' keys. Otherwise it is found by the program, which picks the least of a few sizes, where there are many.

Sources: Rabe & Staats, 2021 (blocks of queries, recomputed).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..masks import Mask
from ..meshes import gathered, on_one_device
from .scores import KERNELS, MANY_SCORES, ScoreOptions, products_of_heads, split_heads, wide
from .skipping import is_known, known_runs, runs_by_program

# Queries of a block: fewer where it would have more scores a head than these, and than so many times the numbers in its
# queries, which keeps memory at O(T + S); or where there are few in all.
_BLOCK_Q, _LEAST_Q = 128, 64
_SCORES, _SHARE = 1 << 19, 4
_BLOCK_K = 256  # keys: the program picks a multiple of it for a block
_SEARCHED_SCORES = MANY_SCORES  # a head: from so many on, the program searches for keys that it need not read
_GROUPS, _SIZES = 4, 8  # of blocks, or the most sizes to pick from: each is compiled

# From so many scores a head on, a CPU is given each head of keys by itself, in larger blocks: the scores of all heads
# would have left a core's cache when the next operation reads them.
_LONG, _LONG_Q = 2048 * 2048, 256


class _Group(NamedTuple):
    """Blocks [first, last), the keys [low, high) that they may see, and how many a block sees: one of `sizes`."""

    first: int
    last: int
    low: int
    high: int
    sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """T queries as `count` blocks of `size`; the last one begins earlier where they do not divide."""

    length: int
    count: int
    size: int

    @classmethod
    def of(cls, length: int, keys: int, width: int = 1, most: int | None = None) -> "_Blocks":
        """Blocks of at most `most` queries, by default `_BLOCK_Q`, `width` numbers each."""
        scores = max(_SCORES, _SHARE * length * width)
        most = min(most or _BLOCK_Q, max(32, scores // keys), max(_LEAST_Q, -(-length // _GROUPS)))
        count = -(-length // most)
        return cls(length, count, -(-length // count))

    @property
    def starts(self) -> np.ndarray:
        return np.minimum(np.arange(self.count) * self.size, self.length - self.size)

    def split(self, x: Array, axis: int) -> Array:
        """[... T ...] to [count ... size ...]."""
        x = gathered(x, axis)
        if self.count * self.size != self.length:
            whole = (self.count - 1) * self.size
            last = self.length - self.size
            x = jnp.concatenate([_part(x, 0, whole, axis), _part(x, last, self.size, axis)], axis)
        return jnp.moveaxis(x.reshape(*x.shape[:axis], self.count, self.size, *x.shape[axis + 1 :]), axis, 0)

    def join(self, x: Array, axis: int) -> Array:
        """The other way: [count ... size ...] to [... T ...], rows that are there twice from one block."""
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], self.count * self.size, *x.shape[axis + 2 :])
        twice = self.count * self.size - self.length
        if twice:
            whole = (self.count - 1) * self.size
            x = jnp.concatenate([_part(x, 0, whole, axis), _part(x, whole + twice, self.size - twice, axis)], axis)
        return x


class _Places(NamedTuple):
    """Of each block of queries its index, its first query, and the keys [first, last) that it may see: [n] each."""

    index: Array
    start: Array
    first: Array
    last: Array


class _Rows(NamedTuple):
    """Arrays of each block of queries: q [n B K G block H], a bias by query, its place."""

    q: Array
    bias: Array | None
    place: _Places


class _Seen(NamedTuple):
    """Arrays that blocks look at: keys and values [B K s H], a bias [b K G t s]."""

    keys: Array
    values: Array
    bias: Array | None

    def part(self, start, size: int) -> "_Seen":
        return _Seen(*(_part(x, start, size, axis) for x, axis in zip(self, (2, 2, 4), strict=True)))


@KERNELS.register("blockwise")
def blockwise_attention(q, k, v, mask: Mask, bias, options: ScoreOptions, key) -> Array:
    """Attends by one block of queries after the other."""
    T, S, K, H = q.shape[1], *k.shape[1:]
    long_on_cpu = T * S > _LONG and jax.default_backend() == "cpu" and on_one_device(q)
    blocks = _Blocks.of(T, S, H, _LONG_Q if long_on_cpu else None)
    groups, first, last = _plan(mask, blocks, S)
    places = _Places(*(jnp.asarray(x) for x in (np.arange(blocks.count), blocks.starts, first, last)))
    attend = functools.partial(_attend, blocks, groups, places, mask, options, key)
    if long_on_cpu and K > 1 and key is None and mask.num_heads == 1:
        return _by_head(attend, q, k, v, bias)
    return attend(q, k, v, bias)


def _attend(blocks: _Blocks, groups, places: _Places, mask: Mask, options: ScoreOptions, key, q, k, v, bias) -> Array:
    """Attends in these blocks, which go in these groups.

    Places follow from queries, as far as JAX can see. Of a loop round this one (over layers, over heads) it would else
    see that the blocks' masks are the same each time, compute them once, before, and keep all of them: T S booleans.
    """
    places, _ = lax.optimization_barrier((places, lax.stop_gradient(q[..., :0])))
    B, T, N, H = q.shape
    K = k.shape[2]
    bias = split_heads(bias, K)
    by_query = bias is not None and bias.shape[3] > 1
    rows = _Rows(
        blocks.split(q.reshape(B, T, K, N // K, H), axis=1).transpose(0, 1, 3, 4, 2, 5),  # [n B K G block H]
        blocks.split(bias, axis=3) if by_query else None,
        places,
    )
    shared = _Seen(k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), None if by_query else bias)
    # All blocks' gradients of it are added up, in the dtype that it has here.
    shared = jax.tree.map(lambda x: x.astype(wide(x.dtype)), shared)

    def one_block(group: _Group, size: int, start, row: _Rows, shared: _Seen) -> Array:
        """[B K G block H], of `size` keys from `start` on."""
        keys, values, bias = shared._replace(bias=row.bias if by_query else shared.bias).part(start, size)
        allowed = None
        if not mask.hides_nothing:
            allowed = split_heads(mask.tile(row.place.start, blocks.size, group.low + start, size), K)
        drop_key = key if key is None else jax.random.fold_in(key, row.place.index)
        products = products_of_heads(row.q, keys.astype(k.dtype))
        return options.averages(products, values.astype(v.dtype), bias, allowed, drop_key).astype(q.dtype)

    def by_group(group: _Group) -> Array:
        """A group's blocks, one after the other: [n B K G block H]."""
        whole = group.high - group.low
        part = jax.tree.map(lambda x: x[group.first : group.last], rows)
        part = part._replace(bias=_part(part.bias, group.low, whole, axis=-1))
        seen = shared.part(group.low, whole)

        # A checkpoint within a loop is not merged with what it repeats. A switch would keep what the derivative of any
        # of its branches needs: that of each is computed again within it.
        checkpoint = functools.partial(jax.checkpoint, prevent_cse=False)

        @checkpoint
        def body(row: _Rows) -> Array:
            def with_keys(size: int, row: _Rows, seen: _Seen) -> Array:
                return one_block(group, size, jnp.minimum(row.place.first - group.low, whole - size), row, seen)

            if len(group.sizes) == 1:
                return with_keys(group.sizes[0], row, seen)
            pick = sum((row.place.last - row.place.first > size).astype(int) for size in group.sizes[:-1])
            return lax.switch(pick, [checkpoint(functools.partial(with_keys, size)) for size in group.sizes], row, seen)

        return lax.map(body, part)

    out = jnp.concatenate([by_group(group) for group in groups]).transpose(0, 1, 4, 2, 3, 5)  # [n B block K G H]
    return blocks.join(out, axis=1).reshape(B, T, N, v.shape[-1])


def _by_head(attend, q, k, v, bias: Array | None) -> Array:
    """Attends for one head of keys after the other."""
    B, T, N, H = q.shape
    K = k.shape[2]
    split = lambda x: jnp.moveaxis(x.reshape(B, -1, K, x.shape[2] // K, x.shape[3]), 2, 0)  # [K B T n H]
    bias = split_heads(bias, K)  # [b K G t s]
    by_head = bias is not None and bias.shape[1] > 1
    own = jnp.moveaxis(bias, 1, 0) if by_head else None  # [K b G t s]
    shared = None if bias is None or by_head else bias[:, 0]  # [b 1 t s]

    def head(of: tuple) -> Array:
        q, k, v, own = of
        return attend(q, k, v, shared if own is None else own)

    out = lax.map(head, (split(q), split(k), split(v), own))  # [K B T G Hv]
    return jnp.moveaxis(out, 0, 2).reshape(B, T, N, v.shape[-1])


def skips_keys(mask: Mask, T: int, S: int) -> bool:
    """Returns whether it is known before the program runs that some block of queries need not read all keys."""
    blocks = _Blocks.of(T, S)
    first, last = known_runs(mask, blocks.starts, blocks.size, S)
    return bool((last - first < S).any())


def _part(x: Array | None, start, size: int, axis: int) -> Array | None:
    """`size` keys of an array from `start` on, or all of it where it has so many, or one for all keys."""
    if x is None or x.shape[axis] in (1, size):
        return x
    if isinstance(start, int):
        return lax.slice_in_dim(x, start, start + size, axis=axis)
    return lax.dynamic_slice_in_dim(x, start, size, axis)


def _plan(mask: Mask, blocks: _Blocks, S: int):
    """The groups, and for each block the range [first, last) of keys that holds all that it may see."""
    if not is_known(mask) and blocks.length * S > _SEARCHED_SCORES:
        step = _BLOCK_K * -(-S // (_BLOCK_K * _SIZES))
        found = runs_by_program(mask, functools.partial(blocks.split, axis=1), blocks.length, S)
        return [_Group(0, blocks.count, 0, S, (*range(step, S, step), S))], *found
    # A block that sees nothing reads a key that is hidden.
    first, last = known_runs(mask, blocks.starts, blocks.size, S)
    first = np.clip(first, 0, S - 1)
    last = np.clip(last, first + 1, S)
    groups = []
    for part in np.array_split(np.arange(blocks.count), min(_GROUPS, blocks.count)):
        low, high, most = int(first[part].min()), int(last[part].max()), int((last - first)[part].max())
        sizes = (most,) if most < 0.75 * (high - low) else (high - low,)
        begin = groups.pop().first if groups and groups[-1][2:] == (low, high, sizes) else int(part[0])
        groups.append(_Group(begin, int(part[-1]) + 1, low, high, sizes))
    return groups, first, last
