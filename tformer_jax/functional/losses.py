"""Log-probabilities and losses, in float32 whatever the model's compute dtype."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Real

from .checks import as_array, check_choice, check_shape, width
from .numbers import CAP, SHARE, Number, as_number, is_off
from .products import as_weight, product
from .quantization import Weight

Reduction = Literal["mean", "sum", "none"]


def output_logits(
    hidden: Float[Array, "*batch D"],
    w_out: Float[Weight, "D V"],
    b_out: Float[Array, "V"] | None = None,
    *,
    logit_softcap: Number | None = None,
) -> Float[Array, "*batch V"]:
    """Projects states to the vocabulary, float32: W_o h_t + b, or c tanh((W_o h_t + b) / c) with a cap c.

    Args:
      hidden: the last states h_t.
      w_out, b_out: output projection; a tied embedding [V D] goes in transposed. The bias may be None.
      logit_softcap: c; None for no cap. May be traced (one that is not positive makes the logits NaN).

    Raises:
      TypeError: what is no array, or a cap that is no number.
      ValueError: a projection that is not [D V], a bias that is not [V], or a cap that is not positive.
    """
    hidden, w_out, b_out = check_projection(hidden, w_out, b_out)
    logits = product(hidden, w_out, dtype=jnp.float32)  # [*batch V]
    return finished(logits, b_out, as_cap(logit_softcap))


def output_log_probs(
    hidden: Float[Array, "*batch D"],
    w_out: Float[Weight, "D V"],
    b_out: Float[Array, "V"] | None = None,
    *,
    logit_softcap: Number | None = None,
) -> Float[Array, "*batch V"]:
    """log P(y_t | y_<t, X) = log softmax(W_o h_t) (equation 10), float32.

    Arguments and errors are those of `output_logits`.
    """
    return jax.nn.log_softmax(output_logits(hidden, w_out, b_out, logit_softcap=logit_softcap), axis=-1)


def check_projection(
    hidden: Array, w_out: Weight, b_out: Array | None
) -> tuple[Float[Array, "*batch D"], Float[Weight, "D V"], Float[Array, "V"] | None]:
    """States, a projection that is for them, and its bias in float32.

    Raises:
      TypeError: what is no array.
      ValueError: a projection that is not [D V], or a bias that is not [V].
    """
    hidden, w_out = as_array("hidden", hidden), as_weight("w_out", w_out, "D V")
    check_shape("w_out", w_out, (width("hidden", hidden), width("w_out", w_out)))
    if b_out is not None:
        b_out = as_array("b_out", b_out, shape=w_out.shape[1:]).astype(jnp.float32)
    return hidden, w_out, b_out


def as_cap(logit_softcap: Number | None) -> float | Array | None:
    """Returns the cap to compute with, None for none; see `as_number`."""
    return None if logit_softcap is None else as_number("logit_softcap", logit_softcap, CAP)


def finished(products: Array, b_out: Array | None, softcap: float | Array | None) -> Array:
    """W_o h with its bias, capped."""
    logits = products if b_out is None else products + b_out
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def cross_entropy(
    logits: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    *,
    weights: Real[Array, "*batch"] | Bool[Array, "*batch"] | None = None,
    class_weights: Float[Array, "V"] | None = None,
    label_smoothing: Number = 0.0,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    """Cross-entropy (equation 11), the mean over the weights, float32, in nats.

        L = -sum_t y_t log yhat_t,   yhat = softmax(logits)

    With label smoothing e the target distribution is (1 - e) onehot(y) + e / V (Szegedy et
    al., 2016); z_loss adds z_loss * logsumexp(logits)^2 (Chowdhery et al., 2022), which keeps
    the normaliser near 1.

    Tokens to ignore have weight 0: `weights=(targets != ignore_index)`. With class weights c it is
    PyTorch's: the term of class k is multiplied by c_k, and the mean divides by the sum of
    weights * c_y.

    Args:
      logits: unnormalised scores.
      targets: class indices in [0, V). One outside makes the loss NaN (unless weighted 0),
        rather than being clamped to a class that nobody meant.
      weights: how much each target counts, 0 for padding; default 1. All zero gives loss 0, as no target at all does.
      class_weights: c, how much each class counts; default 1. It multiplies the z-loss of its targets too.
      label_smoothing: e, in [0, 1); may be traced (out of its range it makes the loss NaN).
      z_loss: coefficient; likewise.
      reduction: "mean", "sum" over weights * losses, or "none": weights * losses, one for each target.

    Raises:
      TypeError: what is no array, targets that are no integers, or a number that is none.
      ValueError: `label_smoothing` known to be outside [0, 1), a `z_loss` that is not finite, targets that are not of
        the logits' shape without V, weights that are not of the targets' shape, class weights that are not [V],
        or an unknown reduction.
    """
    logits = as_array("logits", logits)
    class_weights = check_class_weights(class_weights, width("logits", logits))
    targets, weights = check_targets(targets, weights, logits.shape[:-1], reduction)
    numbers = as_number("label_smoothing", label_smoothing, SHARE), as_number("z_loss", z_loss)
    counts = class_counts(class_weights, targets)
    relative, highest = relative_to_highest(logits)
    losses = token_losses(relative, highest, take_targets(relative, targets), counts, class_weights, *numbers)
    return reduced(losses, weights, counts, reduction)


def token_losses(
    relative: Float[Array, "*batch V"],
    highest: Float[Array, "*batch"],
    of_targets: Float[Array, "*batch"],
    counts: Float[Array, "*batch"] | None,
    class_weights: Float[Array, "V"] | None,
    label_smoothing: float | Array,
    z_loss: float | Array,
) -> Float[Array, "*batch"]:
    """The terms that `cross_entropy` averages, of logits `relative_to_highest`; `counts` are c_y."""
    log_normaliser = jnp.log(jnp.exp(relative).sum(-1))  # [*batch]
    losses = log_normaliser - of_targets
    if counts is not None:
        losses = counts * losses
    if not is_off(label_smoothing):
        to_uniform = _to_uniform(relative, log_normaliser, class_weights)
        losses = (1 - label_smoothing) * losses + label_smoothing * to_uniform
    if not is_off(z_loss):
        squares = jnp.square(log_normaliser + highest)
        losses = losses + z_loss * (squares if counts is None else counts * squares)
    return losses


def relative_to_highest(logits: Float[Array, "*batch V"]) -> tuple[Float[Array, "*batch V"], Float[Array, "*batch"]]:
    """float32 logits minus the highest, and the highest: a difference of large numbers would lose a small loss."""
    logits = logits.astype(jnp.float32)
    highest = lax.stop_gradient(logits.max(-1, keepdims=True))
    return logits - highest, highest[..., 0]


def take_targets(logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The targets' logits; NaN for targets outside of the vocabulary."""
    V = logits.shape[-1]
    if _is_whole(logits):
        index = _filled(targets[..., None], V)
        return jnp.take_along_axis(logits, index, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    found = jnp.where(_is_target(logits, targets), logits, 0.0).sum(-1)
    return jnp.where((targets >= 0) & (targets < V), found, jnp.nan)


def add_to_targets(logits: Float[Array, "n V"], targets: Int[Array, "n"], x: Float[Array, "n"]) -> Float[Array, "n V"]:
    """logits + x at the targets: the transpose of `take_targets` added in place, without an array of zeros first."""
    if _is_whole(logits):
        index = _filled(targets, logits.shape[-1])
        return jax.vmap(lambda row, i, x: row.at[i].add(x, mode="drop"))(logits, index, x)
    return jnp.where(_is_target(logits, targets), logits + x[..., None], logits)


def _is_whole(logits: Array) -> bool:
    """Returns whether V lies on one device: an explicit mesh gathers nothing along an axis that is spread over it."""
    return jax.typeof(logits).sharding.spec[-1] is None


def _filled(targets: Array, V: int) -> Array:
    """A negative index would count from the end; V is out of range."""
    return jnp.where(targets < 0, V, targets)


def _is_target(logits: Array, targets: Array) -> Bool[Array, "*batch V"]:
    where = jax.typeof(logits).sharding
    return lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1, out_sharding=where) == targets[..., None]


