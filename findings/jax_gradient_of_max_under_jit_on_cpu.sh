#!/usr/bin/env bash
# jax 0.10.2, CPU, 28 November 2026
#
# Expected: jax.jit changes no gradient by more than rounding. Where values are divided by their own maximum, as a
# normalisation by the largest of a row does, the compiled gradient is finite as the eager one is.
# Seen: of 100 random inputs about half have infinities in the compiled gradient; eagerly every one is finite. The
# gradient of a maximum goes, in equal parts, to the elements that equal it. Our guess: compiled, the elements are
# computed once more, fused into a comparison with a maximum of the first time that was rounded otherwise, so that none
# equals it and a part is divided by zero.
#
# Why it matters: loss and values are right, so nothing shows but a gradient norm of infinity; clipping then scales all
# other gradients to zero, and a guard skips the step. A maximum that only scales can go under jax.lax.stop_gradient.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np


def loss(scale, x, w):
    y = x * 1.7 + 0.1 * jnp.arange(5.0)[:, None] * scale
    y = y / (1 + jnp.abs(y).max(-1, keepdims=True)) * scale
    return jnp.sin(y @ w).sum()


def inputs(seed):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((8,), (2, 5, 8), (8, 8))]


def finite(gradients):
    return all(bool(jnp.isfinite(g).all()) for g in gradients)


compiled = jax.jit(jax.grad(loss, (0, 1)))
broken = [seed for seed in range(100) if not finite(compiled(*inputs(seed)))]
with jax.disable_jit():
    eager = [finite(jax.grad(loss, (0, 1))(*inputs(seed))) for seed in broken[:10]]
values = [jnp.isclose(jax.jit(loss)(*inputs(seed)), loss(*inputs(seed)), rtol=1e-5) for seed in broken[:10]]
print("compiled gradients that are not finite:", len(broken), "of 100")
print("of ten of these, finite eagerly:", sum(eager), "and with the same loss:", int(sum(values)))
assert len(broken) >= 20 and all(eager) and all(values)
PYTHON
