"""Crops: a rectangle of the image, drawn as Szegedy et al. (2015) did, that depends on seed, batch and row alone."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image
from resampled import assert_bicubic
from scipy import stats

from tformer_jax.config import ConfigError
from tformer_jax.data.batches.pictures import ImageBatches
from tformer_jax.data.crops import RandomCrop, centre
from tformer_jax.data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from tformer_jax.data.sources.images import LabelledImages, read_folders

SIDES = st.integers(1, 3000)
CROP = RandomCrop(0.08, 0, 0, 0)


def sizes(count, width, height, least_area=0.08):
    """Width and height of many crops, [count 2]."""
    boxes = np.array([RandomCrop(least_area, 0, 0, row)(width, height) for row in range(count)])
    return boxes[:, 2:] - boxes[:, :2]


@given(SIDES, SIDES, st.floats(1e-4, 1), st.integers(0, 10**12), st.integers(0, 10**7), st.integers(0, 4096))
def test_a_crop_lies_within_the_image(width, height, least_area, seed, batch, row):
    """What is beside the image would be shown in black, or nothing at all."""
    left, upper, right, lower = RandomCrop(least_area, seed, batch, row)(width, height)
    assert 0 <= left < right <= width and 0 <= upper < lower <= height


@given(SIDES, SIDES)
def test_the_centre_is_the_largest_square_in_the_middle(width, height):
    """Faces would be cut from a corner."""
    left, upper, right, lower = centre(width, height)
    assert right - left == lower - upper == min(width, height)
    assert (left + right, upper + lower) == (width, height)


def test_areas_are_uniform():
    """Crops would all be large, or all be details, under the paper's name; in a square image none is drawn again."""
    w, h = sizes(4000, 3000, 3000, 0.08).T
    share = (w * h) / 9e6
    assert stats.kstest(share[share < 0.7], stats.uniform(0.08, 0.62).cdf).pvalue > 1e-3  # of these all aspects fit
    assert share.min() < 0.09 and share.max() > 0.9


def test_aspects_are_uniform_in_their_logarithm():
    """Wide crops would be more frequent than narrow ones."""
    w, h = sizes(4000, 3000, 3000, 0.08).T
    small = (w * h) / 9e6 < 0.7
    logarithms = np.log(w / h)[small]
    bound = math.log(4 / 3)
    assert stats.kstest(logarithms, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_places_are_uniform():
    """The lower right of images would never be seen."""
    boxes = np.array([RandomCrop(0.08, 0, 0, row)(2000, 1500) for row in range(4000)])
    for first, last, side in ((0, 2, 2000), (1, 3, 1500)):
        free = side - (boxes[:, last] - boxes[:, first])
        where = boxes[:, first][free > 50] / free[free > 50]
        assert stats.kstest(where, stats.uniform(0, 1).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("width", "height", "wanted"), [(3000, 10, (10 * 4 / 3, 10)), (10, 3000, (10, 10 * 4 / 3))])
def test_of_a_strip_the_middle_is_shown(width, height, wanted):
    """A panorama would be squeezed, or the run end in the eleventh draw."""
    left, upper, right, lower = RandomCrop(1.0, 0, 0, 0)(width, height)
    assert (right - left, lower - upper) == pytest.approx(wanted)
    assert (left + right, upper + lower) == pytest.approx((width, height))


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch": 1}, {"row": 1}])
def test_every_number_counts(change):
    """All images of a batch, or all epochs, would have the same crop."""
    assert dataclasses.replace(CROP, **change)(500, 375) != CROP(500, 375)


# In batches ------------------------------------------------------------------------------------


@pytest.fixture
def gradients(tmp_path):
    """Twelve images, of which a pixel tells where it is: red by x, green by y."""
    y, x = np.mgrid[0:60, 0:80]
    for number in range(12):
        file = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([3 * x, 4 * y, 0 * x + number], -1).astype(np.uint8)).save(file)
    return tmp_path / "images"


@pytest.fixture
def batches(gradients):
    return ImageBatches(read_folders(gradients).splits["train"], 4, 7, 16, 3, 0.1)


def test_each_row_shows_its_own_crop(batches, gradients):
    """Rows would have one another's crops, or the crop of another batch."""
    order = batches.indices(5)
    for row, image in enumerate(batches.batch(5)["images"]):
        with Image.open(batches.data.images[order[row]]) as opened:
            assert_bicubic(image, np.asarray(opened), RandomCrop(0.1, 7, 5, row)(80, 60), 16)


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 4), slice(1, 4, 2)])
def test_a_process_makes_the_rows_that_all_would(batches, rows):
    """Rows would be cropped otherwise on two hosts than on one."""
    np.testing.assert_array_equal(batches.batch(3, rows)["images"], batches.batch(3)["images"][rows])


def test_batches_do_not_depend_on_what_was_asked_before(batches):
    """A run that goes on would see other crops."""
    later = ImageBatches(batches.data, 4, 7, 16, 3, 0.1).batch(9)
    for i in range(10):
        again = batches.batch(i)
    np.testing.assert_array_equal(again["images"], later["images"])


def data_of(tmp_path, **changes):
    fields = dict(
        source="folders", path=str(tmp_path / "images"), image_size=16, num_channels=3, validation_size=2, test_size=2,
        batch_size=4,
    )  # fmt: skip
    return ImageClassificationData(ImageClassificationDataConfig(**fields | changes), tmp_path)


def test_only_training_images_are_cropped_at_random(gradients, tmp_path):
    """Scores would be of other crops each time, or the field reach nothing."""
    random, plain = (data_of(tmp_path, crop_area=area) for area in (0.1, None))
    for split in ("validation", "test"):
        np.testing.assert_array_equal(*(d.evaluation_batches(split).batch(0)["images"] for d in (random, plain)))
    assert not np.array_equal(*(d.train_batches().batch(0)["images"] for d in (random, plain)))


@pytest.mark.parametrize("area", [0, -0.1, 1.01])
def test_no_other_share_of_an_area_is_taken(area):
    """Every draw would be refused, and the middle be shown always."""
    with pytest.raises(ConfigError, match="crop_area must be above 0 and at most 1"):
        ImageClassificationDataConfig(
            source="mnist_5k",
            image_size=28,
            num_channels=1,
            validation_size=1,
            test_size=1,
            batch_size=1,
            crop_area=area,
        )


def test_images_in_memory_are_not_cropped(tmp_path):
    """The field would have no effect, and nobody would know."""
    from tformer_jax.data.sources import IMAGES, ImageSource

    pixels = LabelledImages(np.zeros((12, 16, 16, 3), np.uint8), np.arange(12, dtype=np.int32) % 2)
    IMAGES.register("in memory")(lambda: ImageSource(["a", "b"], {"train": pixels}))
    with pytest.raises(ConfigError, match="data.crop_area is of image files, but .* in memory; leave it out"):
        data_of(tmp_path, source="in memory", path=None, crop_area=0.5)
