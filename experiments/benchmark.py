"""Time and memory of the implementations of attention or of the loss, forward and backward, over sequence lengths.

    python -m experiments.benchmark --lengths=256,1024,4096 --causal
    python -m experiments.benchmark --subject=loss --batch=8 --lengths=512 --vocab=50257 --d_model=768

The loss is that of B T tokens: "plain" keeps all logits, "fused" a chunk, "fused:256" those of 256 tokens.

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

from tformer_jax.data.files import WriteError, write_whole

SUBJECT = flags.DEFINE_enum(
    "subject", "attention", ["attention", "loss"], "What to measure: attention, or the loss over a vocabulary."
)
LENGTHS = flags.DEFINE_list(
    "lengths", ["256", "512", "1024", "2048", "4096", "8192", "16384"], "Sequence lengths to measure, T = S."
)
IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations", None, "Implementations to compare, the first as the base of the ratios; default: all."
)
HEADS = flags.DEFINE_integer("heads", 8, "Attention: number of heads, N = K.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 64, "Attention: width of a head, H.", lower_bound=1)
CAUSAL = flags.DEFINE_boolean("causal", False, "Attention: use a causal mask.")
VOCAB = flags.DEFINE_integer("vocab", 50257, "Loss: vocabulary size, V.", lower_bound=1)
D_MODEL = flags.DEFINE_integer("d_model", 768, "Loss: model width, D.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 1, "Batch size, B.", lower_bound=1)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Dtype of the inputs.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Number of rounds; each measures every implementation once.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "File to write the rows to, as JSON lines.")
_CASE = flags.DEFINE_string("case", None, "Internal: one measurement, 'implementation,T'.")

_MIB = 1 << 20
_ALL = {"attention": ["reference", "blockwise"], "loss": ["plain", "fused"]}


def attention(implementation: str, length: int):
    """The outputs and gradients of one call as a function, and its inputs."""
    import jax

    import tformer_jax.functional as F

    attend = functools.partial(
        F.scaled_dot_product_attention, mask=F.AttentionMask(causal=CAUSAL.value), implementation=implementation
    )

    def forward_and_backward(q, k, v, d_out):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(d_out)

    return forward_and_backward, _normal(*[(BATCH.value, length, HEADS.value, WIDTH.value)] * 4)


def loss(implementation: str, length: int):
    """The loss and its gradients for hidden states and output projection as a function, and its inputs."""
    import jax

    import tformer_jax.functional as F

    def plain(hidden, w_out, targets):
        logits = jax.numpy.einsum("BTD,DV->BTV", hidden, w_out, preferred_element_type="float32")
        return F.cross_entropy(logits, targets)

    kind, _, size = implementation.partition(":")
    fused = functools.partial(F.fused_cross_entropy, **({"chunk_size": int(size)} if size else {}))
    targets = jax.random.randint(jax.random.key(2), (BATCH.value, length), 0, VOCAB.value)
    hidden, w_out = _normal((BATCH.value, length, D_MODEL.value), (D_MODEL.value, VOCAB.value))
    return jax.value_and_grad({"plain": plain, "fused": fused}[kind], argnums=(0, 1)), (hidden, w_out, targets)


def _normal(*shapes: tuple[int, ...]) -> list:
    import jax

    return [jax.random.normal(jax.random.key(i), shape, DTYPE.value) for i, shape in enumerate(shapes)]


def measure(implementation: str, length: int) -> dict:
    """One case in this process: seconds a call, and bytes above inputs and outputs."""
    import jax

    from tformer_jax.sweeps.calibration import available_bytes

    function, inputs = {"attention": attention, "loss": loss}[SUBJECT.value](implementation, length)
    compiled = jax.jit(function).lower(*inputs).compile()
    predicted = compiled.memory_analysis().temp_size_in_bytes
    if jax.default_backend() == "cpu" and predicted > available_bytes(jax.devices()[0]):
        return {"predicted": predicted, "seconds": None, "measured": None}
    before = _resident_now()
    seconds, result = [], None
    while len(seconds) < 2 or (sum(seconds) < 1.0 and len(seconds) < 50):
        del result  # or its outputs would count twice
        began = time.perf_counter()
        result = jax.block_until_ready(compiled(*inputs))
        seconds.append(time.perf_counter() - began)
    return {
        "predicted": predicted,
        "seconds": statistics.median(seconds),
        "measured": max(0, _highest() - before - sum(x.nbytes for x in jax.tree.leaves(result))),
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


def _in_a_process(implementation: str, length: int) -> dict:
    command = [sys.executable, "-m", "experiments.benchmark", *sys.argv[1:], f"--case={implementation},{length}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:  # killed for its memory, perhaps
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{implementation}, T={length}: {last}", file=sys.stderr)
        return {"predicted": None, "seconds": None, "measured": None}
    return json.loads(done.stdout.splitlines()[-1])


def main(_: list[str]) -> None:
    if _CASE.value:
        implementation, length = _CASE.value.split(",")
        print(json.dumps(measure(implementation, int(length))))
        return
    _check()
    table = Table("T", "implementation", "ms", "ratio", "predicted MiB", "measured MiB")
    implementations = IMPLEMENTATIONS.value or _ALL[SUBJECT.value]
    rows = []
    for length in map(int, LENGTHS.value):
        rounds = [{name: _in_a_process(name, length) for name in implementations} for _ in range(ROUNDS.value)]
        for name in implementations:
            row = _summary([r[name] for r in rounds], [r[implementations[0]] for r in rounds])
            rows.append({"T": length, "implementation": name, **row})
            cells = [("-" if row[c] is None else f"{row[c]:.{digits}f}") for c, digits in _COLUMNS.items()]
            table.add_row(str(length), name, *cells)
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    Console(width=100).print(table)
    if OUTPUT.value:
        try:
            write_whole(Path(OUTPUT.value), "".join(json.dumps(row) + "\n" for row in rows))
        except WriteError as error:
            sys.exit(f"error: {error}")


def _check() -> None:
    """Ends with a message for what no case could make anything of."""
    for name in IMPLEMENTATIONS.value or []:
        if re.sub(r"^fused:[1-9]\d*$", "fused", name) not in _ALL[SUBJECT.value]:
            sys.exit(f"error: --implementations of {SUBJECT.value} are {', '.join(_ALL[SUBJECT.value])}, got {name!r}")
    for length in LENGTHS.value:
        if not re.fullmatch(r"[1-9]\d*", length):
            sys.exit(f"error: --lengths must be positive integers, got {length!r}")
    if OUTPUT.value and not Path(OUTPUT.value).absolute().parent.is_dir():
        sys.exit(f"error: --output must be in a folder that exists, got {OUTPUT.value}")


_COLUMNS = {"ms": 1, "ratio": 2, "predicted_mib": 1, "measured_mib": 1}


def _summary(cases: list[dict], peers: list[dict]) -> dict:
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
