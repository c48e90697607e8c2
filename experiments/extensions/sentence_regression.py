"""Regression on a sentence: a number for each text, such as a rating, under a squared error.

    python -m experiments.train --plugin=experiments/extensions/sentence_regression.py --workdir=runs/ratings \
        --config=experiments/configs/text_classification.py:tiny --config.task.name=sentence_regression \
        --config.data.source=files --config.data.path=ratings.tsv
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from tformer_jax import functional as F
from tformer_jax.data.files import DataError
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.models import TextClassifier
from tformer_jax.progress import SILENT, Progress
from tformer_jax.tasks import TASKS, TextTask, with_auxiliary


class Ratings(TextClassificationData):
    """Texts whose labels are numbers."""

    def name_classes(self, splits: Mapping[str, Any], say: Any) -> None:
        """Sets none: numbers are no classes."""

    def labels(self, texts: Iterable[Any]) -> np.ndarray:
        try:
            return np.asarray([text.label for text in texts], np.float32)
        except ValueError as error:
            raise DataError(f"each label must be a number: {error}") from None


@TASKS.register("sentence_regression")
class SentenceRegression(TextTask):
    """A `TextClassifier` of one class, whose logit is the number."""

    DataConfig, Data, Model = TextClassificationDataConfig, Ratings, TextClassifier
    unit = "texts"
    fixed_fields: ClassVar = {"num_classes": 1}

    def prepared_loss(self, model: TextClassifier, batch: Any, key: Array | None):
        """The mean squared error; rows that only fill up have no tokens."""
        states, beside = model.hidden(batch["tokens"], lengths=batch["lengths"], key=key)  # [B D]
        error = jnp.square(model.logits(states)[:, 0].astype(jnp.float32) - batch["labels"])
        weights = (batch["lengths"] > 0).astype(jnp.float32)
        return with_auxiliary(F.weighted_mean(error, weights), weights.sum(), beside.losses)

    def predict(self, model: TextClassifier, asked: Any, progress: Progress = SILENT) -> Iterator[str]:
        """Yields a line for each text: its number, and itself."""
        texts = asked.texts()
        for text, row in zip(texts, self.rows(texts, model.config.max_length), strict=True):
            yield f"{model(**row)[0, 0]:.3f}\t{text}\n"
