"""Text classification, by fine-tuning a text encoder or from scratch; judged by accuracy."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from tokenizers import Tokenizer

from .. import functional as F
from ..analysis import flops
from ..config import TransformerConfig
from ..data import tokenizers
from ..data.classes import load_classes
from ..data.files import DataError
from ..data.pipelines import padded_length
from ..data.text import canonical
from ..data.text_classification import TextClassificationData, TextClassificationDataConfig, encode_texts
from ..models import TextClassifier
from ..progress import SILENT, Progress
from .base import Evaluation, LossAndWeight, Task, check_label_smoothing, check_name, measured, weighted_means

# What only the data, or the pre-trained run, tells: any number will do to check the other fields.
_SOME_CLASSES, _SOME_TOKENS = 2, 1000
_SHOWN = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassificationConfig:
    """The `task` section of a text classification experiment.

    Attributes:
      name: "text_classification".
      init_from: the run directory of a pre-trained model, whose tokenizer and encoder this one starts
        from; None: from scratch.
      label_smoothing: label smoothing of the training loss.

    Raises:
      ConfigError: an invalid value, by the field's name.
    """

    name: str = "text_classification"
    init_from: str | None = None
    label_smoothing: float = 0.0

    def __post_init__(self):
        check_name(self.name, "text_classification")
        check_label_smoothing(self.label_smoothing)


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

    def validate(self, model: Any, batches: Any, progress: Progress = SILENT) -> dict[str, float]:
        """Cross-entropy in nats per example, without augmentation, smoothing or dropout, and accuracy."""
        return weighted_means(measured(lambda batch, _: self._measure(model, batch)[:2], batches, progress))[0]

    def predicted(
        self, model: Any, batches: Any, progress: Progress = SILENT, what: str = "scoring"
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


class TextClassification(Classification):
    """A `TextClassifier` under cross-entropy; evaluated by accuracy.

    A batch holds "tokens" [B T], "lengths" [B] and "labels" [B], -1 in rows that only fill up.
    """

    Config, DataConfig, Model = TextClassificationConfig, TextClassificationDataConfig, TextClassifier
    unit = "texts"
    new_parameters = ("model.classifier.", "model.pooler.")

    def __init__(self, config: TextClassificationConfig, tokenizer: Tokenizer, classes: Sequence[str]):
        super().__init__(config, classes)
        self.tokenizer = tokenizer

    @classmethod
    def restore(cls, config: TextClassificationConfig, directory: Path) -> "TextClassification":
        return cls(config, tokenizers.load(directory / "tokenizer.json"), load_classes(directory))

    @classmethod
    def planned(cls, config: TextClassificationConfig, data: TextClassificationDataConfig) -> "TextClassification":
        fields = cls.planned_fields(data)
        return cls(config, tokenizers.planned(fields["vocab_size"]), planned_classes(fields["num_classes"]))

    def cost(self, model: TransformerConfig, batch: Mapping[str, Any]) -> flops.Cost:
        rows, length = batch["tokens"].shape
        return flops.Cost(flops.text_classifier_flops(model, rows, length), rows * length)

    @classmethod
    def load_data(
        cls,
        config: TextClassificationDataConfig,
        model: Mapping[str, Any],
        directory: Path,
        progress: Progress = SILENT,
    ) -> TextClassificationData:
        limit = model.get("max_length", TransformerConfig.default("max_length"))
        return TextClassificationData(config, limit, directory, progress)

    @classmethod
    def planned_fields(cls, data: TextClassificationDataConfig) -> dict[str, Any]:
        return {"vocab_size": data.vocab_size or _SOME_TOKENS, "num_classes": _SOME_CLASSES}

    @property
    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.tokenizer.get_vocab_size(), "num_classes": len(self.classes)}

    def prepared_loss(self, model: TextClassifier, batch: Any, key: Array) -> LossAndWeight:
        """The training loss, a mean over texts, and how many they are."""
        logits = model(batch["tokens"], lengths=batch["lengths"], key=key)
        return labelled_loss(logits, batch["labels"], self.config.label_smoothing)

    @staticmethod
    def logits(model: TextClassifier, batch: Any) -> Float[Array, "B C"]:
        return model(batch["tokens"], lengths=batch["lengths"]).astype(jnp.float32)

    def evaluate(
        self, model: TextClassifier, data: TextClassificationData, splits: Sequence[str], progress: Progress = SILENT
    ) -> dict[str, Evaluation]:
        """Loss and accuracy of each split, beside the share of its most frequent class.

        Texts beyond the model's max_length are reported and left out.
        """
        evaluations = {}
        for split in splits:
            examples, _ = data.encode(split)
            scoring = f"scoring {len(examples):,} texts of {split}"
            metrics, found = self.predicted(model, data.evaluation_batches(split), progress, scoring)
            labels = [example.label for example in examples]
            majority = max(labels.count(name) for name in self.classes) / len(labels)
            samples = [Classified(x.text, x.label, found[e]) for e, x in enumerate(examples[:_SHOWN])]
            note = f"the most frequent class has {100 * majority:.2f} %"
            evaluations[split] = Evaluation(metrics | {"texts": len(labels)}, note, samples)
        return evaluations

    def describe(self, metrics: Mapping[str, float]) -> str:
        return f"accuracy {100 * metrics['accuracy']:.2f} %, loss {metrics['loss']:.4f} nats, {metrics['texts']} texts"

    def classify(
        self, model: TextClassifier, texts: Sequence[str], progress: Progress = SILENT
    ) -> list[list[ClassProbability]]:
        """The classes of each text, likeliest first.

        Raises:
          DataError: a text has more tokens than the model reads (says which and how many).
        """
        limit, results = model.config.max_length, []
        encoded = encode_texts(self.tokenizer, [canonical(text) for text in texts])
        for number, row in enumerate(encoded, 1):
            if len(row) > limit:
                raise DataError(f"text {number} has {len(row)} tokens, but the model reads at most {limit}; shorten it")
        with progress.phase("classifying", len(encoded), "texts") as advance:
            for row in encoded:
                tokens = np.pad(np.asarray(row, np.int32), (0, padded_length(len(row), limit) - len(row)))[None]
                results.append(self.ranked(model, {"tokens": tokens, "lengths": np.int32([len(row)])}))
                advance()
        return results


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
