"""Pictures of what a model looks at, for any task that has an example to look at."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from ..analysis.attention import attention_maps, head_numbers, token_places
from ..analysis.attention_plots import plot_attention, plot_heads, plot_image_attention
from ..analysis.plots import Subject, plural
from ..nn.placement import fetched

_ROWS = 8  # of an example
LONGEST_EXAMPLE = 128  # tokens of a row: longer ones are cut
_MOST_BYTES = 2**28  # of all weights that are looked at at once


class Side(NamedTuple):
    """One side of an example: what looks, or what is looked at.

    Attributes:
      counted: [B T], 1 where there is something, 0 at padding.
      places: where it stands, see `analysis.attention.attended_distance`.
      words: of the first row, as text; none of images.
      unit: of distances between the places.
      image: the first row, uint8 [Y X C], whose patches stand at the places that are not NaN; None: it is text.
      has_class_token: whether one comes first.
    """

    counted: np.ndarray
    places: np.ndarray
    words: Sequence[str] = ()
    unit: str = "tokens"
    image: np.ndarray | None = None
    has_class_token: bool = False


class Example(NamedTuple):
    """Some inputs to look at a model with.

    Attributes:
      batch: as `Task.read` takes it.
      sides: by the names of `attention_maps` what looks and what is looked at; or one side, for all of them.
      note: what is to be said of the first row; with several stacks, of those in which one side looks at another.
    """

    batch: Mapping[str, Any]
    sides: Side | Mapping[str, tuple[Side, Side]]
    note: str = ""

    def of(self, name: str) -> tuple[Side, Side]:
        """Returns what looks, and what is looked at, in the weights of this name."""
        return (self.sides, self.sides) if isinstance(self.sides, Side) else self.sides[name]


class Pictured(NamedTuple):
    """Material of the pictures of an evaluation.

    Attributes:
      data, split, evaluation: what was evaluated, and what came of it.
      directory: where the pictures go.
      subject: what they are of.
    """

    data: Any
    split: str
    evaluation: Any
    directory: Path
    subject: Subject


def words(tokenizer: Tokenizer, tokens: Iterable[Any]) -> list[str]:
    """Returns each of some tokens as text that can be read by itself: blanks and line ends are signs."""
    text = lambda token: tokenizer.decode([int(token)], skip_special_tokens=False)
    return [text(token).strip(" ").replace("\n", "⏎") or "␣" for token in tokens]


def text_side(tokenizer: Tokenizer, tokens: np.ndarray, lengths: np.ndarray) -> Side:
    """Returns the side of an example that is tokens [B T], of which each row has so many."""
    counted = (np.arange(tokens.shape[1]) < lengths[:, None]).astype(np.float32)
    return Side(counted, token_places(tokens.shape[1]), words(tokenizer, tokens[0, : lengths[0]]))


def some_rows(batches: Any, count: int = _ROWS, length: int = LONGEST_EXAMPLE) -> dict[str, np.ndarray]:
    """Returns rows of a batch in the middle of a split, its tokens cut to `length`; none that only fill up.

    Its arrays are "tokens" [B T], and maybe "lengths" [B], and others as long as one of these.
    """
    batch = batches.batch(len(batches) // 2)
    rows = np.flatnonzero(batch["lengths"] > 1)[:count] if "lengths" in batch else slice(count)
    width = batch["tokens"].shape[1]
    if "lengths" in batch:
        length = min(length, int(batch["lengths"][rows].max()))
    found = {name: x[rows, :length] if x.shape[1:] == (width,) else x[rows] for name, x in batch.items()}
    return found | ({"lengths": np.minimum(found["lengths"], length)} if "lengths" in found else {})


_maps = jax.jit(attention_maps, static_argnums=0)
_numbers = jax.jit(head_numbers)


def weights_of(read: Callable[[Any, Any], Any], model: Any, example: Example) -> dict[str, np.ndarray]:
    """Returns the attention weights of an example, see `attention_maps`: of all its rows, or, if they are large, the first.

    Raises:
      ValueError: there are none, or even those of one row are too many.
    """
    one = {name: x[:1] for name, x in example.batch.items()}
    shapes = jax.eval_shape(functools.partial(attention_maps, read), model, one)
    size = sum(x.size * x.dtype.itemsize for x in shapes.values())
    if size > _MOST_BYTES:
        raise ValueError(f"the attention weights of one input take {size / 2**20:,.0f} MiB")
    rows = min(len(x) for x in example.batch.values())
    return fetched(_maps(read, model, example.batch if size * rows <= _MOST_BYTES else one))


def draw_attention(read: Callable[[Any, Any], Any], model: Any, example: Example, of: Pictured) -> None:
    """Draws attention.png, what each head looks at in the first row; of several stacks, a picture of each.

    Raises:
      ValueError: see `weights_of`.
    """
    found = weights_of(read, model, example)
    for name, weights in found.items():
        first, (queries, keys) = weights[:, 0], example.of(name)
        stack, cross = name.split(".")[0], name.endswith(".cross")
        file = "attention.png" if cross or len(found) == 1 else f"attention_{stack}.png"
        title = (
            "Attention" if len(found) == 1 else f"Attention of the {stack} to {'the encoder' if cross else 'itself'}"
        )
        note = example.note if len(found) == 1 or queries is not keys else ""
        how = {"file": of.directory / file, "title": title, "subject": of.subject, "note": note}
        if queries.image is None:
            sides = [(side.words, np.flatnonzero(side.counted[0])) for side in (queries, keys)]
            (asking, rows), (asked, columns) = sides
            plot_attention(first[..., rows, :][..., columns], asking, asked, **how)
        else:
            _draw_over_image(first, queries, **how)


def _draw_over_image(weights: np.ndarray, side: Side, *, note: str, **how: Any) -> None:
    """Draws the attention of the class token, where there is one, else the mean over all patches."""
    before = int(np.isnan(side.places).any(-1).sum())
    rows = weights[:, :, :1] if side.has_class_token else weights
    over_patches = rows[..., before:].mean(2)  # [L N P]
    grid = tuple(int(n) + 1 for n in side.places[-1])
    whose = "attention of the class token" if side.has_class_token else "mean over queries"
    elsewhere = f"; {100 * (1 - over_patches.sum(-1).mean()):.0f} % goes to other tokens than patches" if before else ""
    plot_image_attention(over_patches, grid, side.image, note=f"{note}; {whose}{elsewhere}", **how)


def draw_heads(
    read: Callable[[Any, Any], Any], models: Iterable[tuple[int, Any]], example: Example, of: Pictured, note: str = ""
) -> None:
    """Draws heads.png: entropy and mean distance of each head, at the steps of some checkpoints.

    Args:
      read: see `Task.read`.
      models: by step, ascending.
      example: what all of them look at.
      of: where the picture goes.
      note: what has to be said of the steps.

    Raises:
      ValueError: see `weights_of`.
    """
    steps, found = [], {}
    for step, model in models:
        steps.append(step)
        for name, weights in weights_of(read, model, example).items():
            queries, keys = example.of(name)
            counted = queries.counted[: weights.shape[1]]
            numbers = fetched(_numbers(weights, counted, queries.places, keys.places))
            found.setdefault(name, []).append(numbers)
            rows, unit = weights.shape[1], queries.unit
    joined = {}
    for name, numbers in found.items():
        entropy, distance = (np.stack(each) for each in zip(*numbers, strict=True))
        joined[name] = (entropy, None if name.endswith(".cross") else distance)
    note = "; ".join(filter(None, (f"means over {plural(rows, 'input')}", note)))
    plot_heads(steps, joined, of.directory / "heads.png", unit=unit, subject=of.subject, note=note)
