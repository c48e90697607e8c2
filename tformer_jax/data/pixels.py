"""Image files of any kind that Pillow reads, and their pixels: upright, opaque, 8 bits a channel."""

import concurrent.futures
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .files import DataError, read_bytes

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


def read_image(file: Path, image_size: int, num_channels: int) -> np.ndarray:
    """Reads an image file as uint8 [Y X C], upright, its shorter side resized to `image_size`, cropped to the centre.

    What is transparent becomes white; of an animation, the first frame counts. Broken texts and colour profiles of a
    file do not matter.

    Args:
      file: anything that Pillow reads.
      image_size: of both sides.
      num_channels: 1 (grey) or 3 (RGB).

    Raises:
      DataError: the file cannot be read or decoded, is larger than `MOST_IMAGE_BYTES`, or has more than
        `MOST_PIXELS`; by its name.
    """
    content, mode = read_bytes(file, MOST_IMAGE_BYTES), "L" if num_channels == 1 else "RGB"
    try:
        image = decoded(content, mode)
        # Crops and resizes (bicubic over the area of a new pixel, so without aliasing) in one go.
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    except Image.DecompressionBombError:
        raise DataError(f"{file} has more than {MOST_PIXELS:,} pixels, the limit; make it smaller") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{file} is no image of a known kind; convert it, to PNG for example") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    return np.asarray(image).reshape(image_size, image_size, num_channels)


def read_images(files: Sequence[Path], image_size: int, num_channels: int) -> np.ndarray:
    """Reads uint8 [B Y X C], as `read_image` does each file, on all cores."""
    with concurrent.futures.ThreadPoolExecutor() as pool:  # Pillow decodes without the GIL
        return np.stack(list(pool.map(lambda file: read_image(file, image_size, num_channels), files)))


def decoded(content: bytes, mode: str) -> Image.Image:
    """Decodes the image in the bytes of a file, on white where it is transparent; of an animation, the first frame.

    What else a file says of its pixels (texts, colour profiles) is not read, and may be broken.

    Args:
      content: of the file.
      mode: Pillow's: "L" or "RGB".

    Raises:
      Image.DecompressionBombError: it has more than `MOST_PIXELS`.
      Exception: nearly any, of a file that is damaged or no image.
    """
    try:
        return _flat(content, mode)
    except Image.DecompressionBombError:
        raise
    except Exception:
        if not content.startswith(_PNG):
            raise
        return _flat(_pixels_alone(content), mode)


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


def _flat(content: bytes, mode: str) -> Image.Image:
    """Upright, opaque, 8 bits a channel."""
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        layout = image.tile[0][3] if image.tile else None
        image.load()
        orientation = _orientation(image)
        if image.format == "PNG" and layout in _PNG_BITS and "transparency" in image.info:
            flat = _white_where_transparent(image, layout, content)
        else:
            flat = _opaque(image)
    flat = flat.convert(mode)
    return flat.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else flat


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
