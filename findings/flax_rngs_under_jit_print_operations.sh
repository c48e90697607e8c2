#!/usr/bin/env bash
# flax 0.12.8 with jax 0.10.2, 30 November 2026
#
# Expected: tracing a function that draws 400 arrays by `nnx.Rngs` takes about as long as tracing one that folds numbers into
# its key: some milliseconds a draw, the same for each.
# Seen: 25 times as long (2.8 s against 0.11), and with twice the draws three and a half times as long. To count on, `Rngs`
# asks two tracers for their `sharding`; they have none, and JAX says so in an error that prints the operations which led to
# them, for which it goes through all that were traced before. Flax drops the error. So of each draw comes a text, twice,
# that nobody reads.
#
# Why it matters: a model of many layers that is made under `jit` one layer after the other, as sharded initialisers are, starts
# later by the square of their number. Layers made by `vmap`, or keys split ahead, do not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import statistics
import time
from unittest import mock

import jax
from flax import nnx

KEY = jax.random.key(0)


def by_rngs(key, draws):
    rngs = nnx.Rngs(params=key)
    return [jax.random.normal(rngs.params(), (4, 4)) for _ in range(draws)]


def by_folding(key, draws):
    return [jax.random.normal(jax.random.fold_in(key, i), (4, 4)) for i in range(draws)]


def seconds(function, draws):
    jax.clear_caches()
    start = time.process_time()
    jax.jit(function, static_argnums=1).trace(KEY, draws)
    return time.process_time() - start


def asked():
    """How often a tracer is asked in vain for its sharding while 100 arrays are drawn."""
    tracer = type(jax.make_jaxpr(lambda x: seen.append(x))(1.0) and seen[0])
    place = next(cls for cls in tracer.__mro__ if "sharding" in vars(cls))
    counted = mock.Mock(side_effect=vars(place)["sharding"].fget)
    with mock.patch.object(place, "sharding", property(lambda self: counted(self))):
        seconds(by_rngs, 100)
    return counted.call_count


seen = []
for function in (by_rngs, by_folding):
    seconds(function, 2)
print(f"100 draws ask {(count := asked())} times for a sharding that is not there")
rounds = [[seconds(f, n) for f, n in ((by_rngs, 200), (by_rngs, 400), (by_folding, 400))] for _ in range(3)]
half, whole, folded = (statistics.median(times) for times in zip(*rounds))
print(f"tracing 200 draws by Rngs: {half:.2f} s, 400: {whole:.2f} s; 400 by folding: {folded:.2f} s")
assert count == 200 and whole > 2.5 * half and whole > 4 * folded
PYTHON
