"""The bidirectional models: padding, token types, pooling, both directions, capture, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support import assert_close, block_sizes, by_day, equations, normal, quick_jit, tiny_config, tiny_model, with_leaf

import tformer_jax.functional as F
from tformer_jax import models
from tformer_jax.config import ConfigError, build
from tformer_jax.models.text_classifier import mean_pooled

TOKENS = jnp.array([[1, 5, 2, 9, 4, 8], [3, 3, 7, 0, 0, 0]])
LENGTHS = jnp.array([6, 3])
REAL = np.arange(6) < np.array([6, 3])[:, None]
TYPES = jnp.array([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]])


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with block_sizes(4, 4):
        yield


def run(function, *args):
    return quick_jit(function)(*args)


@quick_jit
def forward(model, mask=None, token_types=None):
    return model(TOKENS, mask=mask, token_types=token_types)


def masked_lm(**changes) -> models.MaskedLM:
    return tiny_model("MaskedLM", **changes)


def classifier(**changes) -> models.TextClassifier:
    return tiny_model("TextClassifier", **changes)


def affine(linear, x):
    return oracles.f64(x) @ oracles.f64(linear.w[...]) + oracles.f64(linear.b[...])


# Padding ---------------------------------------------------------------------------------------

SCHEMES = {
    "sinusoidal": dict(),
    "relative": dict(positions="relative", norm_position="pre", attention_implementation="blockwise"),
    "alibi": dict(positions="alibi", attention_implementation="blockwise"),
    "rotary": dict(positions="rotary", num_kv_heads=1, parallel_block=True, norm_position="pre"),
    "learned": dict(positions="learned", embedding_norm=True, num_token_types=2),
}


@pytest.fixture(scope="module", params=by_day(SCHEMES.values(), 1), ids=SCHEMES.keys())
def padded(request):
    """The logits of three tokens, alone and (in two rows) with six tokens of padding: zeros, and others."""
    row = TOKENS[1:, :3]
    rows = jnp.concatenate([jnp.pad(row, ((0, 0), (0, 6)), constant_values=value) for value in (0, 12)])
    mask = F.AttentionMask(lengths=jnp.array([3, 3]))
    return run(lambda m: [m(row)[0], m(rows, mask=mask)], masked_lm(**request.param))


def test_padding_is_not_seen(padded):
    """What stands in the padding reaches a real token's logits."""
    _, (zeros, others) = padded
    assert_close(others[:3], zeros[:3], 1e-6)
    assert not np.allclose(others[3:], zeros[3:])


def test_the_length_of_padding_changes_nothing(padded):
    """A row's logits are others where it is padded to the length of a longer one."""
    alone, (zeros, _) = padded
    assert_close(zeros[:3], alone, 1e-5)


def test_a_mask_of_booleans_is_that_of_lengths():
    """Booleans [B T] hide other tokens than lengths do."""
    first, second = (forward(masked_lm(), mask) for mask in (F.AttentionMask(lengths=LENGTHS), jnp.asarray(REAL)))
    assert_close(second, first, 1e-6)


# Token types -----------------------------------------------------------------------------------


def test_token_types_are_zeros_by_default():
    """A text whose types are not given has other ones than 0, or types say nothing."""
    model = masked_lm(num_token_types=2)
    types = (None, jnp.zeros_like(TOKENS), TYPES)
    default, zeros, others = (forward(model, token_types=t) for t in types)
    np.testing.assert_array_equal(default, zeros)
    assert not np.allclose(default, others)


def test_a_token_type_is_a_vector_of_its_own():
    """The type's vector is not simply added: with the types' table at zero, types still matter."""
    model = with_leaf(masked_lm(num_token_types=2), "token_types.table", jnp.zeros((2, 8)))
    with_types, without = forward(model, token_types=TYPES), forward(model)
    np.testing.assert_array_equal(with_types, without)


