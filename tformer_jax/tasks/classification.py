"""Classification: what its tasks share, whatever is classified; judged by accuracy."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..analysis.class_plots import plot_confusion, plot_reliability
from ..analysis.classes import Outcomes
from ..config import SHARE, TRAINING, field
from ..data.batches import ExampleBatches
from .base import Measured, Scores, Task, TaskConfig
from .pictures import Pictured

# Of more classes than this, an evaluation also says how often the label is among so many likeliest (Russakovsky et al., 2015).
TOP = 5


class Classified(NamedTuple):
    """An example, its label, and the class that the model predicts."""

    text: str
    label: str
    predicted: str


class ClassProbability(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


class ClassificationConfig(TaskConfig):
    """The field of every `task` section of classification.

    Attributes:
      label_smoothing: label smoothing of the training loss.
    """

    label_smoothing: float = field(0.0, SHARE, part=TRAINING, traced=True)


class Classification(Task):
    """A task that sorts inputs into classes, whose names the data have; batches hold "labels" [B], -1 in rows of
    padding."""

    Config = ClassificationConfig
    learnt = ("classes",)
    validated = ("loss", "accuracy")
    judged_by = "accuracy"

    classes: list[str]

    @property
    def model_fields(self) -> dict[str, Any]:
        return super().model_fields | {"num_classes": len(self.classes)}

    def inputs(self, batch: Any) -> Any:
        """Returns a batch with what `logits` reads beside it."""
        return batch

    @staticmethod
    def logits(model: Any, batch: Any) -> Float[Array, "B C"]:
        """Returns the logits of a batch without its labels, float32, with nothing random about it."""
        raise NotImplementedError

    def measure(self, model: Any, batch: Any, number: int) -> Measured:
        """Cross-entropy in nats per example, without augmentation, smoothing or dropout, accuracy, of more than five classes
        also among the five likeliest, and the classes with their probabilities."""
        return _measure(type(self).logits, model, self.inputs(batch))

    def read(self, model: Any, batch: Any) -> Any:
        return self.logits(model, self.inputs(batch))

    def outcomes(self, batches: ExampleBatches, scores: Scores) -> Outcomes:
        """Returns what each example of batches is taken for, from their scores."""
        numbers = [batches.indices(i) for i in range(len(batches))]
        parts = [(some, *(x[: len(some)] for x in found)) for some, found in zip(numbers, scores.outputs, strict=True)]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return Outcomes(*(column[order] for column in columns))

    def plot(self, model: Any, of: Pictured) -> list[str]:
        """Draws also confusion.png and reliability.png."""
        plot_confusion(of.evaluation.outcomes, self.classes, of.directory / "confusion.png", subject=of.subject)
        plot_reliability(of.evaluation.outcomes, of.directory / "reliability.png", subject=of.subject)
        return super().plot(model, of)

    def describe(self, metrics: Mapping[str, float]) -> str:
        top = f", top {TOP} {100 * metrics['top5_accuracy']:.2f} %" if "top5_accuracy" in metrics else ""
        numbers = f"accuracy {100 * metrics['accuracy']:.2f} %{top}, loss {metrics['loss']:.4f} nats"
        return f"{numbers}, {metrics[self.unit]} {self.unit}"

    def ranked(self, model: Any, batch: Any) -> list[ClassProbability]:
        """The classes of the first row of a batch, likeliest first."""
        probabilities = np.asarray(_probabilities(type(self).logits, model, self.inputs(batch))[0])
        order = np.argsort(-probabilities, kind="stable")
        return [ClassProbability(self.classes[i], float(probabilities[i])) for i in order]


def ranked_lines(inputs: Sequence[str], ranked: Sequence[Sequence[ClassProbability]], top: int) -> Iterator[str]:
    """Yields a line for each input: the likeliest classes, and itself."""
    for given, classes in zip(inputs, ranked, strict=True):
        yield "  ".join(f"{c.name} {c.probability:.3f}" for c in classes[:top]) + f"\t{given}\n"


def labelled_loss(logits: Array, labels: Array, label_smoothing: float) -> tuple[Array, Array]:
    """Cross-entropy over the rows whose label is not negative, and how many they are."""
    weights = (labels >= 0).astype(jnp.float32)
    targets = jnp.maximum(labels, 0)
    return F.cross_entropy(logits, targets, weights=weights, label_smoothing=label_smoothing), weights.sum()


# Of the module, not of a task: all that have such a model share what is compiled.


@functools.partial(jax.jit, static_argnums=0)
def _measure(logits_of: Callable[[Any, Any], Array], model: Any, batch: Any) -> Measured:
    logits, labels = logits_of(model, batch), batch["labels"]
    loss, weight = labelled_loss(logits, labels, 0.0)
    best = logits.argmax(-1)
    share = lambda right: F.weighted_mean(right.astype(jnp.float32), (labels >= 0).astype(jnp.float32))
    means = {"loss": loss, "accuracy": share(best == labels)}
    if logits.shape[-1] > TOP:
        means["top5_accuracy"] = share((jax.lax.top_k(logits, TOP)[1] == labels[:, None]).any(-1))
    return means, weight, (labels, best, jax.nn.softmax(logits).max(-1))


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(logits_of: Callable[[Any, Any], Array], model: Any, batch: Any) -> Float[Array, "B C"]:
    return jax.nn.softmax(logits_of(model, batch))
