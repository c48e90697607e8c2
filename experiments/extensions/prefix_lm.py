"""Prefix language modelling: the first half of each row is seen from everywhere in it, the second is predicted.

    python -m experiments.train --config=experiments/configs/causal_lm.py:tiny --workdir=runs/prefix \
        --plugin=experiments/extensions/prefix_lm.py --config.task.name=prefix_lm

Source: Raffel et al., 2020, section 3.2.1; Liu et al., 2018. Prompts of `experiments.predict` are prefixes too.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from tformer_jax.functional import AttentionMask, Mask
from tformer_jax.tasks import TASKS, CausalLMTask


@TASKS.register("prefix_lm")
class PrefixLMTask(CausalLMTask):
    """A causal language model whose rows begin with a prefix; where documents share a row, each keeps to itself."""

    prefix = True

    @staticmethod
    def mask(batch: Any) -> Mask:
        """Returns who sees whom: no token a later one, but all the prefix."""
        return AttentionMask(causal=True) | AttentionMask(prefix=_half(batch))

    @staticmethod
    def targets(batch: Any) -> Array:
        """Returns which tokens are to be predicted: those after the prefix, [B T]."""
        return CausalLMTask.targets(batch) & (jnp.arange(batch["tokens"].shape[1]) >= _half(batch))


def _half(batch: Any) -> int:
    return batch["tokens"].shape[1] // 2
