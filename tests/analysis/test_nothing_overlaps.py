"""Every picture of a run with the longest of names and numbers: no text lies on another, or beyond the edge."""

import numpy as np
import pytest

from tformer_jax.analysis.attention_plots import plot_attention, plot_heads, plot_image_attention
from tformer_jax.analysis.class_plots import plot_confusion, plot_mistakes, plot_reliability
from tformer_jax.analysis.classes import Outcomes
from tformer_jax.analysis.lengths import plot_by_length
from tformer_jax.analysis.plots import Subject, plot_loss

SUBJECT = Subject("a run whose name is longer than anybody would like to type", "image_classification", "validation")
WORDS = [f"internationalisation {i}" for i in range(40)]
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 40, 300)
MISSED = Outcomes(100_000 + np.arange(300), LABELS, (LABELS + 1) % 40, RNG.random(300))
ROWS = [
    {"step": 1000 * s, "loss": 1e4 / s, "learning_rate": 3.21e-5 / s}
    | {"validation_loss": 1e4 / s, "validation_perplexity": 1e9 / s}
    for s in range(1, 60)
]


def attention(*shape):
    return RNG.dirichlet(np.full(shape[-1], 0.1), shape[:-1])


PICTURES = {
    "loss": lambda file: plot_loss(ROWS, file, subject=SUBJECT, metric="perplexity", scores={"test": {"perplexity": 2e7}}),
    "attention": lambda file: plot_attention(attention(24, 16, 40, 40), WORDS, WORDS, file, subject=SUBJECT, note="a note " * 12),
    "one head": lambda file: plot_attention(attention(1, 1, 2, 2), WORDS[:2], WORDS[:2], file, subject=SUBJECT),
    "image": lambda file: plot_image_attention(
        attention(12, 12, 196), (14, 14), RNG.integers(0, 255, (28, 28, 3)).astype(np.uint8), file, subject=SUBJECT
    ),
    "heads": lambda file: plot_heads(
        [100_000 * i for i in range(1, 9)], {"decoder": (RNG.random((8, 12, 12)), RNG.random((8, 12, 12)))}, file, subject=SUBJECT
    ),
    "confusion": lambda file: plot_confusion(MISSED, WORDS, file, subject=SUBJECT),
    "few classes": lambda file: plot_confusion(
        MISSED._replace(labels=LABELS % 12, guesses=(LABELS + 1) % 12), WORDS[:12], file, subject=SUBJECT
    ),
    "reliability": lambda file: plot_reliability(MISSED, file, subject=SUBJECT),
    "mistakes": lambda file: plot_mistakes(MISSED, np.zeros((12, 8, 8, 1), np.uint8), WORDS, file, subject=SUBJECT),
    "lengths": lambda file: plot_by_length(
        RNG.integers(1, 100_000, 300), lambda some: 0.1 * len(some), file, number="BLEU (of 100)", unit="words", subject=SUBJECT
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_lies_on_another(figures, assert_picture, assert_apart, tmp_path, name):
    """A number or a name could not be read."""
    PICTURES[name](tmp_path / "picture.png")
    assert_picture(tmp_path / "picture.png")
    assert_apart(figures[0])
