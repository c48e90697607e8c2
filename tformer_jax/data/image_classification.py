"""Labelled images, from where they lie to batches of pixels. Batch i is a pure function of (seed, i)."""

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..config import ConfigError, check_choice, check_seed
from ..progress import SILENT, Progress
from . import images
from .classes import keep_classes
from .digest import keep_digests, of_images
from .files import DataError
from .images import ImageSource, LabelledImages
from .pipelines import ALL_ROWS, Batch, BatchShapes, order_seed, permutation, picked


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageClassificationDataConfig:
    """The `data` section of an image classification experiment.

    Attributes:
      source: "mnist_5k" (`images.mnist_5k`), "idx" (`images.read_idx_folder`) or "folders"
        (`images.read_folders`).
      path: folder of the images, with source="idx" or "folders".
      image_size: height and width, in pixels. Image files are resized to it; images of the other
        sources must have it.
      num_channels: number of channels, 1 (grey) or 3 (RGB); likewise.
      validation_size, test_size: number of training images to hold out for that split,
        exactly, of each class its share; None exactly where the source has the split itself
        ("idx": test; "folders": path/validation, path/test).
      seed: random seed of what is held out and of shuffling.
      order_seed: random seed of shuffling alone; None: `seed`.
      batch_size: number of images in a batch.

    Raises:
      ConfigError: a value that is invalid, alone or beside another, by the field's name.
    """

    source: str
    path: str | None = None
    image_size: int
    num_channels: int
    validation_size: int | None = None
    test_size: int | None = None
    seed: int = 0
    order_seed: int | None = None
    batch_size: int

    def __post_init__(self):
        check_choice("data.source", self.source, ("mnist_5k", "idx", "folders"))
        if (self.path is None) != (self.source == "mnist_5k"):
            raise ConfigError(
                "data.path goes with data.source='idx' or 'folders', and is needed there; "
                f"got path={self.path!r} with source={self.source!r}"
            )
        for name in ("image_size", "validation_size", "test_size", "batch_size"):
            value = getattr(self, name)
            if (value is not None or name in ("image_size", "batch_size")) and (type(value) is not int or value < 1):
                raise ConfigError(f"data.{name} must be a positive integer, got {value!r}")
        check_seed("data.seed", self.seed)
        if self.order_seed is not None:
            check_seed("data.order_seed", self.order_seed)
        if type(self.num_channels) is not int or self.num_channels not in (1, 3):
            raise ConfigError(f"data.num_channels must be 1 (grey) or 3 (RGB), got {self.num_channels!r}")
        if self.source != "folders":  # their splits are known when they are read
            self.check_held_out(("train",) if self.source == "mnist_5k" else ("train", "test"))

    def check_held_out(self, splits: Collection[str]) -> None:
        """Raises a ConfigError unless the sizes given are those of the splits that the source does not have."""
        for split in ("validation", "test"):
            size = getattr(self, f"{split}_size")
            if split in splits and size is not None:
                raise ConfigError(
                    f"data.{split}_size must be None, as the source has its own {split} split; got {size}"
                )
            if split not in splits and size is None:
                raise ConfigError(f"data.{split}_size is needed, as the source has no {split} split of its own")

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        """Returns the shapes and dtypes of every training batch, known without the data."""
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

    def read(self, say: Callable[[str], None] = lambda line: None) -> ImageSource:
        """Reads the images as they come, before anything is held out; `say` is told which files are not read.

        Raises:
          DataError: they cannot be read or fetched.
        """
        if self.source == "mnist_5k":
            return images.mnist_5k()
        path = Path(self.path)
        return images.read_idx_folder(path) if self.source == "idx" else images.read_folders(path, say)


