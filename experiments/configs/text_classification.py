"""Text classification by fine-tuning a masked language model."""

from experiments.configs.sections import FLOAT32, TINY_TEXT_MODEL, adamw, locked, model_section, section
from tformer_jax.tasks import TextClassification
from tformer_jax.training.checkpoints import CheckpointConfig
from tformer_jax.training.loop import TrainingConfig


def _tiny() -> dict:
    data = section(
        TextClassification.DataConfig, source="movies", vocab_size=4000, validation_size=500, test_size=8500,
        batch_tokens=1024, num_buckets=2,
    )  # fmt: skip
    model = TINY_TEXT_MODEL | dict(max_length=128, dropout_rate=0.1, pooling="mean")
    return {
        "task": section(TextClassification.Config),
        "data": data,
        "model": model_section(TextClassification, data, **model),
        "optimizer": adamw(learning_rate=3e-3, schedule="linear", warmup_steps=30),
        "training": section(TrainingConfig, steps=200, evaluate_every=50),
        "checkpoint": section(CheckpointConfig, every=100),
        "precision": FLOAT32,
    }


_PRESETS = {"tiny": _tiny}
get_config = locked(_PRESETS)
