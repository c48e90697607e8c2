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
        for share, shape, across, down in draw.random((_TRIES, 4)).tolist():  # all tries at once: fewer calls
            area = width * height * (self.least_area + (1 - self.least_area) * share)
            aspect = NARROWEST * (WIDEST / NARROWEST) ** shape
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, upper = int(across * (width - w + 1)), int(down * (height - h + 1))
                return left, upper, left + w, upper + h
        w, h = min(width, height * WIDEST), min(height, width / NARROWEST)
        left, upper = (width - w) / 2, (height - h) / 2
        return left, upper, left + w, upper + h
