"""Adapters (LoRA) as PEFT keeps them: `adapter_model.safetensors` and `adapter_config.json`, in and out.

PEFT has an adapter for each of its modules, [r inputs] and [outputs r]. Where one module holds several of our matrices, as
the queries, keys and values of GPT-2, ours together are one of theirs: their A's are stacked, and B has blocks, with zeros
for a matrix that has no adapter.
"""

import collections
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ..config import ConfigError
from ..data.files import DataError, read_json, reading, write_whole
from ..nn.adapters import Adapter, adapter_part, check_paths, check_untied, sides
from ..nn.parameters import ParameterInfo, parameters
from .family import Family
from .files import copy, tensors_in, write_json
from .pretrained import said_by, tensors_of
from .tensors import Entry, Sides, entries

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_BEFORE = "base_model.model."
_NAME = re.compile(rf"{re.escape(_BEFORE)}(.+)\.(lora_[AB]|lora_embedding_[AB]|base_layer)(?:\.weight)?")
_TASKS = {"CausalLM": "CAUSAL_LM", "Transformer": "SEQ_2_SEQ_LM"}
# Keys of `adapter_config.json` that are read here, and those that say nothing of the function once tensors are there.
_READ = ("alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern")
_HARMLESS = (
    "auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "target_modules", "task_type",
)  # fmt: skip
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # others change the base's weights too


