"""Images in batches of one shape."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from ..crops import RandomCrop
from ..sources.images import LabelledImages
from . import ALL_ROWS, Batch, ExampleBatches, RowBatches


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBatches(RowBatches, ExampleBatches):
    """Images in batches of one shape, each in a row: `batches.batch(i)`.

    Attributes:
      data: the images.
      rows, seed: see `RowBatches`.
      image_size, num_channels: Y, X and C of a batch.
      crop_area: the least share of its area that is shown of an image, see `RandomCrop`; None: the centre is.
    """

    filler: ClassVar[Mapping[str, int]] = MappingProxyType({"labels": -1})

    data: LabelledImages
    rows: int
    seed: int | None
    image_size: int
    num_channels: int
    crop_area: float | None = None

    def __post_init__(self):
        self._number_rows(len(self.data), f"{len(self.data)} images", "batch_size")

    def indices(self, i: int) -> np.ndarray:
        numbers = self._numbers(i)
        return numbers[numbers >= 0]

    def batch(self, i: int, rows: slice = ALL_ROWS) -> Batch:
        """Returns "images" uint8 [B Y X C], "labels" int32 [B], -1 in rows that fill up.

        Raises:
          DataError: an image cannot be read or decoded; by its name.
        """
        numbers = self._numbers(i, rows)
        places = np.flatnonzero(real := numbers >= 0)
        crops, area = None, self.crop_area
        if area is not None:  # of the row in the whole batch, whichever of its rows are asked for
            in_batch = np.arange(self.rows)[rows][places].tolist()
            crops = [RandomCrop(area, self.seed, i, row) for row in in_batch]
        pixels = self.pixels(numbers[places], crops)
        if not real.all():
            shown, pixels = pixels, np.zeros((len(numbers), *pixels.shape[1:]), np.uint8)
            pixels[places] = shown
        return {"images": pixels, "labels": np.where(real, self.data.labels[numbers], np.int32(-1))}

    def pixels(self, numbers: np.ndarray, crops: Sequence[RandomCrop] | None = None) -> np.ndarray:
        """Returns images by their numbers in the split, uint8 [B Y X C]; `crops`: of each, None: the centre.

        Raises:
          DataError: an image cannot be read or decoded; by its name.
        """
        return self.data.pixels(numbers, self.image_size, self.num_channels, crops)
