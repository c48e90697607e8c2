"""Scores and weights that the kernels share: from queries and keys to weights that are not yet divided by their sum."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.tree_util import Partial
from jaxtyping import Float

from ...registry import Registry
from ..dropout import dropout
from ..meshes import on_one_device
from ..numbers import POSITIVE, SHARE, Number, Range, as_number, is_known
from ..relations import mask_to_bias

Kernel = Callable[..., Array]
KERNELS: Registry[Kernel] = Registry("attention kernel", takes=("q", "k", "v", "mask", "bias", "options", "key"))

# Up to this many scores a head, their memory does not matter yet.
MANY_SCORES = 512 * 512

_A_POSITIVE_NUMBER = Range("a positive number", POSITIVE.holds)


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """The numbers of one attention: scale, cap of the scores, dropout rate of the weights. Each may be traced.

    Raises:
      TypeError: what is no number.
      ValueError: a cap that is not a positive number, or a rate outside [0, 1), as far as they are known.
    """

    scale: Number
    softcap: Number | None = None
    dropout_rate: Number = 0.0

    def __post_init__(self):
        cap = (
            None if self.softcap is None else as_number("logit_softcap", self.softcap, _A_POSITIVE_NUMBER, double=True)
        )
        object.__setattr__(self, "scale", as_number("scale", self.scale, double=True))
        object.__setattr__(self, "softcap", cap)
        object.__setattr__(self, "dropout_rate", as_number("dropout rate", self.dropout_rate, SHARE))

    def scores(self, products: Array, bias: Array | None) -> Array:
        """scale * products, or cap * tanh(scale * products / cap), plus bias."""
        scale, softcap = _like(self.scale, products), _like(self.softcap, products)
        scores = products * scale if softcap is None else softcap * jnp.tanh(products * (scale / softcap))
        return scores if bias is None else scores + bias.astype(scores.dtype)

    def weights(self, products: Array, bias: Array | None, allowed: Array | None) -> Array:
        """The softmax of the scores over the last axis, 0 where not allowed: zeros in a row that may see nothing."""
        weights = _exponentials(*self._scores_and_factor(products, bias), allowed)
        return weights / _sums(weights)

    def averages(
        self,
        products: Float[Array, "B K G t s"],
        v: Float[Array, "B K s Hv"],
        bias: Array | None,
        allowed: Array | None,
        key: Array | None,
    ) -> Float[Array, "B K G t Hv"]:
        """The values' averages by these weights, with dropout of the weights."""
        scores, late = self._scores_and_factor(products, bias)
        rate = self.dropout_rate  # what is known stays so within the rule; what is traced has to be a leaf
        known = functools.partial(dropout, rate=rate)
        drop = Partial(known, key=key) if is_known(rate) else Partial(dropout, rate=rate, key=key)
        return _averages(scores, v, late, allowed, drop)

    def _scores_and_factor(self, products: Array, bias: Array | None) -> tuple[Array, Number]:
        """Scores, and a positive factor of them that is left to `_exponentials`.

        Products without bias or cap are scaled after the highest is subtracted: a compiler may fuse
        `products * scale - highest` into one rounding, while `highest` had two, and at scores of 1e9 the difference
        overflows exp. (Capped scores are too small for that.)
        """
        if bias is not None or self.softcap is not None:
            return self.scores(products, bias), 1.0
        scale = _like(self.scale, products)
        return products * _sign(scale), scale * _sign(scale)


@jax.custom_jvp
def _exponentials(scores: Array, late: Number, allowed: Array | None) -> Array:
    """exp(late (score - highest of the row)), 0 where not allowed.

    At most 1, also where a compiler rounds a score in one place as one operation and in another as two. The derivative
    of this code is right as well: JAX takes it for the second one under `jax.checkpoint`, where it loses the rule.
    """
    below = (scores - _highest(scores, allowed)) * late
    return jnp.exp(hidden(below - lax.stop_gradient(jnp.maximum(below, 0.0)), allowed))


@functools.partial(_exponentials.defjvp, symbolic_zeros=True)
def _exponentials_jvp(primals, tangents):
    """dw = w ds. Backward then keeps the weights alone."""
    (scores, late, allowed), (d_scores, d_late, _) = primals, tangents
    weights = _exponentials(scores, late, allowed)
    ds = _change(scores, late, allowed, d_scores, d_late)
    return weights, jnp.zeros_like(weights) if ds is None else weights * ds


def _change(scores: Array, late: Number, allowed: Array | None, d_scores, d_late) -> Array | None:
    """late ds + (s - highest) dlate, the highest score a constant: all weights of a row have it in common.

    Finite where a score is hidden, since the score itself is. None where nothing changes.
    """
    parts = []
    if not isinstance(d_scores, SymbolicZero):
        parts.append(late * d_scores)
    if not isinstance(d_late, SymbolicZero):
        parts.append((scores - _highest(scores, allowed)) * d_late)
    return sum(parts) if parts else None


def _highest(scores: Array, allowed: Array | None) -> Float[Array, "... 1"]:
    """The highest score of each row that is allowed; 0 where none is."""
    highest = hidden(lax.stop_gradient(scores), allowed).max(-1, keepdims=True)
    return jnp.where(highest == -jnp.inf, 0.0, highest)


