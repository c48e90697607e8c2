"""Pictures of what heads look at: in a text, in an image, and over training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .attention import sharpest_head
from .classes import shortened
from .plots import GREY, ORANGE, WIDTH, layer_shades, picture, shades

_MOST_WORDS = 24  # that can be read along an axis
_MOST_MAPS = 12  # along a side of the small ones
_LONGEST_WORD = 14
_FEW_TICKS = (0.0, 0.1, 0.5)
_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def plot_attention(
    weights: Float[np.ndarray, "L N T S"],
    queries: Sequence[str],
    keys: Sequence[str],
    file: Path,
    *,
    title: str = "Attention",
    subject: Any = "",
    note: str = "",
) -> None:
    """Draws the attention of one text: a small map for each layer and head, and the sharpest of them with its words.

    Enlarged is the head whose rows have the lowest mean entropy, which is framed above. Of long texts the first words are
    enlarged, and of many layers and heads some are drawn, evenly spread; the picture says so.

    Args:
      weights: of all layers and heads, of T queries over S keys.
      queries, keys: the T and S tokens as text.
      file: where the picture goes.
      title, subject: see `picture`.
      note: more to be said of the text.
    """
    layer, head, entropy = sharpest_head(weights)
    T, S = (min(_MOST_WORDS, count) for count in weights.shape[2:])
    layers, heads = (_some(count, at) for count, at in zip(weights.shape[:2], (layer, head), strict=True))
    small = len(layers) * float(np.clip(WIDTH / len(heads) * weights.shape[2] / weights.shape[3], 0.35, 0.9)) + 0.6
    large = 0.24 * T + 0.3 + 0.085 * max(len(shortened(key, _LONGEST_WORD)) for key in keys[:S])
    with picture(file, f"{title}: {_what(weights, layers, heads)}", _joined(subject, note), small + large) as figure:
        above, below = figure.subplots(2, 1, height_ratios=(small, large))
        image = _draw_small(above, weights, layers, heads, (layer, head))
        below.imshow(weights[layer, head, :T, :S], norm=image.norm, cmap=shades(), aspect="auto")
        below.set_xticks(range(S), [shortened(key, _LONGEST_WORD) for key in keys[:S]], rotation=90)
        below.set_yticks(range(T), [shortened(query, _LONGEST_WORD) for query in queries[:T]])
        below.set(xlabel="is looked at", ylabel="looks")
        below.set_title(f"{_named(layer, head, entropy)}{_first_words(weights, T, S)}")
        _colour_bar(figure, image, [above, below])


def plot_image_attention(
    weights: Float[np.ndarray, "L N P"],
    grid: tuple[int, int],
    image: np.ndarray,
    file: Path,
    *,
    title: str = "Attention",
    subject: Any = "",
    note: str = "",
) -> None:
    """Draws the attention over one image, a small map of its patches for each layer and head.

    Enlarged, laid over the image, is the head with the lowest entropy over patches: the more a patch is looked at, the
    more orange it is.

    Args:
      weights: over the P patches, of each layer and head.
      grid: patches down and across, P of them.
      image: uint8 [Y X C], C is 1 or 3.
      file: where the picture goes.
      title, subject: see `picture`.
      note: whose attention it is, and more to be said.
    """
    from matplotlib.colors import ListedColormap  # here: see `plots.picture`

    layer, head, entropy = sharpest_head(weights[:, :, None])
    layers, heads = (_some(count, at) for count, at in zip(weights.shape[:2], (layer, head), strict=True))
    small = len(layers) * min(1.5, (WIDTH - 1.6) / len(heads)) + 0.6
    maps = weights.reshape(*weights.shape[:2], *grid)
    what = f"{title}: {_what(weights, layers, heads)}"
    with picture(file, what, _joined(subject, note), small + 3.4) as figure:
        top, bottom = figure.subfigures(2, 1, height_ratios=(small, 3.4))
        above, (left, right) = top.subplots(1, 1), bottom.subplots(1, 2)
        drawn = _draw_small(above, maps, layers, heads, (layer, head), equal=True)
        drawn.norm.vmax = float(weights.max())
        pixels = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
        left.imshow(pixels)
        left.set_title("the image; on the right,\nmore orange is looked at more")
        right.imshow(pixels)
        size = [-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5]
        tint = 0.8 * np.sqrt(maps[layer, head] / max(float(weights.max()), 1e-30))  # as the shades above are
        right.imshow(np.ones(grid), cmap=ListedColormap([ORANGE]), alpha=tint, extent=size, interpolation="nearest")
        right.set_title(_named(layer, head, entropy))
        for axes in (left, right):
            axes.set_axis_off()
        _colour_bar(top, drawn, [above])


def plot_heads(
    steps: Sequence[int],
    numbers: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    file: Path,
    *,
    unit: str = "tokens",
    subject: Any = "",
    note: str = "",
) -> None:
    """Draws what heads look at over training: entropy and mean distance of each, and the means of each layer.

    Args:
      steps: of the checkpoints, n of them.
      numbers: by the name of a stack, the entropy in nats and the distance, each [n L N]; None: there is no distance.
      file: where the picture goes.
      unit: of the distance.
      subject: see `picture`.
      note: more to be said.
    """
    layers = max(entropy.shape[1] for entropy, _ in numbers.values())
    height = 3.3 * len(numbers) + 0.25 * (1 + layers // 5)
    with picture(file, "What heads look at over training", _joined(subject, note), height) as figure:
        panels = figure.subplots(len(numbers), 2, squeeze=False, sharex=True)
        for row, (name, of) in zip(panels, numbers.items(), strict=True):
            for axes, found, label in zip(row, of, ("entropy (nats)", f"mean distance ({unit})"), strict=True):
                axes.set_title(name if len(numbers) > 1 else "")
                if found is None:
                    axes.text(0.5, 0.5, "no distance between two texts", ha="center", transform=axes.transAxes)
                    axes.set_axis_off()
                    continue
                for layer, shade in enumerate(layer_shades(found.shape[1])):
                    axes.plot(steps, found[:, layer], color=shade, linewidth=0.6, alpha=0.7)
                    style = {"marker": "osD^v<>Ph*X"[layer % 11], "linestyle": ("-", "--", ":", "-.")[layer % 4]}
                    axes.plot(steps, found[:, layer].mean(-1), color=shade, label=f"layer {layer + 1}", **style)
                axes.set(ylabel=label, ylim=(0, None))
                axes.grid(alpha=0.3)
        for axes in panels[-1]:
            axes.set_xlabel("step")
            axes.set_xticks(steps, [f"{step:,}" for step in steps], rotation=90 if len(steps) > 5 else 0)
        most = max((axes.get_legend_handles_labels() for axes in panels.flat), key=lambda found: len(found[0]))
        figure.legend(*most, loc="outside lower center", ncols=5, frameon=False)


def _some(count: int, wanted: int) -> np.ndarray:
    """At most `_MOST_MAPS` of so many, evenly spread; among them the one that is wanted."""
    some = np.unique(np.linspace(0, count - 1, min(count, _MOST_MAPS)).round().astype(int))
    some[np.abs(some - wanted).argmin()] = wanted
    return some


def _what(weights: np.ndarray, layers: np.ndarray, heads: np.ndarray) -> str:
    parts = zip((layers, heads), weights.shape, ("layers", "heads"), strict=False)
    said = [f"{len(some)} of {count} {what}" if len(some) < count else f"{count} {what}" for some, count, what in parts]
    return " x ".join(said).replace("1 layers", "1 layer").replace("1 heads", "1 head")


def _joined(*texts: Any) -> str:
    return "\n".join(filter(None, map(str, texts)))


def _named(layer: int, head: int, entropy: float) -> str:
    return f"layer {layer + 1}, head {head + 1}\nlowest mean entropy, {entropy:.2f} nats"


def _first_words(weights: np.ndarray, T: int, S: int) -> str:
    if (T, S) == weights.shape[2:]:
        return ""
    parts = [f"{n} of {count}" for n, count in zip((T, S), weights.shape[2:], strict=True)]
    return f"\nthe first {parts[0]} tokens look at the first {parts[1]}"


def _draw_small(
    axes: Any, maps: np.ndarray, layers: np.ndarray, heads: np.ndarray, framed: tuple[int, int], equal: bool = False
) -> Any:
    """All maps side by side in one image, a row a layer; the one that is enlarged has a frame."""
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    some = maps[np.ix_(layers, heads)]
    T, S = some.shape[2:]
    gaps = (max(1, round(0.06 * T)), max(1, round(0.06 * S)))
    wide = np.pad(some.astype(np.float64), ((0, 0), (0, 0), (0, gaps[0]), (0, gaps[1])), constant_values=np.nan)
    down, across = wide.shape[2:]
    joined = wide.swapaxes(1, 2).reshape(len(layers) * down, len(heads) * across)[: -gaps[0], : -gaps[1]]
    norm = PowerNorm(0.5, 0.0, 1.0)
    image = axes.imshow(joined, norm=norm, cmap=shades(), aspect="equal" if equal else "auto", interpolation="nearest")
    middle = lambda count, step, size: [step * i + (size - 1) / 2 for i in range(count)]
    axes.set_xticks(middle(len(heads), across, S), [str(head + 1) for head in heads])
    axes.set_yticks(middle(len(layers), down, T), [str(layer + 1) for layer in layers])
    axes.set(xlabel="head", ylabel="layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    corner = (list(heads).index(framed[1]) * across - 0.5, list(layers).index(framed[0]) * down - 0.5)
    axes.add_patch(Rectangle(corner, S, T, fill=False, edgecolor=ORANGE, linewidth=3, clip_on=False))
    return image


def _colour_bar(figure: Any, image: Any, panels: Sequence[Any]) -> None:
    bar = figure.colorbar(image, ax=panels, label="weight", aspect=40, shrink=0.9, pad=0.02)
    high = image.norm.vmax
    known = _TICKS if figure.bbox.height > 5 * figure.dpi else _FEW_TICKS
    ticks = [tick for tick in known if tick < 0.8 * high] + [high]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.outline.set_edgecolor(GREY)
