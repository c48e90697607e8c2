"""The keys and values of the tokens so far, in a fixed number of slots."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int

from ..config import TransformerConfig

# The position of an empty slot: after every token, so that causality hides it.
EMPTY = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values by slot; the same slots in all rows, written in turn, the oldest over again.

    Who sees whom follows from positions, not from slots, so a row may skip slots (padding of a
    shorter prompt) and a ring of as many slots as an attention window is enough for it.

    Attributes:
      keys_values: a pair of [L B S K H].
      positions: [B S] int32, of the token in each slot; `EMPTY` where there is none.
      lengths: [B] int32, tokens of each row so far: the position of its next one.
      written: how many slots have been written; the next one is `written` modulo S.
    """

    keys_values: Any
    positions: Any
    lengths: Any
    written: Any

    @classmethod
    def empty(cls, config: TransformerConfig, num_layers: int, batch_size: int, slots: int) -> "KVCache":
        """Returns a cache of `slots` empty slots.

        Raises:
          ValueError: no slots, or more than max_length.
        """
        if not 1 <= slots <= config.max_length:
            raise ValueError(f"a cache has between 1 and max_length={config.max_length} tokens, got {slots}")
        shape = (num_layers, batch_size, slots, config.kv_heads, config.head_width)
        zeros = jnp.zeros(shape, config.dtypes.compute)
        return cls(
            keys_values=(zeros, zeros),
            positions=jnp.full((batch_size, slots), EMPTY, jnp.int32),
            lengths=jnp.zeros(batch_size, jnp.int32),
            written=jnp.int32(0),
        )

    @property
    def slots(self) -> int:
        """The number of slots, S."""
        return self.positions.shape[1]

    def reserve(self, T: int, valid: Bool[Array, "B T"] | None = None) -> tuple[Int[Array, "B T"], "KVCache", Callable]:
        """Room for T more tokens a row.

        Returns:
          Their positions [B T] (0 for those that are not `valid`: padding, whose slots stay empty), the
          cache with the slots taken, and a function that writes one layer's new keys and values
          [B T K H] over the old [B S K H].

        Raises:
          TypeError: `valid` is not boolean.
          ValueError: T exceeds S.
        """
        B, S = self.positions.shape
        if T > S:
            raise ValueError(f"{T} tokens at once do not fit a cache of {S}")
        valid = jnp.ones((B, T), bool) if valid is None else valid
        if valid.dtype != bool:
            raise TypeError(f"valid must be boolean (True = a token, False = padding), got {valid.dtype}")
        positions = self.lengths[:, None] + jnp.cumsum(valid, axis=1) - 1
        if T == 1:  # a slice is written in place; several may wrap around the end

            def put(old: Array, new: Array) -> Array:
                return jax.lax.dynamic_update_slice_in_dim(old, new, self.written % S, axis=1)
        else:
            index = (self.written + jnp.arange(T)) % S

            def put(old: Array, new: Array) -> Array:
                return old.at[:, index].set(new, unique_indices=True)

        taken = dataclasses.replace(
            self,
            positions=put(self.positions, jnp.where(valid, positions, EMPTY).astype(jnp.int32)),
            lengths=self.lengths + valid.sum(1, dtype=jnp.int32),
            written=self.written + T,
        )
        return jnp.where(valid, positions, 0), taken, lambda old, new: jax.tree.map(put, old, new)

    def resized(self, slots: int) -> "KVCache":
        """Returns the cache with room for more tokens, or (as a ring) only those in the `slots` last written slots.

        For a cache that was filled from its first slot to its last, as a prompt does.
        """
        S = self.slots

        def change(x: Array, axis: int, fill: int) -> Array:
            if slots <= S:
                return jax.lax.slice_in_dim(x, S - slots, S, axis=axis)
            return jnp.pad(x, [(0, slots - S if a == axis else 0) for a in range(x.ndim)], constant_values=fill)

        return dataclasses.replace(
            self,
            keys_values=jax.tree.map(lambda x: change(x, 2, 0), self.keys_values),
            positions=change(self.positions, 1, EMPTY),
            # Slot 0 of a shorter cache is its oldest, and so the next to be written.
            written=self.written if slots >= S else jnp.int32(0),
        )

    def map_rows(self, change: Callable[[Array, int], Array]) -> "KVCache":
        """`change(array, batch axis)` applied to everything that has rows."""
        return dataclasses.replace(
            self,
            keys_values=jax.tree.map(lambda x: change(x, 1), self.keys_values),
            positions=change(self.positions, 0),
            lengths=change(self.lengths, 0),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderCache:
    """The cache of a decoder: keys and values of the target so far and of the memory.

    Attributes:
      history: of the target.
      memory_keys_values: of the memory, a pair of [L B S K H].
      memory_mask: over the memory, booleans [B 1 1 S], or None.
    """

    history: KVCache
    memory_keys_values: Any
    memory_mask: Any

    def map_history(self, change: Callable[[Array, int], Array]) -> "DecoderCache":
        """`change(array, batch axis)` applied to what was decoded so far: how a beam reorders its rows."""
        return dataclasses.replace(self, history=self.history.map_rows(change))

    def map_rows(self, change: Callable[[Array, int], Array]) -> "DecoderCache":
        """`change(array, batch axis)` applied to everything that has rows."""
        memory = jax.tree.map(lambda x: change(x, 1), self.memory_keys_values)
        mask = jax.tree.map(lambda x: change(x, 0), self.memory_mask)
        return dataclasses.replace(self.map_history(change), memory_keys_values=memory, memory_mask=mask)
