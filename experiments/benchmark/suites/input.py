"""Training batches by themselves, as the training loop asks for them: packed rows, buckets, windows, pieces, pictures.

A turn makes the batches of a whole epoch, the next one each time. What is counted is what the first epoch holds without
padding, tokens of both sides where there are two; another one of pieces, which are cut elsewhere each time, may hold
some more or less. Data are drawn by chance (see `data`); those of "pictures-files" lie in PNGs that are decoded and
resized; those of "jpeg", and of "jpeg-crops" at random, are JPEGs of the size of ImageNet's, 500 x 375 at quality 90, of
which 224 x 224 are made. Peers of these decode with Pillow as well, in a `DataLoader` with two workers: "torch" as
torchvision's recipes do, to normalised floats; "torch.uint8" leaves that to the device, as the project does;
"torch.bilinear" resizes by a cheaper filter, to floats. Compared are also versions of the project, or fields:
`--peers=tformer_jax@data.batch_tokens=4096`.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Row, Work, scratch

_JPEG = dict(preset="image_classification:folders", pictures=512, rows=64, image_size=224)
_LOADERS = ("torch", "torch.uint8", "torch.bilinear")
ROWS = [
    Row("packed", dict(preset="translation:tiny")),
    Row("buckets", dict(preset="translation:verses")),
    Row("labelled-buckets", dict(preset="text_classification:tiny")),
    Row("windows", dict(preset="causal_lm:tiny")),
    Row("pieces", dict(preset="masked_lm:tiny")),
    Row("pictures", dict(preset="image_classification:tiny")),
    Row("pictures-files", dict(preset="image_classification:folders", pixels=96, each=64)),
    Row("jpeg", _JPEG, _LOADERS),
    Row("jpeg-crops", _JPEG | dict(crop_area=0.08), _LOADERS),
]
_TOKENS = ("tokens", "source", "target")


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    from tformer_jax.training.experiment import Experiment

    from ..data import SOURCE
    from ..presets import config_of

    folder = scratch()
    if "pictures" in settings:
        return _jpegs(folder, settings, contender, changes)
    data = _files(folder / "images", settings) if "pixels" in settings else {"data.source": SOURCE}
    experiment = Experiment.from_config(config_of(settings["preset"], data | changes))
    return _epochs(experiment.load_data(folder).train_batches(experiment.training.accumulate))


def _epochs(batches: Any) -> Work:
    """Batches of the next epoch each time."""
    epochs = itertools.count()

    def turn() -> None:
        number = next(epochs)
        for i in range(number * len(batches), (number + 1) * len(batches)):
            batches.batch(i)

    return Work(turn, *counted([batches.batch(i) for i in range(len(batches))]))


def _jpegs(folder: Path, settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    """An epoch of JPEGs, of which each class has as many for validation and for test."""
    count, rows, size = (settings[name] for name in ("pictures", "rows", "image_size"))
    files = _write_jpegs(folder / "images", count)
    if contender != "tformer_jax":
        from ..peers import torch_pictures

        turn = torch_pictures.epoch(files["train"], rows, size, settings.get("crop_area"), contender.partition(".")[2])
        return Work(turn, count // rows * rows, "images")

    from tformer_jax.training.experiment import Experiment

    from ..presets import config_of

    fields = dict(path=str(folder / "images"), image_size=size, batch_size=rows, validation_size=None, test_size=None)
    fields |= {"crop_area": settings["crop_area"]} if "crop_area" in settings else {}
    data = {f"data.{name}": value for name, value in fields.items()}
    experiment = Experiment.from_config(config_of(settings["preset"], data | changes))
    return _epochs(experiment.load_data(folder).train_batches())


def _write_jpegs(folder: Path, count: int) -> dict[str, list[str]]:
    """Writes photographs by chance of two classes; returns the files of each split."""
    from PIL import Image

    from ..data import photograph

    files: dict[str, list[str]] = {}
    for split, number in (("train", count), ("validation", 2), ("test", 2)):
        for seed in range(number):
            file = folder / split / f"{seed % 2}" / f"{seed}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph(seed, 375, 500)).save(file, quality=90)
            files.setdefault(split, []).append(str(file))
    return files


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
