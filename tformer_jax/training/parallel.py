"""Over which devices and processes a program runs, and how batches get there."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from ..config import RUN, Component, ConfigError, Wanted, field
from ..data.batches import Batches
from ..nn.partitioning import AXES
from ..nn.placement import placed
from .paths import Table, check_table

_SIZE = Wanted("be a positive integer, or -1 for what is left", lambda x: x > 0 or x == -1)
_MESH_AXES = Wanted(
    f"be a tuple of mesh axes {list(AXES)} or None",
    lambda x: isinstance(x, tuple | list) and all(axis is None or axis in AXES for axis in x),
)


class ParallelConfig(Component):
    """The `parallel` section of an experiment: where it runs. What it computes does not depend on it.

    Attributes:
      mode: "jit": one program over a mesh of devices; "pmap": the same program on every device, each with its
        share of the rows and the whole state, the gradients averaged.
      data: number of devices (or groups of them) that share the rows of a batch, each with all parameters.
      fsdp: number of devices that share the rows too, of which each holds only its part of the parameters and of the
        optimiser's state.
      tensor: number of devices that share heads, the feed-forward width and the vocabulary, which it need not divide.
      sequence: number of devices that share the positions of each row.
      sharding_table: rows of (regular expression, mesh axes or None of the last axes), such as
        (".*router\\.w", ("fsdp", None)): the first row that matches the whole path of a parameter says where it lies,
        instead of the names of its axes (see `training.sharding`).

      One of the four sizes may be -1: as many as there are devices left.
    """

    mode: str = field("jit", among=("jit", "pmap"), part=RUN)
    data: int = field(-1, _SIZE, part=RUN)
    fsdp: int = field(1, _SIZE, part=RUN)
    tensor: int = field(1, _SIZE, part=RUN)
    sequence: int = field(1, _SIZE, part=RUN)
    sharding_table: Table = field((), part=RUN)

    def check(self) -> None:
        for name in AXES[1:]:
            if self.mode == "pmap" and (size := getattr(self, name)) != 1:
                raise ConfigError(f"{name} must be 1 with mode='pmap', which spreads rows alone, got {size}")
        if (left := [name for name in AXES if getattr(self, name) == -1])[1:]:
            raise ConfigError(f"{' and parallel.'.join(left)} are -1, and only one size may be")
        check_table("sharding_table", self.sharding_table, _MESH_AXES.check)

    def sizes(self, devices: int) -> dict[str, int]:
        """The size of each axis on so many devices.

        Raises:
          ConfigError: the sizes do not go with the number of devices.
        """
        given = {name: getattr(self, name) for name in AXES}
        known = math.prod(size for size in given.values() if size != -1)
        asked = " x ".join(f"{name}={size}" for name, size in given.items())
        if -1 in given.values():
            if devices % known:
                raise ConfigError(f"parallel: {asked} does not divide {devices} device(s)")
            return {name: devices // known if size == -1 else size for name, size in given.items()}
        if known > devices:
            raise ConfigError(f"parallel: {asked} needs {known} devices, and there are {devices}")
        return given

    def at_hand(self, devices: int) -> "ParallelConfig":
        """Returns this, if its mesh has several devices and there are as many; else that of the first device."""
        try:
            several = math.prod(self.sizes(devices).values()) > 1
        except ConfigError:
            several = False
        return self if several else ParallelConfig(data=1)


def make_mesh(config: ParallelConfig, devices: list[Any] | None = None) -> Mesh:
    """The mesh of an experiment; with sizes for fewer devices than there are, of the first ones.

    Raises:
      ConfigError: see `ParallelConfig.sizes`; or a mesh that would leave out devices of several processes.
    """
    devices = jax.devices() if devices is None else devices
    sizes = config.sizes(len(devices))
    count = math.prod(sizes.values())
    if count < len(devices) and jax.process_count() > 1:
        raise ConfigError(f"parallel: with several processes all {len(devices)} devices must be used, not {count}")
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=types, devices=devices[:count])


@dataclasses.dataclass(frozen=True)
class PlacedBatches(Batches):
    """Batches as global arrays on a mesh, the rows spread over data and fsdp: see `nn.placement.placed`."""

    batches: Batches
    mesh: Mesh

    one_shape = property(lambda self: self.batches.one_shape)
    filler = property(lambda self: self.batches.filler)

    def __len__(self) -> int:
        return len(self.batches)

    def row_count(self, i: int) -> int:
        return self.batches.row_count(i)

    def batch(self, i: int) -> Any:
        return placed(self.batches, i, self.mesh)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("arrays",), meta_fields=("rows", "filler"))
@dataclasses.dataclass(frozen=True, eq=False)
class SplitBatch(Mapping):
    """A batch for `pmap`: arrays [devices, rows a device, ...] by name, and within the program [rows a device, ...].

    Attributes:
      arrays: by name.
      rows: of all devices, without those at the end that only fill up. A program is made for their number, as it is
        for that of a batch that is not split.
      filler: what those have, by the array's name, if not 0; pairs.
    """

    arrays: dict[str, Any]
    rows: int
    filler: tuple[tuple[str, int], ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def filled_up(arrays: Mapping[str, Any], rows: int, filler: Mapping[str, int]) -> dict[str, Any]:
    """Returns arrays by name, each filled up to so many rows with its `filler`, or zeros; see `Batches`."""

    def filled(name: str, x: Any) -> Any:
        missing = [(0, rows - len(x)), *[(0, 0)] * (x.ndim - 1)]
        pad = np.pad if isinstance(x, np.ndarray) else jnp.pad
        return pad(x, missing, constant_values=filler.get(name, 0)) if rows > len(x) else x

    return {name: filled(name, x) for name, x in arrays.items()}


@dataclasses.dataclass(frozen=True)
class SplitBatches:
    """Batches for `pmap`: of this process's rows, see `SplitBatch`.

    Rows that do not divide among the devices are filled up, as the last ones of an evaluation are.

    Attributes:
      batches: what is split.
      devices: of all processes.
      multiple: the rows of a device are a multiple of this.
    """

    batches: Batches
    devices: int
    multiple: int

    def batch(self, i: int) -> SplitBatch:
        several, local = jax.process_count() > 1, self.devices // jax.process_count()
        whole = None if several else self.batches.batch(i)
        rows = self.batches.row_count(i) if several else len(next(iter(whole.values())))
        each = -(-rows // (self.devices * self.multiple)) * self.multiple
        first = jax.process_index() * local * each
        mine = self.batches.batch(i, slice(first, first + local * each)) if several else whole
        filler = self.batches.filler
        filled = filled_up(mine, local * each, filler)
        split = {name: x.reshape(local, each, *x.shape[1:]) for name, x in filled.items()}
        return SplitBatch(split, rows, tuple(filler.items()))
