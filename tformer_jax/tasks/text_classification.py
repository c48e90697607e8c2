"""Text classification, by fine-tuning a text encoder or from scratch; judged by accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ..analysis import flops
from ..data.text_classification import TextClassificationData, TextClassificationDataConfig
from ..models import TextClassifier
from ..nn import ModelConfig
from ..progress import SILENT, Progress
from .base import TASKS, Evaluation, Loss, with_auxiliary
from .classification import (
    Classification,
    ClassificationConfig,
    Classified,
    ClassProbability,
    labelled_loss,
    ranked_lines,
)
from .text import RankedPrediction, TextPrediction, TextTask

# What only the data tells: any number will do to check the other fields.
_SOME_CLASSES = 2
_SHOWN = 100


@TASKS.register("text_classification")
class TextClassificationTask(Classification, TextTask):
    """A `TextClassifier` under cross-entropy; evaluated by accuracy.

    A batch holds "tokens" [B T], "lengths" [B] and "labels" [B], -1 in rows that only fill up.
    """

    class Config(ClassificationConfig):
        """The `task` section of a text classification experiment.

        Attributes:
          init_from: the run, or the folder of Hugging Face's, of a pre-trained model, whose tokenizer and encoder this one
            starts from; None: from scratch.
          label_smoothing: label smoothing of the training loss.
        """

    class Prediction(TextPrediction, RankedPrediction):
        """The texts to classify."""

    DataConfig, Data, Model = TextClassificationDataConfig, TextClassificationData, TextClassifier
    learnt = ("tokenizer", "classes")
    unit = "texts"
    new_parameters = ("model.classifier.", "model.encoder.pooler.")

    @classmethod
    def planned_fields(cls, data: TextClassificationDataConfig) -> dict[str, Any]:
        return super().planned_fields(data) | {"num_classes": _SOME_CLASSES}

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> flops.Cost:
        rows, length = batch["tokens"].shape
        return flops.Cost(flops.text_classifier_flops(model, rows, length), rows * length)

    def prepared_loss(self, model: TextClassifier, batch: Any, key: Array) -> Loss:
        """The training loss, a mean over texts, and how many they are."""
        pooled, beside = model.hidden(batch["tokens"], lengths=batch["lengths"], key=key)
        loss, weight = labelled_loss(model.logits(pooled), batch["labels"], self.config.label_smoothing)
        return with_auxiliary(loss, weight, beside.losses)

    @staticmethod
    def logits(model: TextClassifier, batch: Any) -> Float[Array, "B C"]:
        return model(batch["tokens"], lengths=batch["lengths"]).astype(jnp.float32)

    def evaluate_split(
        self, model: TextClassifier, data: TextClassificationData, split: str, progress: Progress = SILENT
    ) -> Evaluation:
        """Loss and accuracy, beside the share of the most frequent class.

        Texts beyond the model's max_length are reported and left out.
        """
        examples, batches = data.encode(split)[0], data.evaluation_batches(split)
        scores = self.score(model, batches, progress, f"scoring {len(examples):,} texts of {split}")
        labels, outcomes = [example.label for example in examples], self.outcomes(batches, scores)
        majority = max(labels.count(name) for name in self.classes) / len(labels)
        samples = [
            Classified(x.text, x.label, self.classes[best])
            for x, best in zip(examples[:_SHOWN], outcomes.guesses, strict=False)
        ]
        note = f"the most frequent class has {100 * majority:.2f} %"
        return Evaluation(scores.means | {"texts": len(labels)}, note, samples, outcomes)

    def predict(self, model: TextClassifier, asked: Prediction, progress: Progress = SILENT) -> Iterator[str]:
        """Yields a line for each text: the likeliest classes, and itself."""
        texts = asked.texts()
        yield from ranked_lines(texts, self.classify(model, texts, progress), asked.top)

    def classify(
        self, model: TextClassifier, texts: Sequence[str], progress: Progress = SILENT
    ) -> list[list[ClassProbability]]:
        """The classes of each text, likeliest first.

        Raises:
          DataError: a text has more tokens than the model reads (says which and how many).
        """
        rows = [*self.rows(texts, model.config.max_length)]
        return progress.each("classifying", rows, "texts", lambda row: self.ranked(model, row))
