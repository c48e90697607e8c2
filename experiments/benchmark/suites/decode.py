"""Generation with a cache: greedy, by top-k and top-p, in beams; of random models, so that no row ends early.

A turn makes all new tokens of all rows, the prompt's reading included. `tformer_jax@weights=int8` keeps weights in eight
bits; what "sampled-8" draws costs as much more as its ratio to `tformer_jax@sampled=false`, the greedy one, says.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import Row, Work

_SMALL = dict(task="causal_lm", d_model=384, layers=6, heads=6, vocab_size=50_257, length=256, prompt=32, new=64)
_GPT2 = _SMALL | dict(d_model=768, layers=12, heads=12, length=1024, new=32)
_BEAM = dict(task="translation", d_model=256, layers=3, heads=4, vocab_size=8000, length=64, prompt=32, new=32, rows=8)

_PEERS = ("transformers",)
ROWS = [
    Row("small-1", _SMALL | dict(rows=1), _PEERS),
    Row("small-8", _SMALL | dict(rows=8), _PEERS),
    Row("gpt2-1", _GPT2 | dict(rows=1), _PEERS),
    Row("beam-4", _BEAM | dict(beams=4), _PEERS),
    Row("sampled-8", _SMALL | dict(rows=8, sampled=True), _PEERS, ways=("tformer_jax@sampled=false",)),
    Row("small-64", _SMALL | dict(rows=64), _PEERS),
    Row("gpt2-64", _GPT2 | dict(rows=64), _PEERS),
]
_FOR_ACCELERATORS = ("small-64", "gpt2-64")
BOS, EOS = 1, 2


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names and row.name not in _FOR_ACCELERATORS]


def prompt(settings: Mapping[str, Any]) -> np.ndarray:
    """Token ids [B T]."""
    shape = settings["rows"], settings["prompt"]
    return np.random.default_rng(0).integers(4, settings["vocab_size"], shape).astype(np.int32)


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    if contender == "transformers":
        turn = importlib.import_module("experiments.benchmark.peers.transformers_decoding").turn(
            settings, prompt(settings)
        )
    else:
        turn = _product(settings, changes)
    return Work(turn, settings["rows"] * settings["new"], "tokens")


def _product(settings: Mapping[str, Any], changes: Mapping[str, Any]):
    import jax
    from flax import nnx

    from tformer_jax import decoding, nn
    from tformer_jax.config import build, merged, nested
    from tformer_jax.models import CausalLM, Transformer

    from .train_step import model_table

    cls = CausalLM if settings["task"] == "causal_lm" else Transformer
    changes = dict(changes)
    weights = changes.pop("weights", nn.WEIGHTS[0])
    sampled = changes.pop("sampled", settings.get("sampled", False))
    table = merged(cls.Config, model_table(settings), nested(changes))
    model = jax.jit(lambda: cls(build(cls.Config, table, "model"), rngs=nnx.Rngs(0)))()
    model = nn.apart(nn.with_weights(model, weights))  # as whoever generates often does
    tokens, new = prompt(settings), settings["new"]
    if beams := settings.get("beams"):
        how = dict(beam_size=beams, max_length=new, bos_id=BOS, eos_id=EOS, num_results=1)
        return lambda: jax.block_until_ready(decoding.beam_search(model, tokens, **how))
    sampler = decoding.sampling(top_k=50, top_p=0.95) if sampled else decoding.greedy()
    how = dict(max_new_tokens=new, sampler=sampler, key=jax.random.key(0))
    return lambda: jax.block_until_ready(decoding.generate(model, tokens, **how))