@dataclasses.dataclass(frozen=True)
class ImageBatches:
    """Images in batches of one shape, random-access: `batches.batch(i)`.

    With a seed, to train on: the order is drawn from (seed, epoch), so batch i follows from
    (seed, i) alone; images that do not fill a batch sit out an epoch, other ones each time.
    Without one, to evaluate on: each image once, in order, the last batch padded.

    Attributes:
      data: the images.
      rows: in a batch.
      seed: of the shuffle, or None.
      image_size, num_channels: Y, X and C of a batch.
    """

    one_shape: ClassVar[bool] = True

    data: LabelledImages
    rows: int
    seed: int | None
    image_size: int
    num_channels: int

    def __post_init__(self):
        if len(self) == 0:
            raise DataError(f"{len(self.data)} images do not fill a batch of {self.rows}; lower data.batch_size")

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return -(-len(self.data) // self.rows) if self.seed is None else len(self.data) // self.rows

    def indices(self, i: int) -> np.ndarray:
        """Returns the images in batch i: one per row, or fewer in the last batch of an evaluation."""
        epoch, position = divmod(i, len(self))
        order = np.arange(len(self.data)) if self.seed is None else permutation((self.seed, epoch), len(self.data))
        return order[position * self.rows : (position + 1) * self.rows]

    def row_count(self, i: int) -> int:
        """Returns the number of rows of batch i, the same for all."""
        return self.rows

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Batch i, counted on through the epochs: "images" uint8 [B Y X C], "labels" int32 [B], -1 in rows of padding.

        `rows`: which of them to make, so that several processes need not all read every file.

        Raises:
          DataError: an image file cannot be read.
        """
        chosen, count = picked(self.indices(i), self.rows, rows)
        pixels = np.zeros((count, self.image_size, self.image_size, self.num_channels), np.uint8)
        if len(chosen):
            pixels[: len(chosen)] = self.data.pixels(chosen, self.image_size, self.num_channels)
        labels = np.full(count, -1, np.int32)
        labels[: len(chosen)] = self.data.labels[chosen]
        return {"images": pixels, "labels": labels}


class ImageClassificationData:
    """The data of an image classification experiment, ready to be asked for batches.

    Attributes:
      config: as given.
      classes: their names; label c is `classes[c]`.
      splits: "train", "validation" and "test" images.
      report: what a person should know of the data, a line each.
    """

    def __init__(self, config: ImageClassificationDataConfig, directory: Path, progress: Progress = SILENT):
        """`directory`: keeps the names of the classes, and what the data were. `progress`: is told what takes long.

        Raises:
          ConfigError: a split is neither held out nor the source's own, or both.
          DataError: the data cannot be read, has images of another size or other channels than
            configured, is not that of the run in `directory`, or nothing is left to train on.
        """
        self.config, passed_over = config, []
        with progress.phase("reading data"):
            self.classes, self.splits = config.read(passed_over.append)
        config.check_held_out(self.splits)
        for split in self.splits.values():
            _check_shape(split, config)
        for name, size in (("test", config.test_size), ("validation", config.validation_size)):
            if size is not None:
                self.splits["train"], self.splits[name] = hold_out(self.splits["train"], size, config.seed)
        self.splits = {name: self.splits[name] for name in ("train", "validation", "test")}
        if len(self.classes) < 2:
            raise DataError(f"all images have the class {self.classes[0]!r}; classification needs at least two classes")
        if untrained := sorted(set(range(len(self.classes))) - set(self.splits["train"].labels.tolist())):
            names = [self.classes[label] for label in untrained[:10]]
            raise DataError(
                f"{len(untrained)} class(es) have no image left to train on, such as {names}; hold out fewer images"
            )
        keep_classes(self.classes, directory)
        with progress.phase("comparing the data"):
            keep_digests({name: of_images(split) for name, split in self.splits.items()}, directory)
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        names = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        self.report = [f"{sizes} images ({config.source})", f"{len(self.classes)} classes: {names}", *passed_over]

    def train_batches(self, rows_multiple: int = 1) -> ImageBatches:
        """Random-access training batches, of `batch_size` rows rounded down to a multiple; adds to the report.

        Raises:
          ConfigError: `batch_size` is less than `rows_multiple`.
          DataError: the images do not fill a batch.
        """
        rows = self.config.rows(rows_multiple)
        batches = self._batches("train", rows, order_seed(self.config))
        self.report.append(f"{len(batches):,} training batches an epoch, of {rows} images each")
        return batches

    def evaluation_batches(self, split: str) -> ImageBatches:
        """The batches of one pass over a split, in order."""
        check_choice("split", split, self.splits)
        return self._batches(split, self.config.batch_size, None)

    def _batches(self, split: str, rows: int, seed: int | None) -> ImageBatches:
        return ImageBatches(self.splits[split], rows, seed, self.config.image_size, self.config.num_channels)


def hold_out(data: LabelledImages, size: int, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Returns all images but `size`, and those: each class gives its share, rounded so that the sum is exact.

    Both keep the order. Which images of a class are held out is drawn from the seed.

    Raises:
      DataError: nothing would be left.
    """
    if size >= len(data):
        raise DataError(f"no image is left to train on: {size:,} of {len(data):,} images are held out; lower the sizes")
    counts = np.bincount(data.labels)
    shares, remainders = np.divmod(size * counts, len(data))
    # The largest remainders are rounded up, as with seats and votes.
    shares[np.argsort(-remainders, kind="stable")[: size - shares.sum()]] += 1
    order = np.random.default_rng(seed).permutation(len(data))
    order = order[np.argsort(data.labels[order], kind="stable")]
    place_in_class = np.arange(len(data)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.zeros(len(data), bool)
    held[order[place_in_class < np.repeat(shares, counts)]] = True
    return data.take(np.flatnonzero(~held)), data.take(np.flatnonzero(held))


def _check_shape(data: LabelledImages, config: ImageClassificationDataConfig) -> None:
    if data.images.dtype == object:
        return  # files are resized and converted
    height, width, channels = data.images.shape[1:]
    if (height, width, channels) != (config.image_size, config.image_size, config.num_channels):
        raise DataError(
            f"the images are {height} x {width} with {channels} channel(s), but data.image_size={config.image_size} "
            f"and data.num_channels={config.num_channels}; images of "
            f"source={config.source!r} are not resized: set these two fields to their size"
        )
