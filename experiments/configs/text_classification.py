"""Text classification by fine-tuning a masked language model."""

from experiments.configs.sections import FLOAT32, TINY_TEXT_MODEL, adamw, locked, model_section, section
from tformer_jax.tasks import TextClassification
from tformer_jax.training.checkpoints import CheckpointConfig
from tformer_jax.training.loop import TrainingConfig


def _tiny() -> dict:
    data = section(
        TextClassification.DataConfig, source="movies", vocab_size=4000, validation_size=1000, test_size=1000,
        batch_tokens=1024, num_buckets=2,
    )  # fmt: skip
    model = TINY_TEXT_MODEL | dict(max_length=128, dropout_rate=0.1, pooling="mean")
    return {
        "task": section(TextClassification.Config),
        "data": data,
        "model": model_section(TextClassification, data, **model),
        "optimizer": adamw(learning_rate=1e-3, schedule="linear", warmup_steps=100),
        "training": section(TrainingConfig, steps=600, evaluate_every=200),
        "checkpoint": section(CheckpointConfig, every=300),
        "precision": FLOAT32,
    }


_PRESETS = {"tiny": _tiny}
get_config = locked(_PRESETS)
