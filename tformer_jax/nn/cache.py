"""The keys and values of the tokens so far, in a fixed number of slots for each kind of layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from ..functional.masks import EMPTY


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values by slot; the same slots in all rows, written in turn, the oldest over again.

    Who sees whom follows from positions, not from slots, so a row may skip slots (padding of a
    shorter prompt) and a ring of as many slots as an attention window is enough for it.

    Attributes:
      held_keys: [L B K S H] of all layers of a kind, or [B K S H] of one, a layer's view: of each head a matrix, which
        the products of every token take as it lies.
      held_values: likewise.
      positions: [B S] int32, of the token in each slot; `EMPTY` where there is none.
      written: how many slots have been written.
      reserved: how many of these are for the tokens that the layers will write next: the last ones.
      window: static; how many tokens its layers see; None: all.
      at_once: static; of a ring, the most tokens that may be written before they are all seen; None: it is no ring.
    """

    held_keys: Any
    held_values: Any
    positions: Any
    written: Any
    reserved: int = dataclasses.field(default=0, metadata={"static": True})
    window: int | None = dataclasses.field(default=None, metadata={"static": True})
    at_once: int | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def empty(
        cls, shape: tuple[int, ...], dtype: Any, window: int | None = None, at_once: int | None = None
    ) -> "KVCache":
        """Returns a cache without a token; `shape` is [... B S K H]. A ring for `at_once` tokens has fewer slots."""
        *layers, B, S, K, H = shape
        S, at_once = _ring(S, window, at_once)
        zeros = jnp.zeros((*layers, B, K, S, H), dtype)
        positions = jnp.full((B, S), EMPTY, jnp.int32)
        return cls(zeros, zeros, positions, jnp.int32(0), window=window, at_once=at_once)

    @property
    def keys(self) -> Array:
        """The keys by slot, [L B S K H] or [B S K H]."""
        return self.held_keys.swapaxes(-2, -3)

    @property
    def values(self) -> Array:
        """The values by slot, [L B S K H] or [B S K H]."""
        return self.held_values.swapaxes(-2, -3)

    @property
    def slots(self) -> int:
        """The number of slots, S."""
        return self.positions.shape[1]

    @property
    def scanned(self) -> tuple[Array, Array]:
        """The arrays that each layer has of its own: keys and values."""
        return self.held_keys, self.held_values

    def of_layer(self, scanned: tuple[Array, Array]) -> "KVCache":
        """Returns the view of one layer, or of all, with these keys and values."""
        return dataclasses.replace(self, held_keys=scanned[0], held_values=scanned[1])

    def reserve(self, positions: Int[Array, "B T"]) -> "KVCache":
        """Takes the next T slots for tokens at these positions, `EMPTY` for padding.

        Raises:
          ValueError: T exceeds S, or `at_once`: tokens of the window of the first would be overwritten by the last.
        """
        T = positions.shape[1]
        if T > self.slots:
            raise ValueError(f"{T} tokens at once do not fit a cache of {self.slots}")
        if self.at_once is not None and T > self.at_once:
            raise ValueError(
                f"{T} tokens at once do not fit a ring of {self.slots} slots for a window of {self.window}: it was "
                f"made with at_once={self.at_once}"
            )
        taken = dataclasses.replace(self, written=self.written + T, reserved=T)
        return dataclasses.replace(taken, positions=taken._put(self.positions, positions, axis=1))

    def write(self, keys: Array, values: Array) -> "KVCache":
        """Returns a layer's view with the keys and values [B T K H] of the tokens that slots are reserved for."""
        by_head = (x.swapaxes(1, 2) for x in (keys, values))  # [B K T H]
        put = (self._put(*pair, axis=2) for pair in zip(self.scanned, by_head, strict=True))
        return self.of_layer(tuple(put))

    def _put(self, old: Array, new: Array, axis: int) -> Array:
        """The array with its reserved slots, along an axis, replaced by T others."""
        start = self.written - self.reserved
        if self.reserved == 1:  # a slice is written in place; several may wrap around the end
            return jax.lax.dynamic_update_slice_in_dim(old, new, start % self.slots, axis)
        index = (start + jnp.arange(self.reserved)) % self.slots
        return old.at[(slice(None),) * axis + (index,)].set(new, unique_indices=True)

    def resized(self, slots: int, at_once: int = 1) -> "KVCache":
        """Returns the cache with room for so many tokens, of which layers with a window need the last ones alone.

        For a cache that was filled from its first slot to its last, as a prompt does; `at_once`: the most tokens that
        will be written together from then on.
        """
        S, (slots, at_once) = self.slots, _ring(slots, self.window, at_once)

        def change(x: Array, axis: int, fill: int) -> Array:
            if slots <= S:
                return jax.lax.slice_in_dim(x, S - slots, S, axis=axis)
            return jnp.pad(x, [(0, slots - S if a == axis else 0) for a in range(x.ndim)], constant_values=fill)

        return dataclasses.replace(
            self,
            held_keys=change(self.held_keys, self.held_keys.ndim - 2, 0),
            held_values=change(self.held_values, self.held_values.ndim - 2, 0),
            positions=change(self.positions, 1, EMPTY),
            # Slot 0 of a shorter cache is its oldest, and so the next to be written.
            written=self.written if slots >= S else jnp.int32(0),
            at_once=at_once,
        )

    def map_rows(self, change: Callable[[Array, int], Array]) -> "KVCache":
        """`change(array, batch axis)` applied to everything that has rows."""
        return dataclasses.replace(
            self,
            held_keys=change(self.held_keys, self.held_keys.ndim - 4),
            held_values=change(self.held_values, self.held_values.ndim - 4),
            positions=change(self.positions, 0),
        )


