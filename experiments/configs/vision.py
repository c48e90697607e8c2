"""Image classification with the Vision Transformer."""

from ml_collections import ConfigDict

from experiments.configs.sections import FLOAT32, model_section, section
from tformer_jax.config import check_choice
from tformer_jax.tasks import ImageClassification
from tformer_jax.training.checkpoints import CheckpointConfig
from tformer_jax.training.loop import TrainingConfig
from tformer_jax.training.optimizers import OptimizerConfig


def get_config(preset: str = "tiny") -> ConfigDict:
    """The locked config of a preset."""
    check_choice("preset", preset, _PRESETS)
    return ConfigDict(_PRESETS[preset]()).lock()


def _tiny() -> dict:
    data = section(
        ImageClassification.DataConfig, source="mnist_5k", image_size=28, num_channels=1, validation_size=500,
        test_size=1000, batch_size=64,
    )  # fmt: skip
    model = {
        "patch_size": 4,
        "d_model": 64,
        "num_heads": 4,
        "d_ff": 256,
        "num_layers": 4,
        "activation": "gelu_tanh",
        "norm_position": "pre",
        "positions": "learned",
        "pooling": "mean",
        "dropout_rate": 0.0,
        "scan_unroll": 4,
    }
    return {
        "task": section(ImageClassification.Config, max_shift=2),
        "data": data,
        "model": model_section(ImageClassification, data, **model),
        "optimizer": section(
            OptimizerConfig,
            name="adamw",
            learning_rate=2e-3,
            schedule="cosine",
            warmup_steps=100,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),  # fmt: skip
        "training": section(TrainingConfig, steps=2000, evaluate_every=500),
        "checkpoint": section(CheckpointConfig, every=1000),
        "precision": FLOAT32,
    }


_PRESETS = {"tiny": _tiny}
