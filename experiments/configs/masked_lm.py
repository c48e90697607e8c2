"""Masked language modelling with a bidirectional Transformer.

    python -m experiments.train --config=experiments/configs/masked_lm.py:tiny --workdir=runs/masked

Presets:
  tiny       speeches to Congress on two CPU cores: 24.7 % of masked tokens right (30 % are hidden),
             pseudo-perplexity 73, in 3 min 50 s.
  bert_base  BERT on the user's own files. Never run: for accelerators.

How tiny came about. Validation, 128 wide, 4 layers, AdamW, linear decay, three million tokens in all, one seed:

  learning rate  batch  steps  masked  loss   accuracy  pseudo-perplexity (test)
  3e-3           2,048  1,500  15 %    4.693  22.8 %    92
  6e-3           2,048  1,500  15 %    5.364  18.2 %
  1.5e-3         2,048  1,500  15 %    4.833  22.9 %    110
  3e-3           1,024  3,000  15 %    4.920  21.1 %
  3e-3           2,048  1,500  30 %    4.632  23.8 %    67  (chosen; loss and accuracy with 30 % hidden)
  3e-3           2,048  1,500  30 %    5.251  17.5 %    193 (output matrix of its own, dropout 0.1)

Rows of 64 tokens instead of 128 (15 % masked): 4.714, 22.7 %.
"""

from experiments.configs.sections import ADAMW, BFLOAT16, TINY_TEXT_MODEL, experiment, locked


def _tiny() -> dict:
    return experiment(
        "masked_lm",
        task=dict(mask_rate=0.3),
        data=dict(source="speeches", vocab_size=4000, row_length=128, batch_tokens=2048),
        model=TINY_TEXT_MODEL | dict(max_length=128, transform_activation="gelu_tanh"),
        optimizer=ADAMW | dict(learning_rate=3e-3, schedule="linear", warmup_steps=100),
        training=dict(steps=1500, evaluate_every=500),
        checkpoint=dict(every=500),
    )


def _bert_base() -> dict:
    """Devlin et al., 2018, appendix A.2: 256 rows of 512 tokens, a million steps.

    Without next-sentence prediction (and so without what only it trains: token types, pooler), as in Liu et al., 2019.
    """
    return experiment(
        "masked_lm",
        task=dict(fused_loss=True),
        data=dict(
            source="files", path="corpus", vocab_size=30_522, row_length=512, batch_tokens=256 * 512,
            validation_share=0.005, test_share=0.005,
        ),
        preset="bert_base",
        model=dict(pooler=False, num_token_types=None),
        optimizer=ADAMW | dict(
            learning_rate=1e-4, schedule="linear", warmup_steps=10_000, b2=0.999, eps=1e-6, weight_decay=0.01
        ),
        training=dict(steps=1_000_000, evaluate_every=5000, log_every=100, accumulate=8),
        checkpoint=dict(every=5000, keep=5),
        precision=BFLOAT16,
    )  # fmt: skip


get_config = locked({"tiny": _tiny, "bert_base": _bert_base})


def get_sweep() -> str:
    """Returns a search over learning rate and weight decay."""
    return "optimizer.learning_rate=log(3e-4,1e-2,6); optimizer.weight_decay=0.01,0.1"
