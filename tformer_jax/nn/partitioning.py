"""Partitioning of what is computed over devices, where a mesh is in use; of parameters, no module knows."""

import math
from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxtyping import Float

from ..functional.kernels import Kernel, Request, kernel_of

# The axes of a mesh, and those that share rows, and positions.
AXES = ("data", "fsdp", "tensor", "sequence")
ROWS, POSITIONS = ("data", "fsdp"), "sequence"


def spread_stream(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Spreads values by rows and positions over a mesh (`jax.set_mesh`) that has these axes; else return them.

    The compiler spreads what lies between two such points; without them it would lose the positions' axis, which
    no argument of the program has.
    """
    return _spread(x, P(ROWS, POSITIONS, None))


def row_groups(rows: int) -> int:
    """Returns in how many groups of devices so many rows lie, each with its own; 1 where they do not divide."""
    if not _in_use():
        return 1
    shape = jax.sharding.get_abstract_mesh().shape
    groups = math.prod(shape[axis] for axis in ROWS)
    return groups if rows % groups == 0 else 1


def spread_groups(x: Float[Array, "G M D"]) -> Float[Array, "G M D"]:
    """Spreads values so that each of `row_groups` has its own on its devices."""
    return _spread(x, P(ROWS, None, None))


def whole_vectors(table: Float[Array, "V D"]) -> Float[Array, "V D"]:
    """Returns the table with whole vectors, words split over `tensor`, as evenly as they go: the compiler fills up.

    The axis that splits vectors for storage spreads rows of tokens. Where `tensor` does not divide V, it splits
    stored vectors too (see `training.sharding`), and changes its axis here: an all-to-all each way.
    """
    mesh, (V, D) = jax.sharding.get_abstract_mesh().shape if _in_use() else dict.fromkeys(AXES, 1), table.shape
    if V % mesh["tensor"]:
        # To split other axes than before, the compiler would first make the whole table on each device, unless every
        # axis of the mesh has an axis of its own: `tensor` moves from vectors to words, and then vectors are gathered.
        ways = (("fsdp", "tensor"), ("fsdp",), ())
        names = next(names for names in ways if D % math.prod(mesh[name] for name in names) == 0)
        apart = _spread(table.reshape(V, *(mesh[name] for name in names), -1), P(None, *names))
        table = _spread(apart, P("tensor", *names[:1])).reshape(V, D)
    return _spread(table, P("tensor", None))


def is_gathered(model: Any) -> bool:
    """Returns whether devices of other rows hold parts of a model's parameters, so that each must gather what it uses."""
    lie = [getattr(x, "sharding", None) for x in jax.tree.leaves(model)]  # none while tracing
    gathered = lambda place: any(axis in ROWS and place.mesh.shape[axis] > 1 for axis in jax.tree.leaves([*place.spec]))
    return any(gathered(place) for place in lie if isinstance(place, NamedSharding))


def spread_queries(implementation: str | Kernel, length: int) -> str | Kernel:
    """The attention kernel for so many queries; where a mesh splits them, on each device for its own and all keys.

    A kernel that goes through blocks of queries one after the other would else run over all of them on every
    device. Under a causal mask the devices of the later positions have more to do.
    """
    parts = jax.sharding.get_abstract_mesh().shape[POSITIONS] if _in_use() else 1
    if parts == 1 or length % parts:
        return implementation

    def on_devices(q, k, v, mask, bias, options, key):
        kernel = kernel_of(implementation, Request(q, k, v, mask, bias, options, key, split_queries=True))
        mask, queries = mask.cuttable(length), P(None, POSITIONS)
        where = jax.tree.map(lambda axis: P() if axis < 0 else P(*[None] * axis, POSITIONS), mask.query_axes)
        by_query = P(None, None, POSITIONS) if bias is not None and bias.shape[2] > 1 else P()
        specs = (queries, P(), P(), where, None if bias is None else by_query)
        attend = lambda *seen: kernel(*seen, options, key)
        split = jax.shard_map(attend, in_specs=specs, out_specs=queries, axis_names={POSITIONS})
        return split(q, k, v, mask, bias)

    return on_devices


def _spread(x: Array, spec: P) -> Array:
    return jax.lax.with_sharding_constraint(x, spec) if _in_use() else x


def _in_use() -> bool:
    return set(jax.sharding.get_abstract_mesh().axis_names).issuperset(AXES)
