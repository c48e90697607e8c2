"""Mistakes of a classifier, and whether its probabilities are to be believed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Outcomes(NamedTuple):
    """Answers of a classifier to n labelled examples.

    Attributes:
      examples: [n], their numbers in the split, ascending.
      labels, guesses: [n], true classes and likeliest ones, by number.
      probabilities: [n], of the guesses.
    """

    examples: np.ndarray
    labels: np.ndarray
    guesses: np.ndarray
    probabilities: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Tells whether each guess is right, bool [n]."""
        return self.labels == self.guesses

    def worst(self, count: int) -> np.ndarray:
        """Returns which of the n are wrong with the highest probabilities, at most `count`, the most confident first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.probabilities[wrong], kind="stable")][:count]


class Reliability(NamedTuple):
    """The reliability of probabilities in M bins.

    Attributes:
      edges: [M + 1], of the bins.
      counts: [M], how many predictions have a probability in the bin.
      accuracy: [M], the share of these that is right; NaN in an empty bin.
      confidence: [M], the mean of these probabilities; NaN in an empty bin.
      error: the expected calibration error.
    """

    edges: np.ndarray
    counts: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray
    error: float


def confusion_matrix(labels: Int[np.ndarray, "n"], guesses: Int[np.ndarray, "n"], classes: int) -> np.ndarray:
    """Returns how many examples of each class (a row) are taken for each (a column), [classes classes].

    Args:
      labels, guesses: true and predicted classes, in [0, classes).
      classes: how many there are.
    """
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, guesses), 1)
    return matrix


def most_confused(matrix: Int[np.ndarray, "C C"], count: int) -> Int[np.ndarray, "c"]:
    """Returns the `count` classes with the most mistakes, taken for another or another for them, in their order.

    Of equals, the first.
    """
    mistakes = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
    return np.sort(np.argsort(-mistakes, kind="stable")[:count])


def reliability(probabilities: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], bins: int = 10) -> Reliability:
    """Compares the probabilities of predictions with how often these are right, in bins ((m-1)/M, m/M], 0 in the first.

        ECE = Σ_m |B_m| / n · |acc(B_m) - conf(B_m)|

    Source: Guo et al., 2017, equations 1 to 3 (Naeini et al., 2015).

    Args:
      probabilities: of the class that is predicted, each in [0, 1].
      right: whether it is the true one.
      bins: M, of one width.

    Raises:
      ValueError: no predictions, or numbers that are no probabilities.
    """
    found = np.asarray(probabilities, np.float64)
    if not len(found) or not ((found >= 0) & (found <= 1)).all():
        raise ValueError("reliability needs predictions, each with a probability in [0, 1]")
    edges = np.arange(bins + 1) / bins
    place = np.maximum(np.searchsorted(edges, found, side="left") - 1, 0)
    sums = lambda values: np.bincount(place, values, minlength=bins)
    counts, hits, mass = np.bincount(place, minlength=bins), sums(np.asarray(right, np.float64)), sums(found)
    with np.errstate(invalid="ignore"):  # 0 / 0 of an empty bin is NaN
        return Reliability(edges, counts, hits / counts, mass / counts, float(np.abs(hits - mass).sum() / len(found)))


def shortened(text: str, longest: int) -> str:
    """Returns a text of at most `longest` characters, which ends in "…" if something is left out."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
