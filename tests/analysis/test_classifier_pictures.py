"""What a classifier gets wrong and what its probabilities are worth: against loops, and in pictures."""

import numpy as np
import pytest

from tformer_jax.analysis.class_plots import plot_confusion, plot_mistakes, plot_reliability
from tformer_jax.analysis.classes import Outcomes, confusion_matrix, most_confused, reliability


def outcomes_of(count, classes, seed=0):
    rng = np.random.default_rng(seed)
    labels, guesses = rng.integers(0, classes, (2, count))
    guesses = np.where(rng.random(count) < 0.6, labels, guesses)
    return Outcomes(np.arange(count), labels, guesses, rng.uniform(1 / classes, 1, count).astype(np.float32))


def by_loop(probabilities, right, bins):
    """Guo et al., 2017, equations 1 to 3, bin by bin and prediction by prediction, in float64."""
    error, counts = 0.0, []
    for m in range(bins):
        inside = [
            i for i, p in enumerate(map(float, probabilities)) if m / bins < p <= (m + 1) / bins or (m == 0 and p == 0)
        ]
        counts.append(len(inside))
        if inside:
            accuracy = sum(bool(right[i]) for i in inside) / len(inside)
            confidence = sum(float(probabilities[i]) for i in inside) / len(inside)
            error += len(inside) / len(probabilities) * abs(accuracy - confidence)
    return error, counts


@pytest.mark.parametrize("bins", [1, 3, 10, 15])
def test_the_calibration_error_is_that_of_a_loop(bins):
    """A model would be said to be surer than it is; probabilities at the edge of a bin would be lost, or counted twice."""
    rng = np.random.default_rng(bins)
    edges = np.arange(bins + 1) / bins
    probabilities = np.concatenate([rng.random(200), edges, [0.0, 1.0]])
    right = rng.random(len(probabilities)) < probabilities
    found = reliability(probabilities, right, bins)
    error, counts = by_loop(probabilities, right, bins)
    assert found.error == pytest.approx(error, abs=1e-12)
    assert found.counts.tolist() == counts and sum(counts) == len(probabilities)


def test_known_errors():
    """The error would not be 0 for probabilities that keep their word, or not be their distance from it."""
    assert reliability(np.array([0.75] * 4), np.array([1, 1, 1, 0], bool)).error == 0
    assert reliability(np.ones(4), np.array([1, 0, 0, 0], bool)).error == 0.75


@pytest.mark.parametrize("bad", [[], [1.5], [float("nan")]])
def test_what_are_no_probabilities_is_refused(bad):
    """A picture would be drawn of something else, or an error be raised about shapes."""
    with pytest.raises(ValueError, match="each with a probability in"):
        reliability(np.array(bad), np.ones(len(bad), bool))


def test_confusion_is_that_of_a_loop():
    """Rows and columns would be swapped, or examples lost."""
    outcomes = outcomes_of(200, 4)
    wanted = [[0] * 4 for _ in range(4)]
    for label, guess in zip(outcomes.labels, outcomes.guesses, strict=True):
        wanted[label][guess] += 1
    assert confusion_matrix(outcomes.labels, outcomes.guesses, 4).tolist() == wanted


def test_the_most_confused_classes_have_the_most_mistakes():
    """Classes without a mistake would be drawn in place of those that matter."""
    matrix = np.diag([50, 50, 50, 50])
    matrix[0, 2], matrix[3, 2] = 4, 1
    assert most_confused(matrix, 2).tolist() == [0, 2]
    assert most_confused(matrix, 9).tolist() == [0, 1, 2, 3]


def test_the_worst_are_the_surest_mistakes():
    """A picture of the worst mistakes would show right guesses, or harmless ones."""
    outcomes = Outcomes(
        np.arange(5), np.array([0, 1, 0, 1, 0]), np.array([1, 1, 1, 0, 1]), np.array([0.6, 0.99, 0.9, 0.7, 0.9])
    )
    assert outcomes.worst(3).tolist() == [2, 4, 3]


def test_the_picture_of_confusion_has_counts_and_shares(figures, assert_picture, tmp_path):
    """A row would be read as a column, or a shade as a count."""
    outcomes = outcomes_of(100, 3)
    plot_confusion(outcomes, ["ant", "bee", "cow"], tmp_path / "c.png", subject="run mine")
    assert_picture(tmp_path / "c.png")
    axes, bar = figures[0].axes
    matrix = confusion_matrix(outcomes.labels, outcomes.guesses, 3)
    shares = matrix / matrix.sum(1, keepdims=True)
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    written = {tuple(map(int, text.get_position()[::-1])): text.get_text() for text in axes.texts}
    assert written == {at: f"{n}\n{100 * shares[at]:.1f} %" for at, n in np.ndenumerate(matrix) if n}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["ant", "bee", "cow"]
    names = zip(["ant", "bee", "cow"], matrix.sum(1), strict=True)
    assert [t.get_text() for t in axes.get_yticklabels()] == [f"{name} ({n})" for name, n in names]
    right = matrix.trace()
    assert figures[0].get_suptitle() == f"Confusion: {right} of 100 examples right\nrun mine"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("taken for", "true class (examples)")
    assert bar.get_ylabel() == "share of the true class"


def test_of_many_classes_the_most_confused_are_drawn_and_it_says_so(figures, tmp_path):
    """Names would lie on each other, or classes be missing without a word."""
    plot_confusion(outcomes_of(500, 40), [f"class {i}" for i in range(40)], tmp_path / "c.png")
    assert figures[0].axes[0].images[0].get_array().shape == (30, 30)
    assert "the 30 most confused of 40 classes" in figures[0].get_suptitle()


def test_the_picture_of_reliability_has_the_bins(figures, assert_picture, tmp_path):
    """Bars would stand at other probabilities than they are of, or the error in the title be another one's."""
    outcomes = outcomes_of(300, 3)
    plot_reliability(outcomes, tmp_path / "r.png", subject="run mine")
    assert_picture(tmp_path / "r.png")
    above, below = figures[0].axes
    error, counts = by_loop(outcomes.probabilities, outcomes.right, 10)
    assert [bar.get_height() for bar in below.patches] == counts
    assert [text.get_text() for text in below.texts] == [str(n) if n else "" for n in counts]
    for m, bar in enumerate(above.patches):
        inside = [i for i, p in enumerate(outcomes.probabilities) if m / 10 < float(p) <= (m + 1) / 10]
        assert bar.get_x() == pytest.approx(m / 10)
        if inside:
            assert bar.get_height() == pytest.approx(outcomes.right[inside].mean())
    assert f"{100 * error:.2f} %, 300 examples" in figures[0].get_suptitle()
    assert (below.get_xlabel(), below.get_ylabel()) == ("probability of the guess", "examples")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_of_mistakes_has_each_with_its_guess(figures, assert_picture, tmp_path, channels):
    """An image would stand above another one's label."""
    outcomes = Outcomes(np.array([3, 5, 8]), np.array([0, 1, 1]), np.array([1, 1, 0]), np.array([0.6, 0.99, 0.875]))
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 4, channels)).astype(np.uint8)
    plot_mistakes(outcomes, images, ["ant", "bee"], tmp_path / "m.png")
    assert_picture(tmp_path / "m.png")
    drawn = [axes for axes in figures[0].axes if axes.images]
    assert [axes.get_title() for axes in drawn] == [
        "is bee\nguess ant\np = 0.875, image 8",
        "is ant\nguess bee\np = 0.600, image 3",
    ]
    for axes, image in zip(drawn, images, strict=True):
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array())[..., :channels], image)
    assert figures[0].get_suptitle() == "All mistakes, of 3 examples"
