#!/usr/bin/env bash
# jax 0.10.2, 29 November 2026
#
# Expected: what jax.checkpoint computes is computed again for derivatives, and nothing of it is kept. A loop of
# checkpointed blocks, each of which makes its mask from its number, takes memory that is linear in the length, also
# within a loop over layers.
# Seen: within jax.lax.scan, whose rounds have the numbers of the blocks in common, the masks of all blocks are computed once,
# before the scan, and kept: [blocks, block, length], quadratic in the length. By itself the loop keeps none, and none
# where the numbers are made to depend on what the scan carries, by jax.lax.optimization_barrier.
#
# Why it matters: this is blockwise attention in a stack of layers. It took 710 MB for 16,384 tokens where it takes 33.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
cat > kept.py <<'PYTHON'
import re

import jax
import jax.numpy as jnp

T, BLOCK = 1024, 64
blocks = f"bool[{T // BLOCK},{BLOCK},{T}]"


def attend(x, tied):
    """Sums of earlier tokens, block by block."""
    starts = jnp.arange(0, T, BLOCK)
    if tied:
        starts, _ = jax.lax.optimization_barrier((starts, jax.lax.stop_gradient(x[:0])))

    @jax.checkpoint
    def block(start):
        seen = start + jnp.arange(BLOCK)[:, None] >= jnp.arange(T)
        return jnp.where(seen, jnp.sin(x), 0.0).sum(1)

    return jax.lax.map(block, starts).reshape(T)


def keeps(layers, tied):
    """Whether the gradient of so many layers, or of one without a scan, holds the masks of all blocks."""
    def loss(x):
        if layers is None:
            return attend(x, tied).sum()
        return jax.lax.scan(lambda x, _: (attend(x, tied), None), x, length=layers)[0].sum()

    return blocks in str(jax.make_jaxpr(jax.grad(loss))(jnp.ones(T)))


found = [keeps(None, False), keeps(2, False), keeps(2, True)]
print(f"masks of all blocks are kept: by itself {found[0]}, in a scan {found[1]}, in a scan with a barrier {found[2]}")
assert found == [False, True, False]
PYTHON
"$folder/venv/bin/python" kept.py
