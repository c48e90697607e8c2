"""Models whose weights are kept in fewer bits; the products are those of `tests/functional/test_quantization.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import assert_close, tiny_model

import tformer_jax.functional as F
from tformer_jax import decoding, nn
from tformer_jax.config import ConfigError

TOKENS = jnp.arange(12).reshape(2, 6)
MODELS = [("CausalLM", dict(num_layers=3)), ("CausalLM", dict(output=dict(tie=False))), ("MaskedLM", {})]
MODELS += [("CausalLM", dict(embedding_width=6)), ("MaskedLM", dict(embedding_width=6, embedding_projection="last"))]


def dense(model):
    """The same model with arrays of what its eight bits stand for."""
    is_kept = lambda x: isinstance(x, F.Int8Matrix)

    def held(x):
        return x.to_array() if is_kept(x) else x

    def of_table(x):
        return x if not isinstance(x, nn.Embedding) else jax.tree.map(lambda x: x.to_array().T, x, is_leaf=is_kept)

    is_table = lambda x: isinstance(x, nn.Embedding)
    return jax.tree.map(held, jax.tree.map(of_table, model, is_leaf=is_table), is_leaf=is_kept)


@pytest.mark.parametrize(("model", "how"), MODELS)
def test_a_model_in_eight_bits_is_that_with_the_rounded_weights(model, how):
    """A scale of the wrong axis, a table that is looked up by the other axis, a matrix that is read transposed."""
    kept = nn.with_weights(tiny_model(model, **how), "int8")
    assert any(x.dtype == jnp.int8 for x in jax.tree.leaves(kept))
    assert_close(kept(TOKENS), dense(kept)(TOKENS), 2e-3)


def test_every_matrix_and_table_of_tokens_is_in_eight_bits():
    """What is forgotten is read in four times its bytes at every token."""
    kept = nn.with_weights(tiny_model("Transformer", positions={"name": "learned"}, embedding_width=6), "int8")
    held = jax.tree_util.tree_leaves_with_path(kept, is_leaf=lambda x: isinstance(x, nnx.Variable))
    floats = {jax.tree_util.keystr(path) for path, x in held if jax.tree.leaves(x)[0].dtype != jnp.int8}
    weights = {path for path in floats if path.rpartition(".")[2].startswith(("w", "table"))}
    assert weights == {".source_positions.scheme.table", ".target_positions.scheme.table"}


def test_matrices_of_a_module_of_ones_own_are_left():
    """It may transpose or reshape them, which a matrix in eight bits cannot."""

    class Own(nn.Linear):
        pass

    config = tiny_model("CausalLM").config
    sides = ("model", 8), ("ff", 4)
    model = [of(config, *sides, rngs=nnx.Rngs(0)) for of in (nn.Linear, Own)]
    known, own = nn.with_weights(model, "int8")
    assert isinstance(known.w[...], F.Int8Matrix) and own.w.dtype == jnp.float32


def test_a_token_out_of_the_vocabulary_is_not_another_one():
    """A gather would clamp it."""
    kept = nn.with_weights(tiny_model("CausalLM"), "int8")
    x = jax.jit(lambda model, tokens: model.embedding(tokens))(kept, jnp.array([[0, -1, 10_000]]))
    assert np.isfinite(x[0, 0]).all() and np.isnan(x[0, 1:]).all()


def test_bfloat16_rounds_matrices_and_computes_as_before():
    """The stream in bfloat16 would lose what the config keeps in float32."""
    model = tiny_model("CausalLM")
    kept = nn.with_weights(model, "bfloat16")
    rounded = jax.tree.map(lambda x: x.astype(jnp.float32), kept)
    assert kept.embedding.table.dtype == jnp.bfloat16
    assert kept(TOKENS).dtype == jnp.float32
    assert_close(kept(TOKENS), rounded(TOKENS), 1e-6)


def test_as_trained_is_the_model_itself():
    """Nothing to convert."""
    model = tiny_model("CausalLM")
    assert nn.with_weights(model, "as_trained") is model


@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_generation_and_beams_take_it(weights):
    """Greedy tokens are those of the whole model, recomputed at each; beam search ends with rows as long as it says."""
    kept = nn.with_weights(tiny_model("CausalLM"), weights)
    new, tokens = decoding.generate(kept, TOKENS, max_new_tokens=4), TOKENS
    for _ in range(4):
        tokens = jnp.concatenate([tokens, kept(tokens)[:, -1:].argmax(-1)], 1)
    assert (new == tokens[:, 6:]).all()
    found = decoding.beam_search(
        nn.with_weights(tiny_model("Transformer"), weights), TOKENS, beam_size=2, max_length=5, bos_id=1, eos_id=2
    )
    assert jnp.isfinite(found.scores).all()


def test_other_weights_are_refused():
    """By the names that there are."""
    with pytest.raises(ConfigError, match="weights must be one of.*int8"):
        nn.with_weights(tiny_model("CausalLM"), "int4")
