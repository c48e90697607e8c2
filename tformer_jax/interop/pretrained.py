"""Whole checkpoints: a folder of Hugging Face's to a model of ours, and back."""

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import nnx
from tokenizers import Tokenizer

from ..config import ConfigError, check_choice
from ..data.files import DataError, read_json
from ..nn.parameters import is_variable, named, path_name
from .arrays import Placing, read_arrays
from .family import FAMILIES, Family, fits
from .fields import at
from .files import CONFIG, DTYPES, GENERATION, Tensors, has_tensors, tensors_in, write_json, write_tensors
from .tensors import Entry, entries
from .texts import START, read_settings, read_tokenizer, special_tokens, write_tokenizer

_SHARD_BYTES = 5 << 30
_NEAREST = 3  # families that an error names
_GENERATING = ("CausalLM", "Transformer")


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a model that was loaded remembers of where it comes from, for the way back.

    Attributes:
      family: by name.
      architecture: the class of `transformers`.
      config: the `config.json`, as text.
      generation: the `generation_config.json`, as text; "": there was none.
      tokenizer: the `tokenizer_config.json`, as text.
      left_over: tensors that were passed over, since nobody needs them.
      carried: tensors that ours has no use for and theirs has, as a safetensors file.
      spelt: names of the family's table that the files have otherwise, and how they have them; "": not at all.
    """

    family: str
    architecture: str
    config: str
    generation: str
    tokenizer: str
    left_over: tuple[str, ...]
    carried: bytes
    spelt: tuple[tuple[str, str], ...]


def load_pretrained(
    source: str | Path, *, model: str | None = None, dtype: str | None = None, place: Placing | None = None
) -> tuple[Any, Tokenizer | None]:
    """Loads a checkpoint of Hugging Face's: the model of ours, and its tokenizer if there is one.

    The model's attribute `origin` says where it comes from; `save_pretrained` reads it.

    Args:
      source: a folder, or the name of a repository, which needs `huggingface_hub` and a network.
      model: the name of our class, of those that the family has, or of the class of `transformers`; None: what the folder's
        architecture says.
      dtype: of the parameters and of what is computed: "float32", "bfloat16" or "float16"; None: that of the tensors.
      place: a function from a parameter's path and what it is to the sharding that its array gets; None: the default
        device.

    Raises:
      DataError: the folder lacks something, a file is damaged, or tensors are missing, unexpected or misshapen (lists them
        all).
      ConfigError: an unknown family, or something that it or ours does not have.
    """
    folder, theirs, family, architecture = _identified(source, model)
    with Tensors(folder) as tensors:
        config, ends = _config(family, theirs, architecture, tensors, dtype)
        shapes = jax.eval_shape(lambda: family.model_of(architecture)(config, rngs=nnx.Rngs(0)))
        table = entries(family.rows_of(architecture), shapes)
        names, left_over, carried = _checked(family, architecture, table, tensors, folder, ends)
        arrays = read_arrays(table, names, tensors, shapes, place)
        kept = _bytes_of(carried, tensors)
    loaded = jax.tree_util.tree_map_with_path(
        lambda path, held: held.replace(arrays[path_name(path)]), shapes, is_leaf=is_variable
    )
    generation = json.dumps(read_json(folder / GENERATION)) if (folder / GENERATION).is_file() else ""
    settings = json.dumps(read_settings(folder))
    spelt = tuple((entry.name, there) for entry in table if (there := _spelt(family, entry.name, names)) != entry.name)
    loaded.origin = Origin(family.name, architecture, json.dumps(theirs), generation, settings, left_over, kept, spelt)
    return loaded, read_tokenizer(folder, at(config, "vocab_size"))


def is_pretrained(source: Any) -> bool:
    """Returns whether something is a folder of Hugging Face's: it has tensors, or a `config.json` with a `model_type`."""
    if source is None:
        return False
    try:
        return has_tensors(Path(source)) or "model_type" in read_json(Path(source) / CONFIG)
    except (DataError, OSError):
        return False


def read_config(source: str | Path, model: str | None = None) -> Any:
    """Returns the config of ours of a checkpoint; no tensor is read, but those that may be tied.

    Args:
      source: a folder, or the name of a repository.
      model: see `load_pretrained`.

    Raises:
      DataError, ConfigError: see `load_pretrained`.
    """
    folder, theirs, family, architecture = _identified(source, model)
    with Tensors(folder) as tensors:
        return _config(family, theirs, architecture, tensors, None)[0]


