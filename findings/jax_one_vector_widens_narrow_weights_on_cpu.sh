#!/usr/bin/env bash
# jax 0.10.2 on a CPU, 29 November 2026
#
# Expected: within a loop, a product of vectors and a matrix of int8 (to int32) or bfloat16 (to float32) reads the matrix
# as it is, whether there is one vector or two: that is what narrow weights are kept for.
# Seen: with two vectors it does, and the program has no temporaries to speak of. With one vector the whole matrix is
# widened to 32 bits before the loop, which then reads two or four times the bytes: temporaries of the size of the
# matrix in 32 bits.
#
# Why it matters: generation for one user reads every weight at every token. A language model in int8 with one row is
# slower than in float32; with the row given twice it takes under half of that time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

SIZE = 1024


def temporaries(dtype, wide, vectors):
    """Bytes of a program that multiplies by a matrix ten times, in units of the matrix in 32 bits."""

    def run(x, w):
        step = lambda i, x: jnp.clip(jnp.matmul(x, w, preferred_element_type=wide), -1, 1).astype(dtype)
        return jax.lax.fori_loop(0, 10, step, x)

    compiled = jax.jit(run).lower(jnp.ones((vectors, SIZE), dtype), jnp.ones((SIZE, SIZE), dtype)).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * SIZE * SIZE)


for dtype, wide in ((jnp.int8, jnp.int32), (jnp.bfloat16, jnp.float32)):
    one, two = (temporaries(dtype, wide, vectors) for vectors in (1, 2))
    print(f"{jnp.dtype(dtype).name}: one vector {one:.2f}, two vectors {two:.2f} times the matrix in 32 bits")
    assert one > 0.9 and two < 0.1
PYTHON
