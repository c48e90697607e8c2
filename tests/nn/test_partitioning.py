"""Under a mesh: the same values and gradients, and the work of one device is its share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from support import assert_close, block_sizes, by_day, normal, quick_jit, tiny_model, with_leaf

import tformer_jax.functional as F
from tformer_jax.nn.partitioning import row_groups, spread_queries, spread_stream

B, T, S, N, K, H = 2, 16, 24, 4, 2, 8
AXES = ("data", "fsdp", "tensor", "sequence")


def mesh(*sizes, names=AXES):
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def inputs(source=T):
    return normal(0, B, T, N, H), normal(1, B, source, K, H), normal(2, B, source, K, H)


def some_bools(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).random(shape) < 0.7)


SEGMENTS = jnp.asarray([[1] * 5 + [2] * 9 + [0] * 2, [1] * 16])
POSITIONS = jnp.asarray(np.random.default_rng(3).permuted(np.tile(np.arange(T), (B, 1)), axis=1))
CASES = {
    "nothing": (None, None),
    "causal": (F.AttentionMask(causal=True), None),
    "causal window": (F.AttentionMask(causal=True, window=5), None),
    "lengths": (F.AttentionMask(lengths=jnp.asarray([9, 16])), None),
    "segments": (F.AttentionMask(causal=True, segments=SEGMENTS), None),
    "positions": (F.AttentionMask(causal=True, query_positions=POSITIONS, key_positions=POSITIONS), None),
    "booleans [T S]": (some_bools(4, T, T), None),
    "booleans [B 1 1 S]": (some_bools(5, B, 1, 1, T), None),
    "booleans [B N T S] and causal": (F.AttentionMask(causal=True) & some_bools(6, B, N, T, T), None),
    "bias": (F.AttentionMask(causal=True), normal(7, 1, N, T, T)),
    "bias by key": (None, normal(8, B, N, 1, T)),
    "prefix LM": (F.AttentionMask(causal=True) | F.AttentionMask(prefix=jnp.asarray([3, 9])), None),
    "combined": (
        ~(F.AttentionMask(segments=SEGMENTS) & some_bools(4, T, T)) | F.AttentionMask(window=3, prefix=5),
        None,
    ),
}


def value_and_gradients(mask, bias, implementation, q, k, v):
    """Of some function of the attention, by queries, keys, values and bias."""

    def function(q, k, v, bias):
        kernel = spread_queries(implementation, q.shape[1])
        out = F.scaled_dot_product_attention(q, k, v, mask=mask, bias=bias, implementation=kernel)
        return (out * normal(9, *out.shape)).sum(), out

    argnums = (0, 1, 2) if bias is None else (0, 1, 2, 3)
    return quick_jit(jax.value_and_grad(function, argnums, has_aux=True))(q, k, v, bias)


BOTH = [(name, "blockwise") for name in CASES] + [("causal window", "reference"), ("bias", "reference")]


@pytest.mark.parametrize(("name", "implementation"), by_day(BOTH, 4, 12, 14))
def test_queries_on_several_devices_see_what_they_would_see_on_one(name, implementation):
    """A device would take its queries for the first ones: causality, windows, segments or a bias would be another's."""
    mask, bias = CASES[name]
    with block_sizes(2, 8):
        wanted = value_and_gradients(mask, bias, implementation, *inputs())
        with jax.set_mesh(mesh(2, 1, 1, 4)):
            found = value_and_gradients(mask, bias, implementation, *inputs())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert_close(a, b, 1e-5)


def test_queries_may_look_at_a_longer_memory():
    """Cross-attention would compare queries with the wrong tokens, or be refused."""
    mask = F.AttentionMask(segments=(SEGMENTS, jnp.asarray([[1] * 8 + [2] * 16, [1] * 24])))
    wanted = value_and_gradients(mask, None, "blockwise", *inputs(S))
    with jax.set_mesh(mesh(1, 1, 2, 4)):
        found = value_and_gradients(mask, None, "blockwise", *inputs(S))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert_close(a, b, 1e-5)


def test_positions_that_do_not_divide_give_the_same():
    """Fifty patches on four devices would be refused, or some be lost."""
    images = normal(0, 2, 8, 8, 3)
    model = tiny_model("VisionTransformer", patch_size=2)  # 17 tokens
    wanted = jax.jit(lambda model, images: model(images))(model, images)
    with jax.set_mesh(mesh(1, 1, 2, 4)):
        assert_close(jax.jit(lambda model, images: model(images))(model, images), wanted, 1e-5)


