"""Image classification with a Vision Transformer; judged by accuracy."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..analysis import flops
from ..config import ConfigError, check_positive, field
from ..data.classes import load_classes
from ..data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from ..data.pixels import read_images
from ..functional.numbers import is_off
from ..models import VisionTransformer
from ..nn import ModelConfig
from ..progress import SILENT, Progress
from .base import Evaluation, Loss, check_label_smoothing, check_name
from .classification import Classification, Classified, ClassProbability, planned_classes

_SOME_CLASSES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageClassificationTaskConfig:
    """The `task` section of an image classification experiment; only training images are augmented.

    Attributes:
      name: "image_classification".
      label_smoothing: label smoothing of the training loss.
      flip: flip images left to right with probability 1/2.
      max_shift: the most pixels by which an image is moved, in y and in x; see `functional.random_shift`.
      mixup: alpha of `functional.mixup`; 0: no mixup.

    Raises:
      ConfigError: an invalid value, by the field's name.
    """

    name: str = "image_classification"
    label_smoothing: float = field(0.0, traced=True)
    flip: bool = False
    max_shift: int = 0
    mixup: float = field(0.0, traced=True)

    def __post_init__(self):
        check_name(self.name, "image_classification")
        check_label_smoothing(self.label_smoothing)
        if not isinstance(self.flip, bool):
            raise ConfigError(f"task.flip must be True or False, got {self.flip!r}")
        for name in ("max_shift", "mixup"):
            check_positive(f"task.{name}", getattr(self, name), or_zero=True)


class ImageClassificationTask(Classification):
    """A `VisionTransformer` under cross-entropy; evaluated by accuracy.

    A batch holds "images" uint8 [B Y X C] and "labels" [B], -1 in rows that only fill up.
    """

    Config, DataConfig, Model = ImageClassificationTaskConfig, ImageClassificationDataConfig, VisionTransformer
    unit = "images"

    @classmethod
    def restore(cls, config: ImageClassificationTaskConfig, directory: Path) -> "ImageClassificationTask":
        return cls(config, load_classes(directory))

    @classmethod
    def planned(cls, config: ImageClassificationTaskConfig, data: ImageClassificationDataConfig) -> "ImageClassificationTask":
        return cls(config, planned_classes(_SOME_CLASSES))

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> flops.Cost:
        (rows,) = batch["labels"].shape
        return flops.Cost(flops.vision_flops(model, rows), rows, "image")

    @classmethod
    def load_data(
        cls, config: ImageClassificationDataConfig, model: ModelConfig, directory: Path, progress: Progress = SILENT
    ) -> ImageClassificationData:
        return ImageClassificationData(config, directory, progress)

    @classmethod
    def planned_fields(cls, data: ImageClassificationDataConfig) -> dict[str, Any]:
        return {"image_size": data.image_size, "num_channels": data.num_channels, "num_classes": _SOME_CLASSES}

    @property
    def model_fields(self) -> dict[str, Any]:
        return {"num_classes": len(self.classes)}

    def prepare(self, batch: Any, key: Array) -> Any:
        """Augmented "images" float32 [B Y X C] in [0, 1], their "targets" [B num_classes] and "weights" [B]."""
        augment_key, _ = jax.random.split(key)
        classes, smoothing = len(self.classes), self.config.label_smoothing
        targets = optax.smooth_labels(jax.nn.one_hot(batch["labels"], classes), smoothing)
        real = batch["labels"] >= 0
        images, targets = self._augmented(batch["images"].astype(jnp.float32) / 255, targets, real, augment_key)
        return {"images": images, "targets": targets, "weights": real.astype(jnp.float32)}

    def prepared_loss(self, model: VisionTransformer, batch: Any, key: Array) -> Loss:
        """The training loss of images, a mean, and how many they are."""
        _, dropout_key = jax.random.split(key)
        logits = model(_centred(batch["images"]), key=dropout_key).astype(jnp.float32)
        loss = optax.softmax_cross_entropy(logits, batch["targets"])
        return F.weighted_mean(loss, batch["weights"]), batch["weights"].sum(), {}

    def _augmented(self, images: Array, targets: Array, real: Array, key: Array) -> tuple[Array, Array]:
        """Images in [0, 1], and the targets that go with them; `real` ones are mixed with real ones alone."""
        flip_key, shift_key, mix_key = jax.random.split(key, 3)
        if self.config.flip:
            images = F.random_flip(images, flip_key)
        if self.config.max_shift:
            images = F.random_shift(images, shift_key, self.config.max_shift)
        if not is_off(self.config.mixup):
            images, targets = F.mixup(images, targets, mix_key, self.config.mixup, real=real)
        return images, targets

    @staticmethod
    def logits(model: VisionTransformer, batch: Any) -> Float[Array, "B C"]:
        return model(_centred(batch["images"].astype(jnp.float32) / 255)).astype(jnp.float32)

    def evaluate(
        self, model: VisionTransformer, data: ImageClassificationData, splits: Sequence[str], progress: Progress = SILENT
    ) -> dict[str, Evaluation]:
        """Loss and accuracy of each split, and its mistakes."""
        evaluations = {}
        for split in splits:
            labels = [self.classes[label] for label in data.splits[split].labels]
            scoring = f"scoring {len(labels):,} images of {split}"
            metrics, found = self.predicted(model, data.evaluation_batches(split), progress, scoring)
            mistakes = [Classified(f"image {e}", labels[e], c) for e, c in sorted(found.items()) if labels[e] != c]
            evaluations[split] = Evaluation(metrics | {"images": len(labels)}, "samples: the mistakes", mistakes)
        return evaluations

    def describe(self, metrics: Mapping[str, float]) -> str:
        numbers = f"accuracy {100 * metrics['accuracy']:.2f} %, loss {metrics['loss']:.4f} nats"
        return f"{numbers}, {metrics['images']} images"

    def classify(
        self, model: VisionTransformer, files: Sequence[Path], progress: Progress = SILENT
    ) -> list[list[ClassProbability]]:
        """The classes of each image file, likeliest first.

        Raises:
          DataError: a file that is no image, by its name.
        """
        config, results = model.config, []
        with progress.phase("classifying", len(files), "images") as advance:
            for file in files:
                images = read_images([file], config.image_size, config.num_channels)
                results.append(self.ranked(model, {"images": images}))
                advance()
        return results


def _centred(images: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
    """Images of [-1, 1] from those of [0, 1]."""
    return 2 * images - 1
