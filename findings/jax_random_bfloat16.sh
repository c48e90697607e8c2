#!/usr/bin/env bash
# jax 0.10.2, 28 November 2026
#
# Expected: drawing in bfloat16 is drawing in float32 and rounding. A normal draw then has thousands of distinct
# values and, of a million, some beyond 4; a token is drawn as often as its probability says, up to bfloat16's three
# digits.
# Seen: the uniform number beneath has 7 random bits. A million normal draws have 128 distinct values, the largest
# 2.89. `bernoulli` with a bfloat16 probability of 0.001 is True in 0.8 % of the draws. `categorical` over 50,000
# equal bfloat16 logits draws none but the first thousand: the Gumbel noise has 128 values, and ties go to the first
# index.
#
# Why it matters: initialisers called with `dtype=bfloat16` give weights without tails; a dropout or corruption rate
# that comes from bfloat16 arithmetic is another one; and a model that puts out bfloat16 logits samples the low token
# ids. The documentation of `mode` warns of float32 below 1e-7. `mode="high"` mends bernoulli, but not categorical;
# converting the probability or the logits to float32 first mends both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

key = jax.random.key(0)
for dtype in ("float32", "bfloat16"):
    # float32 draws are rounded to bfloat16 before they are counted
    draws = np.asarray(jax.random.normal(key, (1_000_000,), dtype).astype("bfloat16").astype("float32"))
    distinct, largest = len(np.unique(draws)), float(np.abs(draws).max())
    share = float(jax.random.bernoulli(key, jnp.array(0.001, dtype), (1_000_000,)).mean())
    tokens = np.asarray(jax.random.categorical(key, jnp.zeros(50_000, dtype), shape=(500,)))
    print(f"{dtype}: normal has {distinct:,} values, the largest {largest:.2f}; bernoulli(0.001) is True in {share:.2%}; "
          f"the highest of 500 tokens, all equally likely, is {tokens.max():,}")
high = jax.random.categorical(key, jnp.zeros(50_000, "bfloat16"), shape=(500,), mode="high")
print(f"bfloat16, mode='high': the mean token is {float(high.mean()):,.0f}, 25,000 would be right")

assert distinct == 128 and largest < 2.9
assert 0.007 < share < 0.009
assert tokens.max() < 1_000 and high.mean() < 20_000
PYTHON
