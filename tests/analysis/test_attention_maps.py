"""What heads look at: the weights of every layer against `transformers`, their numbers against loops, and pictures of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_model

from tformer_jax import interop
from tformer_jax.analysis.attention import (
    attended_distance,
    attention_entropy,
    attention_maps,
    head_numbers,
    patch_places,
    sharpest_head,
    token_places,
)
from tformer_jax.analysis.attention_plots import plot_attention, plot_heads, plot_image_attention
from tformer_jax.functional import kernels

SMALL = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, vocab_size=50)


def weights_of(*shape, seed=0):
    """Attention weights, the last axis of which sums to 1."""
    scores = 2 * np.random.default_rng(seed).standard_normal(shape)
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


# The weights -----------------------------------------------------------------------------------


def theirs(name, folder):
    """A model of `transformers` with random weights, the weights that it says it attended with, and our model of it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.23")
    torch.manual_seed(0)
    sizes = {
        "GPT2LMHeadModel": dict(n_embd=16, n_layer=3, n_head=2, vocab_size=50, n_positions=32),
        "BertForMaskedLM": SMALL | dict(max_position_embeddings=32),
        "ViTForImageClassification": {n: x for n, x in SMALL.items() if n != "vocab_size"}
        | dict(image_size=8, patch_size=4, num_labels=3),
        "MarianMTModel": dict(
            d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=50, pad_token_id=0, decoder_start_token_id=0,
            eos_token_id=1, max_position_embeddings=32,
        ),
    }[name]  # fmt: skip
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**sizes, attn_implementation="eager")).eval()
    model.save_pretrained(folder)
    rng = np.random.default_rng(0)
    tokens, images = rng.integers(2, 50, (2, 7)), rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    given = {"pixel_values": torch.from_numpy(images)} if "ViT" in name else {"input_ids": torch.from_numpy(tokens)}
    if "Marian" in name:
        given["decoder_input_ids"] = torch.from_numpy(tokens[:, :5])
    with torch.no_grad():
        found = model(**given, output_attentions=True)
    ours, *_ = interop.load_pretrained(folder)
    as_array = lambda layers: np.stack([x.numpy() for x in layers])
    if "Marian" in name:
        kinds = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "decoder.cross": "cross_attentions"}
        return ours, {name: as_array(found[kind]) for name, kind in kinds.items()}, (tokens, tokens[:, :5])
    inputs = images.transpose(0, 2, 3, 1) if "ViT" in name else tokens
    return ours, as_array(found.attentions), (inputs,)


