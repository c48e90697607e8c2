"""The encoder-decoder model: causality, cache, capture, packing, precision, remat (equation 1)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support import (
    assert_close,
    block_sizes,
    by_day,
    equations,
    normal,
    quick_jit,
    tiny_config,
    tiny_transformer,
    with_leaf,
)

import tformer_jax.functional as F
from tformer_jax import models

SOURCE = jnp.array([[1, 5, 2, 9, 4], [3, 3, 7, 0, 0]])
TARGET = jnp.array([[4, 8, 2, 6, 11, 5], [9, 2, 2, 7, 1, 10]])
LENGTHS = jnp.array([5, 3])


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with block_sizes(4, 4):
        yield


def run(function, *args):
    return quick_jit(function)(*args)


@quick_jit
def forward(model, source_mask=None, source=SOURCE):
    return model(source, TARGET, source_mask=source_mask)


# Causality -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("implementation", "scan_unroll", "norm_position", "positions"),  # every two of the first three together
    by_day(
        [
            ("reference", 1, "post", "sinusoidal"),
            ("reference", 2, "pre", "rotary"),
            ("reference", 1, "sandwich", "learned"),
            ("blockwise", 1, "pre", "alibi"),
            ("blockwise", 2, "post", "relative"),
            ("blockwise", 2, "sandwich", "none"),
        ],
        1,
    ),
)
def test_logits_depend_on_no_later_token(implementation, scan_unroll, norm_position, positions):
    """Information flows from a later target token to an earlier prediction, or not at all from an earlier one.

    By gradient: d logits[t] / d embedding[s] is exactly 0 for s > t. Every token of the target is
    another one, so that each row of the embedding table stands for one position.
    """
    changes = dict(attention_implementation=implementation, scan_unroll=scan_unroll, norm_position=norm_position)
    model = tiny_transformer(tie_output=False, positions=positions, **changes)
    target, memory, direction = TARGET[:1], normal(0, 1, 5, 8), normal(1, 13)

    def scores(table, model, memory):
        logits = with_leaf(model, "target_embedding.table", table).decode(target, memory)
        return logits[0] @ direction

    jacobian = run(jax.jacrev(scores), model.target_embedding.table[...], model, memory)
    depends = np.abs(np.asarray(jacobian)[:, np.asarray(target[0])]).max(-1)  # [t, s]
    np.testing.assert_array_equal(depends > 0, np.tril(np.ones((6, 6), bool)))


# Cache -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    by_day(
        [
            dict(),
            dict(norm_position="pre", num_kv_heads=1, attention_implementation="blockwise", positions="learned"),
            dict(norm_position="sandwich", positions="rotary", qk_norm=True, norm="rms", gated=True),
            dict(positions="relative", attention_softcap=2.0, attention_implementation="blockwise"),
            dict(positions="alibi", tie_output=False, embedding_norm=True),
            dict(mup_base_width=2, norm_position="pre"),
            dict(embedding_width=6, embedding_projection="last", positions="learned", share_embeddings=False),
        ],
        2,
    ),
    ids=["plain", "pre, MQA, blockwise, learned", "sandwich, rotary", "relative, blockwise", "alibi", "mup", "narrow"],
)
def test_cached_logits_are_the_uncached_ones(changes):
    """Decoding in pieces gives other logits: a position, a mask or an entry of the cache is off."""
    model = tiny_transformer(**changes)

    def both(model):
        memory, _ = model.encode(SOURCE, mask=F.AttentionMask(lengths=LENGTHS))
        whole = model.decode(TARGET, memory, source_mask=F.AttentionMask(lengths=LENGTHS))
        cache = model.start_cache(memory, 8, source_mask=F.AttentionMask(lengths=LENGTHS))
        pieces = []
        for start, stop in ((0, 3), (3, 4), (4, 6)):
            logits, cache = model.extend(TARGET[:, start:stop], cache)
            pieces.append(logits)
        return whole, jnp.concatenate(pieces, axis=1), cache

    whole, pieces, cache = run(both, model)
    assert_close(pieces, whole, 1e-5)
    np.testing.assert_array_equal(cache.history.lengths, 6)
    (layers,) = cache.history.layers
    np.testing.assert_array_equal(layers.positions[:, :6], np.tile(np.arange(6), (2, 1)))
    for held in (layers.keys, layers.values):
        assert held.shape == (2, 2, 8, model.config.attention.kv_heads, 4)
        np.testing.assert_array_equal(held[:, :, 6:], 0.0)


# Capture ---------------------------------------------------------------------------------------

CAPTURE = ("attention_weights", "cross_attention_weights", "residual")


def oracle_weights(attention, layer, x, context, allowed):
    """The softmax of equation 2 from captured streams and one layer's projections, in float64."""
    w_q, w_k, b_q, b_k = (oracles.f64(p[layer]) for p in (attention.w_q, attention.w_k, attention.b_q, attention.b_k))
    q = np.einsum("btd,dnh->btnh", oracles.f64(x), w_q) + b_q
    k = np.einsum("bsd,dnh->bsnh", oracles.f64(context), w_k) + b_k
    return oracles.attention_weights(q, k, allowed)


