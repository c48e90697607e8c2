"""Labelled images, from where they lie to batches of pixels."""

import numpy as np

from ..config import COUNT, TRAINING, ConfigError, Wanted, check_choice, field
from . import digest
from .base import Data, DataConfig
from .batches import BatchShapes
from .batches.pictures import ImageBatches
from .files import DataError
from .sources.images import IMAGES, LabelledImages
from .splits import hold_out


class ImageClassificationDataConfig(DataConfig):
    """The `data` section of an image classification experiment.

    Attributes:
      path: folder of the images, with source="idx", "folders", "webdataset" or "parquet"; of a benchmark, a copy.
      image_size: height and width, in pixels. Image files are resized to it; images of the other
        sources must have it.
      num_channels: number of channels, 1 (grey) or 3 (RGB), to which image files are converted; images of
        the other sources must have it.
      validation_size, test_size: number of training images to hold out for that split,
        exactly, of each class its share; None exactly where the source has the split itself
        ("idx": test; "folders": path/validation, path/test).
      batch_size: number of images in a batch.
      crop_area: the least share of the area of a training image file that is shown: a random crop of it, anywhere, is
        resized, another one each time (Szegedy et al., 2015, had 0.08); None: the largest square in the middle, as of
        all other images.
      others: see `DataConfig`.
    """

    sources = IMAGES
    inputs = ("path",)

    path: str | None = field(None)
    image_size: int = field(wanted=COUNT)
    num_channels: int = field(wanted=Wanted("be 1 (grey) or 3 (RGB)", lambda x: x in (1, 3)))
    validation_size: int | None = field(None, COUNT)
    test_size: int | None = field(None, COUNT)
    batch_size: int = field(wanted=COUNT)
    crop_area: float | None = field(None, Wanted("be above 0 and at most 1", lambda x: 0 < x <= 1), part=TRAINING)

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        rows = self.rows(rows_multiple)
        pixels = (rows, self.image_size, self.image_size, self.num_channels)
        return {"images": (pixels, "uint8"), "labels": ((rows,), "int32")}

    def rows(self, multiple: int) -> int:
        """Returns the rows of a training batch: `batch_size` rounded down to a multiple.

        Raises:
          ConfigError: it is less than that.
        """
        if self.batch_size < multiple:
            raise ConfigError(
                f"data.batch_size={self.batch_size} must be at least {multiple}, a row for each part of "
                "training.accumulate"
            )
        return self.batch_size // multiple * multiple


class ImageClassificationData(Data):
    """The images of one experiment, their classes, and batches of them.

    Attributes:
      classes: their names; label c is `classes[c]`.
      others: see `Data`.
    """

    unit = "images"

    def train_batches(self, rows_multiple: int = 1) -> ImageBatches:
        rows = self.config.rows(rows_multiple)
        batches = self._batches("train", rows, self.config.batch_seed)
        self.report.append(f"{len(batches):,} training batches an epoch, of {rows} images each")
        return batches

    def evaluation_batches(self, split: str) -> ImageBatches:
        check_choice("split", split, self.splits)
        return self._batches(split, self.config.batch_size, None)

    def _batches(self, split: str, rows: int, seed: int | None) -> ImageBatches:
        config, crop_area = self.config, None if seed is None else self.config.crop_area
        return ImageBatches(self.splits[split], rows, seed, config.image_size, config.num_channels, crop_area)

    def digest_of(self, part: LabelledImages) -> digest.Digest:
        return digest.of_images(part)

    def split(self, found, say):
        config, self.classes, splits = self.config, found.classes, dict(found.splits)  # a source may keep what it gives
        self.check_held_out(splits)
        for part in splits.values():
            _check(part, len(self.classes), config)
        for name, size in (("test", config.test_size), ("validation", config.validation_size)):
            if size is not None:
                splits["train"], splits[name] = hold_out(splits["train"], size, config.seed)
        if len(self.classes) < 2:
            raise DataError(f"all images have the class {self.classes[0]!r}; classification needs at least two classes")
        if untrained := np.setdiff1d(np.arange(len(self.classes)), splits["train"].labels).tolist():
            names = [self.classes[label] for label in untrained[:10]]
            raise DataError(
                f"{len(untrained)} class(es) have no image left to train on, such as {names}; hold out fewer images"
            )
        names = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        say(f"{len(self.classes)} classes: {names}")
        return {name: splits[name] for name in ("train", "validation", "test")}


def _check(data: LabelledImages, classes: int, config: ImageClassificationDataConfig) -> None:
    images, labels = data.images, data.labels
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(classes)).all():
        raise DataError(f"each image of source={config.source!r} must have a label, an integer in [0, {classes})")
    if not data.decoded:
        return  # files are cropped, resized and converted
    if config.crop_area is not None:
        raise ConfigError(
            f"data.crop_area is of image files, but those of source={config.source!r} are in memory; leave it out"
        )
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"the images of source={config.source!r} must be uint8 [N Y X C], got {images.dtype} {list(images.shape)}"
        )
    height, width, channels = images.shape[1:]
    if (height, width, channels) != (config.image_size, config.image_size, config.num_channels):
        raise DataError(
            f"the images are {height} x {width} with {channels} channel(s), but data.image_size={config.image_size} "
            f"and data.num_channels={config.num_channels}; images of "
            f"source={config.source!r} are not resized: set these two fields to their size"
        )
