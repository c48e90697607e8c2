"""Images in tar files: what is read at random is what was put in, and what is not as it must be is named."""

import io
import json
import os
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from tformer_jax.data import unchanged
from tformer_jax.data.digest import of_images
from tformer_jax.data.files import DataError
from tformer_jax.data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from tformer_jax.data.sources import read_webdataset, webdataset
from tformer_jax.data.sources.images import LabelledImages


def picture(number, kind="png"):
    """The bytes of an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (number, 2 * number, 0)).save(file, {"jpg": "jpeg"}.get(kind, kind))
    return file.getvalue()


def put(file, members, format=tarfile.PAX_FORMAT):
    """Writes a tar of (name, bytes or text) in order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=format) as archive:
        for name, content in members:
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def numbered(numbers, label=lambda n: str(n % 2)):
    return [x for n in numbers for x in ((f"{n:04}.png", picture(n)), (f"{n:04}.cls", label(n)))]


def contents(images):
    return [images.picture(k).content for k in range(len(images))]


@pytest.fixture
def folder(tmp_path):
    """Two shards of training, one of validation, one of test."""
    put(tmp_path / "set-train-000.tar", numbered(range(5)))
    put(tmp_path / "set-train-001.tar", numbered(range(5, 9)))
    put(tmp_path / "set-val-000.tar", numbered(range(20, 24)))
    put(tmp_path / "set-test-000.tar", numbered(range(30, 32)))
    return tmp_path


def test_images_are_those_of_the_shards_in_order(folder):
    """Images would have one another's labels, or bytes of a neighbour, or splits be mixed."""
    classes, splits = read_webdataset(folder)
    assert classes == ["0", "1"]
    for split, numbers in (("train", range(9)), ("validation", range(20, 24)), ("test", range(30, 32))):
        assert contents(splits[split]) == [picture(n) for n in numbers]
        assert splits[split].labels.tolist() == [n % 2 for n in numbers]
    assert splits["train"].labels.dtype == np.int32


def test_images_are_read_at_random(folder):
    """The order would be that of the shards whatever is asked for."""
    train = read_webdataset(folder).splits["train"].take(np.array([8, 0, 5, 5, 2]))
    assert contents(train) == [picture(n) for n in (8, 0, 5, 5, 2)]
    found = train.pixels(np.array([4, 1]), 10, 3)
    assert found[:, 5, 5].tolist() == [[2, 4, 0], [0, 0, 0]]


def test_only_places_are_in_memory(folder):
    """Memory would grow with the images: 20 bytes are kept of each."""
    images = read_webdataset(folder).splits["train"].images
    assert sum(x.itemsize for x in (images.file, images.start, images.size)) == 20


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_format_are_read(tmp_path, format):
    """Long names have headers of their own, after which the bytes lie elsewhere."""
    long = "a" * 90 + "/" + "b" * 95
    put(tmp_path / "x.tar", [(f"{long}1.png", picture(1)), (f"{long}1.cls", "0"), *numbered([2, 3])], format)
    assert contents(read_webdataset(tmp_path).splits["train"]) == [picture(n) for n in (1, 2, 3)]


def test_labels_may_be_names_and_lie_in_json(tmp_path):
    """Sets with captions and other fields beside a label could not be read; names are sorted, as folders are."""
    members = [
        ("a/1.jpg", picture(1, "jpg")), ("a/1.json", json.dumps({"label": "zebra", "width": 3})),
        ("b/1.JPEG", picture(2, "jpg")), ("b/1.cls", "ant\n"), ("b/1.json", json.dumps({"caption": "no label"})),
        ("c.seg.png", b"not the image"), ("c.webp", picture(3, "webp")), ("c.cls", "bee"), ("c.txt", "a caption"),
    ]  # fmt: skip
    classes, splits = read_webdataset(put(tmp_path / "x.tar", members))
    assert classes == ["ant", "bee", "zebra"]
    assert splits["train"].labels.tolist() == [2, 0, 1]
    assert contents(splits["train"]) == [picture(1, "jpg"), picture(2, "jpg"), picture(3, "webp")]