@pytest.fixture(scope="module")
def captured():
    model = tiny_transformer(num_decoder_layers=3)

    def both(model):
        mask = F.AttentionMask(lengths=LENGTHS)
        return *model(SOURCE, TARGET, source_mask=mask, capture=CAPTURE), model.encode(SOURCE, mask=mask)[0]

    return model, forward(model, F.AttentionMask(lengths=LENGTHS)), *run(both, model)


def test_capture_does_not_change_the_logits(captured):
    """Looking at a model changes what it says."""
    _, plain, logits, _, _ = captured
    assert_close(logits, plain, 1e-6)


def test_captured_arrays_are_stacked_over_layers(captured):
    """Something that was asked for is missing, or has another shape than [L B N T S] or [L B T D]."""
    shapes = jax.tree.map(jnp.shape, captured[3])
    assert shapes == {
        "encoder.attention_weights": (2, 2, 2, 5, 5),
        "encoder.residual": (2, 2, 5, 8),
        "decoder.attention_weights": (3, 2, 2, 6, 6),
        "decoder.cross_attention_weights": (3, 2, 2, 6, 5),
        "decoder.residual": (3, 2, 6, 8),
    }


def test_captured_weights_are_those_of_the_captured_streams(captured):
    """The weights that are handed out are not those that the layer used: the next stream would not follow from them."""
    model, _, _, arrays, memory = captured
    encoder, decoder = (
        {name.removeprefix(side): x for name, x in arrays.items() if name.startswith(side)}
        for side in ("encoder.", "decoder.")
    )
    allowed = oracles.mask_by_loops(2, 2, 5, 5, lengths=[5, 3])
    stream = encoder["residual"][0]
    wanted = oracle_weights(model.encoder.layers[0].attention, 1, stream, stream, allowed)
    assert_close(encoder["attention_weights"][1], wanted, 1e-5, "encoder")
    causal = oracles.mask_by_loops(2, 2, 6, 6, causal=True)
    for layer in (1, 2):
        stream = decoder["residual"][layer - 1]
        wanted = oracle_weights(model.decoder.layers[0].attention, layer, stream, stream, causal)
        assert_close(decoder["attention_weights"][layer], wanted, 1e-5, f"decoder {layer}")
    np.testing.assert_allclose(decoder["cross_attention_weights"].sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(decoder["cross_attention_weights"][:, 1, ..., 3:], 0.0)
    assert_close(encoder["residual"][-1], memory, 1e-6, "memory")


def test_nothing_is_captured_when_nothing_is_asked_for():
    """A model that nobody looks at carries weights or streams out of its scans."""
    model = tiny_transformer()
    plain = jax.make_jaxpr(lambda model: model(SOURCE, TARGET))(model)
    asked = jax.make_jaxpr(lambda model: model(SOURCE, TARGET, capture=CAPTURE))(model)
    outputs = [[len(e.outvars) for e in equations(j) if e.primitive.name == "scan"] for j in (plain, asked)]
    assert outputs == [[1, 1], [3, 4]]


def test_an_unknown_capture_is_refused_with_the_nearest():
    """A misspelt capture is ignored."""
    with pytest.raises(ValueError, match="capture must be one of .*'residuals'; did you mean 'residual'"):
        tiny_transformer().encode(SOURCE, capture=("residuals",))


# Masks and packing -----------------------------------------------------------------------------


def test_padding_changes_nothing_and_every_form_of_mask_is_the_same():
    """Padding of the source is attended, or a mask [B S], [B 1 1 S] or by lengths means something else."""
    model = tiny_transformer()
    tokens = jnp.arange(5) < LENGTHS[:, None]
    changed = jnp.where(tokens, SOURCE, 12)
    forms = (F.AttentionMask(lengths=LENGTHS), tokens, tokens[:, None, None])
    first, *others = (forward(model, mask, SOURCE) for mask in forms)
    for other in (*others, forward(model, forms[0], changed)):
        assert_close(other, first, 1e-6)


def test_target_mask_hides_target_tokens_beside_causality():
    """`target_mask` does not reach the decoder's self-attention, or replaces causality."""
    model = tiny_transformer()
    hidden = jnp.ones((2, 6), bool).at[:, 2].set(False)
    memory, changed = normal(0, 2, 5, 8), TARGET.at[:, 2].set(12)
    decode = quick_jit(lambda model, target: model.decode(target, memory, target_mask=hidden))
    first, second = decode(model, TARGET), decode(model, changed)
    others = np.array([0, 1, 3, 4, 5])
    assert_close(second[:, others], first[:, others], 1e-6)
    assert not np.allclose(first[:, 2], second[:, 2])


def test_packed_examples_are_those_of_their_own_rows():
    """Two examples in one row see each other, or positions go on from the first to the second."""
    model = tiny_transformer(attention_implementation="blockwise")
    source, target = jnp.array([[1, 5, 2, 9, 4, 3]]), TARGET[:1]
    segments = dict(source_segments=jnp.array([[7, 7, 7, 8, 8, 8]]), target_segments=jnp.array([[7, 7, 7, 8, 8, 8]]))

    def both(model):
        packed = model(source, target, **segments)
        apart = model(source.reshape(2, 3), target.reshape(2, 3))
        return packed, apart.reshape(packed.shape)

    assert_close(*run(both, model), 1e-5)


def test_encoder_and_decoder_embed_from_their_own_tables():
    """With `share_embeddings=False` one side reads the other's table, or one vocabulary bounds both."""
    model = tiny_transformer(share_embeddings=False, source_vocab_size=20)
    assert model.source_embedding.table.shape == (20, 8) and model.target_embedding.table.shape == (13, 8)
    source = jnp.array([[19, 14, 2]])
    encode = quick_jit(lambda model: model.encode(source)[0])
    memory, other = encode(model), encode(with_leaf(model, "target_embedding.table", jnp.zeros((13, 8))))
    np.testing.assert_array_equal(memory, other)
    assert not np.allclose(memory[:, 0], memory[:, 1])


@pytest.mark.parametrize(
    "mask",
    [
        F.AttentionMask(causal=True),
        F.AttentionMask(segments=jnp.array([[0, 0, 1]])),
        jnp.tril(jnp.ones((1, 1, 3, 3), bool)),
        jnp.ones((1, 2, 1, 3), bool),
    ],
    ids=["causal", "segments", "by query", "by head"],
)
def test_a_source_mask_that_depends_on_the_query_has_no_cache(mask):
    """Every token would be decoded with what the first one may see."""
    with pytest.raises(ValueError, match="source_mask of a cache must be the same for every query and head"):
        tiny_transformer().start_cache(jnp.zeros((1, 3, 8)), 4, source_mask=mask)


def test_a_source_mask_of_another_length_is_refused():
    """It would be cut to the memory's length."""
    with pytest.raises(ValueError, match=r"mask must broadcast to .*got shape \(1, 1, 1, 5\)"):
        tiny_transformer().start_cache(jnp.zeros((1, 3, 8)), 4, source_mask=jnp.ones((1, 5), bool))


def test_a_source_longer_than_max_length_is_refused():
    """Positions beyond the table are clamped to the last."""
    with pytest.raises(ValueError, match="17 tokens does not fit max_length=16"):
        tiny_transformer().encode(jnp.zeros((1, 17), int))


# Precision -------------------------------------------------------------------------------------


def test_bfloat16_computes_in_bfloat16_with_norms_softmax_and_logits_in_float32():
    """`compute=bfloat16` leaves matrix products in float32, or takes norms, softmax or logits along."""
    model = tiny_transformer(precision="compute=bfloat16", dropout_rate=0.1)
    jaxpr, shapes = jax.make_jaxpr(lambda m, key: m(SOURCE, TARGET, key=key, capture=("residual",)), return_shape=True)(
        model, jax.random.key(0)
    )
    logits, captured = shapes
    assert logits.dtype == jnp.float32
    assert captured["encoder.residual"].dtype == captured["decoder.residual"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}

    def inputs(*names):
        return {str(e.invars[0].aval.dtype) for e in equations(jaxpr) if e.primitive.name in names}

    assert inputs("dot_general") == {"bfloat16"}
    assert inputs("rsqrt", "exp", "square", "reduce_max") == {"float32"}
    logits_product = [
        e for e in equations(jaxpr) if e.primitive.name == "dot_general" and e.outvars[0].aval.shape[-1] == 13
    ]
    assert [str(e.outvars[0].aval.dtype) for e in logits_product] == ["float32"]


@pytest.mark.slow
def test_bfloat16_logits_stay_near_the_float32_ones():
    """Something of order 1 is lost in 16 bits."""
    policies = ("compute=float32", "compute=bfloat16")
    exact, rounded = (forward(tiny_transformer(num_layers=1, precision=p)) for p in policies)
    assert 0 < float(jnp.abs(exact - rounded).max()) < 0.1 * float(jnp.abs(exact).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_logits_have_the_policys_output_dtype(dtype):
    """`output=` does nothing."""
    model = tiny_transformer(precision=f"output={dtype}")
    assert str(jax.eval_shape(lambda m: m(SOURCE, TARGET), model).dtype) == dtype


# Remat and scan --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remat_runs():
    """For each setting of remat: the gradient, its jaxpr, and the memory of its compiled program."""
    source, runs = jnp.arange(32).reshape(1, 32) % 13, {}
    for remat in ("none", "dots", "full"):
        model = tiny_transformer(num_layers=8, max_length=32, remat=remat, num_heads=4, norm_position="pre")

        def loss(model):
            return jnp.sin(model.encode(source)[0]).sum()

        traced = quick_jit(jax.grad(loss)).trace(model)
        compiled = traced.lower().compile()
        runs[remat] = compiled(model), traced.jaxpr, compiled.memory_analysis().temp_size_in_bytes
    return runs


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_gives_the_same_gradient(remat_runs, remat):
    """Recomputation changes what is computed, or the gradient is not a model."""
    wanted, got = remat_runs["none"][0], remat_runs[remat][0]
    assert type(got) is models.Transformer
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert_close(a, b, 1e-5)


def test_remat_recomputes_what_it_says(remat_runs):
    """ "full" recomputes no matrix product, "dots" recomputes them or nothing, or "none" recomputes."""

    def count(remat, name):
        return sum(e.primitive.name == name for e in equations(remat_runs[remat][1]))

    assert count("none", "checkpoint") == count("none", "remat2") == 0
    assert count("full", "dot_general") > count("none", "dot_general")
    assert count("dots", "dot_general") == count("none", "dot_general")
    assert count("dots", "exp") > count("none", "exp")


def test_remat_saves_memory(remat_runs):
    """What is recomputed is kept all the same: 8 layers' activations stay in memory."""
    none, dots, full = (remat_runs[remat][2] for remat in ("none", "dots", "full"))
    assert full < 0.5 * none
    assert full < dots < none


@pytest.mark.slow
def test_scan_unroll_changes_no_value():
    """Unrolling skips, repeats or reorders layers (3 does not divide the 4 of them, 5 are more than there are)."""
    plain, *unrolled = (
        run(lambda m: m.encode(SOURCE)[0], tiny_transformer(num_layers=4, scan_unroll=u)) for u in (1, 2, 3, 5)
    )
    for got in unrolled:
        assert_close(got, plain, 1e-6)


# Size ------------------------------------------------------------------------------------------


def count_by_hand(V, D, F, L):
    """Vaswani et al., 2017: encoder and decoder of L layers, one shared embedding that is also the output."""
    attention = 4 * (D * D + D)  # W_Q, W_K, W_V, W_O and their biases
    feed_forward = (D * F + F) + (F * D + D)
    norm = 2 * D
    encoder_layer = attention + feed_forward + 2 * norm
    decoder_layer = 2 * attention + feed_forward + 3 * norm
    return V * D + L * (encoder_layer + decoder_layer)


@pytest.mark.parametrize(
    ("preset", "by_hand", "published"),
    [
        ("transformer_base", count_by_hand(V=37_000, D=512, F=2048, L=6), 65e6),
        ("transformer_big", count_by_hand(V=37_000, D=1024, F=4096, L=6), 213e6),
    ],
)
def test_presets_have_the_papers_number_of_parameters(preset, by_hand, published):
    """A published model is built with another width, depth, bias, norm or embedding than table 3 of the paper."""
    model = jax.eval_shape(lambda: models.Transformer(models.Transformer.Config.preset(preset), rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert count == by_hand
    assert abs(count / published - 1) < 0.03


def test_dropout_follows_the_key():
    """The model drops without a key, or does not drop with one, or drops the same with another."""
    model = tiny_transformer(dropout_rate=0.5, num_layers=1)
    drop = quick_jit(lambda model, key: model(SOURCE, TARGET, key=key))
    first, again, second = (drop(model, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    exact = forward(model)
    assert not np.allclose(exact, first) and not np.allclose(first, second)
    changed = forward(tiny_transformer(dropout_rate=0.0, num_layers=1))
    np.testing.assert_array_equal(exact, changed)


def test_the_constructor_draws_every_parameter_anew():
    """Two tables or two layers start alike, or another seed gives the same model."""
    config = tiny_config(share_embeddings=False, positions="learned")

    def parameters(key):
        model = models.Transformer(config, rngs=nnx.Rngs(key))
        positions = model.source_positions.scheme, model.target_positions.scheme
        tables = (model.source_embedding, model.target_embedding, *positions)
        layers = model.encoder.layers[0].attention.w_q, model.decoder.layers[0].cross_attention.w_q
        return [module.table[...] for module in tables], [w[i] for w in layers for i in (0, 1)]

    make = quick_jit(parameters)
    for group in zip(*(make(jax.random.key(seed)) for seed in (0, 1)), strict=True):
        drawn = [np.asarray(x) for x in itertools.chain(*group)]
        for a, b in itertools.combinations(drawn, 2):
            assert a.shape != b.shape or not np.allclose(a, b)
