"""Pictures decoded by Pillow in the workers of PyTorch's `DataLoader`, as torchvision's datasets and transforms do."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

_WORKERS = 2
# Of ImageNet, as in every recipe.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures(torch.utils.data.Dataset):
    """Files, each an image [C Y X]: its crop of the centre, or a random one, resized.

    torchvision's `Resize` and `CenterCrop`, or `RandomResizedCrop`, then `PILToTensor`, or `ToTensor` and `Normalize`,
    are written out here, as torchvision comes with some builds of PyTorch alone.
    """

    def __init__(self, files: Sequence[str], size: int, crop_area: float | None, how: str):
        self.files, self.size, self.crop_area, self.how = files, size, crop_area, how

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, k: int) -> torch.Tensor:
        with open(self.files[k], "rb") as opened:
            image = Image.open(opened).convert("RGB")
        filter = Image.Resampling.BILINEAR if self.how == "bilinear" else Image.Resampling.BICUBIC
        image = self._centre(image, filter) if self.crop_area is None else self._random(image, filter)
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True)).permute(2, 0, 1).contiguous()
        if self.how == "uint8":
            return pixels
        # `Normalize` makes its tensors each time, and leaves what it is given as it is.
        mean, std = (torch.as_tensor(numbers)[:, None, None] for numbers in (_MEAN, _STD))
        return pixels.to(torch.float32).div(255).clone().sub_(mean).div_(std)

    def _centre(self, image: Image.Image, filter: Image.Resampling) -> Image.Image:
        scale = self.size / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), filter)
        left, upper = (width - self.size) // 2, (height - self.size) // 2
        return image.crop((left, upper, left + self.size, upper + self.size))

    def _random(self, image: Image.Image, filter: Image.Resampling) -> Image.Image:
        width, height = image.size
        while True:
            area = width * height * torch.empty(1).uniform_(self.crop_area, 1).item()
            aspect = math.exp(torch.empty(1).uniform_(math.log(3 / 4), math.log(4 / 3)).item())
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, upper = (int(torch.randint(0, free + 1, ())) for free in (width - w, height - h))
                return image.crop((left, upper, left + w, upper + h)).resize((self.size, self.size), filter)


def epoch(files: Sequence[str], rows: int, size: int, crop_area: float | None, how: str) -> Callable[[], None]:
    """A function that makes the batches of an epoch."""
    loader = torch.utils.data.DataLoader(
        Pictures(files, size, crop_area, how), rows, shuffle=True, drop_last=True, num_workers=_WORKERS,
        persistent_workers=True,
    )  # fmt: skip

    def turn() -> None:
        for _ in loader:
            pass

    return turn
