"""Tables of tensors: which of a checkpoint is which of ours, and how it lies there. No arithmetic: both ways are exact."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..config import ConfigError
from ..nn.parameters import ParameterInfo, parameters


class View:
    """How one tensor of a checkpoint holds one or more parameters of a layer."""

    def shape(self, infos: Sequence[ParameterInfo]) -> tuple[int, ...]:
        """Returns the tensor's shape."""
        raise NotImplementedError

    def read(self, tensor: np.ndarray, infos: Sequence[ParameterInfo]) -> list[np.ndarray]:
        """Returns each parameter, as views of the tensor."""
        raise NotImplementedError

    def write(self, arrays: Sequence[np.ndarray], infos: Sequence[ParameterInfo]) -> np.ndarray:
        """The other way: the tensor from its parameters."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Sides(View):
    """A matrix by its inputs and outputs, or a vector; of several parameters, their outputs one after the other.

    Attributes:
      transposed: outputs come first, as in `torch.nn.Linear`.
      by_head: outputs are not one parameter's after the other's, but of each head one parameter's after the other's.
      leading: axes of size 1 that the tensor begins with.
    """

    transposed: bool = False
    by_head: bool = False
    leading: int = 0

    def shape(self, infos):
        *inputs, _ = _sides(infos[0])
        sides = (*inputs, sum(_sides(info)[-1] for info in infos))
        return (1,) * self.leading + (sides[::-1] if self.transposed else sides)

    def read(self, tensor, infos):
        x = tensor.reshape(tensor.shape[self.leading :])
        x = x.T if self.transposed else x  # [inputs outputs] or [outputs]
        if len(infos) == 1:
            return [infos[0].from_matrices(x)]
        if self.by_head:
            x = x.reshape(*x.shape[:-1], -1, len(infos), infos[0].shape[-1])  # [... heads parameters width]
            parts = [x[..., i, :].reshape(info.shape) for i, info in enumerate(infos)]
        else:
            ends = np.cumsum([_sides(info)[-1] for info in infos])
            parts = [info.from_matrices(part) for info, part in zip(infos, np.split(x, ends[:-1], -1), strict=True)]
        return parts

    def write(self, arrays, infos):
        if self.by_head:
            x = np.stack(arrays, -2)
            x = x.reshape(*_sides(infos[0])[:-1], -1)
        else:
            parts = [info.as_matrices(x) for info, x in zip(infos, arrays, strict=True)]
            x = np.concatenate(parts, -1) if len(parts) > 1 else parts[0]
        x = x.T if self.transposed else x
        return x.reshape((1,) * self.leading + x.shape)


AS_IT_IS, LINEAR = Sides(), Sides(transposed=True)


class Convolution(View):
    """The map of patches [p p C, D] as the kernel of a convolution [D C p p]."""

    def shape(self, infos):
        size, D = infos[0].shape
        # Of one channel or three: no number is both a square and three of them.
        C = 1 if math.isqrt(size) ** 2 == size else 3
        p = math.isqrt(size // C)
        return D, C, p, p

    def read(self, tensor, infos):
        return [tensor.transpose(2, 3, 1, 0).reshape(infos[0].shape)]

    def write(self, arrays, infos):
        D, C, p, _ = self.shape(infos)
        return arrays[0].reshape(p, p, C, D).transpose(3, 2, 0, 1)


def _sides(info: ParameterInfo) -> tuple[int, ...]:
    """The sizes of a matrix, inputs and outputs, or of a vector; before them, those of the axes of several."""
    parts = [info.inputs, info.outputs] if info.is_matrix else [info.inputs + info.outputs]
    return (*(info.shape[i] for i in info.independent), *(math.prod(info.shape[i] for i in part) for part in parts))


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a family's table.

    Attributes:
      theirs: the tensor's name; "{}" is the number of a layer, "[]" that of one of the parts that a parameter has along
        its first axis.
      ours: the paths of what it holds, such as "decoder.{}.attention.w_q".
      view: how.
      beside, without: paths that the model has, or has not, where the row holds; "": whatever it has.
    """

    theirs: str
    ours: tuple[str, ...]
    view: View
    beside: str = ""
    without: str = ""


def row(theirs: str, *ours: str, view: View = AS_IT_IS, beside: str = "", without: str = "") -> Row:
    """A row of one tensor."""
    return Row(theirs, ours, view, beside, without)


def linear(theirs: str, *ours: tuple[str, str], view: View = LINEAR) -> list[Row]:
    """The rows of a linear map, "weight" and "bias"; `ours`: the matrix and the bias of each part of it."""
    vectors = dataclasses.replace(view, transposed=False) if isinstance(view, Sides) else AS_IT_IS
    matrices, biases = zip(*ours, strict=True)
    return [Row(f"{theirs}.weight", matrices, view), Row(f"{theirs}.bias", biases, vectors)]


