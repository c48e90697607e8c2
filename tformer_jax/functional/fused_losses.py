"""Cross-entropy together with the output projection, the logits a chunk of tokens at a time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float, Int, Real

from .chunks import Chunks
from .losses import (
    Reduction,
    add_to_targets,
    as_cap,
    check_class_weights,
    check_projection,
    check_targets,
    class_counts,
    finished,
    mean_or_sum,
    relative_to_highest,
    take_targets,
    token_losses,
    weighted_values,
)
from .numbers import SHARE, Number, as_number
from .quantization import Weight


def fused_cross_entropy(
    hidden: Float[Array, "*batch D"],
    w_out: Float[Weight, "D V"],
    targets: Int[Array, "*batch"],
    *,
    b_out: Float[Array, "V"] | None = None,
    weights: Real[Array, "*batch"] | Bool[Array, "*batch"] | None = None,
    class_weights: Float[Array, "V"] | None = None,
    label_smoothing: Number = 0.0,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    chunk_size: int = 1024,
) -> Float[Array, "..."]:
    """`cross_entropy` (equation 11) of the logits cap(hidden W_o + b), which never exist all at once.

        L = -sum_t y_t log yhat_t,   yhat = softmax(cap(W_o h_t + b)),   cap(x) = c tanh(x / c)

    Where it is differentiated, each chunk's gradients are computed next to its losses: three
    products with V in all, as many as with the logits kept. Memory is O(chunk_size V + D V)
    instead of O(tokens V), of every order. The losses of reduction "none" have their logits
    computed again for a gradient: four products.

    Sources: Hsu et al., 2024 (gradients in the forward pass); Gemma Team, 2024 (soft cap).

    Args:
      hidden: the last states h_t; the logits are float32 whatever its dtype.
      w_out, b_out: output projection; a tied embedding [V D] goes in transposed. The bias may be None.
      targets, weights, class_weights, label_smoothing, z_loss, reduction: as in `cross_entropy`.
      logit_softcap: c; None for no cap. May be traced (one that is not positive makes the loss NaN).
      chunk_size: the most tokens whose logits exist at one time (at least one for each device of an explicit mesh).
        Each chunk reads and writes the gradient of w_out, so small ones are slow where memory is.

    Raises:
      TypeError: what is no array, targets or a `chunk_size` that are no integers, or a number that is none.
      ValueError: `label_smoothing` outside [0, 1), `logit_softcap` not positive, `chunk_size` below 1, an unknown
        reduction, weights or a projection of another shape than hidden's, or targets that are not one for each state.
    """
    hidden, w_out, b_out = check_projection(hidden, w_out, b_out)
    w_out = jnp.asarray(w_out)  # one that is in eight bits has no derivative
    targets, weights = check_targets(targets, weights, hidden.shape[:-1], reduction)
    class_weights = check_class_weights(class_weights, w_out.shape[1])
    counts = class_counts(class_weights, targets)
    chunks = Chunks.of(hidden, chunk_size)
    known, traced = _numbers(label_smoothing, z_loss, logit_softcap)
    output = _Output(w_out, b_out, class_weights, traced)
    tokens = jax.tree.map(chunks.cut, _Tokens(hidden, targets, weights, counts))  # [count size ...]
    if reduction == "none":
        losses = lax.map(jax.checkpoint(functools.partial(_token_losses, known, output)), tokens)
        return weighted_values(chunks.join(losses), weights)
    return mean_or_sum(_total(known, output, tokens), weights, counts, reduction)


class _Output(NamedTuple):
    """Arrays and numbers that all tokens share; of the numbers, those that are traced."""

    w_out: Float[Array, "D V"]
    b_out: Float[Array, "V"] | None
    class_weights: Float[Array, "V"] | None
    numbers: tuple[Array | None, ...]


class _Tokens(NamedTuple):
    """A chunk of tokens [shards size ...], or all of them [count shards size ...]."""

    hidden: Array
    targets: Array
    weights: Array
    counts: Array | None


def _numbers(label_smoothing, z_loss, logit_softcap) -> tuple[tuple[float | None, ...], tuple[Array | None, ...]]:
    """The numbers in two tuples: those that are known, which say what the program is, and those that are traced."""
    numbers = as_number("label_smoothing", label_smoothing, SHARE), as_number("z_loss", z_loss), as_cap(logit_softcap)
    traced = tuple(x if isinstance(x, Array) else None for x in numbers)
    return tuple(None if isinstance(x, Array) else x for x in numbers), traced


def _relative(known, output: _Output, logits: Array) -> tuple[Array, Array]:
    """The logits relative to the highest, and the highest, from hidden W_o."""
    *_, softcap = _all_numbers(known, output)
    return relative_to_highest(finished(logits, output.b_out, softcap))


def _losses(known, output: _Output, counts: Array | None, relative: Array, highest: Array, of_targets: Array) -> Array:
    """Each token's loss."""
    smoothing, z_loss, _ = _all_numbers(known, output)
    return token_losses(relative, highest, of_targets, counts, output.class_weights, smoothing, z_loss)


