#!/usr/bin/env bash
# jax 0.10.2, 29 November 2026
#
# Expected: the derivative of a function with a rule of its own (`jax.custom_jvp`) follows the rule, and so does the
# derivative of that, wherever the function is called: the rule df = 3 f dx, and hence f'' = 9 f, is 18 at f = 2.
# Seen: forward over reverse, `jvp` of `grad`, gives 18 for the function itself and under `jax.checkpoint`, and 3 inside
# of a `lax.scan`: the rule is used once, and the second time the code of the function is differentiated.
#
# Why it matters: Hessian-vector products of a model whose layers are scanned silently ignore the rules of its
# activations, norms or losses; where a rule is more than a faster form of what the code's derivative is (a clipped or
# straight-through gradient), they are wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax


@jax.custom_jvp
def f(x):
    return 1.0 * x


@f.defjvp
def rule(primals, tangents):
    return f(*primals), 3.0 * f(*primals) * tangents[0]


def scanned(x):
    return jax.lax.scan(lambda carry, x: (carry, f(x)), 0.0, x[None])[1][0]


def second(function):
    return float(jax.jvp(jax.grad(function), (jax.numpy.float32(2.0),), (jax.numpy.float32(1.0),))[1])


ways = {"itself": f, "jax.checkpoint": jax.checkpoint(f), "lax.scan": scanned}
for name, way in ways.items():
    print(f"{name}: f' = {float(jax.grad(way)(2.0))}, f'' = {second(way)}")

assert all(float(jax.grad(way)(2.0)) == 6.0 for way in ways.values())
assert [second(way) for way in ways.values()] == [18.0, 18.0, 3.0]
PYTHON