@pytest.mark.slow
def test_of_long_rows_each_device_holds_its_share():
    """What the axis is for: every device would hold what the backward pass needs of all positions.

    Long enough that this is more than the scores of one block, of which each device has its own.
    """
    model = jax.eval_shape(lambda: tiny_model("CausalLM", max_length=16384, attention_implementation="blockwise"))
    tokens = jax.ShapeDtypeStruct((1, 16384), jnp.int32)

    def compiled():
        loss = lambda model, tokens: F.causal_lm_loss(model(tokens), tokens)
        return jax.jit(jax.grad(loss)).lower(model, tokens).compile()

    one = compiled()
    with jax.set_mesh(mesh(1, 1, 1, 8)):
        eight = compiled()
    assert eight.memory_analysis().temp_size_in_bytes < 0.5 * one.memory_analysis().temp_size_in_bytes


def test_without_a_mesh_nothing_is_in_the_program():
    """Whoever lifts a module out would get constraints for devices that are not there."""
    model = tiny_model("CausalLM")
    program = str(jax.make_jaxpr(lambda tokens: model(tokens))(jnp.zeros((1, 4), jnp.int32)))
    assert "sharding_constraint" not in program
    assert "shard_map" not in program


def test_a_mesh_with_other_axes_is_left_alone():
    """A user's own mesh would end in an error about axes that it does not have."""
    with jax.set_mesh(Mesh(np.array(jax.devices()), "mine")):
        x = jax.jit(spread_stream)(normal(0, 2, 4, 8))
        assert row_groups(8) == 1
    np.testing.assert_array_equal(x, normal(0, 2, 4, 8))


def lookup_and_logits(model, tokens, hidden):
    """Of a model: vectors of tokens and logits of states, and the gradient by the table of a function of both."""

    def function(table, model):
        model = with_leaf(model, "embedding.table", table)
        vectors, logits = model.embedding(tokens), model.logits(hidden)
        weights = normal(1, *vectors.shape), normal(2, *logits.shape)
        return (vectors * weights[0]).sum() + (logits * weights[1]).sum(), (vectors, logits)

    return jax.jit(jax.grad(function, has_aux=True))(model.embedding.table[...], model)


SOME_WORDS = [(1, (8, 16, (1, 2, 4, 1))), (2, (13, 16, (1, 2, 4, 1))), (3, (3, 16, (1, 1, 8, 1))),
              (4, (13, 12, (1, 2, 4, 1))), (5, (1, 16, (2, 1, 2, 2))), (6, (97, 40, (1, 4, 2, 1)))]  # fmt: skip


@pytest.mark.parametrize(("seed", "words"), by_day(SOME_WORDS, 1, 2, 3), ids=str)
def test_any_number_of_words_is_looked_up_and_projected_to(seed, words):
    """Devices would fill up a share of words with others: against NumPy, by the formula, in float64."""
    vocab_size, d_model, sizes = words
    model = tiny_model("CausalLM", vocab_size=vocab_size, d_model=d_model)
    rng = np.random.default_rng(seed)
    tokens, hidden = rng.integers(0, vocab_size, (B, T)), normal(seed, B, T, d_model)
    with jax.set_mesh(mesh(*sizes)):
        gradient, (vectors, logits) = lookup_and_logits(model, jnp.asarray(tokens), hidden)
    table, scale = np.float64(model.embedding.table[...]), model.embedding.scale
    assert_close(vectors, scale * table[tokens], 1e-5)
    assert_close(logits, np.float64(hidden) @ table.T, 1e-5)
    wanted = np.einsum("BTD,BTV->VD", np.float64(hidden), np.float64(normal(2, B, T, vocab_size)))
    np.add.at(wanted, tokens, scale * np.float64(normal(1, B, T, d_model)))
    assert_close(gradient, wanted, 1e-5)


def test_a_word_that_is_none_is_not_what_fills_up():
    """The first word that is none would get the zeros of a device's share, and train on unseen."""
    model = tiny_model("CausalLM", vocab_size=13, d_model=16)
    with jax.set_mesh(mesh(1, 2, 4, 1)):
        vectors = jax.jit(lambda model, tokens: model.embedding(tokens))(model, jnp.asarray([[12, 13, 15, 16, -1]]))
    assert np.isnan(vectors).all(-1).tolist() == [[False, True, True, True, True]]


def test_groups_are_those_that_rows_lie_in():
    """Each group of devices would pick from rows that others have."""
    with jax.set_mesh(mesh(2, 2, 2, 1)):
        assert (row_groups(8), row_groups(6)) == (4, 1)
    assert row_groups(8) == 1
