#!/usr/bin/env bash
# numpy 2.4.6 and ml-dtypes 0.6.0, the dtype of a bfloat16 JAX array in NumPy, 28 November 2026
#
# Expected: np.mean of a bfloat16 array adds up in float32, as np.mean of a float16 array does (its documentation says
# so of float16), so the mean of ones is 1.
# Seen: the sum itself is a bfloat16, and 256 + 1 is 256 there: the mean of 1,000 ones is 0.256, that of 100,000 is
# 0.0026.
#
# Why it matters: `np.asarray(losses).mean()` over the bfloat16 losses of a validation is too small by any factor, the
# more the more batches there are: a loss that goes down as the validation set grows. `jnp.mean` is right, and so is
# `.astype(np.float32).mean()`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet ml-dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes
import numpy as np

for count in (100, 1_000, 100_000):
    half, brain = np.ones(count, np.float16), np.ones(count, ml_dtypes.bfloat16)
    print(f"mean of {count:,} ones: float16 {half.mean()}, bfloat16 {brain.mean()}, "
          f"bfloat16 by way of float32 {brain.astype(np.float32).mean()}")
rows = np.ones((1_000, 2), ml_dtypes.bfloat16)
print("mean over the first axis of [1000 2]:", rows.mean(0))

assert half.mean() == 1 and float(brain.mean()) < 0.003
assert 0.25 < float(np.ones(1_000, ml_dtypes.bfloat16).mean()) < 0.26 and (rows.mean(0) < 0.26).all()
PYTHON
