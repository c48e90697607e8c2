#!/usr/bin/env bash
# optax 0.2.8 (jax 0.10.2), 28 November 2026
#
# Expected: adam on 16-bit parameters rounds its updates to 16 bits; it keeps its moments well enough to be Adam.
# Under a constant gradient, every update is the learning rate.
# Seen: the second moment has the dtype of the parameters (`mu_dtype` is for the first one; there is no `nu_dtype`).
# In bfloat16 it stops half-way to the square of a constant gradient, since what a step adds is under half a unit in
# the last place: steps are 1.39 times the learning rate, for ever. In float16, eps = 1e-8 is zero and so is the
# square of a gradient of 1e-3: the first update is infinite.
#
# Why it matters: the loss goes down all the same in bfloat16, so nobody notices that the learning rate is not what
# was asked for; in float16 the first step ends the run. Parameters in float32 with computation in 16 bits are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 optax==0.2.8
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import optax

adam = optax.adam(1e-3)
update = jax.jit(adam.update)


def after(steps, gradient, dtype):
    """The second moment and the last update after so many steps of one gradient."""
    grads = {"w": jnp.full((1,), gradient, dtype)}
    state = adam.init({"w": jnp.ones((1,), dtype)})
    for _ in range(steps):
        updates, state = update(grads, state)
    return float(state[0].nu["w"][0]), float(updates["w"][0])


for dtype in ("float32", "bfloat16"):
    nu, step = after(10_000, 1.0, dtype)
    print(f"{dtype}, gradient 1, 10,000 steps: second moment {nu:.4f}, update {step:.3e}")
assert nu == 0.5 and -1.4e-3 < step < -1.38e-3
for dtype in ("float32", "float16"):
    nu, step = after(1, 1e-3, dtype)
    print(f"{dtype}, gradient 0.001, 1 step: second moment {nu:.1e}, update {step:.3e}")
assert nu == 0 and step == -jnp.inf
PYTHON
