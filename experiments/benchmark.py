"""Time and memory of the attention implementations, forward and backward, over sequence lengths.

    python -m experiments.benchmark --lengths=256,1024,4096 --causal

Each case runs in a process of its own. Implementations take turns, `--rounds` times, and the
table gives the median of the paired time ratios: a machine's speed drifts, a ratio does not.
Memory is what the step needs above its inputs and outputs: predicted is the compiler's own
figure, measured is the highest resident size of the process (on an accelerator, of the device).
"""

import functools
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags
from rich.console import Console
from rich.table import Table

LENGTHS = flags.DEFINE_list("lengths", ["256", "512", "1024", "2048", "4096", "8192", "16384"], "Values of T = S.")
IMPLEMENTATIONS = flags.DEFINE_list("implementations", ["reference", "blockwise"], "The first is what ratios refer to.")
HEADS = flags.DEFINE_integer("heads", 8, "N = K.")
WIDTH = flags.DEFINE_integer("width", 64, "H, of a head.")
BATCH = flags.DEFINE_integer("batch", 1, "B.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Of q, k and v.")
CAUSAL = flags.DEFINE_boolean("causal", False, "Under a causal mask.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "How often the implementations take turns.")
OUTPUT = flags.DEFINE_string("output", None, "A file for the rows, as JSON lines.")
_CASE = flags.DEFINE_string("case", None, "Internal: one measurement, 'implementation,T'.")

_MIB = 1 << 20


def measure(implementation: str, length: int) -> dict:
    """One case in this process: seconds a call, and bytes above inputs and outputs."""
    import jax

    import tformer_jax.functional as F

    shape = (BATCH.value, length, HEADS.value, WIDTH.value)
    q, k, v, d_out = (jax.random.normal(jax.random.key(i), shape, DTYPE.value) for i in range(4))
    attend = functools.partial(
        F.scaled_dot_product_attention, mask=F.AttentionMask(causal=CAUSAL.value), implementation=implementation
    )

    @jax.jit
    def forward_and_backward(q, k, v, d_out):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(d_out)

    compiled = forward_and_backward.lower(q, k, v, d_out).compile()
    predicted = compiled.memory_analysis().temp_size_in_bytes
    if jax.default_backend() == "cpu" and predicted > _available():
        return {"predicted": predicted, "seconds": None, "measured": None}
    before = _resident_now()
    seconds = []
    while len(seconds) < 2 or (sum(seconds) < 1.0 and len(seconds) < 50):
        began = time.perf_counter()
        result = jax.block_until_ready(compiled(q, k, v, d_out))
        seconds.append(time.perf_counter() - began)
    outputs = sum(x.nbytes for x in jax.tree.leaves(result))
    return {
        "predicted": predicted,
        "seconds": statistics.median(seconds),
        "measured": max(0, _highest() - before - outputs),
    }


def _status(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def _resident_now() -> int:
    """Bytes in use now; the high-water mark starts again from here."""
    import jax

    if jax.default_backend() != "cpu":
        return jax.devices()[0].memory_stats()["bytes_in_use"]
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _highest() -> int:
    import jax

    if jax.default_backend() != "cpu":
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    return _status("VmHWM")


def _available() -> int:
    return int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024


def _in_a_process(implementation: str, length: int) -> dict:
    command = [sys.executable, "-m", "experiments.benchmark", *sys.argv[1:], f"--case={implementation},{length}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"predicted": None, "seconds": None, "measured": None}
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    del arguments
    if _CASE.value:
        implementation, length = _CASE.value.split(",")
        print(json.dumps(measure(implementation, int(length))))
        return
    table = Table("T", "implementation", "ms", "ratio", "predicted MiB", "measured MiB")
    rows = []
    for length in map(int, LENGTHS.value):
        rounds = [{name: _in_a_process(name, length) for name in IMPLEMENTATIONS.value} for _ in range(ROUNDS.value)]
        for name in IMPLEMENTATIONS.value:
            row = _summary(name, [r[name] for r in rounds], [r[IMPLEMENTATIONS.value[0]] for r in rounds])
            rows.append({"T": length, "implementation": name, **row})
            cells = [("-" if row[c] is None else f"{row[c]:.{digits}f}") for c, digits in _COLUMNS.items()]
            table.add_row(str(length), name, *cells)
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    Console(width=100).print(table)
    if OUTPUT.value:
        Path(OUTPUT.value).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


_COLUMNS = {"ms": 1, "ratio": 2, "predicted_mib": 1, "measured_mib": 1}


def _summary(name: str, cases: list[dict], peers: list[dict]) -> dict:
    timed = [case["seconds"] for case in cases if case["seconds"]]
    ratios = [c["seconds"] / p["seconds"] for c, p in zip(cases, peers, strict=True) if c["seconds"] and p["seconds"]]
    measured = [case["measured"] for case in cases if case["measured"] is not None]
    predicted = cases[0]["predicted"]
    return {
        "ms": 1000 * statistics.median(timed) if timed else None,
        "ratio": statistics.median(ratios) if ratios else None,
        "predicted_mib": predicted / _MIB if predicted is not None else None,
        "measured_mib": max(measured) / _MIB if measured else None,
    }


if __name__ == "__main__":
    app.run(main)
