"""Pictures of a run: the loss curve, and where one sentence attends."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import write_whole

# Which Matplotlib writes without other programs.
_FORMATS = ("png", "pdf", "svg", "eps", "jpg", "jpeg", "tif", "tiff", "webp")


def plot_loss(rows: Sequence[dict[str, float]], file: Path) -> None:
    """Training and validation loss against the step, from the rows of a metrics.jsonl, as a PNG."""
    figure = _figure(7, 4.2)
    axes = figure.add_subplot()
    for name, label, style in (
        ("loss", "training (with dropout, smoothing, augmentation)", "-"),
        ("validation_loss", "validation", "o-"),
    ):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=3.5)
    axes.set(xlabel="step", ylabel="nats", title="Loss")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_picture(figure, file)


def plot_attention(weights: np.ndarray, queries: Sequence[str], keys: Sequence[str], title: str, file: Path) -> None:
    """Attention weights [N T S], a panel a head, with the tokens on the axes, as a PNG.

    Args:
      weights: of one sentence and one layer.
      queries, keys: the T and S tokens as text.
      title: above all panels.
      file: where the PNG goes.
    """
    heads = len(weights)
    columns = min(4, heads)
    rows = -(-heads // columns)
    width, height = 0.28 * len(keys) + 1.2, 0.28 * len(queries) + 1.1
    figure = _figure(columns * max(width, 2.2), rows * max(height, 2.0) + 0.4)
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for head, axes in enumerate(panels.flat):
        if head >= heads:
            axes.set_axis_off()
            continue
        image = axes.imshow(weights[head], vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
        axes.set_title(f"head {head + 1}", fontsize=9)
        axes.set_xticks(range(len(keys)), keys, rotation=90, fontsize=8)
        axes.set_yticks(range(len(queries)), queries, fontsize=8)
    figure.colorbar(image, ax=panels, shrink=0.8, label="weight")
    save_picture(figure, file)


def save_picture(figure: Any, file: Path) -> None:
    """Writes a figure of Matplotlib whole or not at all, in the format of the file's suffix, without one as a PNG.

    Raises:
      ValueError: the suffix is of none of `_FORMATS`.
      WriteError: the file cannot be written.
    """
    from matplotlib.text import Text  # here: see `_figure`

    kind = file.suffix.removeprefix(".").lower() or "png"
    if kind not in _FORMATS:
        raise ValueError(
            f"Format {kind!r} is not supported: give {file.name} one of the suffixes {', '.join(_FORMATS)}"
        )
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a "$" in a name is no formula
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=150)
    write_whole(file, content.getvalue())


def _figure(width: float, height: float):
    from matplotlib.figure import Figure  # here: a command that draws nothing starts without Matplotlib

    return Figure(figsize=(width, height), layout="constrained")
