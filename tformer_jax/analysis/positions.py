"""Positions as a model is told them: how alike those that are added are, how heads turn, and how scores are biased."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ..nn import ModelConfig, Positions, PositionScheme, Stack
from ..nn.placement import fetched
from ..nn.positions import Patches
from .plots import BLUE, layer_shades, picture

_MOST_POSITIONS = 128  # of a text, evenly spread
_MOST_PATCHES = 8  # down and across, evenly spread, that others are compared with
_LEGEND_ROWS = 14
_STYLES = ("-", "--", ":", "-.")


def cosine_similarity(x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "n m"]:
    """Returns x·y / (|x| |y|) of each pair of vectors; 0 where one of them is 0."""
    unit = lambda v: v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    return unit(np.asarray(x, np.float64)) @ unit(np.asarray(y, np.float64)).T


def position_vectors(model: Any, positions: Int[np.ndarray, "n"]) -> dict[str, Float[np.ndarray, "n D"]]:
    """Returns what a model of text adds to the embeddings at positions, by the place of the module that does so.

    Args:
      model: any; of one that adds nothing, or reads images, there are none.
      positions: from 0, below the model's max_length.
    """
    found = {}
    for name, module in _modules(model, Positions):
        if module.scheme is not None:
            nothing = jnp.zeros((1, len(positions), module.model.position_axis[1]))
            found[name] = fetched(module.scheme(nothing, jnp.asarray(positions))[0])
    return found


def patch_vectors(model: Any) -> Float[np.ndarray, "P D"] | None:
    """Returns what a model of images adds to each patch, row by row; None: it reads no images, or adds nothing."""
    for _, module in _modules(model, Patches):
        config = model.config
        down, across = config.grid
        placed = config.has_class_token + config.num_registers * config.register_positions
        before = jnp.zeros((1, placed, config.d_model)) if placed else None
        vectors = fetched(module(jnp.zeros((1, down * across, config.d_model)), before)[0, placed:])
        return vectors if vectors.any() else None
    return None


def turned_similarity(scheme: PositionScheme, width: int, distances: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Returns the cosine between a head and itself turned by distances: of rotary positions, the mean cosine of its pairs.

    Args:
      scheme: of positions, which turns heads.
      width: H, of a head whose numbers are all 1.
      distances: in tokens.
    """
    turn = lambda places: np.asarray(
        scheme.turn(jnp.ones((1, len(places), 1, width)), jnp.asarray(places)[None])[0, :, 0]
    )
    return cosine_similarity(turn(np.asarray(distances)), turn(np.zeros(1, int)))[:, 0]


def score_biases(model: Any, distances: Int[np.ndarray, "n"]) -> dict[str, Float[np.ndarray, "N n"]]:
    """Returns what is added to the scores of each head, by the place of the stack; of biases by layer, the first's that has some.

    Args:
      model: any; of one that adds nothing there are none.
      distances: from the query to the key, in tokens; those below 0 are of keys before it.
    """
    found = {}
    query = jnp.full((1, 1), max(0, -int(np.min(distances))))
    for name, stack in _modules(model, Stack):
        own = [] if stack.position_biases is None else stack.apart().position_biases.tail
        modules = [module for module in (stack.position_bias, *own) if module is not None]
        if modules:
            found[name] = fetched(modules[0](query, query + jnp.asarray(distances)[None])[0, :, 0])
    return found


def plot_positions(model: Any, file: Path, *, subject: Any = "") -> str | None:
    """Draws what a model is told of positions; returns why there is nothing to draw, or None.

    The similarity of the vectors that are added to tokens or patches, learned or not; of heads that are turned, that of a
    head with itself further on; the biases of scores by distance.

    Args:
      model: any.
      file: where the picture goes.
      subject: see `plots.picture`.
    """
    panels, config = [], model.config
    if (patches := patch_vectors(model)) is not None:
        panels.append(lambda axes: _draw_patches(axes, patches, config.grid))
    if (length := getattr(config, "max_length", None)) is not None:
        places = np.unique(np.linspace(0, length - 1, min(length, _MOST_POSITIONS)).round().astype(int))
        for name, vectors in _merged(position_vectors(model, places)).items():
            panels.append(lambda axes, name=name, vectors=vectors: _draw_vectors(axes, name, vectors, places, length))
        reach = min(length - 1, _MOST_POSITIONS)
        if turns := _turns(config):
            panels.append(lambda axes: _draw_turns(axes, turns, config, np.arange(reach + 1)))
        for name, biases in score_biases(model, np.arange(-reach, reach + 1)).items():
            panels.append(lambda axes, name=name, biases=biases: _draw_biases(axes, name, biases, reach))
    if not panels:
        return f"positions.name={config.positions.name!r} tells the model of no positions that can be drawn"
    with picture(file, f"Positions: {config.positions.name}", subject, 4.6 * len(panels)) as figure:
        for axes, draw in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
            draw(axes)
    return None


