"""Masked language modelling with a bidirectional Transformer."""

from experiments.configs.sections import BFLOAT16, FLOAT32, TINY_TEXT_MODEL, adamw, locked, model_section, section
from tformer_jax.tasks import MaskedLanguageModelling
from tformer_jax.training.checkpoints import CheckpointConfig
from tformer_jax.training.loop import TrainingConfig


def _tiny() -> dict:
    data = section(
        MaskedLanguageModelling.DataConfig, source="speeches", vocab_size=4000, row_length=128, batch_tokens=2048
    )
    model = TINY_TEXT_MODEL | dict(max_length=128)
    return {
        "task": section(MaskedLanguageModelling.Config, mask_rate=0.3),
        "data": data,
        "model": model_section(MaskedLanguageModelling, data, **model),
        "optimizer": adamw(learning_rate=3e-3, schedule="linear", warmup_steps=100),
        "training": section(TrainingConfig, steps=1500, evaluate_every=500),
        "checkpoint": section(CheckpointConfig, every=500),
        "precision": FLOAT32,
    }


def _bert_base() -> dict:
    """Devlin et al., 2018, appendix A.2: 256 rows of 512 tokens, a million steps.

    Without next-sentence prediction (and so without what only it trains: token types, pooler), as in Liu et al., 2019.
    """
    data = section(
        MaskedLanguageModelling.DataConfig, source="files", path="corpus", vocab_size=30_522, row_length=512,
        batch_tokens=256 * 512, validation_share=0.005, test_share=0.005,
    )  # fmt: skip
    return {
        "task": section(MaskedLanguageModelling.Config, fused_loss=True),
        "data": data,
        "model": model_section(MaskedLanguageModelling, data, "bert_base", pooler=False, num_token_types=None),
        "optimizer": adamw(
            learning_rate=1e-4, schedule="linear", warmup_steps=10_000, b2=0.999, eps=1e-6, weight_decay=0.01
        ),
        "training": section(TrainingConfig, steps=1_000_000, evaluate_every=5000, log_every=100, accumulate=8),
        "checkpoint": section(CheckpointConfig, every=5000, keep=5),
        "precision": BFLOAT16,
    }


_PRESETS = {"tiny": _tiny, "bert_base": _bert_base}
get_config = locked(_PRESETS)
