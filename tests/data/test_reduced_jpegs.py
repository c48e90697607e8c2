"""JPEGs decoded at a fraction of their size: what Pillow decodes, resized, and close to what the whole image gives."""

import io

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from resampled import assert_bicubic

from tformer_jax.data import pixels
from tformer_jax.data.crops import RandomCrop, centre
from tformer_jax.data.pixels import shown

# Photographs have lines, plain areas and texture.
Y, X = np.mgrid[0:600, 0:900]
SCENE = np.stack([
    128 + 100 * np.sin(X / 40) * np.cos(Y / 25),
    255 * ((X // 75 + Y // 75) % 2),
    128 + 60 * np.sin(X * Y / 9000) + np.random.default_rng(0).normal(0, 12, (600, 900)),
], -1).clip(0, 255).astype(np.uint8)  # fmt: skip


def jpeg(width, height, **options):
    """The bytes of the scene's upper left corner."""
    file = io.BytesIO()
    Image.fromarray(SCENE[:height, :width]).save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


def assert_decoded(found, content, reduction, box):
    """Asserts that it is a part of what Pillow makes of the file, upright and decoded to 1 / reduction of its size."""
    with Image.open(io.BytesIO(content)) as image:
        if reduction > 1:
            image.draft(image.mode, (image.width // reduction, image.height // reduction))
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert_bicubic(found, upright, [side / reduction for side in box], len(found))


@pytest.mark.parametrize(
    ("size", "reduction"), [(600, 1), (151, 1), (150, 2), (76, 2), (75, 4), (38, 4), (37, 8), (10, 8), (1, 8)]
)
def test_the_reduction_leaves_twice_as_many_pixels(size, reduction):
    """Images would be decoded too small, and be blurred; or too large, which takes longer: of 600, twice 150 is 1/2."""
    content = jpeg(900, 600)
    found = shown(content, "a.jpg", size, 3)
    assert_decoded(found, content, reduction, (150, 0, 750, 600))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("crop", [centre, RandomCrop(0.3, 1, 2, 3)])
def test_photographs_on_their_side_are_cropped_upright(crop, orientation):
    """The crop of a portrait would be taken as if it lay on its side."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(801, 397, exif=exif)
    box = crop(397, 801) if orientation > 4 else crop(801, 397)
    reduction = 4 if min(box[2] - box[0], box[3] - box[1]) >= 2 * 4 * 40 else 2
    assert_decoded(shown(content, "a.jpg", 40, 3, crop), content, reduction, box)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 900), st.integers(2, 600), st.integers(32, 80), st.integers(0, 99), st.sampled_from([1, 3]))
def test_pixels_are_those_of_the_whole_image_but_for_a_tolerance(width, height, size, row, channels):
    """A shift, a crop of the reduced size, or a coarse reduction would change what is learnt: on average 2 of 255.

    Of smaller images than 32 pixels, which are made of a few reduced pixels, it is more: up to 13 for a single pixel.
    """
    content, crop = jpeg(width, height, subsampling=0), RandomCrop(0.08, 0, 0, row)
    with Image.open(io.BytesIO(content)) as image:
        image = image.convert("L" if channels == 1 else "RGB")
    whole = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, crop(width, height)))
    found = shown(content, "a.jpg", size, channels, crop)
    assert np.abs(found - whole.reshape(found.shape).astype(int)).mean() < 2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_greys_and_inks_are_reduced_too(mode):
    """Some of ImageNet would end a run, or be seen in negative."""
    file = io.BytesIO()
    Image.fromarray(SCENE).convert(mode).save(file, "JPEG", quality=90)
    found = shown(file.getvalue(), "a.jpg", 60, 3)
    assert_decoded(found, file.getvalue(), 4, (150, 0, 750, 600))


def test_a_long_file_is_decoded_as_a_short_one():
    """What is read at once would lose the end of a file, or its second half come from elsewhere."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    assert len(file.getvalue()) > 500_000
    found = shown(file.getvalue(), "a.jpg", 600, 3)
    assert_decoded(found, file.getvalue(), 1, (150, 0, 750, 600))


def test_only_what_is_shown_counts_for_the_reduction():
    """A detail of a large photograph would be decoded to fewer pixels than are made of it."""
    assert pixels.decoded(jpeg(900, 600), "RGB", lambda w, h: (0, 0, 300, 300), 75)[0].size == (450, 300)
    assert pixels.decoded(jpeg(900, 600), "RGB", lambda w, h: (0, 0, 299, 300), 75)[0].size == (900, 600)