def save_adapter(
    model: Any,
    adapter: Adapter,
    folder: str | Path,
    *,
    scale: float = 1.0,
    base: str | None = None,
    family: str | None = None,
) -> None:
    """Saves an adapter as a folder that PEFT loads.

    Args:
      model: that it is of, without it.
      adapter: see `nn.with_adapter`.
      folder: to write to; made if it is not there.
      scale: of A B, which is `lora_alpha` / r there.
      base: the name or folder of the model, for who reads the files.
      family: by name, as in `save_pretrained`.

    Raises:
      ConfigError: no family can say the model, or no module of theirs holds a matrix that has an adapter.
      ValueError: the adapter is of another model or of no matrix, or the scale is not finite.
    """
    check_paths(adapter, parameters(model))
    if not adapter or not math.isfinite(scale):
        raise ValueError(f"an adapter needs a matrix that it is on and a finite scale, got {len(adapter)} and {scale}")
    chosen, architecture, _ = said_by(model, family)
    table = entries(chosen.rows_of(architecture), model)
    arrays = {
        path: {name: np.asarray(x[...], np.float32) for name, x in part.items()} for path, part in adapter.items()
    }
    tensors, ranks, conv1d = {}, {}, False
    for entry in table:
        if not any(held.path in arrays for held in entry.held):
            continue
        module, names = _module(entry, model), _names(entry)
        a, b = _fused(entry, arrays)
        tensors |= {names[0]: np.ascontiguousarray(a.T), names[1]: np.ascontiguousarray(b)}
        ranks[module] = a.shape[1]
        conv1d |= not entry.view.transposed and not _is_table(entry)
    usual = collections.Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    alpha = lambda rank: int(scale * rank) if float(scale * rank).is_integer() else scale * rank
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)  # it comes last: no tensors are read with the config of others
    write_whole(folder / TENSORS, safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    said = dict(
        peft_type="LORA", task_type=_TASKS.get(type(model).__name__), base_model_name_or_path=base, inference_mode=True,
        r=usual, lora_alpha=alpha(usual), rank_pattern=others, alpha_pattern={n: alpha(rank) for n, rank in others.items()},
        target_modules=_endings(ranks, [entry.name.removesuffix(".weight") for entry in table]),
        fan_in_fan_out=conv1d, bias="none", lora_dropout=0.0, modules_to_save=None, use_rslora=False, use_dora=False,
    )  # fmt: skip
    write_json(folder / CONFIG, said)


def load_adapter(folder: str | Path, model: Any, *, family: str | None = None) -> tuple[Adapter, float]:
    """Loads an adapter that PEFT saved: `nn.with_adapter(model, *load_adapter(folder, model))` is the model with it merged.

    Matrices that one module of theirs holds have the same A each, and their part of its B. Layers whose module has no
    adapter have zeros.

    Args:
      folder: of theirs.
      model: of ours, that it is for.
      family: by name, as in `save_pretrained`.

    Returns:
      The adapter, and the scale of A B.

    Raises:
      DataError: a file is missing or damaged, or tensors are missing, unexpected or misshapen (lists them all).
      ConfigError: no family can say the model, or an option that ours does not have (names it).
    """
    folder = Path(folder)
    said, tensors = read_json(folder / CONFIG), _tensors_in(folder)
    _check_said(said, folder)
    chosen, architecture, _ = said_by(model, family)
    found = _by_entry(chosen, architecture, model, tensors, said, folder)
    infos, layers = parameters(model), collections.defaultdict(dict)
    scales = [_number(said, "alpha", module, folder) / len(a) for _, module, a, _ in found]
    whole = next(filter(None, scales), 0.0)
    for scale, (entry, _, a, b) in zip(scales, found, strict=True):
        # What differs from the scale of the whole is B's.
        for held, of_part in zip(entry.held, _parts(entry, b), strict=True):
            layers[held.path][held.index] = a.T, (scale / whole if whole else 1.0) * of_part
    return {path: _stacked(infos[path], of_layers) for path, of_layers in layers.items()}, whole


def _module(entry: Entry, model: Any) -> str:
    """The path of the module of theirs that a tensor is the weight of, which PEFT can adapt."""
    held = entry.held[0]
    check_untied(model, held.path, held.info)
    if not (entry.name.endswith(".weight") and isinstance(entry.view, Sides) and held.info.is_matrix):
        raise ConfigError(f"{held.path} is {entry.name} there, no linear map or table that PEFT has adapters for")
    if held.path == "target_embedding.table":
        raise ConfigError(
            f"{held.path} is one table for sources and targets, and there a module for each: leave it out"
        )
    return entry.name.removesuffix(".weight")


def _names(entry: Entry) -> tuple[str, str]:
    """The names of the tensors of A and B."""
    before = _BEFORE + entry.name.removesuffix(".weight")
    return tuple(f"{before}.lora_embedding_{x}" if _is_table(entry) else f"{before}.lora_{x}.weight" for x in "AB")


def _is_table(entry: Entry) -> bool:
    return entry.infos[0].role == "embedding"


def _of_rank(info: ParameterInfo, rank: int) -> ParameterInfo:
    """The description of B [rank outputs], of one layer."""
    shape, axes = ([of[i] for i in info.outputs] for of in (info.shape, info.axes))
    return ParameterInfo((rank, *shape), ("rank", *axes), ("rank",), (), info.role)


def _fused(entry: Entry, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """A [inputs r] and B [outputs r] of a module. Parts of one A, as they are where they were loaded, share it."""
    distinct, blocks = [], []
    for held in entry.held:
        if held.path not in arrays:
            continue
        a, b = (arrays[held.path][name][held.index] for name in "ab")
        number = next((i for i, other in enumerate(distinct) if np.array_equal(a, other)), len(distinct))
        distinct += [a] if number == len(distinct) else []
        blocks.append((held.path, number, b))
    ends = np.cumsum([0, *(a.shape[1] for a in distinct)])
    infos = [_of_rank(info, int(ends[-1])) for info in entry.infos]
    whole = {
        held.path: np.zeros(math.prod(info.shape), np.float32) for held, info in zip(entry.held, infos, strict=True)
    }
    whole = {path: x.reshape(ends[-1], -1) for path, x in whole.items()}
    for path, number, b in blocks:
        whole[path][ends[number] : ends[number + 1]] = b
    parts = [info.from_matrices(x) for info, x in zip(infos, whole.values(), strict=True)]
    b = entry.view.write(parts, infos)
    return np.concatenate(distinct, 1), b if entry.view.transposed else b.T


def _parts(entry: Entry, b: np.ndarray) -> list[np.ndarray]:
    """B [rank outputs] of each matrix from that of the module, [outputs r]."""
    infos = [_of_rank(info, b.shape[1]) for info in entry.infos]
    parts = entry.view.read(b if entry.view.transposed else b.T, infos)
    return [info.as_matrices(part) for info, part in zip(infos, parts, strict=True)]


def _stacked(info: ParameterInfo, layers: Mapping[tuple[int, ...], tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The part of an adapter for one of our matrices, from A and B of its layers; a lower rank is filled up with zeros."""
    (*several, inputs), (*_, outputs) = sides(info)
    rank = max(a.shape[1] for a, _ in layers.values())
    whole = np.zeros((*several, inputs, rank), np.float32), np.zeros((*several, rank, outputs), np.float32)
    for index, (a, b) in layers.items():
        whole[0][index][:, : a.shape[1]] = a
        whole[1][index][: len(b)] = b
    return adapter_part(info, *map(jnp.asarray, whole))


def _endings(chosen: Collection[str], modules: Sequence[str]) -> list[str]:
    """The shortest endings of paths that mean these modules and no others, as "c_attn" or "attn.c_proj"."""
    for count in (1, 2, 3):
        endings = {".".join(module.split(".")[-count:]) for module in chosen}
        meant = {module for module in modules if any(f".{module}".endswith(f".{ending}") for ending in endings)}
        if meant == set(chosen):
            return sorted(endings)
    return sorted(chosen)


def _tensors_in(folder: Path) -> dict[str, np.ndarray]:
    if not (folder / TENSORS).is_file() and (folder / "adapter_model.bin").is_file():
        raise DataError(f"{folder} has its tensors in adapter_model.bin: such a file may run code when it is read")
    with reading(folder / TENSORS, safetensors.SafetensorError, ValueError):
        tensors = tensors_in((folder / TENSORS).read_bytes())
        wide = {name: np.empty(x.shape, np.float32) for name, x in tensors.items()}
        for name, x in tensors.items():
            copy(wide[name], x, name)
    return wide


def _check_said(said: Mapping[str, Any], folder: Path) -> None:
    """Refuses what would make their function another one than W + scale A B."""
    wrong = [key for key, value in said.items() if key not in (*_READ, *_HARMLESS) and value]
    wrong += ["peft_type"] if said.get("peft_type") != "LORA" else []
    wrong += ["bias"] if said.get("bias", "none") != "none" else []
    wrong += ["init_lora_weights"] if said.get("init_lora_weights") not in _STARTS else []
    if wrong:
        what = ", ".join(f"{key}={said.get(key)!r}" for key in wrong)
        raise ConfigError(f"{folder / CONFIG} says {what}, which is not supported")


def _number(said: Mapping[str, Any], name: str, module: str, folder: Path) -> float:
    """`lora_alpha` or the rank of a module: the first pattern that its path ends with may say another."""
    key = {"alpha": "lora_alpha", "rank": "r"}[name]
    with reading(folder / CONFIG, re.error, TypeError, ValueError, AttributeError):
        patterns = (said.get(f"{name}_pattern") or {}).items()
        fitting = [value for pattern, value in patterns if re.match(rf"(.*\.)?({pattern})$", module)]
        value = float(fitting[0] if fitting else said.get(key, 8))
        if not math.isfinite(value):
            raise ValueError(f"{key} must be finite, got {value}")
    return value


def _by_entry(
    family: type[Family],
    architecture: str,
    model: Any,
    tensors: Mapping[str, np.ndarray],
    said: Mapping[str, Any],
    folder: Path,
) -> list[tuple[Entry, str, np.ndarray, np.ndarray]]:
    """Each weight that has an adapter, its module, A [r inputs] and B [outputs r]; all that is wrong is in one error."""
    table = {entry.name: entry for entry in entries(family.rows_of(architecture), model)}
    modules, wrong = collections.defaultdict(dict), []
    for name, x in tensors.items():
        match = _NAME.fullmatch(name)
        module, what = match.groups() if match else (name, "")
        modules[module][what] = x
    names = family.names({f"{module}.weight": None for module in modules}, [*table, family.output])
    found, result = {theirs.removesuffix(".weight"): ours for ours, theirs in names.items()}, []
    for module, pair in modules.items():
        name = found.get(module)
        if name == family.output and name not in table:
            raise ConfigError(f"{folder} has an adapter of {module}, which is tied to the embeddings: untie them first")
        if name is None or "" in pair:
            wrong.append(f"unexpected: {module}")
            continue
        entry, a, b = table[name], *(pair.get(f"lora_{'embedding_' * _is_table(table[name])}{x}") for x in "AB")
        _module(entry, model)
        (inputs,), outputs = sides(entry.infos[0])[0], sum(sides(info)[1][-1] for info in entry.infos)
        if a is None or b is None or a.ndim != 2 or a.shape[1] != inputs or b.shape != (outputs, len(a)) or not len(a):
            shapes = ["none" if x is None else list(x.shape) for x in (a, b)]
            wrong.append(f"misshapen: {module} must have A [r, {inputs}] and B [{outputs}, r], got {shapes}")
        elif (rank := _number(said, "rank", module, folder)) != len(a):
            wrong.append(f"of another rank: {module} has {len(a)}, and {CONFIG} says {rank:g}")
        elif "base_layer" in pair and not np.array_equal(pair["base_layer"], next(tensors_of(model, [entry]))[1]):
            wrong.append(f"of another model: {module}.base_layer is not as the model has it")
        else:
            result.append((entry, module, a, b))
    if wrong or not result:
        lines = "\n  ".join(wrong) or "it holds none"
        raise DataError(f"{folder / TENSORS} is no adapter of this model:\n  {lines}")
    return result