def products_of_heads(q: Float[Array, "B K G t H"], k: Float[Array, "B K s H"]) -> Float[Array, "B K G t s"]:
    """q kᵀ of each head, in float32, or float64 where the inputs are.

    On one device, queries of one head of keys are the rows of one matrix: the gradient of k then sums over one axis, and
    nothing has to be copied for it, see `products`.
    """
    if not on_one_device(q):
        return matrix_products("BKGTH,BKSH->BKGTS", q, k)
    B, K, G, T, H = q.shape
    return matrix_products("BKRH,BKSH->BKRS", q.reshape(B, K, G * T, H), k).reshape(B, K, G, T, k.shape[2])


@jax.custom_jvp
def _averages(scores, v, late: Number, allowed: Array | None, drop: Callable[[Array], Array]) -> Array:
    """Divides by the sum of a row's weights what comes out: there is less of it than there are weights."""
    weights = _exponentials(scores, late, allowed)
    return _weighted(drop(weights), v) / _sums(weights)


@functools.partial(_averages.defjvp, symbolic_zeros=True)
def _averages_jvp(primals, tangents):
    """d(w v / t) = (w dv + w (ds - sum(w ds) / t) v) / t, w the weights, t their sum, ds as in `_exponentials`.

    Backward keeps w and t. By the chain rule it would need the averages as well, and where w is computed again, that
    product too.
    """
    (scores, v, late, allowed, drop), (d_scores, dv, d_late, *_) = primals, tangents
    weights = _exponentials(scores, late, allowed)
    total = _sums(weights)
    out = _weighted(drop(weights), v) / total
    change = jnp.zeros_like(out)
    if not isinstance(dv, SymbolicZero):
        change += _weighted(drop(weights), dv)
    ds = _change(scores, late, allowed, d_scores, d_late)
    if ds is not None:
        change += _weighted(drop(weights * (ds - (weights * ds).sum(-1, keepdims=True) / total)), v)
    return out, change / total


def _weighted(weights: Float[Array, "B K G t s"], v: Float[Array, "B K s Hv"]) -> Float[Array, "B K G t Hv"]:
    """The sum of the values, each times its weight, in float32, or float64 where the values are."""
    B, K, G, T, S = weights.shape
    weights = weights.astype(v.dtype)
    if not on_one_device(weights):
        return jnp.einsum("BKGTS,BKSH->BKGTH", weights, v, preferred_element_type=wide(v.dtype))
    rows = weights.reshape(B, K, G * T, S)  # as in `products_of_heads`
    out = jnp.einsum("BKRS,BKSH->BKRH", rows, v, preferred_element_type=wide(v.dtype))
    return out.reshape(B, K, G, T, v.shape[3])


def _sums(weights: Array) -> Float[Array, "... 1"]:
    """The sum of each row's weights, and 1 where it is 0: of a row that may see nothing."""
    total = weights.sum(-1, keepdims=True)
    return jnp.where(total == 0.0, 1.0, total)


def matrix_products(axes: str, q: Array, k: Array) -> Array:
    """`einsum(axes, q, k)` in float32, or float64 where the inputs are.

    With a head width of 1 this would be no matrix product, which is computed once, but a product of numbers, which
    a compiler computes anew, and rounds otherwise, wherever it is used: the highest score would not be the score's.
    """
    if q.shape[-1] == 1:
        q, k = (jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)]) for x in (q, k))
    return jnp.einsum(axes, q, k, preferred_element_type=wide(q.dtype))


def wide(dtype) -> jnp.dtype:
    """Returns the dtype that sums are accumulated in: float32, or float64 where the inputs are."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def split_heads(x: Array | None, K: int) -> Array | None:
    """[b n q k] to [b K G q k], with 1s kept where n broadcasts."""
    if x is None:
        return None
    heads = (1, 1) if x.shape[1] == 1 else (K, x.shape[1] // K)
    return x.reshape(x.shape[0], *heads, *x.shape[2:])


def by_head(q: Float[Array, "B T N H"], *keys: Float[Array, "B S K _"]) -> list[Array]:
    """Queries as [B K G T H], keys and values as [B K S H]: of each head a matrix, which products take as it lies.

    Transposed once here; XLA would transpose for a CPU at each product, forward and backward.
    """
    B, T, N, H = q.shape
    K = keys[0].shape[2]
    return [q.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4), *(x.transpose(0, 2, 1, 3) for x in keys)]


def by_token(heads: Float[Array, "B K G T H"]) -> Float[Array, "B T N H"]:
    """The other way."""
    B, K, G, T, H = heads.shape
    return heads.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, H)


def hidden(scores: Array, allowed: Array | None) -> Array:
    """Hides scores (equation 8): -inf where they are not allowed; None allows all."""
    return scores if allowed is None else mask_to_bias(allowed, scores)


def _sign(scale: Number) -> Number:
    """Returns 1 or -1: to multiply by it is exact, and by 1 nothing."""
    return math.copysign(1.0, scale) if is_known(scale) else jnp.where(scale < 0, -1, 1).astype(scale.dtype)


def _like(number: Number | None, products: Array) -> Number | None:
    return number if number is None or is_known(number) else number.astype(products.dtype)
