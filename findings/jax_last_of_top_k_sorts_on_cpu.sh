#!/usr/bin/env bash
# jax 0.10.2 on a CPU, 28 November 2026
#
# Expected: `lax.top_k(logits, 50)[0][..., -1:]`, the threshold of top-k sampling, compiles to what top_k compiles to,
# the library call that finds 50 of 50,257, and one slice.
# Seen: XLA takes top_k apart into a sort of all 50,257, because only a slice of the result is used; some 100 times
# slower. The same threshold as `lax.top_k(logits, 50)[0].min(-1, keepdims=True)` keeps the library call. In bfloat16
# any top_k is a sort. jax 0.12.0.1 keeps the call for float32 in both, and sorts in bfloat16.
#
# Why it matters: it is how top-k sampling is commonly written, once a token; in a small model the sort takes longer
# than the model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax import lax


def compiled(function, dtype):
    text = jax.jit(function).lower(jax.ShapeDtypeStruct((8, 50_257), dtype)).compile().as_text()
    return "TopK" if "TopK" in text else "sort" if " sort(" in text else "neither"


ways = {
    "top_k(x, 50)[0]": lambda x: lax.top_k(x, 50)[0],
    "top_k(x, 50)[0][..., -1:]": lambda x: lax.top_k(x, 50)[0][..., -1:],
    "top_k(x, 50)[0].min(-1, keepdims=True)": lambda x: lax.top_k(x, 50)[0].min(-1, keepdims=True),
}
found = {(name, dtype): compiled(way, dtype) for name, way in ways.items() for dtype in ("float32", "bfloat16")}
for (name, dtype), what in found.items():
    print(f"{dtype}, {name}: {what}")

x = jax.random.normal(jax.random.key(0), (8, 50_257))
assert all((way(x)[..., -1] == jnp.sort(x)[..., -50]).all() for way in ways.values())  # the value is the same
assert [found[name, "float32"] for name in ways] == ["TopK", "sort", "TopK"]
assert all(found[name, "bfloat16"] == "sort" for name in list(ways)[:2])
PYTHON
