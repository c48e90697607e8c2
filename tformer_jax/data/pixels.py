"""Pixels of image files of any kind that Pillow reads: upright, opaque, 8 bits a channel."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

# As Pillow has it, lest a small file unpack to more than there is memory: 1 GiB of 16 bits and three channels.
MOST_PIXELS = (1 << 30) // 6

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


def decoded(content: bytes, mode: str) -> Image.Image:
    """The image in the bytes of a file, on white where it is transparent; of an animation, the first frame.

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
    """A PNG that says of one colour that it is transparent, at the depth of its file: Pillow compares 8 bits with it."""
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
