"""Images of another size: cubic convolution from its formula, with vector instructions and without."""

import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from resampled import assert_bicubic, bicubic as by_formula

from tformer_jax.data import resampling
from tformer_jax.data.resampling import bicubic


def noise(width, height, channels, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@st.composite
def parts(draw):
    """Pixels, and a box within them, whose edges need not be whole."""
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    edges = []
    for side in (width, height):
        low = draw(st.floats(0, side - 0.5))
        edges.append((low, draw(st.floats(low + 0.25, side))))
    (left, right), (upper, lower) = edges
    return noise(width, height, draw(st.sampled_from([1, 3])), draw(st.integers(0, 9))), (left, upper, right, lower)


@pytest.mark.skipif(resampling.resizer is None, reason="has no wheel here")
@settings(max_examples=150, deadline=None)
@given(parts(), st.integers(1, 40))
def test_each_pixel_is_that_of_the_formula(part, size):
    """Images would be shifted, aliased, or wrap where black meets white."""
    pixels, box = part
    assert_bicubic(bicubic(Image.fromarray(pixels), box, size), pixels, box, size)


def test_an_image_of_the_same_size_stays():
    """Images made ready beforehand would be blurred."""
    pixels = noise(32, 32, 3)
    np.testing.assert_array_equal(bicubic(Image.fromarray(pixels), (0, 0, 32, 32), 32), pixels)


@pytest.mark.skipif(resampling.resizer is None, reason="has no wheel here")
@pytest.mark.parametrize("instructions", ["none", "sse4_1"])
def test_processors_make_the_same_pixels(instructions, monkeypatch):
    """Hosts with different processors would see different images."""
    image, box = Image.fromarray(noise(97, 61, 3)), (3.5, 2, 80.25, 60)
    want = bicubic(image, box, 33)

    class Resizer(resampling.resizer.Resizer):
        def __init__(self):
            super().__init__()
            self.cpu_extensions = resampling.resizer.CpuExtensions[instructions]

    monkeypatch.setattr(resampling.resizer, "Resizer", Resizer)
    np.testing.assert_array_equal(bicubic(image, box, 33), want)


def test_a_large_image_is_not_copied():
    """A scan of 100 megapixels would take more than twice its memory, in every thread."""
    image = Image.new("RGB", (9000, 8000), (1, 2, 3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert bicubic(image, (0, 0, 9000, 8000), 3).tolist() == [[[1, 2, 3]] * 3] * 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KiB; its bytes are 206 MiB


def test_where_the_library_is_missing_images_are_read():
    """Linux on ARM, for which there is no wheel of it, would read no image."""
    program = """
import sys
sys.modules["cykooz_resizer"] = None
from PIL import Image
from tformer_jax.data.resampling import bicubic
print(bicubic(Image.new("RGB", (9, 7), (1, 2, 3)), (0, 0, 7, 7), 2).tolist())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str([[[1, 2, 3]] * 2] * 2)


@settings(max_examples=100, deadline=None)
@given(parts(), st.integers(1, 40))
def test_pillow_makes_the_same_of_it(part, size):
    """Where the library is missing a model would see other images; and the oracle of these tests be another filter."""
    pixels, box = part
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "resizer", None)
        found = bicubic(Image.fromarray(pixels), box, size)
    height, width = pixels.shape[:2]
    tall = height - size > max(0, 2 * (width - size))  # Pillow 13 begins with the columns of these
    off = [np.abs(found - by_formula(pixels, box, size, tall and new).reshape(found.shape)).max() for new in (0, 1)]
    assert min(off) <= 2
