"""Whole checkpoints: a folder of Hugging Face's to a model of ours, and back."""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from tokenizers import Tokenizer

from .. import models
from ..config import ConfigError, check_choice
from ..data import tokenizers
from ..data.files import DataError
from ..nn.parameters import ParameterInfo, is_variable, named, parameters, path_name
from .family import FAMILIES, Family
from .files import CONFIG, DTYPES, GENERATION, Tensors, read_json, write_json, write_tensors
from .tensors import Entry, entries

_TOKENIZER, _SHARD_BYTES = "tokenizer.json", 5 << 30
Placing = Callable[[str, ParameterInfo], Any]


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a model that was loaded remembers of where it comes from, for the way back.

    Attributes:
      family: by name.
      config: the `config.json`, as text.
      generation: the `generation_config.json`, as text; "": there was none.
      left_over: tensors that were passed over, since nobody needs them.
    """

    family: str
    config: str
    generation: str
    left_over: tuple[str, ...]


def load_pretrained(
    source: str | Path, *, model: str | None = None, dtype: str | None = None, place: Placing | None = None
) -> tuple[Any, Tokenizer | None]:
    """Loads a checkpoint of Hugging Face's: the model of ours, and its tokenizer if there is one.

    The model's attribute `origin` says where it comes from; `save_pretrained` reads it.

    Args:
      source: a folder, or the name of a repository, which needs `huggingface_hub` and a network.
      model: the name of our class, of those that the family has; None: what the folder's architecture says.
      dtype: of the parameters and of what is computed: "float32", "bfloat16" or "float16"; None: that of the tensors.
      place: a function from a parameter's path and what it is to the sharding that its array gets; None: the default
        device.

    Raises:
      DataError: the folder lacks something, a file is damaged, or tensors are missing, unexpected or misshapen (lists them
        all).
      ConfigError: an unknown family, or something that it or ours does not have.
    """
    folder = _folder(source)
    theirs = read_json(folder / CONFIG)
    family = FAMILIES[_family_of(theirs, folder)]
    cls = getattr(models, _model_of(family, theirs, model))
    tensors = Tensors(folder)
    names = _ends(family, theirs, tensors)
    config = _config(family, theirs, cls, tensors, dtype, tie=family.output not in names)
    shapes = jax.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0)))
    table = entries(family.rows, shapes)
    names, left_over = _checked(family, table, tensors, folder, names)
    arrays = _arrays(table, names, tensors, shapes, place)
    loaded = jax.tree_util.tree_map_with_path(
        lambda path, held: held.replace(arrays[path_name(path)]), shapes, is_leaf=is_variable
    )
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else None
    loaded.origin = Origin(
        family.name, json.dumps(theirs), "" if generation is None else json.dumps(generation), left_over
    )
    return loaded, _tokenizer(folder, config.vocab_size)


def save_pretrained(
    model: Any,
    folder: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    family: str | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Saves a model as a folder that `transformers` loads.

    Args:
      model: of ours.
      folder: to write to; made if it is not there.
      tokenizer: to save beside it.
      family: by name; None: that from which the model was loaded, or else the first that can say its config.
      shard_bytes: the most bytes of one file of tensors.

    Raises:
      ConfigError: no family can say the model (names what it cannot say), or an unknown one.
    """
    chosen, theirs = _said_by(model, family)
    table = entries(chosen.rows, model)
    dtype = _widest({x.dtype for x in jax.tree.leaves(model)})
    origin = _origin_of(model, chosen)
    known = _special_tokens(tokenizer) if origin is None else json.loads(origin.config)
    theirs = _merged(chosen, known, theirs, model.config)
    theirs |= {"architectures": [_architecture(chosen, model, known)], "dtype": dtype.name}
    theirs.pop("torch_dtype", None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {entry.name: int(np.prod(entry.shape)) * dtype.itemsize for entry in table}
    write_tensors(folder, tensors_of(model, table), sizes, shard_bytes)
    if origin is not None and origin.generation:
        write_json(folder / GENERATION, json.loads(origin.generation))
    if tokenizer is not None:
        tokenizers.save(tokenizer, folder / _TOKENIZER)
    write_json(folder / CONFIG, theirs)  # last: a folder that was begun is no model without it


def _folder(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise DataError(f"{folder} has no {CONFIG}: it is no folder of a model")
        return folder
    try:
        import huggingface_hub
    except ImportError:
        raise DataError(
            f"{source} is no folder; to load a repository of that name, pip install huggingface_hub"
        ) from None
    wanted = ["*.json", "*.safetensors"]
    try:
        return Path(huggingface_hub.snapshot_download(str(source), allow_patterns=wanted))
    except (OSError, ValueError) as error:  # its own errors are of these
        raise DataError(f"{source} is no folder, and cannot be had from the hub: {error}") from None


def _family_of(theirs: Mapping[str, Any], folder: Path) -> str:
    name = theirs.get("model_type")
    try:
        check_choice("model_type", name, FAMILIES)
    except ConfigError as error:
        raise ConfigError(
            f"{folder / CONFIG}: {error}. A plugin can add a family: register a subclass of interop.Family"
        ) from None
    return name


def _model_of(family: type[Family], theirs: Mapping[str, Any], model: str | None) -> str:
    known = list(dict.fromkeys(family.architectures.values()))
    if model is not None:
        check_choice("model", model, known)
        return model
    said = theirs.get("architectures") or list(family.architectures)[:1]
    for name in said:
        if name in family.architectures:
            return family.architectures[name]
    raise ConfigError(
        f"config.json says architectures={said}; of the family {family.name!r}, known are {list(family.architectures)}: "
        f"say model={' or '.join(map(repr, known))} to load what fits"
    )


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    if not (folder / _TOKENIZER).is_file():
        return None
    tokenizer = tokenizers.load(folder / _TOKENIZER)
    if (size := tokenizer.get_vocab_size()) > vocab_size:
        raise DataError(f"{folder / _TOKENIZER} has {size:,} tokens, the model {vocab_size:,}: it is another model's")
    return tokenizer


def _ends(family: type[Family], theirs: Mapping[str, Any], tensors: Tensors) -> dict[str, str]:
    """The names of the tensors of the embedding and the output, of an output that is tied of the embedding alone.

    The tensors say it, whatever `config.json` does: one of them alone is both, and two that differ are two.
    """
    if not family.output:
        return {}
    found = family.names(tensors.stored, [family.embedding, family.output])
    if len(found) == 2 and theirs.get("tie_word_embeddings", family.completed(theirs)["tie_word_embeddings"]):
        with tensors.reader() as read:
            if np.array_equal(*(read(name) for name in found.values())):
                return {family.embedding: found[family.embedding]}
    return found if len(found) == 2 else dict.fromkeys([family.embedding], *found.values()) if found else {}


def _config(
    family: type[Family], theirs: Mapping[str, Any], cls: type, tensors: Tensors, dtype: str | None, tie: bool
) -> Any:
    """Our config, with the ties that tensors have, and the dtype."""
    kinds = {of.dtype for of in tensors.stored.values()} & DTYPES.keys()
    dtype = dtype or _widest(DTYPES[kind] for kind in kinds or {"F32"}).name
    changes: dict[str, Any] = {"precision": f"params={dtype},compute={dtype},output=float32"}
    if family.output:
        changes["output"] = {"tie": tie}
    return family.read_config(theirs, cls, **changes)


def _widest(dtypes: Iterable[Any]) -> np.dtype:
    """The dtype that holds all of these: float32 of bfloat16 and float16, which NumPy does not know to promote."""
    return functools.reduce(jax.numpy.promote_types, map(jax.numpy.dtype, dtypes))


def _checked(
    family: type[Family], table: Sequence[Entry], tensors: Tensors, folder: Path, ends: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The name in the files of each tensor, and what was passed over; all that is wrong is in one error."""
    stored = tensors.stored
    names = family.names(stored, [entry.name for entry in table]) | ends
    rest = sorted(stored.keys() - names.values() - set(family.names(stored, [family.output]).values()))
    left_over = tuple(name for name in rest if family.is_leftover(name))
    wrong = [f"missing: {name}" for name in sorted({entry.name for entry in table} - names.keys())]
    wrong += [f"unexpected: {name} {stored[name].shape}" for name in rest if name not in left_over]
    for entry in table:
        if (name := names.get(entry.name)) is not None:
            if stored[name].shape != entry.shape:
                wrong.append(f"misshapen: {name} must be {entry.shape}, got {stored[name].shape}")
            if stored[name].dtype not in DTYPES:
                wrong.append(f"of another dtype: {name} must be one of {list(DTYPES)}, got {stored[name].dtype}")
    if wrong:
        raise DataError(f"{folder} does not hold the tensors that its {CONFIG} says:\n  " + "\n  ".join(wrong))
    return names, left_over


def _arrays(
    table: Sequence[Entry], names: Mapping[str, str], tensors: Tensors, shapes: Any, place: Placing | None
) -> dict[str, jax.Array]:
    """Each parameter's array where it belongs, as soon as all of its tensors are read."""
    wanted, infos = named(shapes), parameters(shapes)
    parts = collections.Counter(held.path for entry in table for held in entry.held)
    buffers: dict[str, np.ndarray] = {}
    arrays: dict[str, jax.Array] = {}
    with tensors.reader() as read:
        for entry in table:
            tensor = read(names[entry.name])
            for held, part in zip(entry.held, entry.view.read(tensor, entry.infos), strict=True):
                of = wanted[held.path]
                if held.path not in buffers:
                    buffers[held.path] = _aligned(of.shape, of.dtype)
                _copy(buffers[held.path][held.index], part, entry.name)
                parts[held.path] -= 1
                if not parts[held.path]:
                    where = None if place is None else place(held.path, infos[held.path])
                    arrays[held.path] = jax.device_put(buffers.pop(held.path), where, may_alias=True)
    return arrays


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that begins where a CPU's arrays do, so that it becomes one of JAX's without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def _copy(to: np.ndarray, part: np.ndarray, name: str) -> None:
    """Copies into an array of perhaps another dtype, which must hold the values."""
    with np.errstate(over="ignore"):
        to[...] = part
    narrower = jax.numpy.finfo(to.dtype).max < jax.numpy.finfo(part.dtype).max
    if narrower and (np.isinf(to.astype(np.float32)) & ~np.isinf(part)).any():
        raise DataError(
            f"{to.dtype} cannot hold the values of {name}, up to {np.abs(part).max():g}: load it as float32"
        )


def tensors_of(model: Any, table: Sequence[Entry]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and values of each tensor of a table, of a model or of what has its structure, such as a gradient."""
    held = named(model)
    for entry in table:
        arrays = [np.asarray(held[of.path])[of.index] for of in entry.held]
        yield entry.name, entry.view.write(arrays, entry.infos)


def _origin_of(model: Any, family: type[Family]) -> Origin | None:
    origin = getattr(model, "origin", None)
    return origin if origin is not None and origin.family == family.name else None


def _said_by(model: Any, family: str | None) -> tuple[type[Family], dict[str, Any]]:
    """The family that a model is saved as, and the `config.json` that says its config."""
    if family is None and (origin := getattr(model, "origin", None)) is not None:
        family = origin.family
    if family is not None:
        check_choice("family", family, FAMILIES)
    reasons = []
    for one in FAMILIES.values() if family is None else [FAMILIES[family]]:
        if type(model).__name__ not in one.architectures.values():
            reasons.append(f"the family {one.name!r} has no {type(model).__name__}")
            continue
        try:
            return one, one.write_config(model.config, type(model))
        except ConfigError as error:
            reasons.append(str(error))
    nearest = min(reasons, key=len)
    raise ConfigError(nearest if family else f"no family can say this model; the nearest: {nearest}")


def _special_tokens(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """The special tokens of a `config.json`, which has to say them: their defaults may be beyond the vocabulary."""
    ids = {"bos_token_id": tokenizers.BOS, "eos_token_id": tokenizers.EOS, "pad_token_id": tokenizers.PAD}
    return {key: None if tokenizer is None else tokenizer.token_to_id(token) for key, token in ids.items()}


def _merged(family: type[Family], known: dict[str, Any], theirs: dict[str, Any], config: Any) -> dict[str, Any]:
    """The `config.json` of a loaded model: what it said, where that still says the config, and else what it has to say now."""
    result = theirs | known
    for field in family.fields:
        if not field.keys:
            continue
        there = any(key in known for key in field.keys)
        if not (there and field.read(family.completed(known)) == field.read(family.completed(theirs))):
            for key in field.keys:
                result.pop(key, None)
            result |= field.write(config)
    return result


def _architecture(family: type[Family], model: Any, known: Mapping[str, Any]) -> str:
    fitting = [name for name, ours in family.architectures.items() if ours == type(model).__name__]
    said = [name for name in known.get("architectures") or () if name in fitting]
    return (said or fitting)[0]
