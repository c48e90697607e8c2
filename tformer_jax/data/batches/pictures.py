"""Images in batches of one shape."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from ..sources.images import LabelledImages
from . import ALL_ROWS, Batch, ExampleBatches, RowBatches


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBatches(RowBatches, ExampleBatches):
    """Images in batches of one shape, each in a row: `batches.batch(i)`.

    Attributes:
      data: the images.
      rows, seed: see `RowBatches`.
      image_size, num_channels: Y, X and C of a batch.
    """

    filler: ClassVar[Mapping[str, int]] = MappingProxyType({"labels": -1})

    data: LabelledImages
    rows: int
    seed: int | None
    image_size: int
    num_channels: int

    def __post_init__(self):
        self._number_rows(len(self.data), f"{len(self.data)} images", "batch_size")

    def indices(self, i: int) -> np.ndarray:
        numbers = self._numbers(i)
        return numbers[numbers >= 0]

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns "images" uint8 [B Y X C], "labels" int32 [B], -1 in rows that fill up.

        Raises:
          DataError: an image file cannot be read.
        """
        numbers = self._numbers(i, rows)
        pixels = np.zeros((len(numbers), self.image_size, self.image_size, self.num_channels), np.uint8)
        if (real := numbers >= 0).any():
            pixels[real] = self.pixels(numbers[real])
        return {"images": pixels, "labels": np.where(real, self.data.labels[numbers], np.int32(-1))}

    def pixels(self, numbers: np.ndarray) -> np.ndarray:
        """Returns images by their numbers in the split, uint8 [B Y X C].

        Raises:
          DataError: an image file cannot be read.
        """
        return self.data.pixels(numbers, self.image_size, self.num_channels)
