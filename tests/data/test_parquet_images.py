"""Images in Parquet files as Hugging Face's datasets write them: schema, names of classes, and what is unpacked."""

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError, WriteError
from tformer_jax.data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from tformer_jax.data.sources import parquet_images, read_parquet

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def picture(number):
    """The bytes of an image of one colour, and of another size than its neighbours'."""
    file = io.BytesIO()
    Image.new("RGB", (12 + number % 7, 10), (number, 2 * number, 0)).save(file, "png")
    return file.getvalue()


def put(file, numbers, label=lambda n: n % 2, names=None, columns=("image", "label"), kind=None, **options):
    """Writes images and their labels; `names`: those of a `ClassLabel`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers]
    arrays = [pyarrow.array(images, IMAGE), pyarrow.array([label(n) for n in numbers], kind)]
    table = pyarrow.table(dict(zip(columns, arrays, strict=True)) | {"more": pyarrow.array(list(numbers))})
    if names is not None:
        features = {"image": {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, file, **options)
    return file


def contents(images):
    return [images.picture(k).content for k in range(len(images))]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def folder(tmp_path):
    """The file names of the hub: two shards of training, and one of each other split."""
    put(tmp_path / "data" / "train-00000-of-00002.parquet", range(100), names=["cat", "dog"], row_group_size=7)
    put(tmp_path / "data" / "train-00001-of-00002.parquet", range(100, 120), names=["cat", "dog"])
    put(tmp_path / "data" / "validation-00000-of-00001.parquet", range(20, 24), names=["cat", "dog"])
    put(tmp_path / "data" / "test-00000-of-00001.parquet", range(30, 32), names=["cat", "dog"])
    return tmp_path / "data"


def test_images_are_those_of_the_files_in_order(folder):
    """Images would have one another's labels, or bytes of a neighbour, or splits be mixed."""
    classes, splits = read_parquet(folder)
    assert classes == ["cat", "dog"]
    for split, numbers in (("train", range(120)), ("validation", range(20, 24)), ("test", range(30, 32))):
        assert contents(splits[split]) == [picture(n) for n in numbers]
        assert splits[split].labels.tolist() == [n % 2 for n in numbers]
    chosen = splits["train"].take(np.array([119, 3, 101]))
    assert contents(chosen) == [picture(n) for n in (119, 3, 101)]


@pytest.mark.parametrize("compression", ["NONE", "SNAPPY", "ZSTD"])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_files_are_read_however_they_are_compressed(tmp_path, compression, use_dictionary):
    """What another library writes could not be read; equal images, of which one is stored, would be lost."""
    numbers = [1, 2, 1, 1, 3, 2] * 30
    file = put(tmp_path / "a.parquet", numbers, compression=compression, use_dictionary=use_dictionary)
    assert contents(read_parquet(file).splits["train"]) == [picture(n) for n in numbers]


def test_numbers_without_names_are_their_own(tmp_path):
    """A set whose metadata were lost on the way could not be read."""
    classes, splits = read_parquet(put(tmp_path / "a.parquet", range(6), lambda n: n % 3))
    assert (classes, splits["train"].labels.tolist()) == (["0", "1", "2"], [0, 1, 2, 0, 1, 2])


def test_labels_may_be_names(tmp_path):
    """Classes would be refused, or depend on which image comes first."""
    file = put(tmp_path / "a.parquet", range(4), lambda n: ["zebra", "ant"][n % 2])
    classes, splits = read_parquet(file)
    assert (classes, splits["train"].labels.tolist()) == (["ant", "zebra"], [1, 0, 1, 0])


def test_a_class_may_have_no_image_in_some_file(tmp_path):
    """Numbers would shift against the names, or a subset be refused that says what its classes are."""
    put(tmp_path / "train.parquet", range(4), lambda n: 2 * (n % 2), names=["a", "b", "c"])
    put(tmp_path / "val.parquet", range(4), lambda n: 1, names=["a", "b", "c"])
    classes, splits = read_parquet(tmp_path)
    assert classes == ["a", "b", "c"]
    assert [splits[name].labels.tolist() for name in ("train", "validation")] == [[0, 2, 0, 2], [1, 1, 1, 1]]


