"""The loss over a vocabulary, forward and backward to states and output matrix: with all logits at once, or fused.

`tformer_jax@256` is the fused loss of 256 tokens at a time; "plain" keeps all logits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from . import Row, Work

ROWS = [
    Row("gpt2", dict(tokens=4096, d_model=768, vocab_size=50_257), ("plain",)),
    Row("small", dict(tokens=2048, d_model=384, vocab_size=8000), ("plain",)),
]


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    import jax

    import tformer_jax.functional as F

    tokens, D, V = (settings[name] for name in ("tokens", "d_model", "vocab_size"))

    def plain(hidden, w_out, targets):
        return F.cross_entropy(F.output_logits(hidden, w_out), targets)

    def fused(hidden, w_out, targets):
        return F.fused_cross_entropy(hidden, w_out, targets, **{"chunk_size": int(size) for size in changes})

    hidden, w_out = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(((tokens, D), (D, V))))
    inputs = hidden, w_out, jax.random.randint(jax.random.key(2), (tokens,), 0, V)
    loss = plain if contender == "plain" else fused
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*inputs).compile()
    predicted = compiled.memory_analysis().temp_size_in_bytes
    return Work(lambda: jax.block_until_ready(compiled(*inputs)), tokens, "tokens", 6 * tokens * D * V, predicted)
