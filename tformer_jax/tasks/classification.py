"""Classification: what its tasks share, whatever is classified; judged by accuracy."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..data.batches import Batches, ExampleBatches
from ..progress import SILENT, Progress
from .base import Task, measured, weighted_means


class Classified(NamedTuple):
    """An example, its label, and the class that the model predicts."""

    text: str
    label: str
    predicted: str


class ClassProbability(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


class Classification(Task):
    """A task that sorts inputs into classes; batches hold "labels" [B], -1 in rows of padding."""

    validated = ("loss", "accuracy")

    def __init__(self, config: Any, classes: Sequence[str]):
        self.config, self.classes = config, list(classes)

    @staticmethod
    def logits(model: Any, batch: Any) -> Float[Array, "B C"]:
        """Returns the logits of a batch without its labels, float32, with nothing random about it."""
        raise NotImplementedError

    def _measure(self, model, batch):
        return _measure(type(self).logits, model, batch)

    def validate(self, model: Any, batches: Batches, progress: Progress = SILENT) -> dict[str, float]:
        """Cross-entropy in nats per example, without augmentation, smoothing or dropout, and accuracy."""
        return weighted_means(measured(lambda batch, _: self._measure(model, batch)[:2], batches, progress))[0]

    def predicted(
        self, model: Any, batches: ExampleBatches, progress: Progress = SILENT, what: str = "scoring"
    ) -> tuple[dict[str, float], dict[int, str]]:
        """The numbers of `validate`, and the class that each example of the batches is taken for."""
        numbers = measured(lambda batch, _: self._measure(model, batch), batches, progress, what)
        metrics, _ = weighted_means([one[:2] for one in numbers])
        found = {}
        for i, (_, _, best) in enumerate(numbers):
            found |= {int(e): self.classes[b] for e, b in zip(batches.indices(i), best, strict=False)}
        return metrics, found

    def ranked(self, model: Any, batch: Any) -> list[ClassProbability]:
        """The classes of the first row of a batch, likeliest first."""
        probabilities = np.asarray(_probabilities(type(self).logits, model, batch)[0])
        order = np.argsort(-probabilities, kind="stable")
        return [ClassProbability(self.classes[i], float(probabilities[i])) for i in order]


def planned_classes(count: int) -> list[str]:
    """Returns names for classes that only the data has names for."""
    return [f"class {number}" for number in range(count)]


def labelled_loss(logits: Array, labels: Array, label_smoothing: float) -> tuple[Array, Array]:
    """Cross-entropy over the rows whose label is not negative, and how many they are."""
    weights = (labels >= 0).astype(jnp.float32)
    targets = jnp.maximum(labels, 0)
    return F.cross_entropy(logits, targets, weights=weights, label_smoothing=label_smoothing), weights.sum()


# Of the module, not of a task: all that have such a model share what is compiled.


@functools.partial(jax.jit, static_argnums=0)
def _measure(logits_of: Callable[[Any, Any], Array], model: Any, batch: Any):
    logits, labels = logits_of(model, batch), batch["labels"]
    loss, weight = labelled_loss(logits, labels, 0.0)
    best = logits.argmax(-1)
    right = F.weighted_mean((best == labels).astype(jnp.float32), (labels >= 0).astype(jnp.float32))
    return {"loss": loss, "accuracy": right}, weight, best


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(logits_of: Callable[[Any, Any], Array], model: Any, batch: Any) -> Float[Array, "B C"]:
    return jax.nn.softmax(logits_of(model, batch))
