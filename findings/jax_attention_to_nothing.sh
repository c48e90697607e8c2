#!/usr/bin/env bash
# jax 0.10.2, 28 November 2026
#
# Expected: a query that may attend no key gets the same from jax.nn.dot_product_attention however that is said: by
# `mask`, by `bias`, by `key_value_seq_lengths` or, for a query that is padding itself, by `query_seq_lengths`; zeros,
# say. Its documentation does not tell.
# Seen: three answers. A mask and key lengths give the mean of all values, padding and masked ones included; query
# lengths give zeros; a bias of minus infinity gives NaN.
#
# Why it matters: rows without a key are ordinary in padded and packed batches. The mean lets a query read what the
# mask forbids, and gradients flow into those values; one NaN makes the gradient of all parameters NaN, even where the
# loss leaves the row out. Which of them a model meets changes with the argument by which the same mask is said.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

q, k, v = (jax.random.normal(key, (1, 3, 1, 4)) for key in jax.random.split(jax.random.key(0), 3))
mask = jnp.ones((1, 1, 3, 3), bool).at[..., 2, :].set(False)  # the last query may attend nothing
attend = jax.nn.dot_product_attention
rows = {
    "mask": attend(q, k, v, mask=mask),
    "key_value_seq_lengths": attend(q, k, v, key_value_seq_lengths=jnp.array([0])),
    "query_seq_lengths": attend(q, k, v, query_seq_lengths=jnp.array([2])),
    "bias": attend(q, k, v, bias=jnp.where(mask, 0, -jnp.inf)),
}
rows = {name: out[0, 2, 0] for name, out in rows.items()}
mean = v.mean(1)[0, 0]
print("mean of the values:", mean)
for name, row in rows.items():
    print(f"{name}: {row}")


def loss(v):
    return attend(q, k, v, mask=mask)[0, 2].sum()


reached = jax.grad(loss)(v)[0, :, 0, 0]
print("gradient of the row under the mask to the three values that it may not read:", reached)

assert jnp.allclose(rows["mask"], mean, atol=1e-5) and jnp.allclose(rows["key_value_seq_lengths"], mean, atol=1e-5)
assert (rows["query_seq_lengths"] == 0).all() and jnp.isnan(rows["bias"]).all()
assert jnp.allclose(reached, 1 / 3, atol=1e-5)
PYTHON
