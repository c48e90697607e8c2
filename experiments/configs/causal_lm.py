"""Language modelling with a causal Transformer.

    python -m experiments.train --config=experiments/configs/causal_lm.py:tiny --workdir=runs/language

Presets:
  tiny        speeches to Congress, byte-level BPE, on two CPU cores: 1.49 bits per byte in 3 min 25 s.
  characters  the same, character by character. Never run to its end: no result.
  gpt2        GPT-2 on OpenWebText. Never run: for accelerators.

How tiny came about. Validation loss in nats a token; 128 wide, 4 layers, 512 tokens a batch, AdamW, linear decay
from 3e-3, one seed. One run, looked at while its learning rate fell, so that the first rows are pessimistic:

  steps   1,000  2,000  3,000  4,000
  loss    5.22   4.81   4.57   4.43
"""

from experiments.configs.sections import ADAMW, BFLOAT16, TINY_TEXT_MODEL, experiment, locked


def _tiny() -> dict:
    return experiment(
        "causal_lm",
        data=dict(source="speeches", vocab_size=4000, row_length=128, batch_tokens=512),
        model=TINY_TEXT_MODEL | dict(max_length=256),
        optimizer=ADAMW | dict(learning_rate=3e-3, schedule="linear", warmup_steps=150, b2=0.95),
        training=dict(steps=4000, evaluate_every=1000),
        checkpoint=dict(every=1000),
    )


def _characters() -> dict:
    config = _tiny()
    config["data"].update(tokenizer="characters", vocab_size=None)
    return config


def _gpt2() -> dict:
    """Radford et al., 2019: 512 rows of 1,024 tokens.

    Learning rate, steps and the missing dropout are those of later reproductions: text that is read once needs none.
    """
    return experiment(
        "causal_lm",
        task=dict(fused_loss=True),
        data=dict(
            source="openwebtext", vocab_size=50_257, row_length=1024, batch_tokens=512 * 1024,
            validation_share=0.005, test_share=0.005, boundaries="stream",
        ),
        preset="gpt2",
        model=dict(dropout_rate=0.0, attention=dict(dropout_rate=0.0)),
        optimizer=ADAMW | dict(learning_rate=6e-4, schedule="cosine", warmup_steps=2000, b2=0.95),
        training=dict(steps=600_000, evaluate_every=2000, log_every=100, accumulate=16),
        checkpoint=dict(every=2000, keep=5),
        precision=BFLOAT16,
    )  # fmt: skip


get_config = locked({"tiny": _tiny, "characters": _characters, "gpt2": _gpt2})


def get_sweep() -> str:
    """Returns a search for the best learning rate, with three seeds each to show how much is chance."""
    return "optimizer.learning_rate=log(3e-4,1e-2,6); seed=0..2"
