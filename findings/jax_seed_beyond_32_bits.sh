#!/usr/bin/env bash
# jax 0.10.2, 28 November 2026
#
# Expected: `jax.random.key(seed)` takes "a 64- or 32-bit integer" (its documentation), so seeds that differ give keys
# that differ; one that does not fit is refused, as `jnp.array(2**32)` is (OverflowError).
# Seen: unless 64 bits are enabled, which is not the default, the upper 32 bits are dropped without a word: the keys
# of 5, of 2**32 + 5 and of 7 * 2**32 + 5 are one. With JAX_ENABLE_X64=1 they differ.
#
# Why it matters: a seed made of a run number in the upper and a member number in the lower bits, or of two 32-bit
# words, gives every run the same parameters, and the spread over seeds that is reported is of fewer seeds than it
# says; a run repeated with 64 bits enabled is another run. `jax.random.fold_in(key(a), b)` keeps both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import subprocess
import sys

program = """
import warnings

import jax

warnings.simplefilter("error")
print([jax.random.key_data(jax.random.key(seed)).tolist() for seed in (5, 2**32 + 5, 7 * 2**32 + 5)])
"""
keys = {}
for x64 in ("0", "1"):
    environment = os.environ | {"JAX_ENABLE_X64": x64}
    run = subprocess.run([sys.executable, "-c", program], env=environment, text=True, check=True, stdout=subprocess.PIPE)
    keys[x64] = run.stdout.strip()
    print(f"JAX_ENABLE_X64={x64}: keys of 5, 2**32 + 5 and 7 * 2**32 + 5 are {keys[x64]}")

assert keys["0"] == "[[0, 5], [0, 5], [0, 5]]"
assert keys["1"] == "[[0, 5], [1, 5], [7, 5]]"
PYTHON
