"""Parameters that say what they are. How they start, lie on devices, decay and are updated follows from that alone."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ..config import ConfigError, nearest
from .config import ModelConfig
from .draws import normal, uniform
from .parametrization import axis_growth, growth, reference_size

Held = TypeVar("Held", Array, np.ndarray)

# Of matrices: "hidden" ones have two sides that grow with the width, of "input" one side grows, of "output" the other;
# the rows of an "embedding" are looked up. Of vectors: what multiplies, and what is added.
MATRICES, VECTORS = ("hidden", "input", "output", "embedding"), ("gain", "bias")


@dataclasses.dataclass(frozen=True)
class ParameterInfo:
    """The description of a parameter.

    Attributes:
      shape: of the array.
      axes: the names of its last axes; those before them are of stacked layers. "" is an axis that nobody has named.
      contracted: of `axes`, those that are summed over when it is applied; none: it is no matrix.
      batch: of `axes`, those along which there are several matrices, each by itself, such as experts.
      role: of `MATRICES` or `VECTORS`.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    contracted: tuple[str, ...]
    batch: tuple[str, ...]
    role: str

    @property
    def stacked(self) -> int:
        """The number of leading axes of stacked layers."""
        return len(self.shape) - len(self.axes)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The numbers of the contracted axes."""
        return self._numbers(lambda name: name in self.contracted)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The numbers of the axes that are neither contracted nor of a batch."""
        return self._numbers(lambda name: name not in (*self.contracted, *self.batch))

    @property
    def independent(self) -> tuple[int, ...]:
        """The numbers of the axes along which there are several matrices or vectors: layers and batches."""
        return (*range(self.stacked), *self._numbers(lambda name: name in self.batch))

    @property
    def is_matrix(self) -> bool:
        """Says that it has inputs and outputs, in a role of matrices."""
        return self.role in MATRICES and bool(self.inputs) and bool(self.outputs)

    def _numbers(self, wanted: Any) -> tuple[int, ...]:
        return tuple(self.stacked + i for i, name in enumerate(self.axes) if wanted(name))

    def as_matrices(self, x: Held) -> Held:
        """The array, of JAX or of NumPy, as [independent ... inputs outputs], of what is no matrix [independent ... size]."""
        order = (*self.independent, *self.inputs, *self.outputs)
        parts = [self.inputs, self.outputs] if self.is_matrix else [self.inputs + self.outputs]
        sizes = [self.shape[i] for i in self.independent] + [math.prod(self.shape[i] for i in part) for part in parts]
        return x.transpose(order).reshape(sizes)

    def from_matrices(self, x: Held) -> Held:
        """The array in its own shape again, see `as_matrices`."""
        order = (*self.independent, *self.inputs, *self.outputs)
        back = sorted(range(len(order)), key=order.__getitem__)
        return x.reshape([self.shape[i] for i in order]).transpose(back)


def kernel(
    model: ModelConfig,
    rngs: nnx.Rngs,
    axes: Mapping[str, int],
    *,
    contracted: Sequence[str],
    batch: Sequence[str] = (),
    role: str = "hidden",
    residual: bool = False,
) -> nnx.Param:
    """A matrix, or several, initialised as the config says: Glorot-uniform (Glorot & Bengio, 2010), or N(0, init.std²).

        kernel(model, rngs, {"experts": E, "model": D, "ff": F}, contracted=["model"], batch=["experts"])

    Drawn in float32 and then rounded to the parameters' dtype: a normal draw in bfloat16 has 128 values.

    Args:
      model: its config.
      rngs: for one draw.
      axes: the size of each axis by its name, in order.
      contracted, batch, role: see `ParameterInfo`.
      residual: it writes to the residual stream, for init.scale_residual (Radford et al., 2019, section 2.3).

    Raises:
      ValueError: an axis or a role that is not there.
    """
    info = _info(axes, contracted, batch, role)
    scale = (2 * model.num_layers) ** -0.5 if residual and model.init.scale_residual else 1.0
    if model.init.std is not None:
        shrunk = math.sqrt(growth(model)) if role == "hidden" else 1.0
        return _param(model, info, normal(rngs.params(), info.shape, scale / shrunk * model.init.std))
    # But for a hidden matrix, fans are those of the width at which nothing changes (see `parametrization`).
    grown = {name: 1.0 if role == "hidden" else axis_growth(model, name) for name in axes}
    fan_in, fan_out = (
        math.prod(info.shape[i] for i in side) / math.prod(grown[info.axes[i]] for i in side)
        for side in (info.inputs, info.outputs)
    )
    limit = scale * math.sqrt(6 / (fan_in + fan_out))
    return _param(model, info, uniform(rngs.params(), info.shape, limit))


