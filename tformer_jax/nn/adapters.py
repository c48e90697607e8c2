"""Low-rank adapters (LoRA): W + scale A B in the place of a matrix W, for a model that stays as it is.

An adapter is a dictionary, from the path of a matrix in the model to {"a": A [... inputs rank], "b": B [... rank outputs]},
float32, with the same axes of layers in front as the matrix; several axes of inputs or outputs are one here.

Source: Hu et al., 2021.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..config import COUNT, ConfigError
from ..functional.numbers import Number
from .parameters import ParameterInfo, by_path, parameters

Adapter = dict[str, dict[str, nnx.Param]]

_SHOWN = 6  # paths that an error names


def init_adapter(model: Any, on: Sequence[str], rank: int, key: Array) -> Adapter:
    """Draws an adapter that changes nothing yet, as PEFT does: A is uniform within 1/√inputs and B is 0.

    Of a table, whose rows are looked up, A is 0 and B is N(0, 1).

    Args:
      model: a module; of its shapes and axes alone.
      on: regular expressions; each matrix whose whole path one of them matches has a part.
      rank: of A B.
      key: for the draw.

    Raises:
      ConfigError: no expression, or one that is none or matches no matrix; a rank that is no positive integer; or a
        matrix that cannot have a part (see `check_untied`).
    """
    COUNT.check("rank", rank)
    matrices = {path: info for path, info in parameters(model).items() if info.is_matrix}
    chosen = _chosen(on, matrices)
    adapter = {}
    for i, path in enumerate(chosen):
        info = matrices[path]
        check_untied(model, path, info)
        (*several, inputs), (*_, outputs) = sides(info)
        a, b = jnp.zeros((*several, inputs, rank)), jnp.zeros((*several, rank, outputs))
        if info.role == "embedding":
            b = jax.random.normal(jax.random.fold_in(key, i), b.shape)
        else:
            limit = 1 / math.sqrt(inputs)
            a = jax.random.uniform(jax.random.fold_in(key, i), a.shape, minval=-limit, maxval=limit)
        adapter[path] = adapter_part(info, a, b)
    return adapter


def _chosen(on: Sequence[str], paths: Collection[str]) -> list[str]:
    """The paths that one of these expressions matches."""
    if not on:
        raise ConfigError("an adapter needs a regular expression of the matrices that it is on, got none")
    for pattern in on:
        try:
            matched = any(re.fullmatch(pattern, path) for path in paths)
        except (re.error, TypeError) as error:
            raise ConfigError(f"{pattern!r} is no regular expression: {error}") from None
        if not matched:
            there = ", ".join([*paths][:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
            raise ConfigError(f"no matrix has a path that matches {pattern!r}; there are {there}")
    return [path for path in paths if any(re.fullmatch(pattern, path) for pattern in on)]


def sides(info: ParameterInfo) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the sizes of a matrix's axes of layers and experts, followed by that of its inputs, and of its outputs."""
    size = lambda axes: math.prod(info.shape[i] for i in axes)
    several = tuple(info.shape[i] for i in info.independent)
    return (*several, size(info.inputs)), (*several, size(info.outputs))


def adapter_part(info: ParameterInfo, a: Array, b: Array) -> dict[str, nnx.Param]:
    """Makes the part of an adapter that is for a matrix: parameters that say what they are, so that any optimiser trains them.

    A has the role of the matrix, whose inputs are its own; B's inputs stay as few in a wider model.
    """
    of_a = dict(axes=(*info.batch, "inputs", "rank"), contracted=("inputs",), batch=info.batch, role=info.role)
    of_b = dict(axes=(*info.batch, "rank", "outputs"), contracted=("rank",), batch=info.batch, role="input")
    return {"a": nnx.Param(a, **of_a), "b": nnx.Param(b, **of_b)}


def with_adapter(model: Any, adapter: Adapter, scale: Number = 1.0) -> Any:
    """Returns the model with W + scale A B in the place of each W, in the dtype of W: to use it, or to differentiate it.

    Raises:
      ValueError: the adapter is of another model.
    """
    infos = parameters(model)
    check_paths(adapter, infos)

    def one(path: str, w: Any) -> Any:
        if path not in adapter:
            return w
        a, b = adapter[path]["a"][...], adapter[path]["b"][...]
        change = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        return (w + scale * infos[path].from_matrices(change)).astype(w.dtype)

    return by_path(one, model)


def check_paths(adapter: Adapter, infos: Mapping[str, ParameterInfo]) -> None:
    """Refuses an adapter of another model than that of these parameters, with a ValueError that names the paths."""
    if unknown := adapter.keys() - infos.keys():
        raise ValueError(f"the model has no parameter {', '.join(sorted(unknown))}, for which there is an adapter")


def check_untied(model: Any, path: str, info: ParameterInfo) -> None:
    """Refuses the table of tokens that is the matrix of the output too: what is meant for one of them changes both.

    Raises:
      ConfigError: it is so.
    """
    output = getattr(getattr(model, "config", None), "output", None)
    of_targets = info.role == "embedding" and info.axes[0] == "vocab" and not path.startswith("source_")
    if of_targets and getattr(output, "tie", False):
        raise ConfigError(
            f"{path} is the table of embeddings and the matrix of the output, which are tied: an adapter on one changes "
            "the other too, as soon as it is merged; untie them first (model.output.tie=False)"
        )
