"""The Vision Transformer: equation 15, pooling, positions, other resolutions, refusals."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import oracles
import pytest
from flax import nnx
from support import assert_close, by_day, equations, normal, quick_jit, tiny_model, with_leaf

from tformer_jax import functional as F, models
from tformer_jax.config import ConfigError, build

IMAGES = normal(7, 2, 8, 8, 3)


def vit(**changes) -> models.VisionTransformer:
    """Four patches of 48 numbers."""
    return tiny_model("VisionTransformer", **(dict(num_classes=5, norm_position="pre") | changes))


def run(function, *args):
    return quick_jit(function)(*args)


@quick_jit
def forward(model, images):
    return model(images)


@quick_jit
def captured_residual(model, images):
    """The logits, and what the encoder's layers hand on."""
    return model(images, capture=("residual",))


def start(model, images=IMAGES):
    """The stream in front of the first layer: layers that add nothing hand it out."""
    for block, names in (("attention", ("w_o", "b_o")), ("feed_forward", ("w2", "b2"))):
        for name in names:
            held = getattr(getattr(model.encoder.layers[0], block), name)
            model = with_leaf(model, f"layers.0.{block}.{name}", jnp.zeros(held.shape))
    return captured_residual(model, images)[1]["residual"][-1]


def embedded(model, images=IMAGES):
    """W_e Flatten(patch_i) + b_e, patch by patch and number by number."""
    w, b = oracles.f64(model.patch_embedding.w[...]), oracles.f64(model.patch_embedding.b[...])
    size, images, patches = model.config.patch_size, oracles.f64(images), []
    for top in range(0, images.shape[1], size):
        for left in range(0, images.shape[2], size):
            numbers = [(top + y, left + x, c) for y in range(size) for x in range(size) for c in range(images.shape[3])]
            patches.append(np.stack([images[(slice(None), *at)] for at in numbers], axis=1) @ w + b)
    return np.stack(patches, axis=1)


