"""The base class of the modules here, whose text fits a screen: a tree with the shapes and numbers of its parameters."""

import dataclasses
import math
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from .parameters import is_variable, parameter_info, path_name

_WIDTH = 100
_TIE = "~"  # between words of one line


class Module(nnx.Module):
    """A module of Flax that is printed as a tree.

    A line a module: its name and class, the number of its parameters, and the names and shapes of those that are its own.
    Stacked layers are said once, and so are alike ones, by their numbers.
    """

    def __repr__(self) -> str:
        return "\n".join(_lines(_node("", self, ())))

    __str__ = __repr__


@dataclasses.dataclass(frozen=True)
class _Node:
    """Description of a module.

    Attributes:
      name: its place in the module that has it.
      kind: its class, and how many stacked layers it is of.
      held: its own parameters by name: shape without the axes of stacked layers, dtype, number of all values.
      inner: the modules in it.
    """

    name: str
    kind: str
    held: dict[str, tuple[tuple[int, ...], str, int]]
    inner: tuple["_Node", ...]

    def dtypes(self) -> Counter:
        """The number of values by dtype."""
        counts = Counter()
        for _, dtype, count in self.held.values():
            counts[dtype] += count
        return sum((node.dtypes() for node in self.inner), counts)


def _node(name: str, module: nnx.Module, said: tuple[int, ...]) -> _Node:
    """Description of a module within stacked layers of the sizes that are `said`."""
    stacked = _stacked(module)
    more = stacked[len(said) :]
    kind = type(module).__name__ + (f", {_layers(*more)}" if more else "")
    held, inner = {}, []
    for path, child in _children(module):
        if isinstance(child, nnx.Pytree):
            inner.append(_node(path, child, stacked))
        else:
            held[path] = _told(child, len(stacked))
    return _Node(name, kind, held, tuple(_alike(inner)))


def _children(module: nnx.Module) -> Iterator[tuple[str, Any]]:
    """The modules, parameters and other arrays of a module by their names in it; those of a list are "layers.0", ..."""
    is_list = lambda x: isinstance(x, nnx.List | nnx.Dict | nnx.Sequential)
    is_child = lambda x: is_variable(x) or (x is not module and isinstance(x, nnx.Pytree) and not is_list(x))
    for path, child in jax.tree_util.tree_leaves_with_path(module, is_leaf=is_child):
        yield path_name(path), child


def _stacked(module: nnx.Module) -> tuple[int, ...]:
    """The sizes of the axes of stacked layers that all parameters of a module have."""
    found = [x for x in jax.tree.leaves(module, is_leaf=is_variable) if is_variable(x) and _has_shape(x)]
    infos = [parameter_info(x) for x in found]
    sizes = {info.shape[: max(info.stacked, 0)] for info in infos}
    return sizes.pop() if len(sizes) == 1 else ()


def _has_shape(held: Any) -> bool:
    """Says whether a leaf holds something like an array: trees of modules may hold anything."""
    return hasattr(next(iter(jax.tree.leaves(held)), None), "shape")


def _told(held: Any, stacked: int) -> tuple[tuple[int, ...], str, int]:
    """The shape, dtype and size of a parameter; of one in eight bits, those of its integers."""
    if not _has_shape(held):
        return (), type(held).__name__, 0
    first = jax.tree.leaves(held)[0]
    return tuple(first.shape[stacked:]), str(getattr(first, "dtype", "")), math.prod(first.shape)


def _alike(nodes: list[_Node]) -> Iterator[_Node]:
    """The modules, those of a list that are alike in one: "layers.0,2,4: EncoderLayer, 3 layers"."""
    groups: dict[Any, list[_Node]] = {}
    for node in nodes:
        of, _, number = node.name.rpartition(".")
        key = (of, repr(dataclasses.replace(node, name=""))) if number.isdigit() else node.name
        groups.setdefault(key, []).append(node)
    for first, *others in groups.values():
        if not others:
            yield first
            continue
        numbers = [int(node.name.rpartition(".")[2]) for node in (first, *others)]
        name = f"{first.name.rpartition('.')[0]}.{_numbers(numbers)}"
        yield _times(dataclasses.replace(first, name=name, kind=f"{first.kind}, {_layers(len(numbers))}"), len(numbers))


def _layers(*sizes: int) -> str:
    """ "12 layers"; of a sweep's members, "8 x 12 layers"."""
    return " x ".join(map(str, sizes)) + (" layer" if sizes == (1,) else " layers")


def _numbers(numbers: list[int]) -> str:
    """ "0-11", or "0,2,4"."""
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def _times(node: _Node, times: int) -> _Node:
    """A node that stands for so many."""
    held = {name: (shape, dtype, count * times) for name, (shape, dtype, count) in node.held.items()}
    return dataclasses.replace(node, held=held, inner=tuple(_times(inner, times) for inner in node.inner))


def _lines(root: _Node) -> Iterator[str]:
    """The lines of a module and all in it."""
    dtypes = [dtype for dtype, _ in root.dtypes().most_common()]
    usual = dtypes[0] if dtypes else ""
    rows = [row for node in root.inner for row in _rows(node, 1)]
    left = max((len(text) for text, _ in rows), default=0)
    right = max((len(f"{sum(node.dtypes().values()):,}") for _, node in rows), default=0)
    yield f"{root.kind}: {sum(root.dtypes().values()):,} parameters{''.join(f', {dtype}' for dtype in dtypes)}"
    if root.held:
        yield from _wrapped("  ", _shapes(root, usual))
    for text, node in rows:
        beginning = f"{text:{left}}  {sum(node.dtypes().values()):{right},}  "
        yield from _wrapped(beginning, _shapes(node, usual))


def _rows(node: _Node, depth: int) -> Iterator[tuple[str, _Node]]:
    yield f"{'  ' * depth}{node.name}: {node.kind}", node
    for inner in node.inner:
        yield from _rows(inner, depth + 1)


def _shapes(node: _Node, usual: str) -> str:
    """ "w_q w_k w_v [768 12 64], b_o [768]"; a dtype that is not the usual one is said."""
    names: dict[tuple, list[str]] = {}
    for name, (shape, dtype, _) in node.held.items():
        names.setdefault((shape, dtype), []).append(name)
    # Where a line may end is a space.
    said = lambda shape, dtype: f"[{_TIE.join(map(str, shape))}]" + (f"{_TIE}{dtype}" if dtype != usual else "")
    return ", ".join(f"{' '.join(of)}{_TIE}{said(*kind)}" for kind, of in names.items())


def _wrapped(beginning: str, text: str) -> list[str]:
    """The text after its beginning, in lines that fit, of which the others are as far to the right."""
    room = max(_WIDTH - len(beginning), 20)
    wrapped = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    first, *others = [line.replace(_TIE, " ") for line in wrapped] or [""]
    return [(beginning + first).rstrip(), *(" " * len(beginning) + line for line in others)]
