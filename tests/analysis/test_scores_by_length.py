"""Scores by length: bins that hold all, with about as many in each; the picture has their scores and counts."""

import numpy as np
import pytest

from tformer_jax.analysis.lengths import length_bins, plot_by_length


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [1, 4, 6])
def test_every_length_is_in_one_bin(seed, most):
    """Sentences would be counted twice, or left out without a word."""
    lengths = np.random.default_rng(seed).geometric(0.2, 80)
    bins = length_bins(lengths, most)
    assert len(bins) <= most
    assert all(sum(low <= n <= high for low, high in bins) == 1 for n in range(lengths.min(), lengths.max() + 1))
    assert (bins[0][0], bins[-1][1]) == (lengths.min(), lengths.max())


def test_bins_are_about_even():
    """One bin would hold nearly everything, and the others chance."""
    counts = [sum(low <= n <= high for n in range(600)) for low, high in length_bins(range(600), 6)]
    assert counts == [100] * 6
    assert length_bins([7, 7, 7]) == [(7, 7)]


def test_the_picture_has_scores_and_counts(figures, assert_picture, tmp_path):
    """A bar would be of other sentences than its label says."""
    lengths = [1, 1, 2, 5, 5, 9, 9, 9]
    plot_by_length(
        lengths, lambda some: 10.0 * np.mean([lengths[i] for i in some]), tmp_path / "l.png",
        number="BLEU (of 100)", unit="words", subject="run mine",
    )  # fmt: skip
    assert_picture(tmp_path / "l.png")
    above, below = figures[0].axes
    bins = length_bins(lengths)
    inside = [[n for n in lengths if low <= n <= high] for low, high in bins]
    assert [bar.get_height() for bar in above.patches] == [pytest.approx(10 * np.mean(some)) for some in inside]
    assert [bar.get_height() for bar in below.patches] == [len(some) for some in inside]
    assert [text.get_text() for text in below.texts] == [str(len(some)) for some in inside]
    names = [str(low) if low == high else f"{low} to {high}" for low, high in bins]
    assert [label.get_text() for label in below.get_xticklabels()] == names
    assert (above.get_ylabel(), below.get_xlabel()) == ("BLEU (of 100)", "length of the source (words)")
    assert (
        figures[0].get_suptitle()
        == f"BLEU by length of the source: {10 * np.mean(lengths):.2f} of 8 sentences\nrun mine"
    )