def sinusoids_2d(rows, columns, d_model):
    """Half of the width for the row and half for the column."""
    down, across = oracles.sinusoids(rows, d_model // 2), oracles.sinusoids(columns, d_model // 2)
    return np.array([[*down[y], *across[x]] for y in range(rows) for x in range(columns)])


# Equation 15 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_channels", by_day([1, 3], 0))
def test_patches_are_embedded_as_equation_15_says(num_channels):
    """A patch's pixels are flattened in another order than its rows, columns, channels, or patches are."""
    model, images = vit(num_channels=num_channels, positions="none", pooling="mean"), normal(0, 2, 8, 8, num_channels)
    assert_close(start(model, images), embedded(model, images), 1e-5)


def test_the_embedding_is_a_strided_convolution():
    """The published models' convolution, of stride and width patch_size, has another result."""
    model = vit(positions="none", pooling="mean")
    w = model.patch_embedding.w[...].reshape(4, 4, 3, 8)
    layout = ("NHWC", "HWIO", "NHWC")
    wanted = jax.lax.conv_general_dilated(IMAGES, w, (4, 4), "VALID", dimension_numbers=layout)
    assert_close(start(model), wanted.reshape(2, 4, 8) + model.patch_embedding.b[...], 1e-5)


def test_learned_positions_are_added_to_every_token():
    """The class token stands elsewhere, or has no position, or patches have another one's."""
    model = vit(positions="learned")
    table, token = oracles.f64(model.positions.table[...]), oracles.f64(model.class_token[...])
    assert table.shape == (5, 8)
    stream = np.concatenate([np.tile(token, (2, 1, 1)), embedded(model)], axis=1)
    assert_close(start(model), stream + table, 1e-5)


def test_sinusoidal_positions_are_those_of_the_grid():
    """Positions count patches in a line, or the class token gets one."""
    model = vit(positions="sinusoidal", image_size=12)
    images = normal(0, 2, 12, 12, 3)
    got = start(model, images)
    assert_close(got[:, 1:], embedded(model, images) + sinusoids_2d(3, 3, 8), 1e-5)
    assert_close(got[:, 0], np.tile(model.class_token[...], (2, 1)), 1e-6)
    assert not jax.tree.leaves(model.positions)


def test_the_embedding_norm_is_over_patch_and_position():
    """`embedding_norm` does nothing, or leaves the positions or the class token out."""
    model, plain = (vit(positions="learned", embedding_norm=norm) for norm in (True, False))
    plain = with_leaf(plain, "positions.table", model.positions.table[...])
    for name in ("patch_embedding.w", "patch_embedding.b", "class_token"):
        plain = with_leaf(plain, name, leaf(model, name))
    norm = model.embedding_norm
    held = oracles.f64(norm.gamma[...]), oracles.f64(norm.beta[...])
    wanted = oracles.layer_norm(start(plain), *held, norm.config.eps)
    assert_close(start(model), wanted, 1e-5)


def leaf(model, path):
    for name in path.split("."):
        model = getattr(model, name)
    return model[...]


# Pooling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_classifier_reads_the_pooled_state(pooling):
    """The class follows from a patch instead of the class token, from a stream without its last norm, or from a sum."""
    model = vit(positions="learned", pooling=pooling)
    logits, captured = captured_residual(model, IMAGES)
    norm, stream = model.encoder.final_norm, oracles.f64(captured["residual"][-1])
    assert stream.shape == (2, 5 if pooling == "cls" else 4, 8)
    assert (model.class_token is None) == (pooling == "mean")
    states = oracles.layer_norm(stream, oracles.f64(norm.gamma[...]), oracles.f64(norm.beta[...]), norm.config.eps)
    pooled = states[:, 0] if pooling == "cls" else states.mean(1)
    wanted = pooled @ oracles.f64(model.classifier.w[...]) + oracles.f64(model.classifier.b[...])
    assert_close(logits, wanted, 1e-5)


def affine(linear, x):
    return x @ oracles.f64(linear.w[...]) + oracles.f64(linear.b[...])


def states_of(model, images=IMAGES):
    """The last stream, normed, in float64."""
    norm, stream = model.encoder.final_norm, oracles.f64(captured_residual(model, images)[1]["residual"][-1])
    return oracles.layer_norm(stream, oracles.f64(norm.gamma[...]), oracles.f64(norm.beta[...]), norm.config.eps)


def attended(pooling, states, num_heads=2):
    """What a learned query finds among states [B Q D], and the network after it."""
    held = {name: oracles.f64(getattr(pooling.attention, name)[...]) for name in F.AttentionParams._fields}
    probe = np.tile(oracles.f64(pooling.probe[...]), (len(states), 1, 1))
    x = oracles.multi_head_attention(probe, states, **held)[:, 0]
    ff, norm = pooling.feed_forward, pooling.norm
    inner = oracles.layer_norm(x, oracles.f64(norm.gamma[...]), oracles.f64(norm.beta[...]), norm.config.eps)
    return x + oracles.feed_forward(inner, *(oracles.f64(getattr(ff, name)[...]) for name in ("w1", "b1", "w2", "b2")))


POOLED = {
    "cls_mean": lambda model, x: affine(model.classifier, np.concatenate([x[:, 0], x[:, 3:].mean(1)], -1)),
    "mean": lambda model, x: affine(model.classifier, x[:, 2:].mean(1)),
    "attention": lambda model, x: affine(model.classifier, attended(model.attention_pooling, x)),
    "prefix": lambda model, x: np.mean(
        [affine(of, x[:, i]) for i, of in enumerate([model.classifier, *model.register_classifiers])], axis=0
    ),
}


@pytest.mark.parametrize("pooling", POOLED)
def test_the_classifier_reads_what_the_pooling_says(pooling):
    """Registers are among the patches of a mean, a classifier reads another's token, or the query's network is another."""
    model = vit(positions="learned", pooling=pooling, num_registers=2)
    if pooling == "prefix":  # that start alike
        for i, of in enumerate(model.register_classifiers):
            of.b = of.b.replace(jnp.arange(5.0) + i)
    assert_close(forward(model, IMAGES), POOLED[pooling](model, states_of(model)), 1e-5)


def test_a_model_without_classes_gives_the_pooled_state():
    """The pooler reads another token, has no activation, or a model without a head is none."""
    model = vit(positions="learned", num_classes=None, pooler=True, pooler_activation="relu")
    pooled, states = (
        oracles.relu(affine(model.pooler, states_of(model)[:, 0])),
        run(lambda m: m.states(IMAGES)[0], model),
    )
    assert_close(states, states_of(model), 1e-5)
    assert_close(forward(model, IMAGES), pooled, 1e-5)
    with pytest.raises(ValueError, match="set num_classes"):
        model.logits(jnp.asarray(pooled))


@pytest.mark.parametrize("placed", [True, False])
def test_registers_stand_between_the_class_token_and_the_patches(placed):
    """They stand elsewhere, have a patch's position, or have one where the config says that they have none."""
    model = vit(positions="learned", num_registers=2, register_positions=placed)
    table, registers = oracles.f64(model.positions.table[...]), oracles.f64(model.registers[...])
    assert table.shape == (7 if placed else 5, 8)
    first = np.tile(oracles.f64(model.class_token[...]), (2, 1, 1))
    tokens = np.tile(registers, (2, 1, 1))
    if placed:
        wanted = np.concatenate([first, tokens, embedded(model)], 1) + table
    else:
        wanted = np.concatenate([first + table[:1], tokens, embedded(model) + table[1:]], 1)
    assert_close(start(model), wanted, 1e-5)


def test_patches_without_a_bias():
    """A bias is there, and trained, that the model must not have."""
    model = vit(positions="none", pooling="mean", patch_bias=False)
    assert model.patch_embedding.b is None
    w = oracles.f64(model.patch_embedding.w[...])
    assert_close(start(model), oracles.f64(IMAGES).reshape(2, 2, 4, 2, 4, 3).swapaxes(2, 3).reshape(2, 4, 48) @ w, 1e-5)


def test_every_patch_sees_every_other():
    """A patch's state does not depend on a later one, or not on an earlier one."""
    model, direction = vit(positions="none", pooling="mean", num_layers=1), normal(1, 8)

    def scores(images, model):
        return model(images, capture=("residual",))[1]["residual"][-1][0] @ direction

    jacobian = run(jax.jacrev(scores), IMAGES[:1], model)[:, 0]
    by_patch = np.abs(np.asarray(jacobian)).reshape(4, 2, 4, 2, 4, 3).max((2, 4, 5)).reshape(4, 4)
    assert (by_patch > 1e-6).all()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(("positions", "sees"), by_day([("learned", True), ("sinusoidal", True), ("none", False)], 0))
def test_patches_in_another_order(positions, sees, pooling):
    """With positions the order of patches says nothing, or without them it says something."""
    model = vit(positions=positions, pooling=pooling)
    shuffled = jnp.rot90(IMAGES.reshape(-1, 2, 4, 2, 4, 3).swapaxes(2, 3), -1, axes=(1, 2))  # the four patches
    shuffled = shuffled.swapaxes(2, 3).reshape(IMAGES.shape)
    first, second = forward(model, IMAGES), forward(model, shuffled)
    if sees:
        assert np.abs(first - second).max() > 1e-2
    else:
        assert_close(second, first, 1e-6)


# Images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4, 3), (16, 16, 3), (8, 12, 3), (8, 8, 1)])
def test_images_of_another_shape_are_refused(shape):
    """An image that the positions were not made for is broadcast, or what was wanted is not said."""
    height, width, channels = shape
    wanted = rf"must be \(8, 8, 3\) \(height, width, channels\), got \({height}, {width}, {channels}\)"
    with pytest.raises(ValueError, match=wanted):
        vit()(jnp.zeros((2, *shape)))


def test_integers_are_refused(monkeypatch):
    """Pixels of 0 .. 255 go into a model that was trained on others, without a word."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would refuse them by their annotation
    with pytest.raises(TypeError, match="images must be floats, .* got uint8"):
        vit()(jnp.zeros((2, 8, 8, 3), jnp.uint8))


# Capture ---------------------------------------------------------------------------------------


def test_captured_arrays_are_stacked_over_layers():
    """Something that was asked for is missing, has another shape, or changes the logits."""
    model, names = vit(num_layers=3), ("attention_weights", "residual")
    plain, (logits, captured) = forward(model, IMAGES), run(lambda m: m(IMAGES, capture=names), model)
    shapes = jax.tree.map(jnp.shape, captured)
    assert shapes == {"attention_weights": (3, 2, 2, 5, 5), "residual": (3, 2, 5, 8)}
    assert_close(logits, plain, 1e-6)
    np.testing.assert_allclose(captured["attention_weights"].sum(-1), 1.0, rtol=1e-5)


def test_an_unknown_capture_is_refused_with_the_nearest():
    """A misspelt capture is ignored."""
    with pytest.raises(ValueError, match="'residuals'; did you mean 'residual'"):
        vit()(IMAGES, capture=("residuals",))


# Another resolution ----------------------------------------------------------------------------

LARGER = normal(8, 2, 16, 16, 3)


def parameters(model):
    named = jax.tree_util.tree_leaves_with_path(model)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(value) for path, value in named}


@pytest.fixture(params=by_day(["learned", "sinusoidal", "none"], 0))
def positions(request):
    return request.param


def test_a_model_resized_to_its_own_size_is_the_same(positions):
    """Interpolation moves positions that are where they belong."""
    model = vit(positions=positions)
    same = model.resized(8)
    assert same.config == model.config
    assert_close(forward(same, IMAGES), forward(model, IMAGES), 1e-6)


def test_resizing_changes_nothing_but_positions(positions):
    """A parameter that has nothing to do with resolution is drawn anew or lost."""
    model = vit(positions=positions)
    before, after = parameters(model), parameters(model.resized(16))
    assert before.keys() == after.keys()
    for name in before:
        if not name.startswith("positions.table"):
            np.testing.assert_array_equal(after[name], before[name], name)


def test_resizing_leaves_the_original_as_it_was(positions):
    """The model at the old size is changed: its config, its table, or what it says."""
    model = vit(positions=positions)
    config, before = model.config, parameters(model)
    other = model.resized(16)
    assert other.config.image_size == 16
    assert model.config == config and model.config.image_size == 8
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, before[name], name)
    with pytest.raises(ValueError, match=r"must be \(8, 8, 3\)"):
        model(LARGER)
    with pytest.raises(ValueError, match=r"must be \(16, 16, 3\)"):
        other(IMAGES)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_learned_positions_are_interpolated_as_a_grid(pooling):
    """Positions are interpolated along a line, with the class token's among them, or transposed."""
    model = vit(positions="learned", pooling=pooling)
    old, new = (np.asarray(m.positions.table[...]) for m in (model, model.resized(16)))
    first = len(old) - 4
    assert new.shape == (first + 16, 8)
    np.testing.assert_array_equal(new[:first], old[:first])
    wanted = oracles.resize_grid(old[first:].reshape(2, 2, 8), 4, 4)
    assert_close(new[first:], wanted.reshape(16, 8), 1e-5)


def test_sinusoidal_positions_are_interpolated_from_the_trained_grid():
    """A larger image gets positions that the model has never seen: 0, 1, 2, 3 instead of 0 .. 1 in smaller steps."""
    model = vit(positions="sinusoidal", pooling="mean")
    wanted = oracles.resize_grid(sinusoids_2d(2, 2, 8).reshape(2, 2, 8), 4, 4).reshape(16, 8)
    assert_close(start(model.resized(16), LARGER), embedded(model, LARGER) + wanted, 1e-5, "larger")
    again = model.resized(16).resized(12).resized(8)
    assert_close(start(again), embedded(model) + sinusoids_2d(2, 2, 8), 1e-5, "and back")


def test_a_resized_model_classifies_larger_images(positions):
    """The resized model does not run, or its class depends on resolution where there is nothing more to see.

    All patches and all positions are alike: four or sixteen of them have the same mean.
    """
    model = vit(positions=positions, pooling="mean")
    if positions == "learned":
        model = with_leaf(model, "positions.table", jnp.tile(normal(0, 1, 8), (4, 1)))
    patch = normal(1, 2, 4, 4, 3)
    small, large = (jnp.tile(patch, (1, times, times, 1)) for times in (2, 4))
    logits = forward(model, small), forward(model.resized(16), large)
    assert logits[1].shape == (2, 5)
    if positions == "sinusoidal":  # these are not alike
        assert np.isfinite(logits[1]).all()
    else:
        assert_close(logits[1], logits[0], 1e-5)


def test_a_size_that_patches_do_not_divide_is_refused():
    """A model is resized to images that it cannot cut."""
    with pytest.raises(ConfigError, match="patch_size=4 must divide image_size=10"):
        vit().resized(10)


# Configs, dropout and precision ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 13),
        ("max_length", 16),
        ("num_decoder_layers", 2),
        ("share_embeddings", False),
        ("output", dict(tie=False)),
        ("scale_embeddings", False),
        ("num_token_types", 2),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(field, value):
    """A field that the model never reads is set, and nothing happens."""
    with pytest.raises(ConfigError, match=f"model has no field '{field}'"):
        vit(**{field: value})


@pytest.mark.parametrize("field", ["image_size", "patch_size"])
def test_what_is_missing_is_named(field):
    """A model is built without a size that it needs, and fails far from the reason."""
    given = dict(image_size=8, patch_size=4, num_classes=5)
    del given[field]
    with pytest.raises(ConfigError, match=f"^model needs {field}$"):
        build(models.VisionTransformer.Config, given, "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(register_positions=False), "goes with num_registers above 0"),
        (dict(num_registers=-1), "num_registers must not be negative"),
        (dict(num_registers=1, positions="sinusoidal"), "set it to False"),
        (dict(pooling="prefix"), "set num_registers and num_classes"),
        (dict(pooling="cls_mean", pooler=True, positions="learned"), "not with pooling='cls_mean'"),
        (dict(pooler_activation="relu"), "goes with pooler=True"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    """A field is set that nothing reads, or the model fails far from the reason."""
    with pytest.raises(ConfigError, match=message):
        vit(**changes)


@pytest.mark.parametrize("scheme", ["rotary", "alibi", "relative"])
def test_positions_of_texts_are_refused(scheme):
    """Patches are taken for a line of tokens."""
    with pytest.raises(ConfigError, match=f"positions.name of images must be one of .*, got '{scheme}'"):
        vit(positions=scheme)


def test_a_width_that_has_no_sinusoids_of_a_grid_is_refused_with_the_config():
    """Data are read, and members of a sweep trained, before it is said that there can be no such model."""
    given = dict(image_size=8, patch_size=4, num_classes=5, d_model=6, attention=dict(num_heads=2))
    with pytest.raises(ConfigError, match="^model.d_model must be divisible by 4 for 2-D sinusoidal positions, got 6$"):
        build(models.VisionTransformer.Config, given, "model")


def test_dropout_follows_the_key():
    """The model drops without a key, does not drop with one, or drops the same with another."""
    model = vit(dropout_rate=0.5, num_layers=1)
    drop = quick_jit(lambda model, key: model(IMAGES, key=key))
    first, again, second = (drop(model, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, second)
    jaxpr = jax.make_jaxpr(lambda model: model(IMAGES))(model)
    assert not any(e.primitive.name == "random_bits" for e in equations(jaxpr))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_computation_and_logits_follow_the_policy(positions):
    """`compute=bfloat16` leaves the stream in float32 (float32 images or positions win), or takes the logits along."""
    model = vit(precision="compute=bfloat16", positions=positions)
    logits, captured = jax.eval_shape(lambda m: m(IMAGES, capture=("residual",)), model)
    assert captured["residual"].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32


def test_logits_are_not_rounded_to_the_compute_dtype():
    """A loss in float32 would be of logits with 8 bits of mantissa."""
    model = vit(precision="compute=bfloat16")
    logits = forward(model, IMAGES)
    assert (logits != logits.astype(jnp.bfloat16).astype(jnp.float32)).any()


@pytest.mark.parametrize(
    ("preset", "published"),
    [("vit_ti16", 5.7e6), ("vit_s16", 22e6), ("vit_b16", 86.6e6), ("vit_b32", 88.2e6), ("vit_l16", 304.3e6)],
)
def test_presets_have_the_published_number_of_parameters(preset, published):
    """A published model is built with another width, depth, patch or head."""
    config = models.VisionTransformer.Config.preset(preset)
    model = jax.eval_shape(lambda: models.VisionTransformer(config, rngs=nnx.Rngs(0)))
    assert abs(sum(x.size for x in jax.tree.leaves(model)) / published - 1) < 0.01
