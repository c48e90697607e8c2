"""The arrays of a model from the tensors of a folder, read by several threads."""

import collections
import concurrent.futures
import os
import queue
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..nn.parameters import ParameterInfo, named, parameters
from .files import Tensors, copy
from .tensors import Entry

_THREADS = 4
Placing = Callable[[str, ParameterInfo], Any]


def read_arrays(
    table: Sequence[Entry], names: Mapping[str, str], tensors: Tensors, shapes: Any, place: Placing | None
) -> dict[str, jax.Array]:
    """Returns each parameter's array, which is put where it belongs as soon as all of its tensors are read.

    Args:
      table: the tensors that hold them.
      names: the name of each in the files; a tensor without one is zeros.
      tensors: of the folder.
      shapes: the model, or what `jax.eval_shape` says of it.
      place: see `load_pretrained`.

    Raises:
      DataError: a file cannot be read, or a dtype does not hold the values.
    """
    infos, arrays = parameters(shapes), {}
    buffers = {path: _aligned(of.shape, of.dtype) for path, of in named(shapes).items()}
    parts = collections.Counter(held.path for entry in table for held in entry.held)
    # One array after the other, so that few are begun at a time; the largest first, so that no thread is left with one.
    order = lambda entry: (-buffers[entry.held[0].path].nbytes, entry.held[0].path)
    table = sorted(table, key=order)

    # Made here: what a thread takes itself, its arena of the C library keeps.
    number, scratches = min(_THREADS, os.cpu_count() or 1), queue.SimpleQueue()
    for _ in range(number):
        scratches.put(tensors.scratch())

    def read(entry: Entry) -> None:
        places, scratch = [buffers[of.path][(*of.index, ...)] for of in entry.held], scratches.get()
        try:
            _read(entry, names.get(entry.name), tensors, places, scratch)
        finally:
            scratches.put(scratch)

    with concurrent.futures.ThreadPoolExecutor(number) as threads:
        for entry, _ in zip(table, threads.map(read, table), strict=True):
            for path in (held.path for held in entry.held):
                parts[path] -= 1
                if not parts[path]:
                    where = None if place is None else place(path, infos[path])
                    arrays[path] = jax.device_put(buffers.pop(path), where, may_alias=True)
    return arrays


def _read(entry: Entry, name: str | None, tensors: Tensors, places: Sequence[np.ndarray], scratch: np.ndarray) -> None:
    """Reads a tensor to the places of what it holds; zeros where there is none.

    One parameter's is read straight to where it is to lie, if that can be seen as the tensor, perhaps transposed.
    """
    if name is None:
        for to in places:
            to[...] = 0
        return
    whole = entry.view.write(places, entry.infos) if len(places) == 1 else None
    if whole is not None and np.may_share_memory(whole, places[0]):
        tensors.read_into(name, whole, scratch)
    else:
        for to, part in zip(places, entry.view.read(tensors.read(name, scratch), entry.infos), strict=True):
            copy(to, part, name)


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that begins where a CPU's arrays do, so that it becomes one of JAX's without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