def data_of(path, tmp_path, **changes):
    fields = dict(
        source="parquet", path=str(path), image_size=8, num_channels=3, batch_size=4, validation_size=3, test_size=3
    )
    (tmp_path / "run").mkdir(exist_ok=True)
    return ImageClassificationData(ImageClassificationDataConfig(**fields | changes), tmp_path / "run")


def test_columns_of_another_name_are_options(tmp_path):
    """CIFAR-100, whose columns are img, fine_label and coarse_label, could not be read."""
    file = put(tmp_path / "a.parquet", range(20), names=["x", "y"], columns=("img", "fine_label"))
    data = data_of(file, tmp_path, source_options="image=img,label=fine_label")
    assert data.classes == ["x", "y"]
    batch = data.evaluation_batches("test").batch(0)
    assert (batch["images"][:3, 4, 4, 0] % 2).tolist() == batch["labels"][:3].tolist()


def test_the_report_says_where_images_are_unpacked(folder, tmp_path, cache):
    """A disk would fill up, and nobody know why."""
    data = data_of(folder, tmp_path, validation_size=None, test_size=None)
    assert data.report[:2] == ["120 train, 4 validation, 2 test images (parquet)", f"images are unpacked in {cache}"]


# What is unpacked ------------------------------------------------------------------------------


def test_a_file_is_unpacked_once_until_it_changes(folder, monkeypatch):
    """Every start would write gigabytes; or images be those of an older file."""
    unpacked, unpack = [], parquet_images._unpack
    monkeypatch.setattr(parquet_images, "_unpack", lambda *given: unpacked.append(given[0]) or unpack(*given))
    read_parquet(folder), read_parquet(folder)
    assert len(unpacked) == 4
    put(folder / "train-00001-of-00002.parquet", range(200, 205), names=["cat", "dog"])
    assert contents(read_parquet(folder).splits["train"]) == [picture(n) for n in (*range(100), *range(200, 205))]
    assert len(unpacked) == 5


