"""PNG files, byte by byte: transparent colours at every depth, and what is said beside the pixels."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from tformer_jax.data import pixels
from tformer_jax.data.crops import centre
from tformer_jax.data.files import DataError
from tformer_jax.data.pixels import read_image

GREY, RGB = 0, 2


def chunk(kind, content, damage=0):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ damage)


def png(samples, bits, *before, after=b""):
    """A PNG of samples [Y X] or [Y X 3], packed as the specification says; other chunks before and after the pixels."""
    samples = np.asarray(samples)
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    planes = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1  # highest bit first
    packed = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1)
    scanlines = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, bits, RGB if samples.ndim == 3 else GREY, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(scanlines)), after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_grey_that_is_transparent_is_white_and_no_other(write, bits):
    """The background of a scan would be learnt as grey: Pillow compares the colour with pixels of another depth."""
    values = np.unique(np.linspace(0, 2**bits - 1, 16).astype(int))
    for colour in values.tolist():
        near = np.clip([colour - 1, colour + 1], 0, 2**bits - 1)  # of 16 bits, the same in the highest 8
        row = np.resize(np.concatenate([values, near, [colour]]), 20)
        found = read_image(
            write("a.png", png(np.tile(row, (20, 1)), bits, chunk(b"tRNS", struct.pack(">H", colour)))), 20, 1
        )
        want = row >> 8 if bits == 16 else row * 255 // (2**bits - 1)
        assert found[0, :, 0].tolist() == np.where(row == colour, 255, want).tolist()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_that_is_transparent_is_white_and_no_other(write, bits):
    """As above, of three channels: one that differs makes another colour."""
    scale = 1 if bits == 8 else 257
    colour = np.array([40, 20, 10]) * scale
    row = np.stack([colour, colour + [1, 0, 0], colour + [0, 0, 1], colour[::-1]])
    trns = chunk(b"tRNS", struct.pack(">HHH", *colour.tolist()))
    found = read_image(write("a.png", png(np.tile(row, (4, 1, 1)), bits, trns)), 4, 3)
    assert found[0].tolist() == [[255] * 3, *(row[1:] >> (bits - 8)).tolist()]


def test_colours_that_only_look_alike_in_their_highest_bits_stay(write):
    """(0, 0, 0) of 16 bits being transparent, (200, 0, 0) would be as well."""
    row = np.array([[0, 0, 0], [200, 0, 0], [0, 255, 0], [256, 0, 0]])
    found = read_image(write("a.png", png(np.tile(row, (4, 1, 1)), 16, chunk(b"tRNS", bytes(6)))), 4, 3)
    assert found[0].tolist() == [[255] * 3, [0] * 3, [0] * 3, [1, 0, 0]]


SQUARE = np.arange(64).reshape(8, 8)
LONG = b"k\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))
ODD = {
    "zTXt beyond the limit": chunk(b"zTXt", LONG),
    "iTXt beyond the limit": chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))),
    "iCCP beyond the limit": chunk(b"iCCP", LONG),
    "zTXt of an unknown method": chunk(b"zTXt", b"k\0\7abc"),
    "iCCP of an unknown method": chunk(b"iCCP", b"k\0\7abc"),
    "iCCP without a name": chunk(b"iCCP", b"abc"),
    "short gAMA": chunk(b"gAMA", b"1"),
    "short cHRM": chunk(b"cHRM", b"1"),
    "short pHYs": chunk(b"pHYs", b"1"),
    "a text called transparency": chunk(b"tEXt", b"transparency\0all"),
    "a text called icc_profile": chunk(b"tEXt", b"icc_profile\0none"),
    "eXIf that is none": chunk(b"eXIf", b"\xff" * 40),
    "eXIf that is cut": chunk(b"eXIf", b"II*\0\x08\0\0\0\x05\0\x12\x01"),
    "a wrong sum of a text": chunk(b"tEXt", b"k\0v", damage=1),
    "short acTL": chunk(b"acTL", b"1"),
    "fcTL out of sequence": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">I", 7) + bytes(22)),
}


@pytest.mark.parametrize("where", ["before", "after"])
def test_pixels_are_read_whatever_is_said_beside_them(write, where):
    """One photograph with a broken colour profile or an endless comment would stop a run over thousands."""
    wrong = {}
    for name, odd in ODD.items():
        content = png(SQUARE, 8, odd) if where == "before" else png(SQUARE, 8, after=odd)
        try:
            found = read_image(write("a.png", content), 8, 1)[..., 0]
        except DataError as error:
            wrong[name] = error
            continue
        if not np.array_equal(found, SQUARE):
            wrong[name] = found
    assert not wrong


def test_a_photograph_with_broken_texts_is_still_turned_upright(write):
    """What is kept of a refused file would lie on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = chunk(b"eXIf", exif.tobytes()[6:])
    content = png(SQUARE, 8, turned, ODD["zTXt beyond the limit"])
    assert np.array_equal(read_image(write("a.png", content), 8, 1)[..., 0], np.rot90(SQUARE, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_those_of_pillow(tmp_path, orientation):
    """Some of the eight would be mirrored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SQUARE.astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        want = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(tmp_path / "a.png", 8, 1)[..., 0], want)


@pytest.mark.parametrize(
    "content",
    [
        png(SQUARE, 8)[:-30],
        png(SQUARE, 8).replace(b"IDAT", b"IDAT\0", 1),
        png(SQUARE, 8, ODD["short gAMA"])[:-30],
    ],
    ids=["cut", "shifted", "cut, and a broken chunk"],
)
def test_damaged_pixels_are_refused_still(write, content):
    """Half an image would be learnt as a whole one."""
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(write("a.png", content), 8, 1)


def test_too_many_pixels_are_refused_by_a_stated_limit(write):
    """A file of some kilobytes would unpack to more than there is memory."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, GREY, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=rf"a\.png has more than {pixels.MOST_PIXELS:,} pixels.*smaller"):
        read_image(write("a.png", content), 8, 1)


def test_the_limit_does_not_depend_on_pillows_setting(monkeypatch):
    """Another part of a program that turns Pillow's guard off would turn it off here too."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(pixels, "MOST_PIXELS", 63)
    with pytest.raises(Image.DecompressionBombError):
        pixels.decoded(png(SQUARE, 8), "L", centre, 8)


def test_junk_in_the_exif_of_other_kinds_does_not_matter(tmp_path):
    """A photograph that another program has edited would be refused."""
    for suffix in ("jpg", "webp"):
        for junk in (b"Exif\0\0", b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"):
            file = tmp_path / f"a.{suffix}"
            Image.new("RGB", (8, 8), (9, 9, 9)).save(file, exif=junk, quality=95)
            assert np.abs(read_image(file, 8, 3).astype(int) - 9).max() <= 2
