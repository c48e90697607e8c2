#!/usr/bin/env bash
# Pillow 12.3.0 and 13.0.0 with numpy 2.4.6, 30 November 2026
#
# Guess: an image resized by one filter to one size has the same pixels in both.
# Seen: wide and square images have. Where the height shrinks by more than twice what the width does (333 x 500 to
# 224 x 224), 13.0.0 filters the columns first, 12.3.0 the rows. Pixels are rounded and clipped to 8 bits between the
# two, so they differ: 3 % of them, by up to 9 levels, in waves with white squares; 78 %, by up to 20, in noise of black
# and white. On its side, either picture is the same in both.
#
# Why it matters: what prepares images for a ViT resizes the whole image to 224 x 224, and portraits are then other
# inputs after an upgrade: batches that should repeat bit for bit do not, and golden pixels of portraits alone fail.
# Here rows come first always, by another library; where that one has no wheel, Pillow's version counts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 12.3.0 13.0.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install --quiet --quiet "pillow==$version" numpy==2.4.6
done
cat > "$folder/resize.py" <<'PYTHON'
import sys

import numpy as np
from PIL import Image

y, x = np.mgrid[0:500, 0:333]
waves = 128 + 60 * np.sin(x / 17) * np.cos(y / 11)
PICTURES = {
    "edges": np.where((x // 37 + y // 29) % 2, 255, waves).astype(np.uint8),
    "noise": np.random.default_rng(0).integers(0, 2, x.shape, np.uint8) * 255,
}
found = {}
for name, pixels in PICTURES.items():
    for way, image in (("tall", Image.fromarray(pixels)), ("wide", Image.fromarray(pixels.T.copy()))):
        found[f"{name}, {way}"] = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
np.savez(sys.argv[1], **found)
PYTHON
cd "$folder"
for version in 12.3.0 13.0.0; do "$folder/$version/bin/python" resize.py "$version.npz"; done
"$folder/13.0.0/bin/python" - <<'PYTHON'
import numpy as np

old, new = np.load("12.3.0.npz"), np.load("13.0.0.npz")
for name in old:
    off = np.abs(old[name].astype(int) - new[name])
    print(f"{name}: {(off > 0).mean():.1%} of the pixels differ, by up to {off.max()}")
    assert (off.max() > 2) == ("tall" in name)
PYTHON