def _to_uniform(logits: Array, log_normaliser: Array, class_weights: Array | None) -> Array:
    """The cross-entropy to 1 / V for each class, weighted."""
    if class_weights is None:
        return log_normaliser - logits.mean(-1)
    return class_weights.mean() * log_normaliser - (class_weights * logits).mean(-1)


def reduced(losses: Array, weights: Array, counts: Array | None, reduction: Reduction) -> Array:
    """The mean over weights * counts (1 where None), the weighted sum, or the weighted losses themselves."""
    weighted = weighted_values(losses, weights)
    return weighted if reduction == "none" else mean_or_sum(weighted.sum(), weights, counts, reduction)


def mean_or_sum(total: Array, weights: Array, counts: Array | None, reduction: Reduction) -> Float[Array, ""]:
    """The weighted sum, or what it is for each weight * count; 0 where these add up to 0."""
    if reduction == "sum":
        return total
    count = (weights if counts is None else weights * counts).sum()
    return jnp.where(count == 0, 0.0, total / jnp.where(count == 0, 1.0, count))  # 0 in the gradient too


def weighted_mean(
    values: Float[Array, "*batch"], weights: Real[Array, "*batch"] | Bool[Array, "*batch"]
) -> Float[Array, ""]:
    """sum(weights * values) / sum(weights), float32; 0 where every weight is 0.

    A value of weight 0 may be NaN or infinite. The gradients are weights / sum(weights) and
    (values - mean) / sum(weights), 0 where every weight is 0.

    Raises:
      TypeError: values or weights that are no arrays.
      ValueError: weights of another shape than the values'.
    """
    values = as_array("values", values)
    weights = as_array("weights", weights, shape=values.shape)
    return reduced(values.astype(jnp.float32), weights.astype(jnp.float32), None, "mean")


