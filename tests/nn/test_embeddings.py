"""Where the residual stream starts and ends: token tables, positions, biases by distance, the output projection."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support import assert_close, fill, normal, quick_jit, tiny_config

from tformer_jax import nn

# Tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
def test_embeddings_are_scaled_by_root_of_width(scaled):
    """Section 3.4 of the paper: embeddings are not multiplied by sqrt(d_model), or always."""
    embedding = fill(lambda: nn.Embedding(9, tiny_config(scale_embeddings=scaled), rngs=nnx.Rngs(0)))
    tokens = jnp.array([[0, 8, 3], [3, 3, 1]])
    wanted = oracles.f64(embedding.table[...])[np.asarray(tokens)] * (math.sqrt(8) if scaled else 1)
    assert_close(embedding(tokens), wanted, 1e-6)


@pytest.mark.parametrize(("init_std", "spread"), [(None, 1 / 4), (0.02, 0.02)])
def test_tables_start_with_variance_one_over_width_or_init_std(init_std, spread):
    """Tied output logits start with a spread that is not of order 1, or `init_std` leaves tables out."""
    config = tiny_config(d_model=16, init_std=init_std, positions="learned", max_length=500)

    def tables():
        embedding, positions = nn.Embedding(500, config, rngs=nnx.Rngs(0)), nn.Positions(config, rngs=nnx.Rngs(1))
        return embedding.table[...], positions.scheme.table[...]

    for table in map(np.asarray, quick_jit(tables)()):
        np.testing.assert_allclose(table.std(), spread, rtol=0.05)
        assert abs(table.mean()) < 0.05 * spread


@pytest.mark.parametrize(("tokens", "at", "value"), [([[0, 1], [9, 2]], r"\[1, 0\]", 9), ([[3, -1]], r"\[0, 1\]", -1)])
def test_a_token_out_of_the_vocabulary_is_refused_by_place(tokens, at, value):
    """A token beyond the table silently gets the last vector, or a negative one counts from the end."""
    embedding = fill(lambda: nn.Embedding(9, tiny_config(), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=rf"^tokens{at} is {value}, outside the vocabulary \[0, 9\)"):
        embedding(jnp.array(tokens))


def test_a_token_out_of_the_vocabulary_is_nan_in_a_compiled_program():
    """Within jit, where values are unknown, a token beyond the table gets another token's vector."""
    embedding = fill(lambda: nn.Embedding(9, tiny_config(), rngs=nnx.Rngs(0)))
    tokens = jnp.array([[0, 8, 9, -1, -9, 2**31 - 1, -(2**31)]])
    missing = np.isnan(quick_jit(lambda e, t: e(t))(embedding, tokens)[0])
    np.testing.assert_array_equal(missing.all(-1), [False, False, True, True, True, True, True])
    np.testing.assert_array_equal(missing.any(-1), missing.all(-1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_gradient_of_a_token_is_the_sum_over_all_its_occurrences(dtype):
    """In bfloat16 the sum of 3,000 ones stops at 256: frequent tokens and positions learn a tenth of what they should."""
    config = tiny_config(positions="learned", scale_embeddings=False, precision=f"params={dtype},compute={dtype}")
    embedding = fill(lambda: nn.Embedding(9, config, rngs=nnx.Rngs(0)))
    positions = fill(lambda: nn.Positions(config, rngs=nnx.Rngs(0)))
    ones = jnp.ones((30, 100), jnp.int32)

    def total(modules):
        embedding, positions = modules
        return positions(embedding(ones), ones).astype(jnp.float32).sum()

    gradients = quick_jit(jax.grad(total))((embedding, positions))
    for module in (gradients[0], gradients[1].scheme):
        assert module.table.dtype == dtype
        np.testing.assert_allclose(np.asarray(module.table[...], np.float64)[1], 3000, rtol=4e-3)


def test_tables_of_a_width_of_their_own_start_and_are_scaled_by_it():
    """A narrow table has the variance or the scale of the model's width: tied logits start with another spread."""
    config = tiny_config(embedding_width=25, mup_base_width=4)
    embedding = quick_jit(lambda: nn.Embedding(500, config, rngs=nnx.Rngs(0)))()
    np.testing.assert_allclose(np.asarray(embedding.table[...]).std(), 1 / 5, rtol=0.05)
    assert embedding.table.shape == (500, 25) and embedding.scale == 5.0


# Positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_positions_are_added_from_the_table(positions, scaled):
    """The vectors of other positions are added, or something else than the table.

    A learned table is stored as the embeddings are, and scaled as they are; the sinusoids are as in equation 6.
    """
    config = tiny_config(positions=positions, scale_embeddings=scaled)
    module = fill(lambda: nn.Positions(config, rngs=nnx.Rngs(0)))
    learned = positions == "learned"
    table = (
        oracles.f64(module.scheme.table[...]) * (math.sqrt(8) if scaled else 1) if learned else oracles.sinusoids(16, 8)
    )
    x = normal(0, 2, 5, 8)
    assert_close(module(x), oracles.f64(x) + table[:5], 1e-6, "from the start")
    assert_close(module(x, 3 + jnp.arange(5)), oracles.f64(x) + table[3:8], 1e-6, "from 3")
    ragged = np.array([[0, 1, 2, 0, 1], [4, 3, 2, 1, 0]])
    assert_close(module(x, jnp.asarray(ragged)), oracles.f64(x) + table[ragged], 1e-6, "of each row")


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_narrow_embeddings_are_mapped_before_all_or_after(positions, place):
    """The map is on the other side of positions and norm, or these are of the other width; only the last has a bias."""
    config = tiny_config(positions=positions, embedding_norm=True, embedding_width=6, embedding_projection=place)
    module = fill(lambda: nn.Positions(config, rngs=nnx.Rngs(0)))
    width, w = (6 if place == "last" else 8), oracles.f64(module.projection.w[...])
    x = normal(0, 2, 5, 6)
    wanted = oracles.f64(x) @ w if place == "first" else oracles.f64(x)
    learned = positions == "learned"
    wanted += (oracles.f64(module.scheme.table[...]) * math.sqrt(width) if learned else oracles.sinusoids(16, width))[
        :5
    ]
    wanted = oracles.layer_norm(wanted, oracles.f64(module.norm.gamma[...]), oracles.f64(module.norm.beta[...]), 1e-5)
    wanted = wanted @ w + oracles.f64(module.projection.b[...]) if place == "last" else wanted
    assert_close(module(x), wanted, 1e-5)
    assert (module.projection.b is None) == (place == "first")


@pytest.mark.parametrize("positions", ["rotary", "alibi", "relative", "none"])
def test_positions_within_attention_add_nothing_here(positions):
    """A position scheme that acts within attention is added to the embeddings as well."""
    module = nn.Positions(tiny_config(positions=positions), rngs=nnx.Rngs(0))
    x = normal(0, 2, 5, 8)
    np.testing.assert_array_equal(module(x), x)
    assert not jax.tree.leaves(module)


def test_the_embedding_norm_comes_after_the_positions():
    """BERT's norm leaves the positions out, or comes with `embedding_norm=False`."""
    module = fill(lambda: nn.Positions(tiny_config(embedding_norm=True, norm_eps=1e-3), rngs=nnx.Rngs(0)))
    x = normal(0, 2, 5, 8)
    summed = oracles.f64(x) + oracles.sinusoids(16, 8)[:5]
    wanted = oracles.layer_norm(summed, module.norm.gamma[...], module.norm.beta[...], 1e-3)
    assert_close(module(x), wanted, 1e-5)
    assert nn.Positions(tiny_config(), rngs=nnx.Rngs(0)).norm is None


def test_the_embeddings_are_dropped_with_a_key_alone():
    """The start of the stream is not dropped out, always, or before the norm takes part."""
    module = nn.Positions(tiny_config(dropout_rate=0.5, embedding_norm=True), rngs=nnx.Rngs(0))
    x = normal(0, 4, 8, 8)
    exact, dropped = np.asarray(module(x)), np.asarray(module(x, key=jax.random.key(0)))
    kept = dropped != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * exact[kept], rtol=1e-5)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary", "none"])
def test_a_sequence_longer_than_max_length_is_refused(positions):
    """Tokens past max_length get the last vector, or wrap around, or `max_length` binds some schemes alone."""
    module = nn.Positions(tiny_config(positions=positions), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="17 tokens does not fit max_length=16"):
        module(jnp.zeros((1, 17, 8)))


# Biases by distance ----------------------------------------------------------------------------


def bias_of(**changes):
    config = tiny_config(num_heads=4, **changes)
    return config.positions.in_scores(config, bidirectional=changes.get("positions") == "none", rngs=nnx.Rngs(0))


QUERIES, KEYS = np.array([[3, 4, 5], [0, 1, 7]]), np.array([[0, 9, 3, 4, 5], [1, 0, 2, 7, 5]])
PLACES = jnp.asarray(QUERIES), jnp.asarray(KEYS)
DISTANCES = KEYS[:, None, :] - QUERIES[:, :, None]


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary", "none"])
def test_other_schemes_have_no_bias(positions):
    """A bias of zeros is computed and added for nothing."""
    assert bias_of(positions=positions) is None


def test_alibi_is_by_the_distance_of_positions():
    """The distance is of slots instead of positions, or the slopes are of other heads."""
    slopes = np.array(oracles.alibi_slopes(4))[:, None, None]
    assert_close(bias_of(positions="alibi")(*PLACES), -slopes * np.abs(DISTANCES)[:, None], 1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_relative_bias_is_the_table_by_bucket(bidirectional):
    """The bucket is of slots or of query - key, both directions share one, or heads and buckets are mixed up."""
    config = tiny_config(num_heads=4, positions="relative", relative_buckets=8, relative_max_distance=12)
    module = fill(lambda: config.positions.in_scores(config, bidirectional=bidirectional, rngs=nnx.Rngs(0)))
    bucket = np.vectorize(lambda d: oracles.t5_bucket(d, bidirectional, 8, 12))(DISTANCES)
    wanted = np.moveaxis(oracles.f64(module.table[...])[bucket], -1, 1)
    assert_close(module(*PLACES), wanted, 1e-6)


# Output ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("bias", "scale", "cap"), [(False, None, None), (True, 0.3, 0.5)])
def test_the_output_is_its_projection(tied, bias, scale, cap):
    """A tied matrix has the scale of embeddings or is not transposed, or scale, bias and cap come in another order."""
    config = tiny_config(tie_output=tied, output_softcap=cap, **{"output.bias": bias, "output.scale": scale})
    embedding = fill(lambda: nn.Embedding(13, config, rngs=nnx.Rngs(0)), 1)
    output = fill(lambda: nn.Output(config, rngs=nnx.Rngs(0)), 2)
    hidden = normal(0, 2, 5, 8)
    w = oracles.f64(embedding.table[...]).T if tied else oracles.f64(output.w[...])
    logits = oracles.f64(hidden) @ w * (scale or 1) + (oracles.f64(output.b[...]) if bias else 0)
    wanted = logits if cap is None else cap * np.tanh(logits / cap)
    assert_close(output(hidden, embedding), wanted, 1e-5)
    assert (output.w is None) == tied and (output.b is None) == (not bias)


@pytest.mark.parametrize("tied", [True, False])
def test_the_fused_loss_gets_the_weights_of_the_logits(tied):
    """`weights` hands out another matrix or bias than the logits are made with."""
    config = tiny_config(tie_output=tied, **{"output.bias": True, "output.scale": 0.3})
    embedding = fill(lambda: nn.Embedding(13, config, rngs=nnx.Rngs(0)), 1)
    output = fill(lambda: nn.Output(config, rngs=nnx.Rngs(0)), 2)
    hidden, (w, b) = normal(0, 2, 5, 8), output.weights(embedding)
    assert_close(hidden @ w + b, output(hidden, embedding), 1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("base", [None, 2])
def test_states_are_mapped_back_to_the_width_of_tokens(tied, base):
    """The map back is left out of logits or of what the fused loss gets, or both it and the table are divided by m."""
    config = tiny_config(tie_output=tied, embedding_width=6, mup_base_width=base, **{"output.bias": True})
    embedding = fill(lambda: nn.Embedding(13, config, rngs=nnx.Rngs(0)), 1)
    output = fill(lambda: nn.Output(config, rngs=nnx.Rngs(0)), 2)
    states = normal(0, 2, 5, 8)
    table = oracles.f64(embedding.table[...]).T if tied else oracles.f64(output.w[...])
    wanted = oracles.f64(states) @ oracles.f64(output.projection.w[...]) * (base or 8) / 8 @ table
    wanted += oracles.f64(output.b[...])
    hidden, (w, b) = output.projected(states), output.weights(embedding)
    assert hidden.shape == (2, 5, 6) and w.shape == (6, 13) and output.projection.b is None
    assert_close(output(hidden, embedding), wanted, 1e-5)
    assert_close(hidden @ w + b, wanted, 1e-5)