@pytest.mark.parametrize("place", ["first", "last"])
def test_types_and_positions_are_of_the_width_where_they_are_added(place):
    """The map of narrow embeddings is applied before the types, or to a token's vector alone."""
    how = dict(positions="learned", embedding_norm=True, num_token_types=2)
    encoder = masked_lm(embedding_width=6, embedding_projection=place, **how).encoder
    start = encoder.positions
    table, norm, w = start.scheme.table[...], start.norm, oracles.f64(start.projection.w[...])
    x = oracles.f64(encoder.embedding.table[...])[TOKENS] + oracles.f64(encoder.token_types.table[...])[TYPES]
    x = x * 6**0.5
    x = x @ w if place == "first" else x
    x = x + oracles.f64(table)[:6] * x.shape[-1] ** 0.5
    x = oracles.layer_norm(x, oracles.f64(norm.gamma[...]), oracles.f64(norm.beta[...]), norm.config.eps)
    x = x @ w + oracles.f64(start.projection.b[...]) if place == "last" else x
    wanted = run(lambda e, x: e.layers(x, mask=F.AttentionMask())[0], encoder, jnp.asarray(x, jnp.float32))
    assert_close(run(lambda e: e(TOKENS, token_types=TYPES)[0], encoder), wanted, 1e-5)


@pytest.mark.parametrize("make", [masked_lm, classifier])
def test_token_types_without_a_table_are_refused(make):
    """Types are given to a model that has no vectors for them, and are ignored."""
    with pytest.raises(ValueError, match="token_types need num_token_types"):
        jax.eval_shape(lambda: make()(TOKENS, token_types=TYPES))


@pytest.mark.parametrize("make", [masked_lm, classifier])
def test_a_token_type_out_of_range_is_refused_by_name(make):
    """A type without a vector gets another one's, or the message blames a token."""
    with pytest.raises(ValueError, match=r"token_types\[1, 2\] is 2, outside .*\[0, 2\)"):
        make(num_token_types=2)(TOKENS, token_types=TYPES.at[1, 2].set(2))


@pytest.mark.parametrize("make", [masked_lm, classifier])
def test_a_token_out_of_the_vocabulary_is_named(make):
    """A token without a vector gets another one's, or one has to look for it."""
    with pytest.raises(ValueError, match=r"tokens\[1, 2\] is 13, outside the vocabulary \[0, 13\)"):
        make()(TOKENS.at[1, 2].set(13))


@pytest.mark.parametrize("make", [masked_lm, classifier])
def test_a_text_longer_than_max_length_is_refused(make):
    """Positions beyond the table are clamped to the last."""
    with pytest.raises(ValueError, match="17 tokens does not fit max_length=16"):
        make()(jnp.zeros((1, 17), int))


# Head and pooling ------------------------------------------------------------------------------


@pytest.mark.parametrize(("tie_output", "width"), [(True, None), (False, None), (True, 6)])
def test_logits_follow_from_the_states(tie_output, width):
    """The head is not W_o LayerNorm(activation(W h + b)) + b_o: a part is missing, or in another order."""
    activation = "relu" if tie_output else "gelu"
    model = masked_lm(tie_output=tie_output, transform_activation=activation, embedding_width=width)
    logits, captured = run(lambda m: m(TOKENS, capture=("residual",)), model)
    norm = model.transform_norm
    x = oracles.ACTIVATIONS[activation](affine(model.transform, captured["residual"][-1]))
    x = oracles.layer_norm(x, oracles.f64(norm.gamma[...]), oracles.f64(norm.beta[...]), norm.config.eps)
    w = oracles.f64(model.encoder.embedding.table[...]).T if tie_output else oracles.f64(model.output.w[...])
    assert_close(logits, x @ w + oracles.f64(model.output.b[...]), 1e-5)


@pytest.mark.parametrize("width", [None, 6])
def test_the_fused_loss_reads_the_same_head(width):
    """`transformed` and `output_weights` are not what the logits are made of."""
    model = masked_lm(embedding_width=width)

    def both(model):
        states, _ = model.encoder(TOKENS)
        w, b = model.output_weights()
        return model(TOKENS), model.transformed(states) @ w + b

    logits, fused = run(both, model)
    assert_close(fused, logits, 1e-5)


