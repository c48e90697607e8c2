#!/usr/bin/env bash
# safetensors 0.7.0 and 0.8.0 (numpy 2.4.6), 28 November 2026
#
# Expected: `safetensors.numpy.save_file({"w": w.T}, path)` and `load_file` give back w.T, as in 0.7.0; or, since the
# documentation asks for contiguous arrays, another one is refused, as `safetensors.torch` refuses it.
# Seen: in 0.8.0 the file has the shape of the view and the memory of the array beneath, in its own order: another
# matrix, without a word. So with arrays in Fortran order. (JAX arrays given to `safetensors.flax` are written
# rightly.)
#
# Why it matters: kernels are [in, out] in Flax and [out, in] in PyTorch, so a transpose of a NumPy array is just what
# stands before this call when weights are exported; a square matrix does not even have the wrong shape. An export
# that was right becomes wrong with an upgrade. `np.ascontiguousarray` is the cure.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 0.7.0 0.8.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet --quiet "safetensors==$version" numpy==2.4.6
    "$folder/$version/bin/python" - "$version" <<'PYTHON'
import sys

import numpy as np
import safetensors.numpy

kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
arrays = {"transposed": kernel.T, "Fortran order": np.asfortranarray(kernel), "made contiguous": np.ascontiguousarray(kernel.T)}
safetensors.numpy.save_file(arrays, "arrays.safetensors")
loaded = safetensors.numpy.load_file("arrays.safetensors")
for name, array in arrays.items():
    print(f"safetensors {sys.argv[1]}, {name}: saved {array.tolist()}, loaded {loaded[name].tolist()}")

right = {name for name, array in arrays.items() if np.array_equal(loaded[name], array)}
assert right == (set(arrays) if sys.argv[1] == "0.7.0" else {"made contiguous"}), right
PYTHON
done
