#!/usr/bin/env bash
# pillow 13.0.0, 28 November 2026
#
# Expected: a PNG's transparent colour (its tRNS chunk, a value at the image's own bit depth) becomes alpha 0 in
# `convert("RGBA")`, whatever the depth, as it does at 1 and 8 bits.
# Seen: grey pixels of 2 and 4 bits are scaled to 8, the transparent value is not, so it is compared with other
# values: at 4 bits, value 5 is pixel 85 and the search is for 5. Images of 16 bits are cut to 8 and compared with
# 16-bit values. Both come out opaque.
#
# Why it matters: small grey PNGs (line drawings, scanned digits) and 16-bit ones, put on a background by their alpha
# before they are patchified, keep the colour that was to be background: the same picture, saved at another depth, is
# another input to a vision transformer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import zlib

import numpy as np
from PIL import Image

GREY, RGB = 0, 2


def png(width, depth, colour, row, transparent):
    """A PNG of one row; `transparent` is the content of its tRNS chunk."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


# In each image the pixel with index 1 has the transparent colour.
images = {
    "1 bit, grey": png(2, 1, GREY, bytes([0b01000000]), struct.pack(">H", 1)),
    "2 bits, grey": png(4, 2, GREY, bytes([0b00011011]), struct.pack(">H", 1)),
    "4 bits, grey": png(4, 4, GREY, bytes([0x05, 0xAF]), struct.pack(">H", 5)),
    "8 bits, grey": png(2, 8, GREY, bytes([0, 85]), struct.pack(">H", 85)),
    "8 bits, RGB": png(2, 8, RGB, bytes([0, 0, 0, 1, 2, 3]), struct.pack(">3H", 1, 2, 3)),
    "16 bits, RGB": png(2, 16, RGB, struct.pack(">6H", 0, 0, 0, 300, 600, 900), struct.pack(">3H", 300, 600, 900)),
}
alpha = {name: np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[0, :, 3].tolist() for name, data in images.items()}
for name, values in alpha.items():
    print(f"{name}: alpha {values}, the second should be 0 alone")

assert all(alpha[name][:2] == [255, 0] for name in ("1 bit, grey", "8 bits, grey", "8 bits, RGB"))
assert all(set(alpha[name]) == {255} for name in ("2 bits, grey", "4 bits, grey", "16 bits, RGB"))
PYTHON