def _modules(model: Any, kind: type) -> list[tuple[str, Any]]:
    """The modules of a kind within a model, with their places in it."""
    is_kind = lambda x: isinstance(x, kind)
    found = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_kind)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in found if is_kind(x)]


def _merged(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by their names, those that are the same by all of theirs."""
    merged: dict[str, np.ndarray] = {}
    for name, array in found.items():
        same = [other for other, there in merged.items() if np.array_equal(array, there)]
        merged[f"{same[0]} and {name}" if same else name] = merged.pop(same[0]) if same else array
    return merged


def _turns(config: ModelConfig) -> dict[PositionScheme, list[int]]:
    """The schemes that turn heads, and the layers of a period that have them, from 1."""
    found: dict[PositionScheme, list[int]] = {}
    for i in range(len(config.pattern)):
        scheme = config.of_layer(i).positions
        if type(scheme).turn is not PositionScheme.turn:
            found.setdefault(scheme, []).append(i + 1)
    return found


def _draw_vectors(axes: Any, name: str, vectors: np.ndarray, places: np.ndarray, length: int) -> None:
    some = "" if len(places) == length else f", {len(places)} of {length:,} positions"
    ends = [-0.5, length - 0.5, length - 0.5, -0.5]
    _draw_similarity(axes, cosine_similarity(vectors, vectors), extent=ends)
    axes.set(title=f"{name}: similarity of the vectors{some}", xlabel="position (tokens)", ylabel="position (tokens)")


def _draw_patches(axes: Any, vectors: np.ndarray, grid: tuple[int, int]) -> None:
    rows, columns = (np.unique(np.linspace(0, n - 1, min(n, _MOST_PATCHES)).round().astype(int)) for n in grid)
    chosen = (rows[:, None] * grid[1] + columns).reshape(-1)
    maps = cosine_similarity(vectors[chosen], vectors).reshape(len(rows), len(columns), *grid)
    framed = np.pad(maps, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    joined = framed.swapaxes(1, 2).reshape(len(rows) * (grid[0] + 1), -1)[:-1, :-1]
    _draw_similarity(axes, joined)
    middles = [[i * (n + 1) + (n - 1) / 2 for i in range(len(at))] for at, n in zip((rows, columns), grid, strict=True)]
    axes.set_yticks(middles[0], rows + 1)
    axes.set_xticks(middles[1], columns + 1)
    some = "each patch" if len(chosen) == len(vectors) else f"{len(chosen)} of {len(vectors)} patches"
    axes.set(
        title=f"similarity of the vector of {some} with those of all",
        xlabel="column of the patch",
        ylabel="row of the patch",
    )


def _draw_similarity(axes: Any, similarity: np.ndarray, **how: Any) -> None:
    image = axes.imshow(similarity, vmin=-1.0, vmax=1.0, cmap="cividis", interpolation="nearest", **how)
    axes.figure.colorbar(image, ax=axes, label="cosine similarity")


def _draw_turns(axes: Any, turns: dict[PositionScheme, list[int]], config: ModelConfig, distances: np.ndarray) -> None:
    width = config.attention.head_width(config.d_model)
    for number, (scheme, layers) in enumerate(turns.items()):
        label = "all layers" if len(layers) == len(config.pattern) else f"layers {_numbers(layers)} of a period"
        values = turned_similarity(scheme, width, distances)
        axes.plot(distances, values, _STYLES[number % len(_STYLES)], color=BLUE, label=label)
    axes.set(title="a head's similarity with itself, turned; nothing of it is learned", xlabel="distance (tokens)")
    _finish_curves(axes, "cosine similarity")


def _draw_biases(axes: Any, name: str, biases: np.ndarray, reach: int) -> None:
    distances = np.arange(-reach, reach + 1)
    for head, (values, shade) in enumerate(zip(biases, layer_shades(len(biases)), strict=True)):
        axes.plot(distances, values, _STYLES[head % len(_STYLES)], color=shade, label=f"head {head + 1}")
    axes.set(title=f"{name}: what is added to scores", xlabel="distance from query to key (tokens)")
    _finish_curves(axes, "bias (of the score)")


def _finish_curves(axes: Any, label: str) -> None:
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    columns = -(-len(axes.get_lines()) // _LEGEND_ROWS)
    if len(axes.get_lines()) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, ncols=columns)


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