def test_the_pooled_output_is_tanh_of_the_first_state():
    """The pooled output is of another token, has no tanh, or asking for it changes the logits."""
    model = masked_lm(pooler=True)
    plain, (logits, captured) = forward(model), run(lambda m: m(TOKENS, capture=("pooled", "residual")), model)
    assert captured["pooled"].shape == (2, 8)
    assert_close(captured["pooled"], np.tanh(affine(model.encoder.pooler, captured["residual"][-1][:, 0])), 1e-5)
    assert_close(logits, plain, 1e-6)


def test_a_head_without_biases_and_a_pooler_with_a_norm():
    """ModernBERT's head has a bias that its checkpoints lack, or its pooler no norm."""
    model = masked_lm(transform_bias=False, pooler=True, pooler_bias=False, pooler_norm=True, pooler_activation="gelu")
    assert model.transform.b is None and model.encoder.pooler.b is None
    logits, captured = run(lambda m: m(TOKENS, capture=("pooled", "residual")), model)
    states = oracles.f64(captured["residual"][-1])

    def normed(norm, x):
        return oracles.layer_norm(x, oracles.f64(norm.gamma[...]), oracles.f64(norm.beta[...]), norm.config.eps)

    pooled = normed(model.encoder.pooler_norm, oracles.gelu(states[:, 0] @ oracles.f64(model.encoder.pooler.w[...])))
    assert_close(captured["pooled"], pooled, 1e-5)
    x = normed(model.transform_norm, oracles.gelu(states @ oracles.f64(model.transform.w[...])))
    w, b = (oracles.f64(x[...]) for x in (model.encoder.embedding.table, model.output.b))
    assert_close(logits, x @ w.T + b, 1e-5)


@pytest.mark.parametrize("changes", [dict(pooler_norm=True), dict(pooler_bias=False)])
def test_what_a_pooler_has_needs_a_pooler(changes):
    """A field is set that nothing reads."""
    with pytest.raises(ConfigError, match="go with pooler=True"):
        masked_lm(**changes)


def test_the_pooled_output_needs_a_pooler():
    """A model without a pooler hands out something else, or fails without a reason."""
    with pytest.raises(ValueError, match="pooler=True"):
        jax.eval_shape(lambda: masked_lm()(TOKENS, capture=("pooled",)))


@pytest.fixture(scope="module", params=[("cls", True), ("mean", False)], ids=["cls, pooler", "mean"])
def classified(request):
    """A classifier; the states and logits of rows of which the last two differ in their padding; the last alone."""
    pooling, pooler = request.param
    model = classifier(pooling=pooling, pooler=pooler)
    rows = jnp.concatenate([TOKENS, jnp.where(jnp.asarray(REAL), TOKENS, 12)[1:]])
    lengths = jnp.array([6, 3, 3])

    def both(model):
        states, _ = model.encoder(rows, mask=F.AttentionMask(lengths=lengths))
        return states, model(rows, lengths=lengths), model(TOKENS[1:, :3])[0]

    return model, *run(both, model)


def test_a_classifier_does_not_see_padding(classified):
    """The class of a text depends on what its padding holds, or on how long it is."""
    _, _, logits, alone = classified
    assert_close(logits[2], logits[1], 1e-6)
    assert_close(logits[1], alone, 1e-5)


def test_a_classifier_reads_the_pooled_state(classified):
    """The class follows from another token than the first, from padding, or past the pooler."""
    model, states, logits, _ = classified
    x = oracles.f64(states)
    x = x[:, 0] if model.config.pooling == "cls" else np.stack([x[0].mean(0), x[1, :3].mean(0), x[2, :3].mean(0)])
    x = np.tanh(affine(model.encoder.pooler, x)) if model.config.pooler else x
    assert_close(logits, affine(model.classifier, x), 1e-5)


