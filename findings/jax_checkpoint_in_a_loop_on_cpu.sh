#!/usr/bin/env bash
# jax 0.10.2 on a CPU, 28 November 2026
#
# Expected: jax.checkpoint round each of 12 layers lets the backward pass keep one activation a layer and recompute
# the rest, so the compiled gradient needs far less memory, whether the layers are a Python loop or a lax.scan.
# Seen: under lax.scan it needs a sixth (73 MiB against 449). In a Python loop it needs no less (246 MiB, with it and
# without): what is recomputed is merged with what was computed in the forward pass, although `prevent_cse=True` is
# the default. jax 0.12.0.1 does what one expects (70 MiB in the loop).
#
# Why it matters: rematerialisation that is tried out on a CPU, or planned for by the compiler's memory analysis
# there, seems to be worth nothing for unrolled layers, and a run that was to fit by it does not fit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

LAYERS, WIDTH, ROWS = 12, 256, 4096


def layer(x, weights):
    return x + jnp.tanh(jax.nn.gelu(x @ weights[0]) @ weights[1])


def loop(layer, x, weights):
    for i in range(LAYERS):
        x = layer(x, (weights[0][i], weights[1][i]))
    return (x**2).sum()


def scan(layer, x, weights):
    return (jax.lax.scan(lambda x, w: (layer(x, w), None), x, weights)[0] ** 2).sum()


x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
weights = (jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32),) * 2
memory = {}
for stack in (loop, scan):
    for kind, one in (("plain", layer), ("checkpoint", jax.checkpoint(layer))):
        gradient = jax.jit(jax.grad(lambda x, weights: stack(one, x, weights), argnums=(0, 1)))
        analysis = gradient.lower(x, weights).compile().memory_analysis()
        memory[stack.__name__, kind] = analysis.temp_size_in_bytes / 2**20
        print(f"{stack.__name__}, {kind}: {memory[stack.__name__, kind]:.0f} MiB of temporaries")

assert memory["scan", "checkpoint"] < 0.3 * memory["scan", "plain"]
assert memory["loop", "checkpoint"] > 0.95 * memory["loop", "plain"]
PYTHON
