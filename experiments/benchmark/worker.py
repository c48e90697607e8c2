"""A contender: builds its work, does it once, says so, and does it again whenever a line tells it to.

It is started by `turns.Contender`, with the case as JSON. A contender is a name of `peers`, or "tformer_jax", which may
be followed by what is different about it: a folder with another version of the project, or fields of its config and
flags of XLA.

    tformer_jax    tformer_jax@scan_unroll=6,attention.implementation=blockwise    tformer_jax@../older    torch
"""

import contextlib
import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from .suites import Work
from .turns import CEILING


def main() -> None:
    began = _process_start()
    case = json.loads(sys.argv[1])
    name, _, how = case["contender"].partition("@")
    if os.sep in how:
        sys.path.insert(0, how)  # `experiments` is loaded already: of the other version comes the package alone
        how = ""
    flags = [part for part in how.split(",") if part.startswith("--xla")]
    suite = importlib.import_module(f"experiments.benchmark.suites.{case['suite']}")
    asked = getattr(suite, "ENVIRONMENT", {})  # before JAX is imported
    every_flag = [os.environ.get("XLA_FLAGS", ""), asked.get("XLA_FLAGS", ""), *flags]
    os.environ |= asked | {"XLA_FLAGS": " ".join(filter(None, every_flag))}  # of blanks alone XLA would make a file
    how = ",".join(part for part in how.split(",") if part not in flags)
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    memory = Memory(name)
    if name == "tformer_jax":
        with contextlib.suppress(ImportError):  # an older version has none
            importlib.import_module("tformer_jax.training.memory").keep_freed_memory()  # as every command does
    memory.start()
    work = ceiling() if name == CEILING else suite.prepare(case["settings"], name, _changes(how))
    work.turn()
    facts = {"count": work.count, "unit": work.unit, "flops": work.flops, "predicted": work.predicted}
    print(json.dumps(facts | {"first": time.time() - began}), file=out, flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            peak = (work.peak or memory.peak)()
            print(json.dumps({"peak_bytes": peak, "notes": work.notes()}), file=out, flush=True)
            return
        start = time.perf_counter()
        work.turn()
        print(json.dumps({"seconds": time.perf_counter() - start}), file=out, flush=True)


def ceiling() -> Work:
    """Products of large float32 matrices (bfloat16 on an accelerator): what nothing that multiplies can pass."""
    import jax
    import jax.numpy as jnp

    size, dtype = (2048, jnp.float32) if jax.default_backend() == "cpu" else (8192, jnp.bfloat16)
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(lambda a: a @ a)
    return Work(lambda: multiply(a).block_until_ready(), flops=2 * size**3)


def _changes(text: str) -> dict[str, Any]:
    """Fields and values of "a.b=1,c=x", values as JSON, or texts."""
    changes = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes


def _process_start() -> float:
    """The time when this process began, in seconds since the epoch."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    booted = int(re.search(r"btime (\d+)", Path("/proc/stat").read_text())[1])
    return booted + ticks / os.sysconf("SC_CLK_TCK")


class Memory:
    """The most memory taken since `start`: of the device, or of the process where there is none."""

    def __init__(self, name: str):
        self._torch = name.startswith(("torch", "transformers"))
        self._before = 0

    def start(self) -> None:
        if self._on_device() is None:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
            self._before = _status("VmRSS")

    def peak(self) -> int:
        on_device = self._on_device()
        return _status("VmHWM") - self._before if on_device is None else on_device

    def _on_device(self) -> int | None:
        if self._torch:
            torch = sys.modules.get("torch")
            return torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else None
        jax = sys.modules.get("jax")
        if jax is None or jax.default_backend() == "cpu":
            return None
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


def _status(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


if __name__ == "__main__":
    main()