def test_a_length_beyond_the_text_is_its_whole_length():
    """The sum would be divided by tokens that are not there."""
    states = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 3)), jnp.float32)
    assert_close(mean_pooled(states, jnp.array([8])), oracles.f64(states).mean(1), 1e-6)


def test_without_lengths_the_mean_is_over_all_tokens():
    """A text that is not padded has a mean of its own."""
    states = normal(0, 2, 6, 8)
    assert_close(mean_pooled(states, None), mean_pooled(states, jnp.array([6, 6])), 1e-6)
    assert_close(mean_pooled(states, None), oracles.f64(states).mean(1), 1e-6)


@quick_jit
def classifier_gradient(model, tokens, lengths):
    """The gradient of some function of the logits, and they."""

    def loss(model):
        logits = model(tokens, lengths=lengths)
        return jnp.sin(logits).sum(), logits

    return jax.grad(loss, has_aux=True)(model)


@pytest.mark.parametrize(("pooling", "implementation"), by_day([("cls", "reference"), ("mean", "blockwise")], 1))
def test_an_empty_text_is_finite(pooling, implementation):
    """A row of length 0, as in the last batch, divides by 0: its logits or all gradients are NaN."""
    model = classifier(pooling=pooling, attention_implementation=implementation)
    gradient, logits = classifier_gradient(model, TOKENS, jnp.array([6, 0]))
    assert np.isfinite(logits).all()
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
    if pooling == "mean":
        assert_close(logits[1], model.classifier.b[...], 1e-6, "the mean of nothing")


def test_padding_gets_no_gradient():
    """A token that stands in the padding alone is trained."""
    tokens = jnp.where(jnp.asarray(REAL), TOKENS, 12)
    gradient, _ = classifier_gradient(classifier(pooling="mean", attention_implementation="blockwise"), tokens, LENGTHS)
    table = np.asarray(gradient.encoder.embedding.table[...])
    np.testing.assert_array_equal(table[12], 0.0)
    assert np.abs(table[5]).max() > 0


# Both directions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("implementation", "positions"), by_day([("reference", "sinusoidal"), ("blockwise", "relative")], 0)
)
def test_every_token_sees_every_other(implementation, positions):
    """A prediction does not depend on a later token, or not on an earlier one.

    By gradient: every token is another one, so that each row of the table stands for one position.
    """
    model = masked_lm(tie_output=False, attention_implementation=implementation, positions=positions)
    direction = normal(1, 13)

    def scores(table, model):
        return with_leaf(model, "encoder.embedding.table", table)(TOKENS[:1])[0] @ direction

    jacobian = run(jax.jacrev(scores), model.encoder.embedding.table[...], model)
    depends = np.abs(np.asarray(jacobian)[:, np.asarray(TOKENS[0])]).max(-1)  # [t, s]
    assert (depends > 1e-6).all()


def test_relative_positions_tell_before_from_after():
    """Later tokens share the bias of distance 0, as in a causal model, or that of earlier ones.

    By gradient: of 32 biases, half are for later tokens, and six tokens are up to 5 apart.
    """
    model = masked_lm(positions="relative", num_layers=1)
    gradient = run(jax.grad(lambda m: jnp.sin(m(TOKENS)).sum()), model)
    used = np.abs(np.asarray(gradient.encoder.layers.position_bias.table[...])).max(1) > 0
    np.testing.assert_array_equal(np.flatnonzero(used), [0, 1, 2, 3, 4, 5, 17, 18, 19, 20, 21])


# Capture ---------------------------------------------------------------------------------------


