"""Cross-entropy together with the output projection, the logits a chunk of tokens at a time."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from .losses import check_shape, divide_or_zero, token_losses, weighted_mean
from .numbers import Number, check_share, is_off


def fused_cross_entropy(
    hidden: Float[Array, "*batch D"],
    w_out: Float[Array, "D V"],
    targets: Int[Array, "*batch"],
    *,
    b_out: Float[Array, "V"] | None = None,
    weights: Float[Array, "*batch"] | None = None,
    label_smoothing: Number = 0.0,
    z_loss: Number = 0.0,
    logit_softcap: float | None = None,
    chunk_size: int = 1024,
) -> Float[Array, ""]:
    """`cross_entropy` (equation 11) of the logits cap(hidden W_o + b), which never exist all at once.

        L = -sum_t y_t log yhat_t,   yhat = softmax(cap(W_o h_t + b)),   cap(x) = c tanh(x / c)

    Where it is differentiated, each chunk's gradients are computed next to its losses: three
    products with V in all, as many as with the logits kept. Memory is O(chunk_size V + D V)
    instead of O(tokens V). Reverse-mode gradients only, of the first order.

    Sources: Hsu et al., 2024 (gradients in the forward pass); Gemma Team, 2024 (soft cap).

    Args:
      hidden: the last states h_t; the logits are float32 whatever its dtype.
      w_out, b_out: output projection; a tied embedding [V D] goes in transposed. The bias may be None.
      targets, weights, label_smoothing, z_loss: as in `cross_entropy`.
      logit_softcap: c; None for no cap.
      chunk_size: the most tokens whose logits exist at one time. Each chunk reads and writes the gradient of
        w_out, so small ones are slow where memory is.

    Raises:
      ValueError: `label_smoothing` outside [0, 1), `logit_softcap` not a positive number, `chunk_size` below 1, or
        targets or weights that are not one for each state.
    """
    if logit_softcap is not None and not 0 < logit_softcap < math.inf:
        raise ValueError(f"logit_softcap must be positive, got {logit_softcap}; None means no cap")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    check_shape("targets", targets, hidden.shape[:-1])
    weights = jnp.ones(targets.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    check_shape("weights", weights, targets.shape)
    count = max(1, -(-targets.size // chunk_size))
    tokens = hidden.reshape(targets.size, hidden.shape[-1]), targets.reshape(-1), weights.reshape(-1)
    hidden, targets, weights = (_chunks(x, count) for x in tokens)
    check_share("label_smoothing", label_smoothing)
    numbers = tuple(None if is_off(x) else jnp.float32(x) for x in (label_smoothing, z_loss))
    return _loss(logit_softcap, numbers, hidden, w_out, b_out, targets, weights)


def _losses(softcap: float | None, numbers, logits, b_out, targets):
    """Each token's loss from hidden W_o, before bias and cap; `numbers`: label smoothing and z-loss, None if off."""
    logits = logits if b_out is None else logits + b_out
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return token_losses(logits, targets, *(0.0 if x is None else x for x in numbers))


def _chunks(x: Array, count: int) -> Array:
    """[tokens ...] to [count size ...], zeros at the end: targets 0 of weight 0.

    Token i goes to chunk i modulo `count`, so that each chunk has its share of every device's
    tokens where the batch is spread over several.
    """
    size = -(-x.shape[0] // count)
    x = jnp.pad(x, [(0, size * count - x.shape[0]), *[(0, 0)] * (x.ndim - 1)])
    return x.reshape(size, count, *x.shape[1:]).swapaxes(0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(softcap: float | None, numbers, hidden, w_out, b_out, targets, weights):
    def chunk(tokens):
        hidden, targets = tokens
        return _losses(softcap, numbers, _logits(hidden, w_out), b_out, targets)

    return weighted_mean(lax.map(chunk, (hidden, targets)), weights)


def _forward(softcap: float | None, numbers, hidden, w_out, b_out, targets, weights):
    """The loss, and the float32 gradients of the weighted *sum*: scaled first, rounded to 16 bits afterwards."""
    compute_dtype = jnp.promote_types(hidden.dtype, w_out.dtype)
    bias = None if b_out is None else b_out.astype(jnp.float32)

    def chunk(totals, tokens):
        hidden, targets, weights = tokens
        logits = _logits(hidden, w_out)
        losses, pull = jax.vjp(lambda logits, bias: _losses(softcap, numbers, logits, bias, targets), logits, bias)
        d_logits, d_bias = pull(weights)
        d_logits = d_logits.astype(compute_dtype)
        d_hidden = jnp.einsum("TV,DV->TD", d_logits, w_out, preferred_element_type=jnp.float32)
        d_w_out = jnp.einsum("TD,TV->DV", hidden, d_logits, preferred_element_type=jnp.float32)
        totals = jax.tree.map(jnp.add, totals, (d_w_out, d_bias))
        return totals, (losses, d_hidden)

    zeros = jnp.zeros(w_out.shape, jnp.float32), None if bias is None else jnp.zeros_like(bias)
    (d_w_out, d_bias), (losses, d_hidden) = lax.scan(chunk, zeros, (hidden, targets, weights))
    inputs, gradients = (hidden, w_out, b_out), (d_hidden, d_w_out, d_bias)
    return weighted_mean(losses, weights), (inputs, gradients, losses, weights)


def _backward(softcap: float | None, residuals, d_loss):
    inputs, gradients, losses, weights = residuals
    scale = divide_or_zero(d_loss, weights.sum())
    d_inputs = jax.tree.map(lambda x, gradient: (scale * gradient).astype(x.dtype), inputs, gradients)
    return None, *d_inputs, None, d_loss * jax.grad(weighted_mean, argnums=1)(losses, weights)


_loss.defvjp(_forward, _backward)


def _logits(hidden, w_out):
    return jnp.einsum("TD,DV->TV", hidden, w_out, preferred_element_type=jnp.float32)
