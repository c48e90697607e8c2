"""Sharding of parameters: which part lies on which device, by the names of their axes."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from ..config import ConfigError
from ..nn.parameters import MATRICES, ParameterInfo
from ..nn.partitioning import AXES
from .paths import Table, first_match

# The mesh axis that splits an axis of a parameter: "tensor" heads, the feed-forward width, the vocabulary and experts
# (Shoeybi et al., 2019), "fsdp" the widths of the model and of embeddings (Rajbhandari et al., 2020). Axes of other names,
# and those of stacked layers, are whole everywhere; so are vectors of these widths. The axis of words is of any size, often
# a prime: where its mesh axis does not divide it, that splits the vectors of words for storage, and words in the program.
MESH_AXES = {
    "heads": "tensor", "kv_heads": "tensor", "ff": "tensor", "vocab": "tensor", "experts": "tensor", "model": "fsdp",
    "embedding": "fsdp",
}  # fmt: skip


def parameter_spec(path: str, info: ParameterInfo, mesh: Mesh, table: Table = ()) -> P:
    """Returns the mesh axes of a parameter's axes.

    An axis that the mesh cannot split evenly stays whole. A mesh axis splits one axis of a parameter: the first that
    divides. The mesh axis of words that do not divide splits the other axis of their matrix, beside what splits that.

    Args:
      path: of the parameter.
      info: what it is.
      mesh: with the axes of `nn.partitioning.AXES`.
      table: rows (regular expression of whole paths, mesh axes or None of the last axes); they come before `MESH_AXES`.
    """
    wanted, spec = _wanted(path, info, table), []
    for size, axis in zip(info.shape, wanted, strict=True):
        divides = axis is not None and axis not in spec and size % mesh.shape[axis] == 0
        spec.append(axis if divides else None)
    for name, axis in zip(info.axes, wanted[info.stacked :], strict=True):
        if name == "vocab" and axis not in (None, *spec):
            spec = _with_words_axis(spec, axis, info, mesh)
    return P(*spec) if any(spec) else P()


def _with_words_axis(spec: list, axis: str, info: ParameterInfo, mesh: Mesh) -> list:
    """The mesh axes of a parameter's axes, with that of its words on another one which it and what is there divide."""
    for i, name in enumerate(info.axes, info.stacked):
        both = sorted({spec[i], axis} - {None}, key=AXES.index)
        if name != "vocab" and info.shape[i] % math.prod(mesh.shape[split] for split in both) == 0:
            return [*spec[:i], tuple(both) if both[1:] else axis, *spec[i + 1 :]]
    return spec


def split_over(spec: P) -> list[tuple[str, ...]]:
    """Returns the mesh axes that split each axis of an array."""
    return [() if axes is None else (axes,) if isinstance(axes, str) else tuple(axes) for axes in spec]


def state_specs(
    parameters: Mapping[str, ParameterInfo], shapes: Mapping[str, Any], mesh: Mesh, table: Table = ()
) -> dict[str, P]:
    """The mesh axes of every array of a training state, by its path; see `parameter_spec`.

    What an optimiser keeps for a parameter, in its shape, and its moving average, lie where the parameter does;
    everything else is whole on every device.
    """
    specs = {}
    for name, x in shapes.items():
        path = max((path for path in parameters if f".{path}." in f"{name}."), key=len, default=None)
        belongs = path is not None and parameters[path].shape == x.shape
        specs[name] = parameter_spec(path, parameters[path], mesh, table) if belongs else P()
    return specs


def undivided(parameters: Mapping[str, ParameterInfo], mesh: Mesh, table: Table = ()) -> list[str]:
    """The parameters that an axis of the mesh should split and cannot: none of theirs divides into that many parts."""
    split = {path: parameter_spec(path, info, mesh, table) for path, info in parameters.items()}
    return [path for path, info in parameters.items()
            if {*_wanted(path, info, table)} - {None, *itertools.chain(*split_over(split[path]))}]  # fmt: skip


def shardings(specs: Mapping[str, P], mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the sharding of each array."""
    return {name: NamedSharding(mesh, spec) for name, spec in specs.items()}


def bytes_per_device(shapes: Mapping[str, Any], placed: Mapping[str, NamedSharding], prefix: str) -> int:
    """Returns the bytes that the arrays whose path starts with `prefix` take on one device."""
    names = [name for name in shapes if name.startswith(prefix)]
    local = {name: placed[name].shard_shape(shapes[name].shape) for name in names}
    return sum(math.prod(local[name]) * shapes[name].dtype.itemsize for name in names)


def _wanted(path: str, info: ParameterInfo, table: Table) -> list[str | None]:
    """The mesh axis of each axis, as if all divided."""
    row = first_match(table, path)
    if row is not None:
        axes = list(table[row][1])
        if len(axes) > len(info.shape):
            raise ConfigError(
                f"parallel.sharding_table: the row {table[row][0]!r} has {len(axes)} axes, {path} is {list(info.shape)}"
            )
    else:
        axes = [MESH_AXES.get(name) for name in info.axes]
        axes = axes if info.role in MATRICES else [None if axis == "fsdp" else axis for axis in axes]
    return [None] * (len(info.shape) - len(axes)) + axes