def test_one_unicode_form_is_one_class(tmp_path):
    """Classes of one name would be learnt as two."""
    members = numbered(range(4), lambda n: ("caf\u00e9", "cafe\u0301", "tea", "tea")[n])
    classes, splits = read_webdataset(put(tmp_path / "x.tar", members))
    assert (classes, splits["train"].labels.tolist()) == (["caf\u00e9", "tea"], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["1.tar", "2.tar"], ["train"]),
        (["train/1.tar", "validation/1.tar"], ["train", "validation"]),
        (["imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"], ["train", "validation"]),
        (["train0.tar", "val_1.tar", "test.tar"], ["train", "validation", "test"]),
        (["latest-1.tar", "trained.tar", "interval.tar"], ["train"]),
    ],
)
def test_a_split_is_a_word_of_the_path(tmp_path, names, splits):
    """Shards with "val" in another word would be held out, or those of a split be trained on."""
    for number, name in enumerate(names):
        put(tmp_path / name, numbered([2 * number, 2 * number + 1]))
    found = read_webdataset(tmp_path).splits
    assert list(found) == splits
    assert sum(map(len, found.values())) == 2 * len(names)


def other_files(folder):
    (folder / "README.md").write_text("no shard")
    (folder / "._set-train-000.tar").write_text("no shard")


def test_what_is_no_shard_is_said(folder):
    """A shard that is called otherwise would be left out without a word."""
    other_files(folder)
    said = []
    read_webdataset(folder, said.append)
    assert said == [f"files not read in {folder}: 1 .md"]


CAT = ("1.png", picture(1)), ("1.cls", "0")
WRONG = {
    "no label": ([*CAT, ("2.png", picture(2))], r"x\.tar has no label of 2: add a \.cls, or a \.json with a label"),
    "a json without": ([("2.png", picture(2)), ("2.json", "{}")], "has no label of 2"),
    "a json that is none": ([("2.png", picture(2)), ("2.json", "{")], "has no label of 2"),
    "an empty class": ([("2.png", picture(2)), ("2.cls", " ")], r"2\.cls must hold a number or a name; got b' '"),
    "a class that is no text": ([("2.png", picture(2)), ("2.cls", b"\xff\xfe")], "must hold a number or a name"),
    "two images": ([*CAT, ("1.jpg", picture(1, "jpg"))], "has two images called 1; rename one"),
    "gaps": (numbered([0, 2], str), r"training labels in .* must be 0 \.\. 1, without a gap; got 0, 2"),
    "nothing": ([("readme.txt", "hello")], "the train shards in .* hold no images"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_shard_that_cannot_be_learnt_from_is_refused(tmp_path, what):
    """Images would be left out, or trained on with a wrong label."""
    members, message = WRONG[what]
    with pytest.raises(DataError, match=message):
        read_webdataset(put(tmp_path / "x.tar", members))


def test_other_classes_than_those_of_training_are_refused(tmp_path):
    """Labels of the validation split would have no output; those that are -1, as of tests that are kept secret, too."""
    put(tmp_path / "train.tar", numbered(range(4)))
    put(tmp_path / "val.tar", numbered(range(3), str))
    with pytest.raises(DataError, match="the validation labels in .* must be those of training; got 2 too"):
        read_webdataset(tmp_path)


@pytest.mark.parametrize("size", [2048, 2148, 2560, 2748, 2560 + 5120, 2560 + 5120 + 512])
def test_a_tar_that_was_cut_is_refused(tmp_path, size):
    """Half of a download would be trained on without a word, or a run end hours later."""
    file = put(tmp_path / "x.tar", [*CAT, ("2.png", os.urandom(5000)), ("2.cls", "1")])
    os.truncate(file, size)  # between two, within the header of the second image, within its pixels, after these
    with pytest.raises(DataError, match=r"x\.tar (is cut within|has no end)"):
        read_webdataset(file)


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_refused_by_name(write, content):
    """A page of an error that was downloaded would end in a traceback."""
    with pytest.raises(DataError, match=r"x\.tar"):
        read_webdataset(write("x.tar", content))


def test_a_compressed_tar_is_refused(tmp_path):
    """All before an image would be unpacked to read it."""
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    with pytest.raises(DataError, match=r"cannot read .*x\.tar"):
        read_webdataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"holds no \*\.tar file"),
        (["train.tar", "more.tar"], r"more\.tar'\] say no split; name shards like train-0001\.tar"),
        (["val.tar", "test.tar"], "has no training shard"),
    ],
)
def test_shards_whose_split_is_unknown_are_refused(tmp_path, names, message):
    """Shards would be trained on that were to be held out."""
    for name in names:
        put(tmp_path / name, numbered(range(2)))
    with pytest.raises(DataError, match=message):
        read_webdataset(tmp_path)