def test_captured_arrays_are_stacked_over_layers():
    """Something that was asked for is missing, has another shape, or changes the logits."""
    model = masked_lm(num_layers=3, num_kv_heads=1)
    mask = F.AttentionMask(lengths=LENGTHS)
    names = ("attention_weights", "residual")
    plain, (logits, captured) = forward(model, mask), run(lambda m: m(TOKENS, mask=mask, capture=names), model)
    shapes = jax.tree.map(jnp.shape, captured)
    assert shapes == {"attention_weights": (3, 2, 2, 6, 6), "residual": (3, 2, 6, 8)}
    assert_close(logits, plain, 1e-6)
    np.testing.assert_allclose(captured["attention_weights"].sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(captured["attention_weights"][:, 1, ..., 3:], 0.0)


def test_an_unknown_capture_is_refused_with_the_nearest():
    """A misspelt capture is ignored."""
    with pytest.raises(ValueError, match="'residuals'; did you mean 'residual'"):
        masked_lm()(TOKENS, capture=("residuals",))


# Configs ---------------------------------------------------------------------------------------

REFUSED = [
    (model, field, value)
    for model in ("MaskedLM", "TextClassifier")
    for field, value in (
        ("num_decoder_layers", 2),
        ("share_embeddings", False),
        ("image_size", 8),
        ("patch_size", 4),
        ("num_channels", 1),
    )
] + [
    ("MaskedLM", "num_classes", 3),
    ("MaskedLM", "pooling", "mean"),
    ("TextClassifier", "output", dict(tie=False)),
    ("TextClassifier", "transform_activation", "gelu"),
]


@pytest.mark.parametrize(("model", "field", "value"), REFUSED)
def test_what_has_no_meaning_is_refused_by_name(model, field, value):
    """A field that the model never reads is set, and nothing happens."""
    with pytest.raises(ConfigError, match=f"model has no field '{field}'"):
        tiny_config(model, **{field: value})


@pytest.mark.parametrize(
    ("model", "given", "missing"),
    [
        ("MaskedLM", dict(), "vocab_size"),
        ("TextClassifier", dict(num_classes=3), "vocab_size"),
        ("TextClassifier", dict(vocab_size=13), "num_classes"),
    ],
)
def test_what_is_missing_is_named(model, given, missing):
    """A model is built without a size that it needs, and fails far from the reason."""
    with pytest.raises(ConfigError, match=f"^model needs {missing}$"):
        build(getattr(models, model).Config, given, "model")


# Dropout and precision -------------------------------------------------------------------------


def draws(model, key=None) -> bool:
    """Whether a program of the model has random numbers in it."""
    jaxpr = jax.make_jaxpr(lambda model, key: model(TOKENS, key=key))(model, key)
    return any(e.primitive.name == "random_bits" for e in equations(jaxpr))


@pytest.mark.parametrize("make", by_day([masked_lm, classifier], 0))
def test_dropout_follows_the_key(make):
    """The model drops without a key, does not drop with one, or drops the same with another."""
    model = make(dropout_rate=0.5, num_layers=1)
    drop = quick_jit(lambda model, key: model(TOKENS, key=key))
    first, again, second = (drop(model, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, second)
    assert draws(model, jax.random.key(0)) and not draws(model)


def test_a_classifier_drops_in_front_of_its_head():
    """The head's input is not dropped out: with all else fixed, the key changes nothing."""
    model = classifier(dropout_rate=0.5, pooling="mean", num_layers=1)
    # Nothing but the head's input is left to drop: every text has the same state.
    model = with_leaf(model, "feed_forward_residual.norm.gamma", jnp.zeros((1, 8)))
    drop = quick_jit(lambda model, key: model(TOKENS, key=key))
    first, second = (drop(model, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(first, second)


@pytest.mark.parametrize("make", [masked_lm, classifier])
def test_computation_and_logits_follow_the_policy(make):
    """`compute=bfloat16` leaves the states in float32, or takes the logits along."""
    model = make(precision="compute=bfloat16", num_token_types=2, embedding_norm=True, pooler=True)
    states, logits = jax.eval_shape(lambda m: (m.encoder(TOKENS)[0], m(TOKENS)), model)
    assert states.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("preset", "published"),
    [("bert_base", 110e6), ("bert_large", 340e6)],
)
def test_presets_have_the_papers_number_of_parameters(preset, published):
    """A published model is built with another width, depth or vocabulary (Devlin et al., 2018, section 3)."""
    model = jax.eval_shape(lambda: models.MaskedLM(models.MaskedLM.Config.preset(preset), rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert abs(count / published - 1) < 0.03