def test_an_unpacking_that_is_interrupted_leaves_nothing(folder, cache, monkeypatch):
    """Half of the images would be taken for all of them the next time."""

    def interrupted(*given):
        yield picture(0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(parquet_images, "_contents", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_parquet(folder)
    assert list(cache.iterdir()) == []
    assert len(read_parquet(folder).splits["train"]) == 120


def test_a_process_that_is_killed_is_taken_over_from(folder, cache):
    """Gigabytes would be left on the disk each time, or half of the images be taken for all of them."""
    program = """
import os, signal, sys
from tformer_jax.data.sources import parquet_images
contents = parquet_images._contents
def killed(*given):
    yield next(contents(*given))
    os.kill(os.getpid(), signal.SIGKILL)
parquet_images._contents = killed
parquet_images.read_parquet(sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", program, str(folder)])
    assert done.returncode == -signal.SIGKILL and len(list(cache.iterdir())) == 1
    assert contents(read_parquet(folder).splits["train"]) == [picture(n) for n in range(120)]
    assert len(list(cache.iterdir())) == 2 * 4 and not list(cache.glob(".*"))


def test_another_process_may_be_first(folder, monkeypatch):
    """Two runs that start together would end each other."""
    unpack = parquet_images._unpack
    monkeypatch.setattr(parquet_images, "_unpack", lambda *given: [unpack(*given), unpack(*given)])
    assert contents(read_parquet(folder).splits["test"]) == [picture(30), picture(31)]


def test_what_was_unpacked_and_cut_is_refused(folder, cache):
    """Images would be cut, and said to be damaged in the source."""
    read_parquet(folder)
    for file in cache.iterdir():
        if file.suffix != ".npy":
            os.truncate(file, 10)
    with pytest.raises(DataError, match=r"is damaged: delete it, and .*parquet is unpacked again"):
        read_parquet(folder)


def test_a_disk_without_room_is_refused_first(folder, monkeypatch):
    """The disk would be full for all others too, after an hour."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"parquet unpacks to [\d,]+ bytes, but .*images has room for 10; make room"):
        read_parquet(folder)


def test_a_cache_that_cannot_be_written_is_named(folder, cache):
    """A user would look for the fault in the Parquet file."""
    cache.parent.write_text("a file")
    with pytest.raises(WriteError, match=rf"cannot write {cache}"):
        read_parquet(folder)


# What is refused -------------------------------------------------------------------------------


def table(file, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file


PICTURES = pyarrow.array([{"bytes": picture(n), "path": None} for n in range(3)], IMAGE)
MISSING = pyarrow.array([{"bytes": picture(1), "path": None}, {"bytes": None, "path": "b.png"}, None], IMAGE)
WRONG = {
    "no image column": (dict(picture=PICTURES, label=[0, 1, 0]), "has no column 'image', but picture, label; name them"),
    "no label column": (dict(image=PICTURES), "has no column 'label', but image"),
    "paths alone": (dict(image=["a", "b"], label=[0, 1]), r"column 'image' must hold images, each {bytes, path}; it "),
    "labels with fractions": (dict(image=PICTURES, label=[0.5, 1, 2]), "column 'label' must hold numbers or names of"),
    "no label": (dict(image=PICTURES, label=[0, None, 1]), "row 1: has no label; take the row out"),
    "no bytes": (dict(image=MISSING, label=[0, 1, 1]), "row 1: the image has no bytes; take the row out"),
    "a gap": (dict(image=PICTURES, label=[0, 2, 0]), r"must be 0 \.\. 1, without a gap; got 0, 2"),
    "a secret": (dict(image=PICTURES, label=[-1, -1, -1]), r"must be 0 \.\. 0, without a gap; got -1"),
    "nothing": (dict(image=PICTURES[:0], label=pyarrow.array([], "int64")), "hold no images with labels"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_is_none_of_images_is_refused(tmp_path, what):
    """It would end in a traceback of another library, or images be trained on with a wrong label."""
    columns, message = WRONG[what]
    with pytest.raises(DataError, match=message):
        read_parquet(table(tmp_path / "a.parquet", **columns))


@pytest.mark.parametrize("size", [0, 3, 100, -10])
def test_what_is_no_parquet_is_refused_by_name(tmp_path, size):
    """A download that broke off would end in a traceback."""
    file = put(tmp_path / "a.parquet", range(5))
    os.truncate(file, size % file.stat().st_size)
    with pytest.raises(DataError, match=r"cannot read .*a\.parquet"):
        read_parquet(file)


@pytest.mark.parametrize("column", [0, 2])
def test_a_damaged_column_is_refused_by_name(tmp_path, column):
    """A disk that lost some bytes would end a run in a traceback."""
    file = put(tmp_path / "a.parquet", range(50), use_dictionary=False)
    with pyarrow.parquet.ParquetFile(file) as opened:
        assert opened.metadata.row_group(0).column(column).path_in_schema in ("image.bytes", "label")
        place = opened.metadata.row_group(0).column(column).data_page_offset
    with open(file, "r+b") as opened:
        opened.seek(place)
        opened.write(b"\xff" * 30)
    with pytest.raises(DataError, match=r"cannot read .*a\.parquet"):
        read_parquet(file)


def test_bytes_that_are_no_image_are_found_by_their_place(tmp_path):
    """One damaged image in a million would stop a run without saying which."""
    pictures = pyarrow.array([{"bytes": b"none", "path": None}, {"bytes": picture(1), "path": None}], IMAGE)
    train = read_parquet(table(tmp_path / "a.parquet", image=pictures, label=[0, 1])).splits["train"]
    with pytest.raises(DataError, match=r"the image in .*images/a-\w{64} at byte 0 is no image of a known kind"):
        train.pixels(np.array([0]), 8, 3)


def test_an_option_that_is_none_is_refused(tmp_path):
    """A misspelt option would reach nothing."""
    with pytest.raises(ConfigError, match="colour"):
        data_of(tmp_path, tmp_path, source_options="colour=x")


def test_without_pyarrow_the_extra_is_named(tmp_path):
    """Everybody would have to install what few use, or an import fail in a traceback."""
    program = """
import sys
sys.modules["pyarrow"] = None
from tformer_jax.data.files import DataError
from tformer_jax.data.sources import read_parquet
try:
    read_parquet(sys.argv[1])
except DataError as error:
    print(error)
"""
    file = put(tmp_path / "a.parquet", range(2))
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{file} needs pyarrow: pip install tformer_jax[datasets]\n"