def weighted_values(values: Float[Array, "*batch"], weights: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """weights * values, 0 where the weight is, whatever the value."""
    unread = (weights == 0) & ~jnp.isfinite(values)
    return jnp.where(unread, 0.0, values) * weights


def check_targets(
    targets: Array, weights: Array | None, shape: tuple[int, ...], reduction: str
) -> tuple[Int[Array, "*batch"], Float[Array, "*batch"]]:
    """Targets wide enough to be compared with V, and weights in float32, 1 by default.

    Raises:
      TypeError: no arrays, or targets that are no integers.
      ValueError: another shape, or an unknown reduction.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    targets = as_array("targets", targets, kind="integers", shape=shape)
    # Of unsigned ones too large for it, the sign bit makes a target that is out of range.
    targets = targets.astype(jnp.int32 if targets.dtype.itemsize <= 4 else jnp.int64)
    weights = jnp.ones(shape, jnp.float32) if weights is None else as_array("weights", weights, shape=shape)
    return targets, weights.astype(jnp.float32)


def check_class_weights(class_weights: Array | None, vocab_size: int) -> Array | None:
    """Class weights in float32.

    Raises:
      TypeError: no array.
      ValueError: not one for each class.
    """
    if class_weights is None:
        return None
    return as_array("class_weights", class_weights, shape=(vocab_size,)).astype(jnp.float32)


def class_counts(class_weights: Float[Array, "V"] | None, targets: Int[Array, "*batch"]) -> Array | None:
    """c_y, how much each target counts for its class."""
    if class_weights is None:
        return None
    sharding = jax.typeof(targets).sharding
    return class_weights.at[targets].get(mode="fill", fill_value=0.0, out_sharding=sharding)


def causal_lm_loss(
    logits: Float[Array, "B _ E"],
    tokens: Int[Array, "B T"],
    *,
    weights: Real[Array, "B T"] | Bool[Array, "B T"] | None = None,
    label_smoothing: Number = 0.0,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    loss: Callable[..., Array] = cross_entropy,
) -> Float[Array, "..."]:
    """Causal language modelling (equation 14): -sum_t log P(x_t | x_<t), as a mean, in nats.

    The shift happens here: logits at t predict the token at t + 1, so the first token is never a target, and
    the logits of the last one, which may be left out, are not used.

    Source: Radford et al., 2018.

    Args:
      logits: [B T V] or [B T-1 V], at the positions of `tokens`; or whatever `loss` takes in their place.
      tokens: the sequence itself.
      weights: of each token, as a target; default 1.
      label_smoothing, z_loss, reduction: as in `cross_entropy`; "none" gives [B T-1].
      loss: `cross_entropy`, or what is called as it is: `functools.partial(fused_cross_entropy, w_out=w_out)`
        takes the states [B T D] instead of logits.

    Raises:
      TypeError, ValueError: as `loss`; tokens or weights that are not [B T].
    """
    logits, tokens = as_array("logits", logits, "B T V"), as_array("tokens", tokens, "B T", kind="integers")
    B, T = tokens.shape
    if logits.shape[:2] != (B, T - 1):
        check_shape("tokens", tokens, logits.shape[:-1])
        logits = logits[:, :-1]  # [B T-1 V]
    if weights is not None:
        weights = as_array("weights", weights, shape=tokens.shape)[:, 1:]  # [B T-1]
    how = {"label_smoothing": label_smoothing, "z_loss": z_loss, "reduction": reduction}
    return loss(logits, targets=tokens[:, 1:], weights=weights, **how)


def masked_lm_loss(
    logits: Float[Array, "*batch E"],
    targets: Int[Array, "*batch"],
    masked: Bool[Array, "*batch"] | Real[Array, "*batch"],
    *,
    label_smoothing: Number = 0.0,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    loss: Callable[..., Array] = cross_entropy,
) -> Float[Array, "..."]:
    """Masked language modelling (equation 14): -sum_{i in M} log P(x_i | X_without_M), as a mean.

    Source: Devlin et al., 2018.

    Args:
      logits: the model's output for the corrupted sequence, of all tokens or of some; or whatever `loss` takes.
      targets: the original tokens; only those in M are read.
      masked: the set M as booleans, or as weights.
      label_smoothing, z_loss, reduction: as in `cross_entropy`.
      loss: as in `causal_lm_loss`.

    Raises:
      TypeError, ValueError: as `loss`; `masked` that is not of the targets' shape.
    """
    logits = as_array("logits", logits)
    masked = as_array("masked", masked, shape=logits.shape[:-1])
    how = {"label_smoothing": label_smoothing, "z_loss": z_loss, "reduction": reduction}
    return loss(logits, targets=targets, weights=masked, **how)
