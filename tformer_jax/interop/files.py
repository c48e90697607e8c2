"""A folder of Hugging Face's: its JSON files, and its tensors in one safetensors file or several with an index."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from ..data.files import DataError, reading, write_whole

CONFIG, GENERATION, TENSORS = "config.json", "generation_config.json", "model.safetensors"
_INDEX = f"{TENSORS}.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
# safetensors' names of the dtypes that parameters have, and NumPy's, by way of JAX.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_json(file: Path) -> dict[str, Any]:
    """Returns the table in a JSON file.

    Raises:
      DataError: it cannot be read, is no JSON, or holds something else.
    """
    with reading(file, ValueError, RecursionError):
        table = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(table, dict):
        raise DataError(f"{file} must hold a table, got {type(table).__name__}")
    return table


def write_json(file: Path, table: Mapping[str, Any]) -> None:
    """Writes a table, whole or not at all."""
    write_whole(file, json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of a folder: its file, shape, and dtype, by safetensors' name."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class Tensors:
    """The tensors of a folder, read one by one.

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
        for file, named in _files_of(folder).items():
            with _opened(file) as opened:
                here = {name: opened.get_slice(name) for name in opened.keys()}
                if lost := sorted((named or set()) - here.keys()):
                    raise DataError(f"{folder / _INDEX} says that {file.name} holds {', '.join(lost)}; it does not")
                for name, part in here.items():
                    self.stored[name] = Stored(file, tuple(part.get_shape()), part.get_dtype())

    @contextlib.contextmanager
    def reader(self) -> Iterator[Any]:
        """A function from a name to its values, NumPy, while files are open."""
        with contextlib.ExitStack() as stack:
            files: dict[tuple[Path, str], Any] = {}

            def read(name: str) -> np.ndarray:
                of = self.stored[name]
                # NumPy's reader does not know bfloat16; Flax's makes an array of JAX's from one of NumPy's.
                framework = "flax" if of.dtype == "BF16" else "np"
                if (of.file, framework) not in files:
                    if framework == "flax":  # not by way of an accelerator
                        stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
                    files[of.file, framework] = stack.enter_context(_opened(of.file, framework))
                with reading(of.file, safetensors.SafetensorError):
                    values = files[of.file, framework].get_tensor(name)
                return np.asarray(values)

            yield read


def _files_of(folder: Path) -> dict[Path, set[str] | None]:
    """The files of tensors, and which an index says are in each."""
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
    if (folder / TENSORS).is_file():
        return {folder / TENSORS: None}
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled:
        raise DataError(
            f"{folder} has its tensors in {', '.join(pickled)}: such a file may run code when it is read. Convert it "
            "where you trust it: load it with transformers, and save_pretrained writes model.safetensors"
        )
    raise DataError(f"{folder} has neither {TENSORS} nor {_INDEX}")


@contextlib.contextmanager
def _opened(file: Path, framework: str = "np") -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        with reading(file, safetensors.SafetensorError):
            # Mapped into memory, what was read would count as held.
            opened = stack.enter_context(safetensors.safe_open(file, framework=framework, backend="pread"))
        yield opened


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
    # An index comes before a single file where both are there, and shards of another number would be left.
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
