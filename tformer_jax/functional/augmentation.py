"""Random changes to images, as pure functions of a key. Axis letters: Y rows, X columns, C channels."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from .numbers import Number, is_known


def random_flip(images: Float[Array, "B Y X C"], key: Array) -> Float[Array, "B Y X C"]:
    """Each image left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_shift(images: Float[Array, "B Y X C"], key: Array, max_shift: int) -> Float[Array, "B Y X C"]:
    """Each image moved by a whole number of pixels in y and in x, uniform in [-max_shift, max_shift].

        out[y, x] = image[y - dy, x - dx],   0 outside of the image

    Source: He et al., 2016, section 4.2 (4 pixels of padding, a random crop).

    Raises:
      ValueError: `max_shift` is negative.
    """
    if max_shift < 0:
        raise ValueError(f"max_shift must not be negative, got {max_shift}")
    B, Y, X, C = images.shape
    padded = jnp.pad(images, ((0, 0), (max_shift, max_shift), (max_shift, max_shift), (0, 0)))
    starts = jax.random.randint(key, (B, 2), 0, 2 * max_shift + 1)
    return jax.vmap(lambda image, start: lax.dynamic_slice(image, (*start, 0), (Y, X, C)))(padded, starts)


def mixup(
    images: Float[Array, "B Y X C"],
    targets: Float[Array, "B V"],
    key: Array,
    alpha: Number,
    *,
    real: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B Y X C"], Float[Array, "B V"]]:
    """Each example mixed with another of the batch, its target alike.

        x = l x_i + (1 - l) x_j,   y = l y_i + (1 - l) y_j,   l ~ Beta(alpha, alpha)

    Every example has its own l and the partners j are a random permutation of the batch, so an
    example may meet itself (and then stays as it is).

    Source: Zhang et al., 2018.

    Args:
      images: the examples x.
      targets: their probabilities y.
      key: a typed key.
      alpha: small keeps examples apart, large mixes them evenly.
      real: which rows are examples, rather than fill up the batch: these meet each other alone. Default: all.

    Returns:
      Mixed images and targets, in their dtypes.

    Raises:
      ValueError: `alpha` is known not to be positive.
    """
    if is_known(alpha) and not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    share_key, partner_key = jax.random.split(key)
    shares = jax.random.beta(share_key, alpha, alpha, (images.shape[0],))
    partners = _partners(partner_key, images.shape[0], real)
    return _mix(images, shares, partners), _mix(targets, shares, partners)


def _partners(key: Array, count: int, real: Bool[Array, "B"] | None) -> Int[Array, "B"]:
    """A random permutation, of the real rows among themselves."""
    drawn = jax.random.permutation(key, count)
    if real is None:
        return drawn
    # The real rows, in order, get those that are real in the order drawn; the others get what is left.
    return drawn.at[jnp.argsort(~real)].set(drawn[jnp.argsort(~real[drawn])])


def _mix(x: Array, shares: Array, partners: Array) -> Array:
    shares = shares.reshape(-1, *(1,) * (x.ndim - 1))
    return (shares * x + (1 - shares) * x[partners]).astype(x.dtype)