@pytest.mark.parity
@pytest.mark.parametrize(
    "name",
    ["GPT2LMHeadModel", "BertForMaskedLM", "ViTForImageClassification", pytest.param("MarianMTModel", marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_weights_are_those_that_transformers_attends_with(name, tmp_path):
    """Pictures would show layers in another order, queries for keys, or weights that no layer used."""
    ours, wanted, inputs = theirs(name, tmp_path)
    maps = attention_maps(lambda model, *inputs: model(*inputs), ours, *map(jnp.asarray, inputs))
    wanted = wanted if isinstance(wanted, dict) else dict.fromkeys(maps, wanted)
    assert maps.keys() == wanted.keys()
    for place, weights in maps.items():
        np.testing.assert_allclose(weights, wanted[place], atol=2e-6, err_msg=place)


@pytest.mark.parametrize(
    "changes", [{"remat": "full"}, {"pattern": ({}, {"attention": {"window": 2}}), "num_layers": 3}]
)
def test_recomputed_and_patterned_layers_have_their_weights(changes):
    """A model that saves memory, or whose layers differ, would have no pictures, or those of other layers."""
    model, tokens = tiny_model("CausalLM", **changes), jnp.asarray([[1, 2, 3, 4, 5]])
    maps = jax.jit(attention_maps, static_argnums=0)(lambda model, tokens: model(tokens), model, tokens)
    (weights,) = maps.values()
    seen = np.tril(np.ones((5, 5), bool))
    near = seen & ~np.tril(np.ones((5, 5), bool), -2)
    for layer, found in enumerate(np.asarray(weights)):
        allowed = near if "pattern" in changes and layer % 2 else seen
        assert (found[..., ~allowed] == 0).all() and (found[..., allowed] > 0).all()
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_a_kernel_that_is_no_softmax_is_seen_as_it_weighs():
    """Pictures of an attention of one's own would be those of a softmax that no layer took."""

    @kernels.KERNELS.register("half of all that may be seen")
    def halves(q, k, v, mask, bias, options, key):
        seen = jnp.isfinite(kernels.masked_scores(q, k, mask, bias, options))
        return kernels.weighted_sum(0.5 * seen, v)

    model = tiny_model("CausalLM", attention={"implementation": "half of all that may be seen"})
    maps = attention_maps(lambda model, tokens: model(tokens), model, jnp.asarray([[1, 2, 3, 4]]))
    (weights,) = maps.values()
    np.testing.assert_array_equal(weights, np.broadcast_to(0.5 * np.tril(np.ones((4, 4))), weights.shape))


def test_layers_that_cannot_be_stacked_are_refused_in_words():
    """A report would end in an error about shapes."""
    model = tiny_model("CausalLM", pattern=({"attention": {"num_heads": 1}}, {}))
    with pytest.raises(ValueError, match=r"decoder differ in their number of heads, \[1, 2\]"):
        attention_maps(lambda model, tokens: model(tokens), model, jnp.asarray([[1, 2]]))
    with pytest.raises(ValueError, match="no stack of layers"):
        attention_maps(lambda model: None, {})


# Numbers of heads ------------------------------------------------------------------------------


def test_entropy_is_that_of_a_loop():
    """The head that is enlarged would not be the sharpest; a zero would make it NaN."""
    weights = weights_of(3, 4, 5)
    weights[0, 0] = [0, 1, 0, 0, 0]
    wanted = [[-sum(w * np.log(w) for w in row if w) for row in rows] for rows in weights]
    for times in (1, 3):  # weights of a kernel that is no softmax need not sum to 1
        np.testing.assert_allclose(attention_entropy(times * jnp.asarray(weights)), wanted, atol=1e-5)
    assert attention_entropy(jnp.zeros(4)) == 0


def test_distance_of_patches_leaves_out_the_class_token():
    """A head that looks at the class token would seem to look far, or nowhere."""
    places = patch_places((2, 3), before=1)
    assert places[1:].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    weights = weights_of(7, 7)
    found = np.asarray(attended_distance(jnp.asarray(weights), places, places))
    assert np.isnan(found[0])
    for query in range(1, 7):
        rest = weights[query, 1:] / weights[query, 1:].sum()
        far = [np.hypot(*(places[key] - places[query])) for key in range(1, 7)]
        assert found[query] == pytest.approx(float(rest @ far), rel=1e-5)


def test_numbers_of_heads_leave_out_padding():
    """Padding would count as what a head looks at."""
    weights = weights_of(2, 2, 3, 4, 4)
    counted = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.float32)
    entropy, distance = head_numbers(jnp.asarray(weights), counted, token_places(4), token_places(4))
    for layer in range(2):
        for head in range(3):
            rows = [(q, weights[layer, b, head, q]) for b in range(2) for q in range(4) if counted[b, q]]
            assert entropy[layer, head] == pytest.approx(np.mean([-(w * np.log(w)).sum() for _, w in rows]), rel=1e-5)
            far = [sum(w[k] * abs(k - q) for k in range(4)) for q, w in rows]
            assert distance[layer, head] == pytest.approx(np.mean(far), rel=1e-5)


def test_the_sharpest_head_is_found():
    """A head would be enlarged that looks at everything alike."""
    weights = weights_of(2, 3, 4, 4)
    weights[1, 2] = np.eye(4)
    assert sharpest_head(weights) == (1, 2, 0.0)


# Pictures --------------------------------------------------------------------------------------


def shown(axes):
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def texts(labels):
    return [label.get_text() for label in labels]


def test_attention_has_a_map_a_head_and_the_sharpest_with_its_words(figures, assert_picture, tmp_path):
    """Heads would be missing or mixed up, or queries and keys swapped: queries are the rows, from the top."""
    weights = weights_of(2, 3, 3, 4)
    weights[1, 0] = np.eye(4)[:3]
    plot_attention(
        weights, ["a", "b", "end"], ["w", "x", "$y$", "z"], tmp_path / "a.png", subject="run mine", note="the note"
    )
    assert_picture(tmp_path / "a.png")
    above, below = figures[0].axes[:2]
    for layer in range(2):
        for head in range(3):
            np.testing.assert_allclose(shown(above)[4 * layer :, 5 * head :][:3, :4], weights[layer, head])
    assert np.isnan(shown(above)[3]).all() and np.isnan(shown(above)[:, 4]).all()
    np.testing.assert_array_equal(shown(below), weights[1, 0])
    assert texts(below.get_yticklabels()) == ["a", "b", "end"]
    assert texts(below.get_xticklabels()) == ["w", "x", "$y$", "z"]
    assert below.get_ylim()[0] > below.get_ylim()[1]
    assert below.get_title() == "layer 2, head 1\nlowest mean entropy, 0.00 nats"
    assert figures[0].get_suptitle() == "Attention: 2 layers x 3 heads\nrun mine\nthe note"
    (frame,) = above.patches
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (-0.5, 3.5, 4, 3)


def test_what_is_cut_is_said(figures, tmp_path):
    """Words, layers and heads would be missing without anybody knowing."""
    weights = weights_of(14, 20, 30, 30)
    weights[5, 6] = np.eye(30)
    names = [f"word {i} which is long" for i in range(30)]
    plot_attention(weights, names, names, tmp_path / "a.png")
    above, below = figures[0].axes[:2]
    assert figures[0].get_suptitle() == "Attention: 12 of 14 layers x 12 of 20 heads"
    assert "the first 24 of 30 tokens look at the first 24 of 30" in below.get_title()
    assert below.get_title().startswith("layer 6, head 7")
    assert len(texts(below.get_yticklabels())) == 24
    assert "6" in texts(above.get_yticklabels()) and "7" in texts(above.get_xticklabels())
    assert all(name.endswith("…") for name in texts(below.get_yticklabels()))


def test_attention_over_an_image_is_laid_over_its_patches(figures, assert_picture, tmp_path):
    """The picture would point at another part of the image."""
    weights = weights_of(2, 2, 6)
    weights[0, 1] = [0, 0, 0, 0, 0.99, 0.01]
    image = np.random.default_rng(0).integers(0, 255, (4, 6, 1)).astype(np.uint8)
    plot_image_attention(weights, (2, 3), image, tmp_path / "a.png", subject="run mine", note="whose")
    assert_picture(tmp_path / "a.png")
    above, left, right = figures[0].findobj(lambda x: hasattr(x, "images") and len(getattr(x, "images", ())) > 0)[:3]
    np.testing.assert_allclose(shown(above)[:2, 4:7], weights[0, 1].reshape(2, 3))
    np.testing.assert_array_equal(left.images[0].get_array()[..., 0], image[..., 0])
    tint = right.images[1]
    assert tint.get_extent() == [-0.5, 5.5, 3.5, -0.5]  # the image's
    assert np.unravel_index(np.argmax(tint.get_alpha()), (2, 3)) == (1, 1)
    assert "layer 1, head 2" in right.get_title()
    assert figures[0].get_suptitle().endswith("run mine\nwhose")


def test_heads_over_training_are_all_drawn(figures, assert_picture, tmp_path):
    """A head would be missing, or a distance be drawn between words of two languages."""
    rng = np.random.default_rng(0)
    entropy, distance = rng.random((2, 3, 4)), rng.random((2, 3, 4))
    numbers = {"decoder": (entropy, distance), "decoder.cross": (2 * entropy, None)}
    plot_heads([10, 20], numbers, tmp_path / "heads.png", subject="run mine", note="means over 8 inputs")
    assert_picture(tmp_path / "heads.png")
    one, two, three, four = figures[0].axes
    for axes, found in ((one, entropy), (two, distance), (three, 2 * entropy)):
        drawn = [line.get_ydata() for line in axes.get_lines() if line.get_linewidth() < 1]
        wanted = [found[:, layer, head] for layer in range(3) for head in range(4)]
        assert sorted(map(tuple, drawn)) == sorted(map(tuple, wanted))
        bold = {line.get_label(): line.get_ydata() for line in axes.get_lines() if line.get_label().startswith("layer")}
        for layer in range(3):
            np.testing.assert_allclose(bold[f"layer {layer + 1}"], found[:, layer].mean(-1))
    assert not four.get_lines() and four.texts[0].get_text() == "no distance between two texts"
    assert (one.get_ylabel(), two.get_ylabel(), three.get_xlabel()) == (
        "entropy (nats)",
        "mean distance (tokens)",
        "step",
    )
    styles = {line.get_linestyle() for line in one.get_lines() if line.get_label().startswith("layer")}
    assert len(styles) == 3