def _all_numbers(known, output: _Output) -> tuple[float | Array | None, ...]:
    return tuple(k if t is None else t for k, t in zip(known, output.numbers, strict=True))


def _logits(hidden: Array, w_out: Array) -> Array:
    return jnp.einsum("...D,DV->...V", hidden, w_out, preferred_element_type=jnp.float32)


def _token_losses(known, output: _Output, tokens: _Tokens) -> Array:
    relative, highest = _relative(known, output, _logits(tokens.hidden, output.w_out))
    return _losses(known, output, tokens.counts, relative, highest, take_targets(relative, tokens.targets))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _total(known, output: _Output, tokens: _Tokens) -> Float[Array, ""]:
    """The sum of weights * losses. Its rule is that of any function, d total = sum <gradient, dx>, with gradients
    from plain code: what differentiates the rule differentiates them.
    """
    losses = lax.map(functools.partial(_token_losses, known, output), tokens)
    return weighted_values(losses, tokens.weights).sum()


@functools.partial(_total.defjvp, symbolic_zeros=True)
def _total_jvp(known, primals, tangents):
    total, gradients = _total_and_gradients(known, *primals)
    products = jax.tree.map(_product, gradients, tangents, is_leaf=lambda x: x is None)
    return total, sum(jax.tree.leaves(products), start=jnp.zeros_like(total))


def _product(gradient: Array | None, tangent: Any) -> Array | None:
    """<gradient, tangent>: what pulls back to gradient * cotangent, scaled in float32 and only then rounded."""
    if gradient is None or isinstance(tangent, SymbolicZero):
        return None
    return (gradient * tangent.astype(jnp.float32)).sum()


def _total_and_gradients(known, output: _Output, tokens: _Tokens) -> tuple[Array, tuple[_Output, _Tokens]]:
    """The total, and its float32 gradients: chunk by chunk, each product with V once."""
    # Inside of `shard_map`, a sum over devices would be taken for what is the same on all of them: a zero that
    # differs between them stops it, and so does it make the sums below, which start at zero, ones that differ.
    zero = sum(jnp.zeros_like(x, shape=(), dtype=jnp.float32) for x in jax.tree.leaves((output, tokens)))
    w_out, shared = output.w_out, jax.tree.map(lambda x: x + zero, output._replace(w_out=None))
    compute_dtype = jnp.promote_types(tokens.hidden.dtype, w_out.dtype)

    @jax.checkpoint
    def chunk(sums, tokens: _Tokens):
        # The targets' logits have a gradient of their own: that of taking them would begin with a chunk of zeros,
        # the same for every chunk, which the loop would hold from its start to its end.
        logits = _logits(tokens.hidden, w_out)  # [size V]
        relative, pull, highest = jax.vjp(functools.partial(_relative, known), shared, logits, has_aux=True)

        def total(relative, of_targets, shared, weights, counts):
            losses = _losses(known, shared, counts, relative, highest, of_targets)
            return weighted_values(losses, weights).sum()

        of_targets = take_targets(relative, tokens.targets)
        each = tokens.weights + zero, None if tokens.counts is None else tokens.counts + zero
        gradients = jax.grad(total, argnums=(0, 1, 2, 3, 4))(relative, of_targets, shared, *each)
        d_relative, d_of_targets, d_shared, *d_each = gradients
        d_shared_too, d_logits = pull(add_to_targets(d_relative, tokens.targets, d_of_targets))
        d_shared = jax.tree.map(jnp.add, d_shared, d_shared_too)
        d_logits = d_logits.astype(compute_dtype)
        d_hidden = _einsum("...V,DV->...D", d_logits, w_out, like=tokens.hidden)
        d_w_out = _einsum("...D,...V->DV", tokens.hidden, d_logits, like=w_out)
        return jax.tree.map(jnp.add, sums, d_shared._replace(w_out=d_w_out)), _Tokens(d_hidden, None, *d_each)

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, dtype=jnp.float32) + zero, output)
    d_output, d_tokens = lax.scan(chunk, zeros, tokens)
    # The gradient by the weights is the losses, 0 where nothing reads them.
    return (d_tokens.weights * tokens.weights).sum(), (d_output, d_tokens)


def _einsum(axes: str, a: Array, b: Array, like: Array) -> Array:
    """float32, spread over devices as `like` is."""
    sharding = jax.typeof(like).sharding
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32, out_sharding=sharding)
