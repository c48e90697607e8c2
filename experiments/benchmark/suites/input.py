"""Training batches by themselves, as the training loop asks for them: packed rows, buckets, windows, pieces, pictures.

A turn makes the batches of a whole epoch, the next one each time. What is counted is what the first epoch holds without
padding, tokens of both sides where there are two; another one of pieces, which are cut elsewhere each time, may hold
some more or less. Data are drawn by chance (see `data`); those of "pictures-files" lie in PNGs that are decoded and
resized. Compared are versions of the project, or fields: `--peers=tformer_jax@data.batch_tokens=4096`.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Row, Work, scratch

ROWS = [
    Row("packed", dict(preset="translation:tiny")),
    Row("buckets", dict(preset="translation:verses")),
    Row("labelled-buckets", dict(preset="text_classification:tiny")),
    Row("windows", dict(preset="causal_lm:tiny")),
    Row("pieces", dict(preset="masked_lm:tiny")),
    Row("pictures", dict(preset="image_classification:tiny")),
    Row("pictures-files", dict(preset="image_classification:folders", pixels=96, each=64)),
]
_TOKENS = ("tokens", "source", "target")


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    from tformer_jax.training.experiment import Experiment

    from ..data import SOURCE
    from ..presets import config_of

    folder = scratch()
    data = _files(folder / "images", settings) if "pixels" in settings else {"data.source": SOURCE}
    experiment = Experiment.from_config(config_of(settings["preset"], data | changes))
    batches = experiment.load_data(folder).train_batches(experiment.training.accumulate)
    epochs = itertools.count()

    def turn() -> None:
        number = next(epochs)
        for i in range(number * len(batches), (number + 1) * len(batches)):
            batches.batch(i)

    return Work(turn, *counted([batches.batch(i) for i in range(len(batches))]))


def counted(batches: Sequence[Mapping[str, np.ndarray]]) -> tuple[int, str]:
    """Counts what batches hold without padding, which is 0 in tokens and -1 in labels; and its unit."""
    if "images" in batches[0]:
        return sum(int((batch["labels"] >= 0).sum()) for batch in batches), "images"
    return sum(int(np.count_nonzero(batch[name])) for batch in batches for name in _TOKENS if name in batch), "tokens"


def _files(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Writes PNGs of each class; returns the fields of the data section that go with them."""
    from PIL import Image

    from ..data import pictures

    of_class, sizes = settings["each"], dict(image_size=settings["pixels"], num_channels=3)
    found = pictures(10 * of_class, **sizes)
    images = found.splits["train"]
    for number, label in enumerate(images.labels):
        file = folder / "train" / found.classes[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[number]).save(file)
    held_out = {f"data.{split}_size": of_class for split in ("validation", "test")}
    return {"data.path": str(folder)} | held_out
