"""How a stack runs through its layers; the values are those of `tests/models`."""

import jax
import jax.numpy as jnp
import pytest
from support import assert_close, tiny_model

from tformer_jax import decoding
from tformer_jax.nn import apart

PATTERN = ({}, {"attention": {"window": 3}})
TOKENS = jnp.arange(12).reshape(2, 6)


@pytest.mark.parametrize("how", [dict(num_layers=3), dict(num_layers=5, pattern=PATTERN)])
def test_layers_apart_are_the_same_layers(how):
    """A layer is in another place, has another one's window or dropout key, or is captured in another order."""
    model = tiny_model("CausalLM", **how)
    run = jax.jit(lambda model: model(TOKENS, key=jax.random.key(0), capture=("residual",)))
    (logits, found), (wanted, residual) = run(apart(model)), run(model)
    assert_close(logits, wanted, 1e-6)
    assert_close(found["residual"], residual["residual"], 1e-6)
    assert not apart(model).decoder.layers


def test_a_model_that_is_apart_generates_the_same():
    """Its cache has a place for each layer, which are not those of a stack."""
    model = tiny_model("CausalLM", num_layers=5, pattern=PATTERN)
    assert (
        decoding.generate(apart(model), TOKENS, max_new_tokens=4) == decoding.generate(model, TOKENS, max_new_tokens=4)
    ).all()


@pytest.mark.parametrize("unroll", [None, 1, 4, 12])
def test_recomputed_layers_are_not_kept(unroll):
    """Unrolled, the compiler merges what is computed again with what it repeats, and keeps it: remat saves nothing."""

    def temporaries(**how):
        fields = dict(num_layers=12, d_model=64, vocab_size=50, max_length=128, dropout_rate=0.0, **how)
        model = jax.eval_shape(lambda: tiny_model("CausalLM", **fields))
        tokens = jax.ShapeDtypeStruct((4, 128), jnp.int32)
        compiled = jax.jit(jax.grad(lambda model, tokens: model(tokens).sum())).lower(model, tokens).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(remat="full", scan_unroll=unroll) <= 0.25 * temporaries(scan_unroll=1)
