"""Image classification with a Vision Transformer; judged by accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..analysis import flops
from ..analysis.attention import patch_places
from ..analysis.class_plots import MOST_MISTAKES, plot_mistakes
from ..config import NOT_NEGATIVE, TRAINING, ConfigError, field
from ..data.image_classification import ImageClassificationData, ImageClassificationDataConfig
from ..data.pixels import read_image
from ..functional.numbers import is_off
from ..models import VisionTransformer
from ..nn import ModelConfig
from ..progress import SILENT, Progress
from .base import TASKS, Evaluation, Loss, with_auxiliary
from .classification import Classification, ClassificationConfig, Classified, ClassProbability, ranked_lines
from .pictures import Example, Pictured, Side
from .text import RankedPrediction

_SOME_CLASSES = 10
_EXAMPLES = 8  # images to look at a model with


@TASKS.register("image_classification")
class ImageClassificationTask(Classification):
    """A `VisionTransformer` under cross-entropy; evaluated by accuracy.

    A batch holds "images" uint8 [B Y X C] and "labels" [B], -1 in rows that only fill up.
    """

    class Config(ClassificationConfig):
        """The `task` section of an image classification experiment; only training images are augmented.

        Attributes:
          label_smoothing: label smoothing of the training loss.
          flip: flip images left to right with probability 1/2.
          max_shift: the most pixels by which an image is moved, in y and in x; see `functional.random_shift`.
          mixup: alpha of `functional.mixup`; 0: no mixup.
          mean, std: pixels in [0, 1] become (pixel - mean) / std: a number of all channels, or one of each.
        """

        flip: bool = field(False, part=TRAINING)
        max_shift: int = field(0, NOT_NEGATIVE, part=TRAINING)
        mixup: float = field(0.0, NOT_NEGATIVE, part=TRAINING, traced=True)
        mean: tuple = (0.5,)
        std: tuple = (0.5,)

        def check(self) -> None:
            for name in ("mean", "std"):
                value = getattr(self, name)
                numbers = isinstance(value, tuple | list) and all(type(x) in (int, float) for x in value)
                if not numbers or len(value) not in (1, 3) or name == "std" and min(value) <= 0:
                    positive = "positive numbers" if name == "std" else "numbers"
                    raise ConfigError(f"{name} must be a tuple of one or three {positive}, got {value!r}")

    class Prediction(RankedPrediction):
        """The images to classify."""

        image: tuple[str, ...] = field((), help="Image file; may be given several times.")

    DataConfig, Data, Model = ImageClassificationDataConfig, ImageClassificationData, VisionTransformer
    unit, typed = "images", "image"
    new_parameters = ("model.classifier.", "model.register_classifiers.")

    @classmethod
    def planned_fields(cls, data: ImageClassificationDataConfig) -> dict[str, Any]:
        return {"image_size": data.image_size, "num_channels": data.num_channels, "num_classes": _SOME_CLASSES}

    def cost(self, model: ModelConfig, batch: Mapping[str, Any]) -> flops.Cost:
        (rows,) = batch["labels"].shape
        return flops.Cost(flops.vision_flops(model, rows), rows, "image")

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
        pooled, beside = model.hidden(_scaled(batch["images"], self.config.mean, self.config.std), key=dropout_key)
        loss = optax.softmax_cross_entropy(model.logits(pooled).astype(jnp.float32), batch["targets"])
        return with_auxiliary(F.weighted_mean(loss, batch["weights"]), batch["weights"].sum(), beside.losses)

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

    def inputs(self, batch: Any) -> Any:
        return {**batch, "mean": np.float32(self.config.mean), "std": np.float32(self.config.std)}

    @staticmethod
    def logits(model: VisionTransformer, batch: Any) -> Float[Array, "B C"]:
        images = _scaled(batch["images"].astype(jnp.float32) / 255, batch["mean"], batch["std"])
        return model(images).astype(jnp.float32)

    def evaluate_split(
        self, model: VisionTransformer, data: ImageClassificationData, split: str, progress: Progress = SILENT
    ) -> Evaluation:
        """Loss and accuracy, and the mistakes."""
        labels, batches = [self.classes[label] for label in data.splits[split].labels], data.evaluation_batches(split)
        scores = self.score(model, batches, progress, f"scoring {len(labels):,} images of {split}")
        outcomes = self.outcomes(batches, scores)
        wrong = np.flatnonzero(~outcomes.right)
        mistakes = [Classified(f"image {e}", labels[e], self.classes[outcomes.guesses[e]]) for e in wrong]
        return Evaluation(scores.means | {"images": len(labels)}, "samples: the mistakes", mistakes, outcomes)

    def example(self, model: VisionTransformer, of: Pictured) -> Example:
        """Returns images of the split."""
        images, config = of.data.evaluation_batches(of.split).batch(0)["images"][:_EXAMPLES], model.config
        places = patch_places(config.grid, config.prefix_length)
        counted = np.ones((len(images), len(places)), np.float32)
        side = Side(counted, places, unit="patches", image=images[0], has_class_token=config.has_class_token)
        return Example({"images": images}, side, "the first image of the split")

    def plot(self, model: VisionTransformer, of: Pictured) -> list[str]:
        """Draws also mistakes.png, if there are any."""
        worst = (outcomes := of.evaluation.outcomes).worst(MOST_MISTAKES)
        remarks = [] if len(worst) else ["no picture of mistakes: there are none"]
        if len(worst):
            images = of.data.evaluation_batches(of.split).pixels(outcomes.examples[worst])
            plot_mistakes(outcomes, images, self.classes, of.directory / "mistakes.png", subject=of.subject)
        return remarks + super().plot(model, of)

    def predict(self, model: VisionTransformer, asked: Prediction, progress: Progress = SILENT) -> Iterator[str]:
        """Yields a line for each image: the likeliest classes, and its file."""
        if not asked.image:
            raise ConfigError("give --image")
        yield from ranked_lines(asked.image, self.classify(model, [*map(Path, asked.image)], progress), asked.top)

    def classify(
        self, model: VisionTransformer, files: Sequence[Path], progress: Progress = SILENT
    ) -> list[list[ClassProbability]]:
        """The classes of each image file, likeliest first.

        Raises:
          DataError: a file that is no image, by its name.
        """
        sizes = model.config.image_size, model.config.num_channels
        ranked = lambda file: self.ranked(model, {"images": read_image(file, *sizes)[None]})
        return progress.each("classifying", files, "images", ranked)


def _scaled(images: Float[Array, "B Y X C"], mean: Any, std: Any) -> Float[Array, "B Y X C"]:
    """Images of [0, 1] by the mean and the deviation of each channel."""
    return (images - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
