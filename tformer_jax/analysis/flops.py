"""What a Transformer costs, in floating-point operations: a multiplication and an addition are two."""


def attention_flops(T: int, S: int, d: int, *, batch: int = 1) -> int:
    """Of softmax(Q Kᵀ / √d_k) V over all heads (equation 13): 4 B T S d, that is O(n² d).

    2 B T S d for the scores and as much for the weighted sum of values; the softmax itself, some
    operations a score, is left out, as are the projections (linear in n). A causal kernel that
    skips what is hidden does about half.

    Source: Vaswani et al., 2017, table 1.

    Args:
      T: queries.
      S: keys.
      d: the width of all heads together, N H.
      batch: B.
    """
    return 4 * batch * T * S * d
