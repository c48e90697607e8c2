"""Crops: the part of an image that is shown, chosen by the size of the image before it is decoded."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

# Left, upper, right and lower edge, in pixels from the upper left corner.
Box = tuple[float, float, float, float]
# Of the width and the height of an upright image.
Crop = Callable[[int, int], Box]

# Width by height of a random crop, at least and at most.
NARROWEST, WIDEST = 3 / 4, 4 / 3
_TRIES = 10


def centre(width: int, height: int) -> Box:
    """Returns the largest square in the middle."""
    side = min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A crop of random area and aspect, anywhere in an image (Szegedy et al., 2015), a function of three numbers.

    The share of the area is uniform, the logarithm of the aspect is uniform, width and height are rounded to pixels. One
    that does not lie within the image is drawn again, ten times at most; then it is the largest in the middle whose
    aspect is allowed. So is `RandomResizedCrop` of torchvision and timm.

    Attributes:
      least_area: the least share of the image's area.
      seed: of all batches.
      batch: its number.
      row: within the batch.
    """

    least_area: float
    seed: int
    batch: int
    row: int

    def __call__(self, width: int, height: int) -> Box:
        draw = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.batch, self.row)))
        areas = draw.uniform(self.least_area, 1, _TRIES) * width * height
        aspects = np.exp(draw.uniform(math.log(NARROWEST), math.log(WIDEST), _TRIES))
        for w, h in zip(np.sqrt(areas * aspects).round(), np.sqrt(areas / aspects).round(), strict=True):
            if 0 < w <= width and 0 < h <= height:
                left, upper = draw.integers(0, (width - w, height - h), endpoint=True).tolist()
                return left, upper, left + w, upper + h
        w, h = min(width, height * WIDEST), min(height, width / NARROWEST)
        left, upper = (width - w) / 2, (height - h) / 2
        return left, upper, left + w, upper + h