def table(model: ModelConfig, rngs: nnx.Rngs, axes: Mapping[str, int], *, role: str = "embedding") -> nnx.Param:
    """Vectors along the last axis, which are looked up by the first: N(0, init.std²), or N(0, 1/D).

    That D is the last axis's `reference_size`. Drawn in float32, as in `kernel`.
    """
    info = _info(axes, list(axes)[:1], (), role)
    std = reference_size(model, *list(axes.items())[-1]) ** -0.5 if model.init.std is None else model.init.std
    return _param(model, info, normal(rngs.params(), info.shape, std))


def zeros(model: ModelConfig, axes: Mapping[str, int], *, role: str = "bias") -> nnx.Param:
    """A bias, or another vector that starts at zero."""
    info = _info(axes, (), (), role)
    return _param(model, info, np.zeros(info.shape, np.float32))


def ones(model: ModelConfig, axes: Mapping[str, int], *, role: str = "gain", times: float = 1.0) -> nnx.Param:
    """A gain, or another vector that starts at one, or at `times` that."""
    info = _info(axes, (), (), role)
    return _param(model, info, times * np.ones(info.shape, np.float32))


def path_name(path: tuple) -> str:
    """ "decoder.layers.0.attention.w_q": NNX wraps each array in a `value`, which says nothing."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def by_path(function: Any, tree: Any) -> Any:
    """The tree of `function(path, leaf)`, where a path is its name."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_name(path), leaf), tree)


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def parameters(tree: Any) -> dict[str, ParameterInfo]:
    """Returns what each parameter is, by its path: of a model, its gradients, updates, or what `jax.eval_shape` says.

    One that does not say it, as those of Flax's own modules, is read by its rank: of two axes a hidden matrix, of more
    one that nobody knows the sides of, of fewer a bias. See `described` for those within stacked layers.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_variable)
    held = {path_name(path): x for path, x in leaves}
    # One that Optax masked holds nothing.
    return {path: parameter_info(x) for path, x in held.items() if jax.tree.leaves(x)}


def described(module: nnx.Module) -> nnx.Module:
    """Returns a module whose parameters say what they are, by their rank if they do not: before layers are stacked.

    Raises:
      ConfigError: see `check_unshared`.
    """
    check_unshared(module)
    for held in jax.tree.leaves(module, is_leaf=is_variable):
        if is_variable(held) and "axes" not in held.get_metadata():
            held.set_metadata(**_metadata(parameter_info(held)))
    return module


def check_unshared(module: Any) -> None:
    """Refuses a module that holds one parameter in two places: a pytree has two leaves then, which drift apart.

    Raises:
      ConfigError: it does (names both).
    """
    places: dict[int, str] = {}
    for path, held in jax.tree_util.tree_leaves_with_path(module, is_leaf=is_variable):
        here = path_name(path)
        if is_variable(held) and (there := places.setdefault(id(held), here)) != here:
            raise ConfigError(
                f"{type(module).__name__} holds one parameter as {there} and as {here}, which training would make two "
                "of; keep it in one place, and read it from there (a property may give it another name)"
            )


def is_variable(x: Any) -> bool:
    """Says whether a leaf holds an array of a module."""
    return isinstance(x, nnx.Variable)


def parameter_info(held: Any) -> ParameterInfo:
    """Returns what one parameter is, see `parameters`."""
    shape = jax.tree.leaves(held)[0].shape
    said = held.get_metadata() if is_variable(held) else {}
    if "axes" in said:
        return ParameterInfo(shape, said["axes"], said["contracted"], said["batch"], said["role"])
    if len(shape) == 2:
        return ParameterInfo(shape, ("inputs", "outputs"), ("inputs",), (), "hidden")
    return ParameterInfo(shape, ("",) * len(shape), (), (), "hidden" if len(shape) > 2 else "bias")


def _metadata(info: ParameterInfo) -> dict[str, Any]:
    return {"axes": info.axes, "contracted": info.contracted, "batch": info.batch, "role": info.role}


def _param(model: ModelConfig, info: ParameterInfo, value: Array | np.ndarray) -> nnx.Param:
    # What is constant comes from NumPy: `jnp.full` compiles a program for each shape.
    return nnx.Param(jnp.asarray(value, model.dtypes.params), **_metadata(info))


def _info(axes: Mapping[str, int], contracted: Sequence[str], batch: Sequence[str], role: str) -> ParameterInfo:
    for name in (*contracted, *batch):
        if name not in axes:
            raise ValueError(f"a parameter with the axes {list(axes)} has no axis {name!r}{nearest(name, axes)}")
    if role not in (roles := (*MATRICES, *VECTORS)):
        raise ValueError(f"the role of a parameter must be one of {list(roles)}, got {role!r}{nearest(role, roles)}")
    return ParameterInfo(tuple(axes.values()), tuple(axes), tuple(contracted), tuple(batch), role)