def norm(theirs: str, ours: str) -> list[Row]:
    """The rows of a norm."""
    return [row(f"{theirs}.weight", f"{ours}.gamma"), row(f"{theirs}.bias", f"{ours}.beta")]


def within(theirs: str, ours: str, rows: Sequence[Row]) -> list[Row]:
    """Rows of a part, as those of the whole: names and paths begin with these."""
    named = lambda path: path and ours + path
    return [Row(theirs + r.theirs, tuple(map(named, r.ours)), r.view, named(r.beside), named(r.without)) for r in rows]


def where(rows: Sequence[Row], *, beside: str = "", without: str = "") -> list[Row]:
    """Rows that hold where a model has, or has not, the parameter of a path."""
    return [dataclasses.replace(r, beside=beside, without=without) for r in rows]


@dataclasses.dataclass(frozen=True)
class Held:
    """Where a parameter of one layer is: in which array, and where along its axis of layers, if it has one.

    Attributes:
      path: of the array.
      index: of it, what the tensor holds; (): all of it.
      info: of what is there.
    """

    path: str
    index: tuple[int, ...]
    info: ParameterInfo


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of one checkpoint: its name, how it holds what, and its shape."""

    name: str
    view: View
    held: tuple[Held, ...]

    @property
    def infos(self) -> list[ParameterInfo]:
        """The description of each parameter that it holds, of one layer."""
        return [held.info for held in self.held]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that it has in a checkpoint."""
        return self.view.shape(self.infos)


def entries(rows: Sequence[Row], model: Any) -> list[Entry]:
    """Returns the tensors that hold a model's parameters, or those of what `jax.eval_shape` says of it, layer by layer.

    A row whose parameters the model does not have is left out.

    Raises:
      ConfigError: a parameter that no row has, or a row that has some of its parameters.
    """
    infos, result = parameters(model), []
    for r in rows:
        for number, places in _places(r, infos):
            name, (path, index) = r.theirs.format(number), places[0]
            if "[]" in name:
                parts = range(infos[path].shape[len(index)])
                each = [(name.replace("[]", str(j)), [(path, (*index, j))]) for j in parts]
            else:
                each = [(name, places)]
            for name, places in each:
                held = tuple(Held(path, index, _part(infos[path], index)) for path, index in places)
                result.append(Entry(name, r.view, held))
    if left := infos.keys() - {held.path for entry in result for held in entry.held}:
        raise ConfigError(f"no tensor holds {', '.join(sorted(left))}: the family cannot say this model")
    return result


def _places(r: Row, infos: dict[str, ParameterInfo]) -> Iterator[tuple[int | None, list]]:
    """Yields, for each layer, its number and the (array, index) of each of its paths; of no layer, the paths alone."""
    ours = r.ours
    if "{}" not in ours[0]:
        if _holds(r, infos) and (kept := [(path, ()) for path in ours if path in infos]):
            yield None, _whole(ours, kept)
        return
    stack = ours[0].partition(".{}.")[0]
    for number, (layer, i) in enumerate(_layers(stack, infos)):
        within = lambda path: path.replace(f"{stack}.{{}}", layer)
        names = [within(path) for path in ours]
        if not _holds(dataclasses.replace(r, beside=within(r.beside), without=within(r.without)), infos):
            continue
        if kept := [(path, i) for path in names if path in infos]:
            yield number, _whole(names, kept)


def _holds(r: Row, infos: dict[str, ParameterInfo]) -> bool:
    return (not r.beside or r.beside in infos) and r.without not in infos


def _whole(names: Sequence[str], kept: list) -> list:
    if len(kept) != len(names):
        raise ConfigError(f"one tensor would hold {', '.join(names)}, of which the model has {len(kept)}")
    return kept


def _layers(stack: str, infos: dict[str, ParameterInfo]) -> list[tuple[str, tuple[int, ...]]]:
    """The layers of a stack in their order: the path of each, and its place along the axis of layers."""
    repeats: dict[str, int] = {}
    for path, info in infos.items():
        if match := re.match(rf"{re.escape(stack)}\.(?:layers|tail)\.\d+(?=\.)", path):
            repeats[match[0]] = info.shape[0]
    by_number = lambda path: int(path.rpartition(".")[2])
    period = sorted((path for path in repeats if path.startswith(f"{stack}.layers.")), key=by_number)
    tail = sorted((path for path in repeats if path.startswith(f"{stack}.tail.")), key=by_number)
    rounds = range(repeats[period[0]]) if period else ()
    return [*((path, (i,)) for i in rounds for path in period), *((path, ()) for path in tail)]


def _part(info: ParameterInfo, index: tuple[int, ...]) -> ParameterInfo:
    return dataclasses.replace(info, shape=info.shape[len(index) :])
