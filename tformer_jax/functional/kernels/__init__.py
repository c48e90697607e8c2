"""The implementations behind `scaled_dot_product_attention(implementation=...)`.

A kernel is a function `kernel(q, k, v, mask, bias, options, key) -> [B T N Hv]` of

    q, k, v   [B T N H], [B S K H], [B S K Hv]; N is a multiple of K, as in `scaled_dot_product_attention`
    mask      a `Mask`, to be asked for tiles or for all of it
    bias      [#B #N #T #S], or None
    options   `ScoreOptions`: scale, cap, dropout rate, and scores and weights made of them
    key       of the dropout; None for no dropout

To add one, in any file:

    from tformer_jax.functional import dropout, kernels

    @kernels.KERNELS.register("sigmoid")
    def sigmoid_attention(q, k, v, mask, bias, options, key):
        scores = kernels.masked_scores(q, k, mask, bias, options)  # [B N T S], -inf where hidden
        weights = jax.nn.sigmoid(scores - jnp.log(k.shape[1]))
        return kernels.weighted_sum(dropout(weights, options.dropout_rate, key), v)

"auto" never takes it: that goes through a table of its own (`auto`), by what each kernel there says of a `Request`.
"""

from .auto import AttentionChoice, auto_attention, averages_by_softmax, choose, kernel_of
from .blockwise import blockwise_attention
from .cudnn import cudnn_attention
from .reference import attention_probabilities, masked_scores, reference_attention, weighted_sum
from .request import Request
from .scores import KERNELS, Kernel, ScoreOptions
from .splash import splash_attention

__all__ = [
    "KERNELS",
    "AttentionChoice",
    "Kernel",
    "Request",
    "ScoreOptions",
    "attention_probabilities",
    "auto_attention",
    "averages_by_softmax",
    "blockwise_attention",
    "choose",
    "cudnn_attention",
    "kernel_of",
    "masked_scores",
    "reference_attention",
    "splash_attention",
    "weighted_sum",
]
