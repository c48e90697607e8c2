"""Scores and weights that the kernels share: from queries and keys to weights that are not yet divided by their sum."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
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
        """exp(score - highest score of the row), 0 where not allowed: weights that are not yet divided by their sum.

        The sum of a row that may see nothing is 0. Products without bias or cap are scaled after the
        highest is subtracted: a compiler may fuse `products * scale - highest` into one rounding, while
        `highest` had two, and at scores of 1e9 the difference overflows exp. (Capped scores are too small for that.)
        """
        if bias is None and self.softcap is None:
            scale = _like(self.scale, products)
            scores, late = products * _sign(scale), scale * _sign(scale)
        else:
            scores, late = self.scores(products, bias), 1.0
        return _exponentials(scores, late, allowed)


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
    """dw = w (late ds + (s - highest) dlate), the highest score a constant: all weights of a row have it in common.

    Backward then keeps the weights alone. It is 0 where a score is hidden, and finite, since the score itself is.
    """
    (scores, late, allowed), (d_scores, d_late, _) = primals, tangents
    weights = _exponentials(scores, late, allowed)
    change = jnp.zeros_like(scores)
    if not isinstance(d_scores, SymbolicZero):
        change += late * d_scores
    if not isinstance(d_late, SymbolicZero):
        change += (scores - _highest(scores, allowed)) * d_late
    return weights, weights * change


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


def averages(
    weights: Float[Array, "B K G t s"], v: Float[Array, "B K s Hv"], options: ScoreOptions, key: Array | None
) -> Float[Array, "B K G t Hv"]:
    """The values' averages by weights that are not yet divided by their sum, with dropout of the weights.

    Divided is what comes out, of which there is less than there are weights.
    """
    B, K, G, T, S = weights.shape
    totals = weights.sum(-1, keepdims=True)  # [B K G t 1]
    weights = dropout(weights, options.dropout_rate, key).astype(v.dtype)
    if on_one_device(weights):  # as in `products_of_heads`
        rows = weights.reshape(B, K, G * T, S)
        sums = jnp.einsum("BKRS,BKSH->BKRH", rows, v, preferred_element_type=wide(v.dtype))
        sums = sums.reshape(B, K, G, T, v.shape[3])
    else:
        sums = jnp.einsum("BKGTS,BKSH->BKGTH", weights, v, preferred_element_type=wide(v.dtype))
    return divided(sums, totals.astype(sums.dtype))


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


def divided(sums: Array, totals: Array) -> Array:
    """sums / totals, and 0 where the total is 0."""
    return sums / jnp.where(totals == 0.0, 1.0, totals)


def hidden(scores: Array, allowed: Array | None) -> Array:
    """Hides scores (equation 8): -inf where they are not allowed; None allows all."""
    return scores if allowed is None else mask_to_bias(allowed, scores)


def _sign(scale: Number) -> Number:
    """Returns 1 or -1: to multiply by it is exact, and by 1 nothing."""
    return math.copysign(1.0, scale) if is_known(scale) else jnp.where(scale < 0, -1, 1).astype(scale.dtype)


def _like(number: Number | None, products: Array) -> Number | None:
    return number if number is None or is_known(number) else number.astype(products.dtype)
