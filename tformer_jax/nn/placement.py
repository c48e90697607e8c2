"""Placement of a batch's rows on a mesh of devices and processes, and the way back to the host.

A mesh is in use where `jax.set_mesh` says so; elsewhere all of this leaves things as they are. What a caller makes on the
host by itself, such as a prompt, needs no placing: `jax.jit` takes NumPy arrays, the same in every process, as whole on
every device.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from .partitioning import AXES, ROWS


def on_mesh_of(model: Any) -> contextlib.AbstractContextManager:
    """Returns a context in which the mesh that a model lies on is in use, if it has several devices."""
    lie = [x.sharding for x in jax.tree.leaves(model) if isinstance(x, jax.Array)]
    spread = [place.mesh for place in lie if isinstance(place, NamedSharding) and place.mesh.size > 1]
    return jax.set_mesh(spread[0]) if spread else contextlib.nullcontext()


def row_sharding(mesh: Mesh, rows: int) -> NamedSharding:
    """Returns the sharding of an array with so many rows; if they do not divide evenly, more devices hold them."""
    return NamedSharding(mesh, P(_even_axes(mesh, ROWS, rows) or None))


def row_parts() -> int:
    """Returns in how many parts the mesh in use spreads rows; 1 where there is none."""
    mesh = _mesh_in_use()
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ROWS)


def placed(batches: Any, i: int, mesh: Mesh | None = None) -> Any:
    """Returns batch i as global arrays on a mesh, the rows spread over data and fsdp; without a mesh, as it is.

    Where several processes share the mesh, each reads and sends the rows of its own devices. Rows that do not divide
    evenly are sent to more devices than need them; the program spreads them all the same.

    Args:
      batches: `data.batches.Batches`.
      i: which of them.
      mesh: None: the one in use.
    """
    mesh = _mesh_in_use() if mesh is None else mesh
    if mesh is None:
        return batches.batch(i)
    if jax.process_count() == 1:
        batch = batches.batch(i)
        return jax.device_put(batch, jax.tree.map(lambda x: row_sharding(mesh, x.shape[0]), batch))
    rows = batches.row_count(i)
    sharding = row_sharding(mesh, rows)
    wanted = {_rows_of(index, rows) for index in sharding.addressable_devices_indices_map((rows,)).values()}
    parts = {part: batches.batch(i, slice(*part)) for part in wanted}

    def assembled(name, x):
        part = lambda index: parts[_rows_of(index, rows)][name]
        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, part)

    return {name: assembled(name, x) for name, x in next(iter(parts.values())).items()}


def fetched(tree: Any) -> Any:
    """Returns a tree of arrays on the host, whole in every process; where several share them, all must call this.

    Where arrays are on the host already, they are returned as they are.
    """

    def whole(x: Any) -> Any:
        apart = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
        return multihost_utils.process_allgather(x, tiled=True) if apart else x

    return jax.device_get(jax.tree.map(whole, tree))


def _mesh_in_use() -> Mesh | None:
    """The mesh of `jax.set_mesh`, if it has our axes."""
    mesh = jax.sharding.get_mesh()
    return mesh if {*mesh.axis_names}.issuperset(AXES) else None


def _even_axes(mesh: Mesh, axes: Sequence[str], size: int) -> tuple[str, ...]:
    """Returns those of some mesh axes that together split `size` things evenly over the most devices."""
    choices = [axes[i:j] for i in range(len(axes)) for j in range(i + 1, len(axes) + 1)]
    even = [c for c in choices if size % math.prod(mesh.shape[a] for a in c) == 0]
    return tuple(max(even, key=lambda c: math.prod(mesh.shape[a] for a in c), default=()))


def _rows_of(index: tuple[slice, ...], rows: int) -> tuple[int, int]:
    start, stop, _ = index[0].indices(rows)
    return start, stop
