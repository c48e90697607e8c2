"""Positions: what is added, turned or biased, from formulas written again in NumPy, and the pictures of it."""

import numpy as np
import oracles
import pytest
from support import tiny_model

from tformer_jax.analysis.positions import (
    cosine_similarity,
    patch_vectors,
    plot_positions,
    position_vectors,
    score_biases,
    turned_similarity,
)
from tformer_jax.nn import POSITIONS


def cosines(x, y):
    """x·y / (|x| |y|), pair by pair."""
    return [[float(a @ b / np.sqrt((a @ a) * (b @ b))) for b in y] for a in np.asarray(x, np.float64)]


def test_similarity_is_that_of_a_loop():
    """Long vectors would seem more alike than short ones; one that is 0 would make it NaN."""
    x, y = np.random.default_rng(0).standard_normal((2, 4, 6))
    np.testing.assert_allclose(cosine_similarity(x, y), cosines(x, y), atol=1e-12)
    assert (cosine_similarity(np.zeros((1, 6)), y) == 0).all()


def test_sinusoids_are_those_of_the_formula():
    """The picture would be of other positions than the model is told."""
    model = tiny_model("CausalLM", positions={"name": "sinusoidal"})
    (found,) = position_vectors(model, np.array([0, 3, 7])).values()
    np.testing.assert_allclose(found, oracles.sinusoids(16, 8)[[0, 3, 7]], atol=1e-6)


def test_learned_vectors_are_the_rows_of_the_table():
    """The picture would be of the table before it was learned, or of other rows."""
    model = tiny_model("CausalLM", positions={"name": "learned"})
    (found,) = position_vectors(model, np.array([1, 4])).values()
    table = np.asarray(model.positions.scheme.table[...])[[1, 4]]
    np.testing.assert_allclose(cosine_similarity(found, table), cosines(table, table), atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_of_patches_leave_out_the_class_token(pooling):
    """Every patch would be shown with the position of the one before it."""
    model = tiny_model("VisionTransformer", pooling=pooling, positions={"name": "learned"})
    table = np.asarray(model.positions.table[...])
    count = model.config.grid[0] * model.config.grid[1]
    np.testing.assert_allclose(patch_vectors(model), table[len(table) - count :], atol=1e-6)


def test_turned_heads_have_the_mean_cosine_of_their_pairs():
    """The curve would be of another base, or of half a head."""
    found = turned_similarity(POSITIONS["rotary"](base=100.0), 8, np.arange(5))
    wanted = [np.mean([np.cos(d / 100.0 ** (2 * i / 8)) for i in range(4)]) for d in range(5)]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_biases_of_scores_are_those_of_the_formula():
    """A head's slope would be drawn as another's, or distances with the wrong sign."""
    model = tiny_model("CausalLM", positions={"name": "alibi"})
    (found,) = score_biases(model, np.arange(-3, 1)).values()
    wanted = [[slope * distance for distance in range(-3, 1)] for slope in oracles.alibi_slopes(2)]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("by_layer", [False, True])
def test_learned_biases_are_those_of_the_buckets(by_layer):
    """The picture would be of another layer's table, or of other distances."""
    positions = {"name": "relative", "num_buckets": 8, "max_distance": 16, "by_layer": by_layer}
    model = tiny_model("CausalLM", positions=positions)
    (found,) = score_biases(model, np.arange(-5, 1)).values()
    stack = model.decoder
    table = (
        np.asarray(stack.position_biases.layers[0].table[...])[0]
        if by_layer
        else np.asarray(stack.position_bias.table[...])
    )
    wanted = [[table[oracles.t5_bucket(d, False, 8, 16), head] for d in range(-5, 1)] for head in range(2)]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "name", "labels"),
    [
        ("CausalLM", "learned", ("position (tokens)", "position (tokens)")),
        ("CausalLM", "rotary", ("distance (tokens)", "cosine similarity")),
        ("MaskedLM", "alibi", ("distance from query to key (tokens)", "bias (of the score)")),
        ("VisionTransformer", "learned", ("column of the patch", "row of the patch")),
    ],
)
def test_each_scheme_has_its_picture(figures, assert_picture, tmp_path, model, name, labels):
    """Whoever chose it would see nothing of it, or axes without a unit."""
    found = tiny_model(model, positions={"name": name})
    assert plot_positions(found, tmp_path / "p.png", subject="run mine") is None
    assert_picture(tmp_path / "p.png")
    assert figures[0].get_suptitle() == f"Positions: {name}\nrun mine"
    assert (figures[0].axes[0].get_xlabel(), figures[0].axes[0].get_ylabel()) == labels


def test_a_model_without_positions_has_a_reason_in_place_of_a_picture(tmp_path):
    """An empty picture would be drawn."""
    reason = plot_positions(tiny_model("CausalLM", positions={"name": "none"}), tmp_path / "p.png")
    assert "'none' tells the model of no positions" in reason
    assert not (tmp_path / "p.png").exists()


def test_vectors_that_are_the_same_are_drawn_once(figures, tmp_path):
    """Source and target of a translation would have a picture each of one formula."""
    plot_positions(tiny_model("Transformer", positions={"name": "sinusoidal"}), tmp_path / "p.png")
    (title,) = [axes.get_title() for axes in figures[0].axes if axes.get_title()]
    assert title.startswith("source_positions and target_positions: similarity")
