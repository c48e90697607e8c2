"""Text classification, by fine-tuning a text encoder or from scratch; judged by accuracy."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from tokenizers import Tokenizer

from ..analysis import flops
from ..config import field
from ..data import tokenizers
from ..data.batches.buckets import padded_length
from ..data.classes import load_classes
from ..data.files import DataError
from ..data.text import canonical
from ..data.text_classification import TextClassificationData, TextClassificationDataConfig
from ..models import TextClassifier
from ..nn import ModelConfig
from ..progress import SILENT, Progress
from .base import Evaluation, Loss, check_label_smoothing, check_name
from .classification import Classification, Classified, ClassProbability, labelled_loss, planned_classes

# What only the data, or the pre-trained run, tells: any number will do to check the other fields.
_SOME_CLASSES, _SOME_TOKENS = 2, 1000
_SHOWN = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassificationTaskConfig:
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
    label_smoothing: float = field(0.0, traced=True)

    def __post_init__(self):
        check_name(self.name, "text_classification")
        check_label_smoothing(self.label_smoothing)


class TextClassificationTask(Classification):
    """A `TextClassifier` under cross-entropy; evaluated by accuracy.

    A batch holds "tokens" [B T], "lengths" [B] and "labels" [B], -1 in rows that only fill up.
    """

    Config, DataConfig, Model = TextClassificationTaskConfig, TextClassificationDataConfig, TextClassifier
    unit = "texts"
    new_parameters = ("model.classifier.", "model.pooler.")

    def __init__(self, config: TextClassificationTaskConfig, tokenizer: Tokenizer, classes: Sequence[str]):
        super().__init__(config, classes)
        self.tokenizer = tokenizer

    @classmethod
    def restore(cls, config: TextClassificationTaskConfig, directory: Path) -> "TextClassificationTask":
        return cls(config, tokenizers.load(directory / "tokenizer.json"), load_classes(directory))

    @classmethod
    def planned(cls, config: TextClassificationTaskConfig, data: TextClassificationDataConfig) -> "TextClassificationTask":
        fields = cls.planned_fields(data)
        return cls(config, tokenizers.planned(fields["vocab_size"]), planned_classes(fields["num_classes"]))

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> flops.Cost:
        rows, length = batch["tokens"].shape
        return flops.Cost(flops.text_classifier_flops(model, rows, length), rows * length)

    @classmethod
    def load_data(
        cls,
        config: TextClassificationDataConfig,
        model: ModelConfig,
        directory: Path,
        progress: Progress = SILENT,
    ) -> TextClassificationData:
        return TextClassificationData(config, model.max_length, directory, progress)

    @classmethod
    def data_key(cls, task: Any, data: Any, model: Mapping[str, Any]) -> dict[str, Any]:
        more = {"model.max_length": model.get("max_length"), "task.init_from": task.init_from}
        return super().data_key(task, data, model) | more

    @classmethod
    def planned_fields(cls, data: TextClassificationDataConfig) -> dict[str, Any]:
        return {"vocab_size": data.vocab_size or _SOME_TOKENS, "num_classes": _SOME_CLASSES}

    @property
    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.tokenizer.get_vocab_size(), "num_classes": len(self.classes)}

    def prepared_loss(self, model: TextClassifier, batch: Any, key: Array) -> Loss:
        """The training loss, a mean over texts, and how many they are."""
        logits = model(batch["tokens"], lengths=batch["lengths"], key=key)
        return *labelled_loss(logits, batch["labels"], self.config.label_smoothing), {}

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
        encoded = tokenizers.encode_framed(self.tokenizer, [canonical(text) for text in texts])
        for number, row in enumerate(encoded, 1):
            if len(row) > limit:
                raise DataError(f"text {number} has {len(row)} tokens, but the model reads at most {limit}; shorten it")
        with progress.phase("classifying", len(encoded), "texts") as advance:
            for row in encoded:
                tokens = np.pad(np.asarray(row, np.int32), (0, padded_length(len(row), limit) - len(row)))[None]
                results.append(self.ranked(model, {"tokens": tokens, "lengths": np.int32([len(row)])}))
                advance()
        return results