def test_a_shard_that_becomes_shorter_is_named(folder):
    """A damaged image would be said to be in the source, not in the file."""
    train = read_webdataset(folder).splits["train"]
    os.truncate(folder / "set-train-001.tar", 520)
    with pytest.raises(DataError, match=r"set-train-001\.tar ends within the image in .* at byte \d+: it was cut"):
        train.pixels(np.array([5]), 8, 3)


def test_an_image_that_cannot_be_decoded_is_found_by_its_place(tmp_path):
    """One damaged image in a million would stop a run without saying which."""
    file = put(tmp_path / "x.tar", [*CAT, ("2.png", b"no image"), ("2.cls", "1")])
    with tarfile.open(file) as archive:
        place = archive.getmember("2.png").offset_data
    with pytest.raises(DataError, match=rf"the image in {file} at byte {place:,} is no image of a known kind"):
        read_webdataset(file).splits["train"].pixels(np.array([1]), 8, 3)


# What is remembered ----------------------------------------------------------------------------


@pytest.fixture
def looked_at(folder, monkeypatch):
    """The shards of `folder`, looked at as if long after they were written; returns those that are indexed."""
    monkeypatch.setenv("TFORMER_DATA", str(folder / ".cache"))
    monkeypatch.setattr(unchanged, "_FEWEST_BYTES", 0)
    now, indexed, index = time.time_ns, [], webdataset._index
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)
    monkeypatch.setattr(webdataset, "_index", lambda file: indexed.append(os.path.basename(file)) or index(file))
    return indexed


def test_an_index_is_made_once_until_a_shard_changes(folder, looked_at):
    """Every start would go through all headers, minutes; or read images at the places of older ones."""
    before = contents(read_webdataset(folder).splits["train"])
    assert len(looked_at) == 4
    assert contents(read_webdataset(folder).splits["train"]) == before
    assert len(looked_at) == 4
    put(folder / "set-train-000.tar", [*numbered(range(40, 45))][2:] + numbered([60]))
    assert contents(read_webdataset(folder).splits["train"]) == [picture(n) for n in (41, 42, 43, 44, 60, *range(5, 9))]


def test_the_digest_is_that_of_the_same_files(folder, tmp_path):
    """A run that moves from files to shards, or back, would be refused its own images."""
    train = read_webdataset(folder).splits["train"]
    files = [tmp_path / f"{k}.png" for k in range(len(train))]
    for file, content in zip(files, contents(train), strict=True):
        file.write_bytes(content)
    assert of_images(train) == of_images(LabelledImages(np.array([str(f) for f in files], object), train.labels))


def test_the_digest_sees_another_label_and_another_image(folder):
    """A run would go on with other data than it began with."""
    train = read_webdataset(folder).splits["train"]
    swapped, relabelled = train.take(np.array([1, 0, *range(2, 9)])), LabelledImages(train.images, 1 - train.labels)
    assert len({of_images(x)["in_order"] for x in (train, swapped, relabelled)}) == 3


# The data of an experiment ---------------------------------------------------------------------


def test_shards_become_batches(folder, tmp_path):
    """What is read would not go through splits, digests and batches."""
    (tmp_path / "run").mkdir()
    fields = dict(source="webdataset", path=str(folder), image_size=8, num_channels=3, batch_size=4)
    data = ImageClassificationData(ImageClassificationDataConfig(**fields), tmp_path / "run")
    assert data.report[0] == "9 train, 4 validation, 2 test images (webdataset)"
    batch = data.evaluation_batches("validation").batch(0)
    assert batch["labels"].tolist() == [0, 1, 0, 1]
    assert batch["images"][:, 4, 4, 0].tolist() == [20, 21, 22, 23]
    train = data.train_batches().batch(3)
    assert (train["images"][:, 4, 4, 0] % 2).tolist() == train["labels"].tolist()
