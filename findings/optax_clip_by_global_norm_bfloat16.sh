#!/usr/bin/env bash
# optax 0.2.8 (jax 0.10.2), 28 November 2026
#
# Expected: clip_by_global_norm(1.0) makes the norm of the gradients at most 1, up to rounding, whatever their dtype.
# Seen: the squares of the leaves are added up in the dtype of the leaves. In bfloat16, 256 + 1 is 256, so the norm of
# 1,024 leaves of norm 1 is 16 and not 32, and what comes out of the clipping has norm 2. In float16, one entry of 300
# makes the norm infinite and the clipped gradients zero.
#
# Why it matters: with parameters (hence gradients) of 16 bits the clipping is not what the config says, the more so
# the more arrays a model has; under float16 a large gradient is not clipped but thrown away, without a word. A norm
# taken of the float32 copies, `optax.tree.norm(jax.tree.map(lambda g: g.astype("float32"), grads))`, is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 optax==0.2.8
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
import optax


def clipped(grads):
    clip = optax.clip_by_global_norm(1.0)
    updates, _ = clip.update(grads, clip.init(grads))
    return updates


def norm(leaves):
    """The norm in float64 NumPy."""
    return float(np.sqrt(sum((np.asarray(leaf).astype(np.float64) ** 2).sum() for leaf in leaves)))


for dtype in ("float32", "bfloat16"):
    grads = [jnp.ones((1,), dtype)] * 1024
    print(f"1,024 leaves of norm 1, {dtype}: optax says {float(optax.tree.norm(grads))}, it is {norm(grads)}; "
          f"clipped to 1 it is {norm(clipped(grads)):.3f}")
large = [jnp.array([300.0, 1.0], "float16")]
print(f"[300, 1] in float16: optax says {float(optax.tree.norm(large))}, it is {norm(large):.1f}; clipped: {clipped(large)[0]}")

assert abs(norm(clipped([jnp.ones((1,), "float32")] * 1024)) - 1) < 1e-3
assert float(optax.tree.norm(grads)) == 16 and norm(grads) == 32 and norm(clipped(grads)) == 2
assert norm(clipped(large)) == 0
PYTHON
