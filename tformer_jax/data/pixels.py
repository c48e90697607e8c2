"""Image files of any kind that Pillow reads, and their pixels: upright, opaque, 8 bits a channel."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

from .crops import Box, Crop, centre
from .files import DataError, read_bytes
from .resampling import bicubic

# As Pillow has it, lest a small file unpack to more than there is memory: 1 GiB of 16 bits and three channels.
MOST_PIXELS = (1 << 30) // 6
# As much as the most pixels have without compression.
MOST_IMAGE_BYTES = 1 << 30

_PNG = b"\x89PNG\r\n\x1a\n"
# How the samples of a PNG lie in it: Pillow's name of that, for their bits.
_PNG_BITS = {"1": 1, "L;2": 2, "L;4": 4, "L": 8, "RGB": 8, "I;16B": 16, "RGB;16B": 16}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
# What is decoded to a fraction of its size still has so many times as many pixels as are made of it, on both sides.
_LEAST_RATIO = 2


def read_image(file: Path | str, image_size: int, num_channels: int) -> np.ndarray:
    """Reads an image file as uint8 [Y X C]: see `shown`, of which the errors are too.

    Args:
      file: anything that Pillow reads.
      image_size: of both sides.
      num_channels: 1 (grey) or 3 (RGB).

    Raises:
      DataError: the file cannot be read, or is larger than `MOST_IMAGE_BYTES`; by its name.
    """
    return shown(read_bytes(Path(file), MOST_IMAGE_BYTES), str(file), image_size, num_channels)


def shown(content: bytes, name: str, image_size: int, num_channels: int, crop: Crop = centre) -> np.ndarray:
    """Decodes an image as uint8 [Y X C]: upright, cropped, and what is left resized to `image_size`.

    It is resized without aliasing, see `bicubic`. A JPEG that is much larger is decoded to 1/2, 1/4 or 1/8 of its size:
    the smallest at which the crop has at least twice as many pixels as are made of it, on both sides. What is transparent
    becomes white; of an animation, the first frame counts. Broken texts and colour profiles do not matter.

    Args:
      content: of a file, of any kind that Pillow reads.
      name: what errors call it.
      image_size: of both sides.
      num_channels: 1 (grey) or 3 (RGB).
      crop: gives the part of the image that is shown.

    Raises:
      DataError: it cannot be decoded, or has more than `MOST_PIXELS`; by its name.
    """
    mode = "L" if num_channels == 1 else "RGB"
    try:
        return bicubic(*decoded(content, mode, crop, image_size), image_size)
    except Image.DecompressionBombError:
        raise DataError(f"{name} has more than {MOST_PIXELS:,} pixels, the limit; make it smaller") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{name} is no image of a known kind; convert it, to PNG for example") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from None


def decoded(content: bytes, mode: str, crop: Crop, image_size: int) -> tuple[Image.Image, Box]:
    """Decodes the image in the bytes of a file, on white where it is transparent; of an animation, the first frame.

    What else a file says of its pixels (texts, colour profiles) is not read, and may be broken.

    Args:
      content: of the file.
      mode: Pillow's: "L" or "RGB".
      crop: gives the part that is shown, of the size of the upright image.
      image_size: to which that part will be resized; a JPEG may be decoded to a fraction of its size, see `shown`.

    Returns:
      The image, and its part that is shown.

    Raises:
      Image.DecompressionBombError: it has more than `MOST_PIXELS`.
      Exception: nearly any, of a file that is damaged or no image.
    """
    try:
        return _flat(content, mode, crop, image_size)
    except Image.DecompressionBombError:
        raise
    except Exception:
        if not content.startswith(_PNG):
            raise
        return _flat(_pixels_alone(content), mode, crop, image_size)


def _pixels_alone(content: bytes) -> bytes:
    """A PNG without the chunks that no pixel depends on, for whose faults Pillow refuses it."""
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + 12 + size]
        whole = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and whole):
            parts.append(chunk)
        at += len(chunk)
    return b"".join(parts)


def _flat(content: bytes, mode: str, crop: Crop, image_size: int) -> tuple[Image.Image, Box]:
    """Upright, opaque, 8 bits a channel; and the part of it that is shown."""
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        layout, size = image.tile[0][3] if image.tile else None, image.size
        reduction, is_jpeg = 1, image.format == "JPEG"
        if is_jpeg:  # which says before its pixels how it is to be turned
            orientation = _orientation(image)
            box = crop(*_turned(size, orientation))
            reduction = _reduced(image, box, image_size)
            image.decodermaxblock = len(content)  # in pieces of 64 KiB, as by default, it takes a third longer
        image.load()
        if not is_jpeg:
            orientation = _orientation(image)
            box = crop(*_turned(size, orientation))
        if image.format == "PNG" and layout in _PNG_BITS and "transparency" in image.info:
            flat = _white_where_transparent(image, layout, content)
        else:
            flat = _opaque(image)
    flat = flat if flat.mode == mode else flat.convert(mode)
    flat = flat.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else flat
    left, upper, right, lower = box
    return flat, (left / reduction, upper / reduction, right / reduction, lower / reduction)


def _reduced(image: JpegImagePlugin.JpegImageFile, box: Box, image_size: int) -> int:
    """Lets a JPEG be decoded to a fraction of its size, 1 / the number returned."""
    left, upper, right, lower = box
    most = min(right - left, lower - upper) / (_LEAST_RATIO * image_size)
    by = max((by for by in (2, 4, 8) if by <= most), default=1)
    if by > 1:
        image.draft(None, (image.width // by, image.height // by))
    return by


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of the upright image."""
    return size[::-1] if orientation in _ON_ITS_SIDE else size


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # of grey, of which `convert` would keep the lowest 8 bits, clipped
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, and the file does not say which value is white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _white_where_transparent(image: Image.Image, layout: str, content: bytes) -> Image.Image:
    """Whitens the one colour that a PNG says is transparent, at the depth of its file: Pillow compares 8 bits."""
    bits = _PNG_BITS[layout]
    samples = np.asarray(image).astype(np.int32)  # [Y X] or [Y X 3]
    if layout == "RGB;16B":  # of which Pillow has read the higher bytes
        with Image.open(io.BytesIO(content)) as again:
            again.tile = [again.tile[0]._replace(args="RGB;16L")]
            samples = (samples << 8) | np.asarray(again)
    elif layout == "1":
        samples = samples.astype(bool)
    else:
        samples = samples * (2**bits - 1) // 255 if bits < 8 else samples
    colour = np.asarray(image.info["transparency"]) & (2**bits - 1)
    transparent = (samples == colour) if samples.ndim == 2 else (samples == colour).all(-1)
    pixels = samples >> 8 if bits == 16 else samples * 255 // (2**bits - 1)
    pixels[transparent] = 255
    return Image.fromarray(pixels.astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """EXIF's number for how to turn the image; 1, not at all, where that cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # nearly anything, of bytes that are no EXIF
        return 1
