"""A batch of tokens in chunks of equal size, wherever its tokens lie."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from .numbers import as_integer


class Chunks(NamedTuple):
    """A layout of tokens [*batch ...] in chunks [count tokens ...].

    Chunks take tokens in turn, so that each has its share of every device's where the batch is spread over
    several. An explicit mesh lets no axis be cut across its devices: there each device's tokens are cut by
    themselves; elsewhere `devices` is 1.

    Attributes:
      batch: the shape of the batch.
      sharding: where its tokens lie.
      count: of the chunks.
      size: the tokens of a chunk on each device.
    """

    batch: tuple[int, ...]
    sharding: NamedSharding
    count: int = 0
    size: int = 0

    @classmethod
    def of(cls, hidden: Array, chunk_size: int) -> "Chunks":
        """Chunks of at most `chunk_size` of the tokens of `hidden` [*batch D], and at least one for each device.

        Raises:
          TypeError: a `chunk_size` that is no integer.
          ValueError: one below 1.
        """
        chunk_size = as_integer("chunk_size", chunk_size, least=1)
        chunks = cls(hidden.shape[:-1], jax.typeof(hidden).sharding)
        devices = math.prod(chunks._devices)
        each = math.prod(chunks.batch) // devices
        count = max(1, -(-each // max(1, chunk_size // devices)))
        return chunks._replace(count=count, size=-(-each // count))

    def cut(self, x: Array) -> Array:
        """[*batch ...] in chunks; zeros at the end."""
        rest, spec = x.shape[len(self.batch) :], jax.typeof(x).sharding.spec[len(self.batch) :]
        axes, devices = len(self.batch), math.prod(self._devices)
        each = [n // k for n, k in zip(self.batch, self._devices, strict=True)]
        # [B T ...] to [k1 B/k1 k2 T/k2 ...], [k1 k2 B/k1 T/k2 ...] and [devices each ...].
        shape, names = _in_turn(self._devices, each), _in_turn(self._names, [()] * axes)
        x = self._reshape(x, [*shape, *rest], [*names, *spec])
        x = x.transpose(*range(0, 2 * axes, 2), *range(1, 2 * axes, 2), *range(2 * axes, x.ndim))
        x = self._reshape(x, [devices, math.prod(each), *rest], [self._all_names, (), *spec])
        x = jnp.pad(x, [(0, 0), (0, self.count * self.size - math.prod(each)), *[(0, 0)] * len(rest)])
        x = self._reshape(x, [devices, self.size, self.count, *rest], [self._all_names, (), (), *spec])
        x = jnp.moveaxis(x, 2, 0)
        return self._reshape(x, [self.count, devices * self.size, *rest], [(), self._all_names, *spec])

    def join(self, x: Array) -> Array:
        """[count tokens] as [*batch] again."""
        axes, devices = len(self.batch), math.prod(self._devices)
        each = [n // k for n, k in zip(self.batch, self._devices, strict=True)]
        x = self._reshape(x, [self.count, devices, self.size], [(), self._all_names, ()])
        x = self._reshape(jnp.moveaxis(x, 0, 2), [devices, self.size * self.count], [self._all_names, ()])
        x = self._reshape(x[:, : math.prod(each)], [*self._devices, *each], [*self._names, *[()] * axes])
        x = x.transpose(*_in_turn(range(axes), range(axes, 2 * axes)))
        return self._reshape(x, list(self.batch), self._names)

    @property
    def _names(self) -> list[tuple[str, ...]]:
        """The axes of an explicit mesh that each axis of the batch is spread over."""
        spec = self.sharding.spec[: len(self.batch)]
        return [names if isinstance(names, tuple) else () if names is None else (names,) for names in spec]

    @property
    def _all_names(self) -> tuple[str, ...]:
        return tuple(name for names in self._names for name in names)

    @property
    def _devices(self) -> list[int]:
        """Numbers of devices that the axes of the batch are spread over."""
        return [math.prod(self.sharding.mesh.shape[name] for name in names) for names in self._names]

    def _reshape(self, x: Array, shape: list[int], spec: list) -> Array:
        """Told where the result lies, if the batch is spread over an explicit mesh."""
        if not self._all_names:
            return x.reshape(shape)
        spec = PartitionSpec(*(names or None for names in spec))
        return jnp.reshape(x, shape, out_sharding=NamedSharding(self.sharding.mesh, spec))


def _in_turn(a: Any, b: Any) -> list:
    """a_0, b_0, a_1, b_1, ..."""
    return [x for pair in zip(a, b, strict=True) for x in pair]
