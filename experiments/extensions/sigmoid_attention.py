"""Attention whose weights do not compete: a sigmoid of each score in place of the softmax (Ramapuram et al., 2024).

    python -m experiments.train --config=experiments/configs/causal_lm.py:tiny --workdir=runs/sigmoid \
        --plugin=experiments/extensions/sigmoid_attention.py --config.model.attention.implementation=sigmoid
"""

import jax
import jax.numpy as jnp
from jax import Array

from tformer_jax.functional import Mask, dropout, kernels


@kernels.KERNELS.register("sigmoid")
def sigmoid_attention(
    q: Array, k: Array, v: Array, mask: Mask, bias: Array | None, options: kernels.ScoreOptions, key: Array | None
) -> Array:
    """sigmoid(Q Kᵀ / √d_k - log S) V for S keys, per head [B T N Hv]: at the start a row of weights sums to about 1."""
    scores = kernels.masked_scores(q, k, mask, bias, options)  # [B N T S], -inf where hidden
    weights = jax.nn.sigmoid(scores - jnp.log(k.shape[1]))
    return kernels.weighted_sum(dropout(weights, options.dropout_rate, key), v)
