"""A folder of Hugging Face's: its JSON files, and its tensors in one safetensors file or several with an index."""

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
import safetensors
import safetensors.numpy

from ..data.files import DataError, read_json, reading, write_whole

CONFIG, GENERATION, TENSORS = "config.json", "generation_config.json", "model.safetensors"
_INDEX = f"{TENSORS}.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
# safetensors' names of the dtypes that parameters have, and NumPy's, by way of JAX.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Bytes that are read at once of what is transposed or cast: they stay in a core's cache until they are where they belong.
_STRIP = 1 << 20


def write_json(file: Path, table: Mapping[str, Any]) -> None:
    """Writes a table, whole or not at all."""
    write_whole(file, json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of a folder: its file, where in it the bytes begin and end, shape, and dtype, by safetensors' name."""

    file: Path
    begin: int
    end: int
    shape: tuple[int, ...]
    dtype: str


class Tensors(contextlib.AbstractContextManager):
    """The tensors of a folder, whose files are open within the context. Several threads may read at once.

    safetensors checks the files; their bytes are read here, straight to where they are to lie. Its own reader makes an
    array of each tensor, which is to be copied again, and lets no other thread run meanwhile.

    Attributes:
      stored: what there is, by name.
    """

    def __init__(self, folder: Path):
        """Args:
        folder: with `model.safetensors`, or shards and their index.

        Raises:
          DataError: there is none, a file cannot be read or is no safetensors file, or the index does not fit the shards.
        """
        self.stored: dict[str, Stored] = {}
        self._files: dict[Path, int] = {}
        with contextlib.ExitStack() as stack:
            for file, named in _files_of(folder).items():
                with reading(file, safetensors.SafetensorError, ValueError):
                    opened = stack.enter_context(open(file, "rb"))
                    here = _checked_header(file, opened)
                if lost := sorted((named or set()) - here.keys()):
                    raise DataError(f"{folder / _INDEX} says that {file.name} holds {', '.join(lost)}; it does not")
                if twice := sorted(self.stored.keys() & here.keys()):
                    other = self.stored[twice[0]].file.name
                    raise DataError(f"{file} and {other} both hold {', '.join(twice)}: take away one of each")
                self._files[file] = opened.fileno()
                self.stored |= here
            self._close = stack.pop_all().close

    def __exit__(self, *_: Any) -> None:
        self._close()

    def scratch(self) -> np.ndarray:
        """Memory for one thread that reads; of it, only what is needed is ever touched."""
        return np.empty(max((of.end - of.begin for of in self.stored.values()), default=0), np.uint8)

    def read(self, name: str, scratch: np.ndarray | None = None) -> np.ndarray:
        """Returns the values of a tensor, in `scratch` if that is given; of one whose dtype no parameter has, the bytes."""
        of = self.stored[name]
        size = of.end - of.begin
        memory = np.empty(size, np.uint8) if scratch is None else scratch[:size]
        self._fill(memory, of, of.begin)
        return memory.view(jax.numpy.dtype(DTYPES[of.dtype])).reshape(of.shape) if of.dtype in DTYPES else memory

    def read_into(self, name: str, to: np.ndarray, scratch: np.ndarray) -> None:
        """Reads a tensor into an array of its shape, in whatever order and of whatever dtype that lies.

        Raises:
          DataError: the file cannot be read, or the array's dtype does not hold the values.
        """
        of = self.stored[name]
        dtype = jax.numpy.dtype(DTYPES[of.dtype])
        if to.dtype == dtype and to.flags.c_contiguous:
            self._fill(to, of, of.begin)
            return
        to = np.atleast_1d(to)
        row = dtype.itemsize * math.prod(to.shape[1:])
        rows = max(1, _STRIP // max(1, row))
        for i in range(0, len(to), rows):
            part = to[i : i + rows]
            strip = scratch[: len(part) * row].view(dtype).reshape(part.shape)
            self._fill(strip, of, of.begin + i * row)
            copy(part, strip, name)

    def _fill(self, to: np.ndarray, of: Stored, begin: int) -> None:
        """Fills an array that lies in order with the bytes from there on."""
        left = memoryview(to.reshape(-1).view(np.uint8))
        with reading(of.file):
            while left:
                if not (count := os.preadv(self._files[of.file], [left], begin)):
                    raise DataError(f"cannot read {of.file}: it has become shorter")
                left, begin = left[count:], begin + count


def copy(to: np.ndarray, part: np.ndarray, name: str) -> None:
    """Copies values into an array of perhaps another order and dtype, which must hold them.

    Args:
      to, part: arrays of one shape.
      name: of the tensor, for the error.

    Raises:
      DataError: it does not.
    """
    # As `part` lies, from one of its blocks to the next: in the order of `to`, a transposed one would be fetched again and
    # again.
    slowest = int(np.argmax(part.strides)) if part.ndim else 0
    to, part = (np.moveaxis(np.atleast_1d(x), slowest, 0) for x in (to, part))
    rows = max(1, _STRIP // max(1, part[:1].nbytes))
    narrower = jax.numpy.finfo(to.dtype).max < jax.numpy.finfo(part.dtype).max
    for i in range(0, len(part), rows):
        block, values = to[i : i + rows], part[i : i + rows]
        with np.errstate(over="ignore"):
            block[...] = values
        if narrower and (beyond := np.isinf(block) & ~np.isinf(values)).any():
            largest = abs(values[beyond]).max()
            fits = largest <= jax.numpy.finfo("float32").max
            what = "load it as float32" if fits else "no dtype that a model of ours has does"
            raise DataError(f"{to.dtype} cannot hold the values of {name}, such as {largest:g}: {what}")


def tensors_in(file: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file in memory, bfloat16 ones too; a ValueError names one of another dtype."""
    found = dict(safetensors.deserialize(file))
    if wrong := [f"{name} is of {x['dtype']}" for name, x in found.items() if x["dtype"] not in DTYPES]:
        raise ValueError(f"{', '.join(wrong)}: all must be one of {list(DTYPES)}")
    dtype = lambda name: jax.numpy.dtype(DTYPES[name])
    return {name: np.frombuffer(x["data"], dtype(x["dtype"])).reshape(x["shape"]) for name, x in found.items()}


def has_tensors(folder: Path) -> bool:
    """Returns whether a folder has files of tensors as theirs has them."""
    return any((folder / name).is_file() for name in (TENSORS, _INDEX))


def _files_of(folder: Path) -> dict[Path, set[str] | None]:
    """The files of tensors, and which an index says are in each."""
    if (folder / TENSORS).is_file():  # first, as theirs has it
        return {folder / TENSORS: None}
    if (folder / _INDEX).is_file():
        named = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(x, str) and Path(x).name == x for x in named.values()):
            raise DataError(f"{folder / _INDEX} needs weight_map, a table from tensors to files beside it")
        files: dict[Path, set[str] | None] = {}
        for name, file in named.items():
            files.setdefault(folder / file, set()).add(name)
        if lost := sorted(file.name for file in files if not file.is_file()):
            raise DataError(f"{folder / _INDEX} names {', '.join(lost)}, which is not there")
        return files
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled:
        raise DataError(
            f"{folder} has its tensors in {', '.join(pickled)}: such a file may run code when it is read. Convert it "
            "where you trust it: load it with transformers, and save_pretrained writes model.safetensors"
        )
    raise DataError(f"{folder} has neither {TENSORS} nor {_INDEX}")


def _checked_header(file: Path, opened: BinaryIO) -> dict[str, Stored]:
    """The tensors of a file, by name, once safetensors has found it whole."""
    with safetensors.safe_open(file, framework="np", backend="pread"):
        pass  # it has checked that the header is whole, and that the tensors fill the file without gaps
    size = int.from_bytes(opened.read(8), "little")
    header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return {
        name: Stored(file, *(8 + size + x for x in of["data_offsets"]), tuple(of["shape"]), of["dtype"])
        for name, of in header.items()
    }


def write_tensors(folder: Path, tensors: Iterator[tuple[str, np.ndarray]], sizes: Mapping[str, int], most: int) -> None:
    """Writes tensors to one file, or to shards of at most `most` bytes each and an index, in the place of those before.

    Args:
      folder: to write to.
      tensors: names and values, in the order of `sizes`: of each, its bytes. One at a time is held beside its shard.
      most: bytes of a file; a tensor that is larger has one of its own.
    """
    shards: list[list[str]] = [[]]
    room = most
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= size
    names = (
        [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))] if shards[1:] else [TENSORS]
    )
    # A single file comes before an index where both are there, and shards of another number would be left.
    (folder / _INDEX).unlink(missing_ok=True)
    for file in folder.glob("model*.safetensors"):
        if file.name == TENSORS or re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", file.name):
            file.unlink()
    for file, shard in zip(names, shards, strict=True):
        # `save_file` of a transposed view would write its memory as it lies, another matrix.
        held = {name: np.ascontiguousarray(next(tensors)[1]) for name in shard}
        write_whole(folder / file, safetensors.numpy.save(held, metadata={"format": "pt"}))
    if shards[1:]:
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        metadata = {"total_size": sum(sizes.values())}
        write_json(folder / _INDEX, {"metadata": metadata, "weight_map": where})
