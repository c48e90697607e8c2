"""Everything that one configuration compiles to."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from ..data.batches import Batches
from ..nn.partitioning import ROWS
from ..nn.placement import row_sharding
from .parallel import ParallelConfig, PlacedBatches, SplitBatches, make_mesh
from .paths import check_rows, some
from .program import Program
from .sharding import shardings, state_specs, undivided
from .step import Arrays

_PMAP_AXIS = "devices"


class Trainer:
    """The model's shape, the layout of the state and where it lies, and the compiled step.

    Attributes:
      program, mesh: as given, or made.
      step: `(arrays, batch) -> (arrays, metrics)`, compiled: the state after one more step, and the step's numbers; the
        arrays that go in are donated: not to be used again.
      config, layout: the program's `training` section, and its state's.
      shardings: of every array of the state, by its path.
    """

    def __init__(
        self,
        program: Program,
        parallel: ParallelConfig = ParallelConfig(data=1),
        *,
        mesh: Mesh | None = None,
    ):
        """Args:
          program: what is computed.
          parallel: over which devices; by default on the first one.
          mesh: where to run; by default what `parallel` says of the devices that there are.

        Raises:
          ConfigError: the devices, or the table of parallel, do not go with the model.
        """
        self.program, self.config, self._parallel = program, program.training, parallel
        self.mesh = make_mesh(parallel) if mesh is None else mesh
        self.layout, self._axis = program.layout, _PMAP_AXIS if parallel.mode == "pmap" else None
        check_rows("parallel.sharding_table", parallel.sharding_table, self.layout.parameters)
        specs = state_specs(self.layout.parameters, self.layout.shapes, self.mesh, parallel.sharding_table)
        self.shardings = shardings(specs if parallel.mode == "jit" else dict.fromkeys(specs, P()), self.mesh)
        if self._axis is None:
            one = functools.partial(program.step, key=self.config.key, mesh=self.mesh)
            self.step = jax.jit(one, donate_argnums=0, out_shardings=(self.shardings, None))
        else:  # with `None` the state has no axis of devices: a replicated array goes in and comes out
            one = functools.partial(program.step, key=self.config.key, axis=self._axis)
            axes = {"in_axes": (None, 0), "out_axes": (None, None)}
            self.step = jax.pmap(one, self._axis, devices=list(self.mesh.devices.flat), donate_argnums=0, **axes)

    def lower(self, batch: Any) -> jax.stages.Lowered:
        """The step for batches of these shapes, traced for the mesh; nothing is allocated."""

        def placed(x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=row_sharding(self.mesh, x.shape[0]))

        return self.step.lower(self.placed_shapes, jax.tree.map(placed, batch))

    @property
    def placed_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape, dtype and sharding of every array of the state."""
        shapes = self.layout.shapes.items()
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.shardings[name]) for name, x in shapes}

    def placed(self, batches: Batches) -> PlacedBatches | SplitBatches:
        """Training batches as the step takes them."""
        if self._axis is None:
            return PlacedBatches(batches, self.mesh)
        return SplitBatches(batches, self.mesh.size, self.config.accumulate)

    def initial(self, given: Mapping[str, Any] | None = None) -> Arrays:
        """The state before the first step, each array made where it lies.

        Args:
          given: parameters that start from these values, by path in the state, instead of at random.
        """
        # On the host, so that they go to any mesh.
        given = {name.removeprefix("model."): np.asarray(value) for name, value in (given or {}).items()}

        key = self.config.key
        with jax.set_mesh(self.mesh):  # over which a model's streams are spread
            return jax.jit(lambda given: self.program.initial(key, given), out_shardings=self.shardings)(given)

    def model(self, arrays: Arrays) -> Any:
        """The model within a state that is to be evaluated, on the mesh: the moving average, where there is one."""
        model = self.program.evaluated(arrays)
        if self._axis is None:
            return model
        # What `pmap` gives lies whole on each device, on a mesh of its own.
        whole, parts = NamedSharding(self.mesh, P()), lambda x: [shard.data for shard in x.addressable_shards]
        return jax.tree.map(lambda x: jax.make_array_from_single_device_arrays(x.shape, whole, parts(x)), model)

    def idle(self, rows: Iterable[int]) -> list[str]:
        """Returns what of the devices is not used, a line each, with batches of so many rows."""
        lines, groups = [], math.prod(self.mesh.shape[axis] for axis in ROWS)
        if uneven := sorted({n for n in rows if n // self.config.accumulate % groups}):
            parts = f", in {self.config.accumulate} parts," if self.config.accumulate > 1 else ""
            which = some([str(n) for n in uneven])
            lines.append(f"batches of {which} rows{parts} leave some of {groups} groups of devices idle")
        whole = undivided(self.layout.parameters, self.mesh, self._parallel.sharding_table)
        if self._parallel.mode == "jit" and whole:
            lines.append(f"not split over the whole mesh, because an axis does not divide: {some(whole)}")
        return lines

    @property
    def parameter_count(self) -> int:
        """The number of the model's parameters."""
        return sum(math.prod(info.shape) for info in self.layout.parameters.values())

    @property
    def trained_count(self) -> int:
        """The number of those that are trained: the adapter's, if there is one."""
        return sum(math.prod(info.shape) for info in self.layout.trained.values())
