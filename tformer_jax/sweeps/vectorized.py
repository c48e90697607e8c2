"""Many runs as one program: members whose configs differ in numbers alone, trained together."""

import copy
import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from ..config import ORDER, Kind, leaves
from ..tasks import Task
from ..training.step import Arrays
from .members import Member

_AXIS = "members"
_SHARDS = threading.Lock()
ALIVE = "sweep.alive"


def _fields(member: Member) -> Iterator[tuple[str, Any, Kind]]:
    """Every field of a member's config, with its value, those of the model that follow from the data included."""
    experiment = member.experiment
    sections = {name: getattr(experiment, name) for name in ("task", "data", "optimizer", "training")}
    for name, section in (sections | {"model": experiment.model_config({})}).items():
        yield from leaves(section, f"{name}.")


def _numbers(member: Member) -> dict[str, float]:
    """The numbers that may enter a program as arguments, by name."""
    return {name: value for name, value, kind in _fields(member) if kind.traced}


def varying_numbers(members: Sequence[Member]) -> list[str]:
    """Returns the numbers in which members of one program differ: its arguments; the others are its constants."""
    first, *others = map(_numbers, members)
    return [name for name, value in first.items() if any(other[name] != value for other in others)]


def program_of(member: Member, *, one_order: bool) -> str:
    """Returns what members that are trained together have in common: their configs but for the values of numbers.

    A number that is 0 or None turns something off, which is another program, each of its own.

    Args:
      member: of the sweep.
      one_order: only members with the same order of batches go together: batches differ in their shapes.
    """
    common = {
        name: bool(value) if kind.traced and value is not None else value
        for name, value, kind in _fields(member)
        if name != "training.seed" and (one_order or kind.part != ORDER)
    }
    return json.dumps(common, sort_keys=True, default=repr)


