"""Scaled dot-product and multi-head attention (equations 2, 3, 4 and 9).

GQA and MQA are the general case: N query heads share K key/value heads, N a multiple of K;
plain multi-head attention is K = N.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .checks import as_array, as_key, check_shape
from .kernels import (
    AttentionChoice,
    Kernel,
    Request,
    ScoreOptions,
    attention_probabilities,
    averages_by_softmax,
    choose,
    kernel_of,
    masked_scores,
)
from .masks import Mask, fitting
from .numbers import Number
from .products import as_weight, product
from .quantization import Weight
from .relations import as_rank_4


class AttentionParams(NamedTuple):
    """The projections of multi-head attention; a bias is an array or None.

    Shapes: w_q [D N H], w_k [C K H] and w_v [C K Hv] with C the width of the context (D in
    self-attention), w_o [N Hv D], b_q [N H], b_k [K H], b_v [K Hv], b_o [D]. Mostly Hv = H.
    """

    w_q: Any
    w_k: Any
    w_v: Any
    w_o: Any
    b_q: Any = None
    b_k: Any = None
    b_v: Any = None
    b_o: Any = None


def scaled_dot_product_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    *,
    mask: Any = None,
    bias: Float[Array, "..."] | None = None,
    scale: Number | None = None,
    logit_softcap: Number | None = None,
    dropout_rate: Number = 0.0,
    key: Array | None = None,
    implementation: str | Kernel = "auto",
) -> Float[Array, "B T N Hv"]:
    """Attention (equation 2): softmax(Q Kᵀ / √d_k) V, per head.

    The softmax is in float32, or in float64 where the inputs are. A query that may attend no key gets zeros, in the
    value and in the gradient. Positions are array indices unless the mask says where queries and keys
    stand: under `causal` with T != S, query i sees the keys j <= i (aligned top left). A NaN or an infinity
    behind a mask is not hidden: 0 times NaN is NaN.

    Source: Vaswani et al., 2017, section 3.2.1; for N > K, Ainslie et al., 2023; for the cap, Gemma team, 2024.

    Args:
      q: queries; N is a multiple of K.
      k, v: keys and values; values may have a width of their own, Hv.
      mask: a `Mask`, or booleans broadcastable to [B N T S] (three axes are [N T S]), True = may attend.
      bias: floats added to the scaled scores; broadcastable to [B N T S], as the mask.
      scale: multiplies q kᵀ; default 1 / √H.
      logit_softcap: a cap c keeps the scaled scores s in (-c, c), as c tanh(s / c), before bias and mask.
      dropout_rate: of the attention weights; needs `key` (None means no dropout).
      key: a typed key.
      implementation: a name in `kernels.KERNELS`, such as "reference" (dense, O(T S) memory), "blockwise" (O(T + S)
        memory, and keys that a mask hides from a whole block of queries are not read), "cudnn" (NVIDIA's), "splash"
        (for TPUs) or "auto", which takes an accelerator's own where it can, else "blockwise" from more than 512 * 512
        scores a head, and of fewer where it pays: see `explain_attention`; or any function
        `kernel(q, k, v, mask, bias, options, key)`, see `kernels`.

    Returns:
      [B T N Hv] in q's dtype.

    Raises:
      TypeError: q, k, v or a bias that are no arrays of floats, a mask that is not boolean, no number or no key.
      ValueError: another number of axes, a size of 0 (but for B), keys or values that do not go with the queries,
        heads that do not divide, a mask or a bias that does not fit the scores, a number out of its range, several
        keys to draw from, an unknown implementation, one that returns another shape, or one by name that cannot be
        taken (says why).
    """
    q, k, mask, bias = _checked(q, k, mask, bias)
    v = as_array("v", v, "B S K Hv", kind="floats")
    if v.shape[:3] != k.shape[:3] or v.shape[3] == 0:
        raise ValueError(
            f"v must have k's shape {k.shape}, got {v.shape}; only the last axis may differ, and must not be 0"
        )
    key = key if key is None else as_key("key", key)
    options = _options(q.shape[3], scale, logit_softcap, dropout_rate)
    kernel = kernel_of(implementation, Request(q, k, v, mask, bias, options, key))
    heads = kernel(q, k, v, mask, bias, options, key)  # [B T N Hv]
    check_shape("what the attention kernel returns", heads, (*q.shape[:3], v.shape[3]))
    return heads.astype(q.dtype)


def explain_attention(
    q: Any,
    k: Any,
    v: Any = None,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Number | None = None,
    logit_softcap: Number | None = None,
    dropout_rate: Number = 0.0,
    key: Array | None = None,
    platform: str | None = None,
) -> AttentionChoice:
    """Tells which kernel `implementation="auto"` takes for such arguments, and what rules out each of the others.

    Args:
      q, k, v, bias: as in `scaled_dot_product_attention`, or what has their shapes and dtypes; v by default as k.
      mask, scale, logit_softcap, dropout_rate, key: as in `scaled_dot_product_attention`.
      platform: "cpu", "gpu", "tpu"; by default that of this process. Of a GPU elsewhere a Hopper one is assumed.

    Raises:
      TypeError, ValueError: as `scaled_dot_product_attention`, of the mask and the numbers.
    """
    (B, T, N, _), S = q.shape, k.shape[1]
    if bias is not None:
        bias = jax.eval_shape(lambda x: as_rank_4("bias", x, (B, N, T, S)), bias)
    options = _options(q.shape[3], scale, logit_softcap, dropout_rate)
    v, mask = k if v is None else v, fitting(mask, B, N, T, S)
    return choose(Request(q, k, v, mask, bias, options, key, platform=platform))


def attention_weights(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    *,
    mask: Any = None,
    bias: Float[Array, "..."] | None = None,
    scale: Number | None = None,
    logit_softcap: Number | None = None,
    implementation: str | Kernel = "auto",
) -> Float[Array, "B N T S"]:
    """The weights of equation 2, softmax(Q Kᵀ / √d_k), float32: what `scaled_dot_product_attention` averages with.

    Arguments and errors are those of `scaled_dot_product_attention`. A row sums to 1, or to 0 where the query may attend
    no key; rows of an `implementation` of one's own may sum to anything. That one is asked for its averages of values
    that are 1 at one key each and 0 at all others, which are its weights if they are linear in the values.
    """
    if averages_by_softmax(implementation):
        q, k, mask, bias = _checked(q, k, mask, bias)
        return attention_probabilities(q, k, mask, bias, _options(q.shape[3], scale, logit_softcap))
    q, k = as_array("q", q, "B T N H", kind="floats"), as_array("k", k, "B S K H", kind="floats")
    q, (B, S, K, _) = q.astype(jnp.promote_types(q.dtype, jnp.float32)), k.shape  # averages have the dtype of queries
    one_each = jnp.broadcast_to(jnp.eye(S)[:, None], (B, S, K, S))
    how = {"mask": mask, "bias": bias, "scale": scale, "logit_softcap": logit_softcap, "implementation": implementation}
    return scaled_dot_product_attention(q, k, one_each, **how).transpose(0, 2, 1, 3).astype(jnp.float32)


def attention_scores(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    *,
    mask: Any = None,
    bias: Float[Array, "..."] | None = None,
    scale: Number | None = None,
    logit_softcap: Number | None = None,
) -> Float[Array, "B N T S"]:
    """Returns the scores before the softmax, float32: scaled, capped, with the bias, -inf where masked.

    Arguments and errors are those of `scaled_dot_product_attention`; what is left out is not applied.
    """
    q, k, mask, bias = _checked(q, k, mask, bias)
    return masked_scores(q, k, mask, bias, _options(q.shape[3], scale, logit_softcap))


def project_heads(
    x: Float[Array, "B T D"], w: Float[Weight, "D N H"], b: Float[Array, "N H"] | None = None
) -> Float[Array, "B T N H"]:
    """One projection of equation 3, X W + b, split into heads.

    Raises:
      TypeError, ValueError: what is no array, or not of x's width D; a bias that is not [N H].
    """
    return _projected("x", x, "w", w, "b", b)


def _projected(x_name: str, x: Any, w_name: str, w: Any, b_name: str, b: Any) -> Array:
    x, w = as_array(x_name, x, "B T D"), as_weight(w_name, w, "D N H")
    if w.shape[0] != x.shape[2]:
        raise ValueError(f"{w_name} must be [D N H] with {x_name}'s D={x.shape[2]}, got the shape {w.shape}")
    out = product(x, w)  # [B T N H]
    return out if b is None else out + as_array(b_name, b, shape=w.shape[1:])


def project_qkv(
    x: Float[Array, "B T D"],
    context: Float[Array, "B S C"],
    params: AttentionParams,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B S K H"], Float[Array, "B S K Hv"]]:
    """The projections (equation 3): Q = X W_Q, K = C W_K, V = C W_V, split into heads.

    Self-attention passes `x` as its own context C; cross-attention passes the encoder's memory.

    Raises:
      TypeError, ValueError: as `project_heads`, by the parameter's name; `params` that are no `AttentionParams`.
    """
    params = _as_params(params)
    return (
        _queries(x, params),
        _projected("context", context, "w_k", params.w_k, "b_k", params.b_k),
        _projected("context", context, "w_v", params.w_v, "b_v", params.b_v),
    )


def combine_heads(heads: Float[Array, "B T N Hv"], params: AttentionParams) -> Float[Array, "B T D"]:
    """Concat(head_1 … head_h) W_O (equation 4), as one contraction over heads and their width.

    Raises:
      TypeError, ValueError: what is no array, heads that w_o is not for, a bias that is not [D].
    """
    params, heads = _as_params(params), as_array("heads", heads, "B T N Hv")
    w_o = as_weight("w_o", params.w_o, "N Hv D")
    check_shape("w_o", w_o, (*heads.shape[2:], w_o.shape[2]))
    out = product(heads, w_o, axes=2)  # [B T D]
    return out if params.b_o is None else out + as_array("b_o", params.b_o, shape=w_o.shape[2:])


def _queries(x: Array, params: Any) -> Array:
    params = _as_params(params)
    return _projected("x", x, "w_q", params.w_q, "b_q", params.b_q)


def _as_params(params: Any) -> AttentionParams:
    if not isinstance(params, AttentionParams):
        raise TypeError(f"params must be AttentionParams, got a {type(params).__name__}")
    return params


def multi_head_attention(
    x: Float[Array, "B T D"],
    context: Float[Array, "B S C"] | tuple[Float[Array, "B S K H"], Float[Array, "B S K Hv"]],
    params: AttentionParams,
    *,
    prepare: Callable[[Array, Array, Array], tuple[Array, Array, Array]] | None = None,
    mask: Any = None,
    bias: Float[Array, "..."] | None = None,
    scale: Number | None = None,
    logit_softcap: Number | None = None,
    dropout_rate: Number = 0.0,
    key: Array | None = None,
    implementation: str | Kernel = "auto",
) -> Float[Array, "B T D"]:
    """Multi-head attention (equation 4), and cross-attention (equation 9) where `context` is the memory.

        MHA(X, C) = Concat(head_1 … head_h) W_O
        head_i    = Attention(X W_i^Q, C W_i^K, C W_i^V)

    Source: Vaswani et al., 2017, section 3.2.2.

    Args:
      x: where the queries come from.
      context: where keys and values come from, `x` itself for self-attention; or these, projected already.
      params: the projections.
      prepare: is given q, k and v, and returns those to attend with: normed, turned by their positions, with a
        cache's before them. Keys and values that `context` holds are given to it too.
      mask, bias, scale, logit_softcap, dropout_rate, key, implementation: as in `scaled_dot_product_attention`.

    Raises:
      TypeError, ValueError: as `project_qkv`, `scaled_dot_product_attention` and `combine_heads`.
    """
    if isinstance(context, tuple):
        q, (k, v) = _queries(x, params), context
    else:
        q, k, v = project_qkv(x, context, params)  # [B T N H], [B S K H], [B S K Hv]
    if prepare is not None:
        q, k, v = prepare(q, k, v)
    heads = scaled_dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        bias=bias,
        scale=scale,
        logit_softcap=logit_softcap,
        dropout_rate=dropout_rate,
        key=key,
        implementation=implementation,
    )  # [B T N Hv]
    return combine_heads(heads, params)


def _options(H: int, scale: Number | None, softcap: Number | None, dropout_rate: Number = 0.0) -> ScoreOptions:
    return ScoreOptions(1.0 / math.sqrt(H) if scale is None else scale, softcap, dropout_rate)


def _checked(q: Any, k: Any, mask: Any, bias: Any) -> tuple[Array, Array, Mask, Array | None]:
    """Queries, keys, mask and bias as the kernels take them: arrays, a description, and an array of rank 4."""
    q, k = (as_array(name, x, axes, kind="floats") for name, x, axes in (("q", q, "B T N H"), ("k", k, "B S K H")))
    B, T, N, H = q.shape
    S, K = k.shape[1], k.shape[2]
    if k.shape != (B, S, K, H):
        raise ValueError(f"k must be [B S K H] with q's B={B} and H={H}, got shape {k.shape}")
    if 0 in (T, S):
        raise ValueError(f"attention needs queries and keys, got T={T}, S={S}")
    if 0 in (N, K, H):
        raise ValueError(f"attention needs heads and a head width, got N={N}, K={K}, H={H}")
    if N % K:
        raise ValueError(f"{N} query heads are not a multiple of {K} key/value heads")
    if bias is not None:
        bias = as_rank_4("bias", as_array("bias", bias, kind="floats"), (B, N, T, S))
    return q, k, fitting(mask, B, N, T, S), bias