def save_pretrained(
    model: Any,
    folder: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    family: str | None = None,
    classes: Sequence[str] = (),
    start: int | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Saves a model as a folder that `transformers` loads.

    Args:
      model: of ours.
      folder: to write to; made if it is not there.
      tokenizer: to save beside it; None: one that is there stays.
      family: by name; None: that from which the model was loaded, or else the first that can say its config.
      classes: their names, of a classifier's; without any, those that it was loaded with, or numbers.
      start: the token with which a target of a translation begins; None: that of the model it was loaded from, or of the
        start of a text.
      shard_bytes: the most bytes of one file of tensors.

    Raises:
      ConfigError: no family can say the model (names what it cannot say), or an unknown one.
    """
    chosen, architecture, theirs = said_by(model, family)
    table = entries(chosen.rows_of(architecture), model)
    dtype = _widest({x.dtype for x in jax.tree.leaves(model)})
    origin = _origin_of(model, chosen)
    known = {} if origin is None else json.loads(origin.config)
    begins = {} if start is None else {START: start}
    special = special_tokens(tokenizer, model)
    if origin is None:
        theirs = special | theirs
    else:
        theirs = _merged(chosen, architecture, known, theirs, model.config)
    theirs |= {"architectures": [architecture], "dtype": dtype.name} | begins
    if classes:
        theirs |= {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
    theirs.pop("torch_dtype", None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, GENERATION):  # of what was there before; a folder that was begun is no model without them
        (folder / name).unlink(missing_ok=True)
    carried = {} if origin is None else tensors_in(origin.carried)
    spelt = {} if origin is None else dict(origin.spelt)
    # What the files did not have, since it was zeros, they need not have.
    table = [of for of in table if spelt.get(of.name) != "" or np.any(next(tensors_of(model, [of]))[1])]
    written = {of.name: spelt.get(of.name) or of.name for of in table}
    sizes = {written[of.name]: int(np.prod(of.shape)) * dtype.itemsize for of in table}
    sizes |= {name: x.nbytes for name, x in carried.items()}
    tensors = ((written[name], x) for name, x in tensors_of(model, table))
    write_tensors(folder, itertools.chain(tensors, carried.items()), sizes, shard_bytes)
    if origin is not None and origin.generation:
        write_json(folder / GENERATION, json.loads(origin.generation) | begins)
    elif origin is None and tokenizer is not None and type(model).__name__ in _GENERATING:
        write_json(folder / GENERATION, special | begins)
    if tokenizer is not None:
        write_tokenizer(tokenizer, folder, model, {} if origin is None else json.loads(origin.tokenizer))
    write_json(folder / CONFIG, theirs)


def _identified(source: str | Path, model: str | None) -> tuple[Path, dict[str, Any], type[Family], str]:
    """The folder of a checkpoint, its `config.json`, its family, and which class of theirs it is to be."""
    folder = _folder(source)
    theirs = read_json(folder / CONFIG)
    family = FAMILIES[_family_of(theirs, folder)]
    return folder, theirs, family, _architecture(family, theirs, model)


def _folder(source: str | Path) -> Path:
    folder = Path(source)
    if os.path.isdir(folder):  # which of a name that is too long is no error
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
            f"{folder / CONFIG}: {error}. A plugin can add a family: register a subclass of interop.Family, "
            "in a file that --plugin names"
        ) from None
    return name


def _architecture(family: type[Family], theirs: Mapping[str, Any], model: str | None) -> str:
    """The class of theirs: what the file says, if that is the model that is asked for."""
    ours = list(dict.fromkeys(family.architectures.values()))
    said = theirs.get("architectures") or list(family.architectures)[:1]
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise ConfigError(f"config.json: architectures must be a list of names of classes, got {said!r}")
    if model is not None:
        check_choice(f"the model of a folder of {family.name!r}", model, [*ours, *family.architectures])
        fitting = [name for name, of in family.architectures.items() if model in (name, of)]
        return next((name for name in said if name in fitting), fitting[0])
    for name in said:
        if name in family.architectures:
            return name
    raise ConfigError(
        f"config.json says architectures={said}; of the family {family.name!r}, known are {list(family.architectures)}: "
        f"say model={' or '.join(map(repr, ours))} to load what fits"
    )


def _ends(family: type[Family], theirs: Mapping[str, Any], architecture: str, tensors: Tensors) -> dict[str, str]:
    """The names of the tensors of the embedding and the output, of an output that is tied of the embedding alone.

    The tensors say it, whatever `config.json` does: one of them alone is both, and two that differ are two.
    """
    if not _has_output(family, architecture):
        return {}
    found = family.names(tensors.stored, [family.embedding, family.output])
    if len(found) == 2 and family.completed(theirs, architecture).get("tie_word_embeddings", True):
        if np.array_equal(*map(tensors.read, found.values())):
            return {family.embedding: found[family.embedding]}
    return found if len(found) == 2 else dict.fromkeys([family.embedding], *found.values()) if found else {}


def _has_output(family: type[Family], architecture: str) -> bool:
    """Says that a model of ours projects to a vocabulary, perhaps by its own matrix."""
    return bool(family.output) and "output" in {
        of.name for of in dataclasses.fields(family.model_of(architecture).Config)
    }


def _config(
    family: type[Family], theirs: Mapping[str, Any], architecture: str, tensors: Tensors, dtype: str | None
) -> tuple[Any, dict[str, str]]:
    """Our config, with the ties that tensors have, and the dtype; and the tensors of `_ends`."""
    ends = _ends(family, theirs, architecture, tensors)
    if dtype is None:
        kinds = {of.dtype for of in tensors.stored.values()} & DTYPES.keys()
        dtype = _widest(DTYPES[kind] for kind in kinds or {"F32"}).name
        if dtype == "float64":
            raise DataError("the tensors are of float64, which no model of ours is: load them with dtype='float32'")
    changes: dict[str, Any] = family.by_tensors(tensors.stored)
    changes["precision"] = f"params={dtype},compute={dtype},output=float32"
    if _has_output(family, architecture):
        changes["output"] = {"tie": family.output not in ends}
    return family.read_config(theirs, architecture, **changes), ends


def _widest(dtypes: Iterable[Any]) -> np.dtype:
    """The dtype that holds all of these: float32 of bfloat16 and float16, which NumPy does not know to promote."""
    return functools.reduce(jax.numpy.promote_types, map(jax.numpy.dtype, dtypes))


def _checked(
    family: type[Family],
    architecture: str,
    table: Sequence[Entry],
    tensors: Tensors,
    folder: Path,
    ends: Mapping[str, str],
) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """The name in the files of each tensor, what was passed over, and what is carried; all that is wrong is in one error."""
    stored = tensors.stored
    names = family.names(stored, [entry.name for entry in table]) | ends
    rest = sorted(stored.keys() - names.values() - set(family.names(stored, [family.output]).values()))
    carried = tuple(name for name in rest if family.is_carried(name, architecture))
    left_over = tuple(name for name in rest if name not in carried and family.is_leftover(name))
    lost = sorted({entry.name for entry in table} - names.keys())
    wrong = [f"missing: {name}" for name in lost if not fits(name, family.optional)]
    wrong += [f"unexpected: {name} {stored[name].shape}" for name in rest if name not in (*left_over, *carried)]
    for entry in table:
        if (name := names.get(entry.name)) is not None and stored[name].shape != entry.shape:
            wrong.append(f"misshapen: {name} must be {entry.shape}, got {stored[name].shape}")
    for name in sorted({*names.values(), *carried}):
        if stored[name].dtype not in DTYPES:
            wrong.append(f"of another dtype: {name} must be one of {list(DTYPES)}, got {stored[name].dtype}")
    if wrong:
        raise DataError(f"{folder} does not hold the tensors that its {CONFIG} says:\n  " + "\n  ".join(wrong))
    return names, left_over, carried


def _spelt(family: type[Family], name: str, names: Mapping[str, str]) -> str:
    """Spelling of a name of the table in the files: as it is there, of one whose values another has; "": they have only zeros."""
    there = names.get(name, "")
    return there if not there or family.names({there: None}, [name]) else name


def _bytes_of(names: Sequence[str], tensors: Tensors) -> bytes:
    """Tensors as a safetensors file, which unlike arrays can be compared: models that differ in them are two structures."""
    return safetensors.numpy.save({name: tensors.read(name) for name in names})


def tensors_of(model: Any, table: Sequence[Entry]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and values of each tensor of a table, of a model or of what has its structure, such as a gradient."""
    held = named(model)
    for entry in table:
        arrays = [np.asarray(held[of.path])[of.index] for of in entry.held]
        yield entry.name, entry.view.write(arrays, entry.infos)


def _origin_of(model: Any, family: type[Family]) -> Origin | None:
    origin = getattr(model, "origin", None)
    return origin if origin is not None and origin.family == family.name else None


def said_by(model: Any, family: str | None) -> tuple[type[Family], str, dict[str, Any]]:
    """The family and the class of theirs that a model is saved as, and the `config.json` that says its config."""
    origin = getattr(model, "origin", None)
    if family is None and origin is not None:
        family = origin.family
    if family is not None:
        check_choice("family", family, FAMILIES)
    reasons: list[str] = []
    lacking: list[str] = []
    for one in FAMILIES.values() if family is None else [FAMILIES[family]]:
        fitting = [name for name, ours in one.architectures.items() if ours == type(model).__name__]
        if not fitting:
            lacking.append(f"the family {one.name!r} has no {type(model).__name__}")
        if origin is not None:
            fitting.sort(key=lambda name: name != origin.architecture)
        for name in fitting:
            try:
                return one, name, one.write_config(model.config, name)
            except ConfigError as error:
                reasons.append(str(error))
    # Of those that have such a model, the ones that lack the least.
    lacks = lambda reason: (" this model: " in reason, reason.count("="))
    least = [reason for reason in dict.fromkeys(reasons) if lacks(reason) == min(map(lacks, reasons))]
    nearest = "; or ".join(least[:_NEAREST] or lacking[:1])
    raise ConfigError(nearest if family else f"no family can say this model; the nearest: {nearest}")


def _merged(
    family: type[Family], architecture: str, known: dict[str, Any], theirs: dict[str, Any], config: Any
) -> dict[str, Any]:
    """The `config.json` of a loaded model: what it said, where that still says the config, and else what it has to say now."""
    result, complete = theirs | known, lambda said: family.completed(said, architecture)
    for field in family.fields_of(architecture):
        if not field.keys:
            continue
        there = any(key in known for key in field.keys)
        if not (there and field.read(complete(known)) == field.read(complete(theirs))):
            for key in field.keys:
                result.pop(key, None)
            result |= field.write(config)
    return result
