"""Sharding of parameters: which part lies on which device, in one table for all models."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from ..config import ConfigError

Rules = Sequence[tuple[str, P]]

# (what matches the whole path of a parameter, mesh axes of its last axes); the axes before those, such as the layers
# of a stack, are whole everywhere. "tensor" splits heads, the feed-forward width and the vocabulary (Shoeybi et al.,
# 2019), "fsdp" the model width or what else is long (Rajbhandari et al., 2020). Vectors of the model width are whole.
SHARDING_RULES: Rules = (
    (r".*attention\.w_[qkv]", P("fsdp", "tensor", None)),  # D N H
    (r".*attention\.w_o", P("tensor", None, "fsdp")),  # N H D
    (r".*attention\.b_[qkv]", P("tensor", None)),  # N H
    (r".*feed_forward\.(w1|w_gate)", P("fsdp", "tensor")),  # D F
    (r".*feed_forward\.w2", P("tensor", "fsdp")),  # F D
    (r".*feed_forward\.(b1|b_gate)", P("tensor")),  # F
    (r"(.*[._])?embedding\.table", P("tensor", "fsdp")),  # V D
    (r"output\.w", P("fsdp", "tensor")),  # D V
    (r"output\.b", P("tensor")),  # V
    (r"(transform|pooler)\.w", P("fsdp", "tensor")),  # D D
    (r"classifier\.w", P("fsdp", None)),  # D classes
    (r"patch_embedding\.w", P(None, "fsdp")),  # pixels D
    (r"(.*[._])?(positions|token_types)\.table", P(None, "fsdp")),  # T D
    (r"position_table", P(None, "fsdp")),  # P D
    (r".*position_bias\.table", P()),  # buckets N
    (r".*attention\.b_o|.*feed_forward\.b2", P()),
    (r"(transform|pooler|classifier|patch_embedding)\.b|class_token", P()),
    (r".*norm\.(gamma|beta)", P()),
)


def match_rules(rules: Rules, paths: Iterable[str]) -> dict[str, P]:
    """The row of each parameter.

    Raises:
      ConfigError: a parameter that no row matches, or several do (names them).
    """
    found = {}
    for path in paths:
        rows = [(pattern, spec) for pattern, spec in rules if re.fullmatch(pattern, path)]
        if len(rows) != 1:
            which = "no row" if not rows else "several rows (" + ", ".join(pattern for pattern, _ in rows) + ")"
            raise ConfigError(f"{which} of the sharding table match(es) the parameter {path}; exactly one must")
        found[path] = rows[0][1]
    return found


def state_specs(rules: Rules, shapes: Mapping[str, Any], mesh: Mesh) -> dict[str, P]:
    """The mesh axes of every array of a training state, by its path.

    What an optimiser keeps for a parameter, in its shape, and its moving average, lie where the parameter
    does; everything else is whole on every device. An axis that the mesh cannot split evenly stays whole
    too: see `undivided`.

    Raises:
      ConfigError: see `match_rules`.
    """
    wanted = _wanted_specs(rules, shapes)
    return {name: _divided(spec, shapes[name].shape, mesh) for name, spec in wanted.items()}


def undivided(rules: Rules, shapes: Mapping[str, Any], mesh: Mesh) -> list[str]:
    """The parameters that the table would split and the mesh cannot: an axis does not divide into that many parts."""
    wanted = _wanted_specs(rules, shapes)
    return [path for path in _parameters(shapes)
            if _divided(spec := wanted[f"model.{path}"], shapes[f"model.{path}"].shape, mesh) != spec]  # fmt: skip


def shardings(specs: Mapping[str, P], mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the sharding of each array."""
    return {name: NamedSharding(mesh, spec) for name, spec in specs.items()}


def bytes_per_device(shapes: Mapping[str, Any], placed: Mapping[str, NamedSharding], prefix: str) -> int:
    """Returns the bytes that the arrays whose path starts with `prefix` take on one device."""
    names = [name for name in shapes if name.startswith(prefix)]
    local = {name: placed[name].shard_shape(shapes[name].shape) for name in names}
    return sum(math.prod(local[name]) * shapes[name].dtype.itemsize for name in names)


def even_axes(mesh: Mesh, axes: Sequence[str], size: int) -> tuple[str, ...]:
    """Returns those of some mesh axes that together split `size` things evenly over the most devices."""
    choices = [axes[i:j] for i in range(len(axes)) for j in range(i + 1, len(axes) + 1)]
    even = [c for c in choices if size % math.prod(mesh.shape[a] for a in c) == 0]
    return tuple(max(even, key=lambda c: math.prod(mesh.shape[a] for a in c), default=()))


def _wanted_specs(rules: Rules, shapes: Mapping[str, Any]) -> dict[str, P]:
    parameters = _parameters(shapes)
    rows = match_rules(rules, parameters)
    specs = {}
    for name, shape in shapes.items():
        path = max((path for path in parameters if f".{path}." in f"{name}."), key=len, default=None)
        belongs = path is not None and parameters[path].shape == shape.shape
        specs[name] = _last_axes(rows[path], len(shape.shape)) if belongs else P()
    return specs


def _parameters(shapes: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("model."): shape for name, shape in shapes.items() if name.startswith("model.")}


def _last_axes(spec: P, rank: int) -> P:
    return P(*(None,) * (rank - len(spec)), *spec) if spec else P()


def _divided(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    axes = (a if a is not None and n % mesh.shape[a] == 0 else None for a, n in zip(spec, shape, strict=False))
    return P(*axes)