class Population:
    """Members of one program: their states side by side, and the compiled step of all.

    Each array of a state has a leading axis of members, spread over the devices in equal shares (the last members
    are copies that stand still, where they do not divide). A member whose loss or gradient is not finite, more often
    than its config lets steps be skipped, stands still from then on.

    Attributes:
      members: as given.
      orders: the `data.order_seed` of each set of batches that a step takes.
      width: of the axis of members.
    """

    def __init__(
        self, members: Sequence[Member], task: Task, devices: Sequence[Any], chunk: int, varying: Collection[str]
    ):
        """Args:
        members: of one program, see `program_of`.
        task: of them all.
        devices: to spread them over.
        chunk: members of a device that run at once, by `jax.vmap`; the chunks run one after the other.
        varying: the numbers that are arguments of the program, see `varying_numbers`.
        """
        self._task, self._chunk, self._varying = task, chunk, tuple(varying)
        self._experiment = members[0].experiment
        self._program = self._experiment.program(task)
        self._local = -(-len(members) // len(devices))
        self.width = self._local * len(devices)
        mesh = jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=list(devices))
        self._spread, self._whole = NamedSharding(mesh, P(_AXIS)), NamedSharding(mesh, P())
        self._compiled: dict[Any, Any] = {}
        self._initial = jax.jit(self._over_members(self._member_initial), out_shardings=self._spread)
        self._step = jax.jit(self._over_members(self._member_step), donate_argnums=0)
        self._take(members)

    def _take(self, members: Sequence[Member]) -> None:
        padded = [*members, *members[-1:] * (self.width - len(members))]
        self.members = list(members)
        of_each = [m.experiment.data.order_seed for m in padded]
        self.orders = list(dict.fromkeys(of_each))
        keys = jnp.stack([m.experiment.training.key for m in padded])
        found = list(map(_numbers, padded))
        numbers = {name: _array([one[name] for one in found]) for name in self._varying}
        orders = [self.orders.index(order) for order in of_each]
        self._given = jax.device_put((keys, numbers, np.asarray(orders, np.int32)), self._spread)

    def of(self, members: Sequence[Member]) -> "Population":
        """Returns a population of other members of the program; as many need nothing compiled again."""
        devices = list(self._spread.mesh.devices.flat)
        if -(-len(members) // len(devices)) != self._local:
            return Population(members, self._task, devices, self._chunk, self._varying)
        other = copy.copy(self)
        other._take(members)
        return other

    def _over_members(self, function: Callable) -> Callable:
        """`function(state, (key, numbers, order), shared)` of each member, on its device."""

        def on_device(state, given, shared):
            one = lambda one: function(*one, shared)
            if self._chunk >= self._local:
                return jax.vmap(one)((state, given))
            return jax.lax.map(one, (state, given), batch_size=self._chunk if self._chunk > 1 else None)

        specs = {"in_specs": (P(_AXIS), P(_AXIS), P()), "out_specs": P(_AXIS)}
        # Loops start from constants, which its check of varying axes takes for something else.
        return jax.shard_map(on_device, mesh=self._spread.mesh, **specs, check_vma=False)

    def _member_initial(self, alive: Array, given: Any, pretrained: Mapping[str, Array]) -> Arrays:
        key, numbers, _ = given
        return self._experiment.program(self._task, numbers).initial(key, pretrained) | {ALIVE: alive}

    def _member_step(self, arrays: Arrays, given: Any, batches: Any) -> tuple[Arrays, Arrays]:
        key, numbers, order = given
        program = self._experiment.program(self._task, numbers)
        old = {name: x for name, x in arrays.items() if name != ALIVE}

        def go_on(old):
            batch = jax.tree.map(lambda x: x[0] if len(x) == 1 else x[order], batches)
            return program.step(old, batch, key)

        if self._chunk == 1:  # a branch that is not taken takes no time; under `vmap` both are
            shapes = jax.eval_shape(go_on, old)[1]
            stay = lambda old: (old, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
            new, metrics = jax.lax.cond(arrays[ALIVE], go_on, stay, old)
        else:
            new, metrics = go_on(old)
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        if "skipped" in metrics:
            good |= metrics["skipped"] <= self._experiment.training.max_skipped
        alive = arrays[ALIVE] & good
        kept = jax.tree.map(lambda new, old: jnp.where(alive, new, old), new, old)
        return kept | {ALIVE: alive}, metrics | {"alive": alive}

    def initial(self, pretrained: Mapping[str, np.ndarray]) -> Arrays:
        """Returns the states before the first step; `pretrained`: parameters that all members start from."""
        alive = jax.device_put(np.arange(self.width) < len(self.members), self._spread)
        return self._initial(alive, self._given, {name.removeprefix("model."): x for name, x in pretrained.items()})

    def step(self, arrays: Arrays, batches: Sequence[Any]) -> tuple[Arrays, Arrays]:
        """Returns the states after one more step, and the step's numbers [members ...]; `arrays` are donated.

        Args:
          arrays: the states.
          batches: one for each of `orders`, of the same shapes.
        """
        batches = jax.device_put(jax.tree.map(lambda *x: np.stack(x), *batches), self._whole)
        arguments = arrays, self._given, batches
        return self.compiled(arguments)(*arguments)

    def has_compiled(self, batches: Sequence[Any]) -> bool:
        """Returns whether the step needs no compilation for such batches."""
        return tuple((len(batches), *x.shape) for x in jax.tree.leaves(batches[0])) in self._compiled

    def compiled(self, arguments: Any) -> jax.stages.Compiled:
        """The step for arguments of these shapes."""
        shapes = tuple(x.shape for x in jax.tree.leaves(arguments[-1]))
        if shapes not in self._compiled:
            self._compiled[shapes] = self._step.lower(*arguments).compile()
        return self._compiled[shapes]

    def abstract(self, batches: Sequence[Any]) -> Any:
        """The arguments of `compiled` for such batches, nothing of them allocated."""
        shapes = {name: jax.ShapeDtypeStruct((self.width, *x.shape), x.dtype, sharding=self._spread)
                  for name, x in self.shapes.items()}  # fmt: skip
        stacked = lambda x: jax.ShapeDtypeStruct((len(self.orders), *x.shape), x.dtype, sharding=self._whole)
        return shapes, self._given, jax.tree.map(stacked, batches[0])

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of one member's arrays."""
        return self._program.layout.shapes | {ALIVE: jax.ShapeDtypeStruct((), jnp.bool_)}

    @property
    def parameters(self) -> list[str]:
        """Paths of what is trained, in the order of "finite_gradients"."""
        return self._program.layout.trained

    def place(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Places states [members ...] from the host on the devices."""
        room = self.width - len(self.members)
        padded = {name: np.concatenate([x, np.repeat(x[-1:], room, axis=0)]) for name, x in arrays.items()}
        padded[ALIVE][len(self.members) :] = False
        return jax.device_put(padded, self._spread)

    def states(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The members' states [members ...] on the host, without the copies that fill up."""
        return {name: np.array(x)[: len(self.members)] for name, x in arrays.items()}

    def model(self, arrays: Arrays, index: int) -> Any:
        """Returns the model of a member that is to be evaluated, on its device."""
        device, local = divmod(index, self._local)
        there = {name: _on(x, device) for name, x in arrays.items()}
        return self._program.evaluated(_picked(there, local))

    def by_device(self, indices: Sequence[int]) -> list[list[int]]:
        """Returns these members' places, those on one device together."""
        return [[i for i in indices if i // self._local == device] for device in range(self.device_count)]

    @property
    def device_count(self) -> int:
        """Devices that share the members."""
        return self.width // self._local


def member_arrays(states: Mapping[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """The state of one member as a run of its own has it."""
    return {name: np.asarray(x[index]) for name, x in states.items() if name != ALIVE}


@jax.jit
def _picked(arrays: Arrays, index: int) -> Arrays:
    return {name: x[index] for name, x in arrays.items()}


def _on(x: Array, device: int) -> Array:
    """The part of an array that is on one device; any thread may ask.

    JAX makes the list of an array's shards when it is first asked for, and not safely: a thread that asks meanwhile
    may get another shard, or crash.
    """
    with _SHARDS:
        return sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)[device].data


def _array(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, np.int32 if all(type(x) is int for x in values) else np.float32)
