"""Loading a checkpoint of Hugging Face's from a folder: GPT-2 (124 M), and 2 GB of a small Llama in shards.

A turn loads the model and frees it. In rows "touched" it also reads all values once, by a sum of each parameter in NumPy:
`transformers` maps the files into memory, and most of a file is read when it is used. Weights are drawn by chance; the
files were written just before, so that no disk is measured. `tformer_jax@dtype=bfloat16` casts on the way.
"""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import Row, Work, scratch

_GPT2 = dict(architecture="GPT2LMHeadModel", config=dict(model_type="gpt2"), shard_bytes=5 << 30)
_LLAMA = dict(architecture="LlamaForCausalLM", shard_bytes=400 << 20, config=dict(
    model_type="llama", hidden_size=2048, num_hidden_layers=8, intermediate_size=5632, num_attention_heads=16,
    num_key_value_heads=4, rope_parameters=dict(rope_type="default", rope_theta=10_000.0),
))  # fmt: skip
ROWS = [
    Row(name, settings | dict(touched=name.endswith("touched")), ("transformers",))
    for name, settings in {"gpt2": _GPT2, "gpt2-touched": _GPT2, "llama": _LLAMA, "llama-touched": _LLAMA}.items()
]


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    from ..worker import Memory

    folder = scratch()
    # In a process of its own: what it takes and frees would serve the turns.
    command = [sys.executable, "-m", __name__, str(folder), json.dumps(dict(settings))]
    subprocess.run(
        command, check=True, cwd=Path(__file__).parents[3], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if contender == "transformers":
        peer = importlib.import_module("experiments.benchmark.peers.transformers_loading")
        load = peer.loader(settings["architecture"])
    else:
        load = _product(changes)
    memory, seconds = Memory(contender), []

    def turn() -> None:
        began = time.perf_counter()
        arrays = load(folder)
        if settings["touched"]:
            for x in arrays:
                x.sum()
        seconds.append(time.perf_counter() - began)

    memory.start()
    notes = lambda: {"first": seconds[0], "bytes": size, "peak": memory.peak()}
    return Work(turn, size >> 20, "MiB", peak=memory.peak, notes=notes)


def write(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes a folder with a model of numbers by chance."""
    import jax
    import numpy as np
    from flax import nnx

    from tformer_jax import interop, models

    family = interop.FAMILIES[settings["config"]["model_type"]]
    config = family.read_config(settings["config"], settings["architecture"])
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: models.CausalLM(config, rngs=nnx.Rngs(0)))
    model = jax.tree.map(lambda x: draw.random(x.shape, np.float32), shapes)
    interop.save_pretrained(model, folder, family=family.name, shard_bytes=settings["shard_bytes"])


def _product(changes: Mapping[str, Any]):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from tformer_jax import interop

    jnp.zeros(()).block_until_ready()  # it starts JAX, which is no part of loading

    def load(folder: Path) -> list[np.ndarray]:
        model, _ = interop.load_pretrained(folder, **changes)
        return [np.asarray(x) for x in jax.block_until_ready(jax.tree.leaves(model))]

    return load


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says of each contender what its first turn took, and its peak memory beside the size of the files."""
    return [
        f"{line['row']}, {line['contender']}: the first time {1000 * notes['first']:.0f} ms; at most "
        f"{notes['peak'] / 2**20:.0f} MiB of memory, {notes['peak'] / notes['bytes']:.2f} times the files' "
        f"{notes['bytes'] / 2**20:.0f} MiB"
        for line in lines
        if "bytes" in (notes := line["notes"])
    ]


if __name__ == "__main__":
    write(Path(sys.argv[1]), json.loads(sys.argv[2]))