def _ring(slots: int, window: int | None, at_once: int | None) -> tuple[int, int | None]:
    """The number of slots that are enough under a window, and for how many tokens at once, where that is not all."""
    enough = slots if window is None or at_once is None else min(slots, window + at_once - 1)
    return enough, at_once if enough < slots else None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The caches of a stack, of each kind of layer its own, and how far each row has come.

    Attributes:
      layers: of each layer of a period, the cache of all its repetitions.
      tail: of each layer after the last whole period.
      lengths: [B] int32, tokens of each row so far: the position of its next one.
    """

    layers: tuple[Any, ...]
    tail: tuple[Any, ...]
    lengths: Any

    def reserve(self, T: int, valid: Bool[Array, "B T"] | None = None) -> tuple[Int[Array, "B T"], "Cache"]:
        """Room for T more tokens a row.

        Returns:
          Their positions [B T] (0 for those that are not `valid`: padding, whose slots stay empty), and the cache with
          slots reserved for what each layer will write.

        Raises:
          TypeError: `valid` is not boolean.
          ValueError: T exceeds the slots of a kind of layer.
        """
        valid = jnp.ones((len(self.lengths), T), bool) if valid is None else valid
        if valid.dtype != bool:
            raise TypeError(f"valid must be boolean (True = a token, False = padding), got {valid.dtype}")
        positions = self.lengths[:, None] + jnp.cumsum(valid, axis=1) - 1  # [B T]
        held = jnp.where(valid, positions, EMPTY).astype(jnp.int32)
        reserved = self._map(lambda kind: kind.reserve(held))
        lengths = self.lengths + valid.sum(1, dtype=jnp.int32)
        return jnp.where(valid, positions, 0), dataclasses.replace(reserved, lengths=lengths)

    def resized(self, slots: int, at_once: int = 1) -> "Cache":
        """See `KVCache.resized`."""
        return self._map(lambda kind: kind.resized(slots, at_once))

    def map_rows(self, change: Callable[[Array, int], Array]) -> "Cache":
        """`change(array, batch axis)` applied to everything that has rows."""
        return dataclasses.replace(self._map(lambda kind: kind.map_rows(change)), lengths=change(self.lengths, 0))

    def _map(self, change: Callable[[Any], Any]) -> "Cache":
        layers, tail = (tuple(map(change, kinds)) for kinds in (self.layers, self.tail))
        return dataclasses.replace(self, layers=layers, tail=tail)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderCache:
    """The cache of a decoder: of the target so far and of the memory.

    Attributes:
      history: of the target.
      held_memory: keys and values of the memory, by layer, [... B K S H] each: by head, as the products of every token
        take them.
      memory_mask: over the memory, booleans [B 1 1 S], or None.
    """

    history: Cache
    held_memory: Any
    memory_mask: Any

    @classmethod
    def of(cls, history: Cache, memory: Any, memory_mask: Any) -> "DecoderCache":
        """The cache with such a history; `memory` is what `Stack.memory_keys_values` gives."""
        return cls(history, _heads_and_slots(memory), memory_mask)

    @property
    def memory(self) -> Any:
        """Keys and values of the memory, by layer, as `Stack` takes them, [... B S K H] each."""
        return _heads_and_slots(self.held_memory)

    def map_history(self, change: Callable[[Array, int], Array]) -> "DecoderCache":
        """`change(array, batch axis)` applied to what was decoded so far: how a beam reorders its rows."""
        return dataclasses.replace(self, history=self.history.map_rows(change))

    def map_rows(self, change: Callable[[Array, int], Array]) -> "DecoderCache":
        """`change(array, batch axis)` applied to everything that has rows."""
        memory = jax.tree.map(lambda x: change(x, x.ndim - 4), self.held_memory)
        mask = jax.tree.map(lambda x: change(x, 0), self.memory_mask)
        return dataclasses.replace(self.map_history(change), held_memory=memory, memory_mask=mask)


def _heads_and_slots(memory: Any) -> Any:
    """Turns [... B S K H] into [... B K S H], or back."""
    return jax.tree.map(lambda x: x.swapaxes(-3, -2), memory)
