"""Pictures: real PNG files, a panel a head, the curves that there are."""

import numpy as np
import pytest

from tformer_jax.analysis.plots import plot_attention, plot_loss


def weights_of(heads, T=3, S=4):
    """Attention weights [N T S]."""
    scores = np.random.default_rng(0).standard_normal((heads, T, S))
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


@pytest.mark.parametrize("heads", [1, 4, 6])
def test_attention_has_a_panel_a_head(figures, assert_picture, tmp_path, heads):
    """Heads would be missing from the picture, or empty panels would look like heads."""
    weights = weights_of(heads)
    plot_attention(weights, ["a", "b", "end"], ["w", "x", "y", "z"], "title", tmp_path / "attention.png")
    assert_picture(tmp_path / "attention.png")
    (figure,) = figures
    panels = [axes for axes in figure.axes if axes.get_title().startswith("head")]
    assert [axes.get_title() for axes in panels] == [f"head {h + 1}" for h in range(heads)]
    assert [
        axes for axes in figure.axes if axes.axison and axes not in panels and axes.get_label() != "<colorbar>"
    ] == []
    for axes, head in zip(panels, weights, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), head)


def test_attention_has_its_tokens_on_the_axes(figures, tmp_path):
    """Queries and keys would be swapped: queries are the rows, from the top."""
    plot_attention(weights_of(2), ["a", "b", "end"], ["w", "x", "y", "z"], "title", tmp_path / "attention.png")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "end"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["w", "x", "y", "z"]
    top, bottom = sorted(axes.get_ylim())
    assert axes.get_ylim() == (bottom, top)


def test_text_in_a_picture_is_not_a_formula(assert_picture, tmp_path):
    """A sentence with dollar signs or underscores would be set as mathematics, or fail to be drawn."""
    keys = ["$\\$", "100$", "$a_b$", "d"]
    plot_attention(weights_of(1), ["$^$", "b$", "%"], keys, "title", tmp_path / "attention.png")
    assert_picture(tmp_path / "attention.png")


def test_the_loss_curves_are_the_rows(figures, assert_picture, tmp_path):
    """A curve would show other steps or numbers than metrics.jsonl."""
    rows = [{"step": s, "loss": 5.0 - s} for s in (1, 2, 3)] + [{"step": 3, "validation_loss": 1.5}]
    plot_loss(rows, tmp_path / "loss.png")
    assert_picture(tmp_path / "loss.png")
    (axes,) = figures[0].axes
    curves = {line.get_label().split()[0]: line.get_xydata().tolist() for line in axes.get_lines()}
    assert curves == {"training": [[1, 4], [2, 3], [3, 2]], "validation": [[3, 1.5]]}


@pytest.mark.parametrize("rows", [[{"step": 1, "loss": 2.0}], [{"step": 1, "validation_loss": 2.0}]])
def test_one_curve_alone_is_drawn(figures, tmp_path, rows):
    """A short run, without one of the curves, would end in an error."""
    plot_loss(rows, tmp_path / "loss.png")
    assert len(figures[0].axes[0].get_lines()) == 1
