"""Log-probabilities and losses, in float32 whatever the model's compute dtype."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from .numbers import Number, check_share, is_off


def output_log_probs(hidden: Float[Array, "*batch D"], w_out: Float[Array, "D V"]) -> Float[Array, "*batch V"]:
    """log P(y_t | y_<t, X) = log softmax(W_o h_t) (equation 10), float32.

    Args:
      hidden: the decoder's last states h_t.
      w_out: output projection; a tied embedding [V D] goes in transposed.
    """
    logits = jnp.einsum("...D,DV->...V", hidden, w_out, preferred_element_type=jnp.float32)
    return jax.nn.log_softmax(logits, axis=-1)


def cross_entropy(
    logits: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    *,
    weights: Float[Array, "*batch"] | None = None,
    label_smoothing: Number = 0.0,
    z_loss: Number = 0.0,
) -> Float[Array, ""]:
    """Cross-entropy (equation 11), the mean over the weights, float32, in nats.

        L = -sum_t y_t log yhat_t,   yhat = softmax(logits)

    With label smoothing e the target distribution is (1 - e) onehot(y) + e / V (Szegedy et
    al., 2016); z_loss adds z_loss * logsumexp(logits)^2 (Chowdhery et al., 2022), which keeps
    the normaliser near 1.

    Args:
      logits: unnormalised scores.
      targets: class indices in [0, V). One outside makes the loss NaN (unless weighted 0),
        rather than being clamped to a class that nobody meant.
      weights: how much each target counts, 0 for padding; default 1. All zero gives loss 0.
      label_smoothing: e, in [0, 1); may be an argument of the program.
      z_loss: coefficient; likewise.

    Raises:
      ValueError: `label_smoothing` known to be outside [0, 1), targets that are not of the logits' shape without V,
        or weights that are not of the targets' shape.
    """
    losses = token_losses(logits, targets, label_smoothing, z_loss)
    return losses.mean() if weights is None else weighted_mean(losses, weights)


def token_losses(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"], label_smoothing: Number, z_loss: Number
) -> Float[Array, "*batch"]:
    """The terms that `cross_entropy` averages, float32; arguments and errors are its own."""
    check_share("label_smoothing", label_smoothing)
    check_shape("targets", targets, logits.shape[:-1])
    logits = logits.astype(jnp.float32)
    vocab_size = logits.shape[-1]
    # Relative to the highest: the difference of two large numbers would lose the small loss.
    highest = lax.stop_gradient(logits.max(-1, keepdims=True))
    logits = logits - highest
    log_normaliser = jnp.log(jnp.exp(logits).sum(-1))
    # A negative index would count from the end; V is out of range and fills with NaN.
    targets = targets.astype(jnp.result_type(targets, jnp.int32))  # V may be too large for a narrow type
    index = jnp.where(targets < 0, vocab_size, targets)[..., None]
    target_logit = jnp.take_along_axis(logits, index, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    if not is_off(label_smoothing):
        target_logit = (1 - label_smoothing) * target_logit + label_smoothing * logits.mean(-1)
    losses = log_normaliser - target_logit
    if not is_off(z_loss):
        losses += z_loss * jnp.square(log_normaliser + highest[..., 0])
    return losses


def weighted_mean(values: Float[Array, "*batch"], weights: Float[Array, "*batch"]) -> Float[Array, ""]:
    """sum(weights * values) / sum(weights), float32; 0 where every weight is 0.

    A value of weight 0 may be NaN or infinite. The gradients are weights / sum(weights) and
    (values - mean) / sum(weights), 0 where every weight is 0.

    Raises:
      ValueError: weights of another shape than the values'.
    """
    check_shape("weights", weights, values.shape)
    weights = weights.astype(jnp.float32)
    unread = (weights == 0) & ~jnp.isfinite(values)
    return divide_or_zero((jnp.where(unread, 0.0, values) * weights).sum(), weights.sum())


def check_shape(name: str, x: Array, wanted: tuple[int, ...]) -> None:
    """Refuses what would be broadcast, and so counted several times or paired with what it is not for.

    Raises:
      ValueError: another shape.
    """
    if jnp.shape(x) != tuple(wanted):
        raise ValueError(f"{name} must have the shape {tuple(wanted)}, got {jnp.shape(x)}")


def divide_or_zero(total: Float[Array, ""], count: Float[Array, ""]) -> Float[Array, ""]:
    """total / count; 0 where the count is 0, in the gradient too."""
    return jnp.where(count == 0, 0.0, total / jnp.where(count == 0, 1.0, count))


def causal_lm_loss(
    logits: Float[Array, "B T V"],
    tokens: Int[Array, "B T"],
    *,
    weights: Float[Array, "B T"] | None = None,
    label_smoothing: Number = 0.0,
    z_loss: Number = 0.0,
) -> Float[Array, ""]:
    """Causal language modelling (equation 14): -sum_t log P(x_t | x_<t), as a mean, in nats.

    The shift happens here: logits at t predict the token at t + 1, so the first token is
    never a target and the last logits are not used.

    Source: Radford et al., 2018.

    Args:
      logits: of the same positions as `tokens`.
      tokens: the sequence itself.
      weights: per token, as a target; default 1.
      label_smoothing, z_loss: as in `cross_entropy`.
    """
    return cross_entropy(
        logits[:, :-1],
        tokens[:, 1:],
        weights=None if weights is None else weights[:, 1:],
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )


def masked_lm_loss(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    masked: Bool[Array, "B T"] | Float[Array, "B T"],
    *,
    label_smoothing: Number = 0.0,
    z_loss: Number = 0.0,
) -> Float[Array, ""]:
    """Masked language modelling (equation 14): -sum_{i in M} log P(x_i | X_without_M), as a mean.

    Source: Devlin et al., 2018.

    Args:
      logits: the model's output for the corrupted sequence.
      targets: the original tokens; only those in M are read.
      masked: the set M as booleans (or weights).
      label_smoothing, z_loss: as in `cross_entropy`.
    """
    return cross_entropy(
        logits, targets, weights=masked.astype(jnp.float32), label_smoothing=label_smoothing, z_loss=z_loss
    )
