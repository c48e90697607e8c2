#!/usr/bin/env bash
# jax 0.10.2 on a CPU of two cores or more, 29 November 2026
#
# Expected: one batched product of 72 pairs of small matrices, the scores of attention in all heads of a batch, is spread
# over the cores: the pairs have nothing to do with each other.
# Seen: the pairs are multiplied one after the other, each by one thread, since each is too small to be split; the other
# cores wait. One large matrix is split.
#
# Why it matters: attention over short rows is made of such products. On two cores they ran at 105 GFLOP/s, where
# PyTorch's ran at 290, while large products of the two were at 250 and 285.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
cat > share.py <<'PYTHON'
import os
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp

assert len(os.sched_getaffinity(0)) > 1, "one core alone shows nothing"


def running(batch, rows, width):
    """How many threads want a core, on average, in a loop of products [batch rows width] x [batch width width]."""
    a, b = jnp.ones((batch, rows, width)), jnp.broadcast_to(jnp.eye(width), (batch, width, width))
    count = int(3e11 / (2 * batch * rows * width * width))
    multiply = jax.jit(lambda a, b: jax.lax.fori_loop(0, count, lambda _, a: a @ b, a))
    multiply(a, b).block_until_ready()
    result, found = multiply(a, b), []
    while not result.is_ready():  # as the system sees them: "R" is one that runs or waits for a core
        states = [(t / "stat").read_text().rpartition(")")[2].split()[0] for t in Path("/proc/self/task").iterdir()
                  if int(t.name) != threading.get_native_id()]
        found.append(states.count("R"))
        time.sleep(0.01)
    return sum(found) / len(found)


print(f"{running(72, 256, 64):.2f} {running(1, 2048, 512):.2f}")
PYTHON
read -r pairs one <<< "$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" share.py)"
echo "threads that want a core: 72 pairs $pairs, one large matrix $one"
"$folder/venv/bin/python" -c "assert $pairs < 1.4 and $one > 1.6"
