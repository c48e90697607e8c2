"""Meshes of devices: where arrays lie on one whose axes have explicit types, and whether one is in use at all."""

from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P


def gathered(x: Array, axis: int) -> Array:
    """Gathers an array along an axis that a mesh splits, and that cannot be cut or sorted then."""
    sharding = jax.typeof(x).sharding
    if all(split is None for split in sharding.spec[axis : axis + 1]):
        return x
    spec = P(*(None if a == axis else split for a, split in enumerate(sharding.spec)))
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, spec))


def spread_like(x: Array, like: Array, axes: int) -> Array:
    """Splits the first `axes` axes of `x`, which lies whole, as a mesh splits those of `like`."""
    sharding = jax.typeof(like).sharding
    if all(split is None for split in sharding.spec[:axes]):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, P(*sharding.spec[:axes])))


def on_one_device(x: Array) -> bool:
    """Returns whether an array lies on one device, as far as it is known, or each device has its own by `shard_map`."""
    return not spread_by_compiler() and not is_spread(x)


def is_spread(x: Any) -> bool:
    """Returns whether the type of an array, or of what has its shape, says that a mesh splits it."""
    return any(split is not None for split in jax.typeof(x).sharding.spec)


def spread_by_compiler() -> bool:
    """Returns whether the compiler spreads arrays over several devices: a mesh is in use, other than by `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return any(n > 1 and kind != AxisType.Manual for n, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True))


def is_checked(x: Any) -> bool:
    """Returns whether `shard_map` is known to check where an array differs between devices: what it is told of it."""
    return bool(getattr(getattr(jax.typeof(x), "manual_axis_type", None), "varying", ()))
