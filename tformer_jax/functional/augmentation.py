"""Random changes to images, as pure functions of a key. Axis letters: Y rows, X columns, C channels."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from .checks import as_array, as_key
from .meshes import gathered, spread_like
from .numbers import POSITIVE, Number, as_number, as_size


def random_flip(images: Float[Array, "B Y X C"], key: Array) -> Float[Array, "B Y X C"]:
    """Flips each image left to right with probability 1/2.

    Raises:
      TypeError, ValueError: images that are no array, or not [B Y X C]; no key, or several.
    """
    images = as_array("images", images, "B Y X C")
    flipped = jax.random.bernoulli(as_key("key", key), jnp.float32(0.5), (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_shift(images: Float[Array, "B Y X C"], key: Array, max_shift: int) -> Float[Array, "B Y X C"]:
    """Moves each image by a whole number of pixels in y and in x, uniform in [-max_shift, max_shift].

        out[y, x] = image[y - dy, x - dx],   0 outside of the image

    Source: He et al., 2016, section 4.2 (4 pixels of padding, a random crop).

    Raises:
      TypeError: images that are no array, a `max_shift` that is no integer, or no key.
      ValueError: images that are not [B Y X C], or a negative `max_shift`.
    """
    images, max_shift = as_array("images", images, "B Y X C"), as_size("max_shift", max_shift)
    if max_shift < 0:
        raise ValueError(f"max_shift must not be negative, got {max_shift}")
    B, Y, X, C = images.shape
    padded = jnp.pad(images, ((0, 0), (max_shift, max_shift), (max_shift, max_shift), (0, 0)))
    starts = jax.random.randint(as_key("key", key), (B, 2), 0, 2 * max_shift + 1, jnp.int32)
    starts = spread_like(jnp.pad(starts, ((0, 0), (0, 1))), images, axes=1)  # and of the channels
    return jax.vmap(lambda image, start: lax.dynamic_slice(image, start, (Y, X, C)))(padded, starts)


def mixup(
    images: Float[Array, "B Y X C"],
    targets: Float[Array, "B V"],
    key: Array,
    alpha: Number,
    *,
    real: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B Y X C"], Float[Array, "B V"]]:
    """Mixes each example with another of the batch, its target alike.

        x = l x_i + (1 - l) x_j,   y = l y_i + (1 - l) y_j,   l ~ Beta(alpha, alpha)

    Every example has its own l and the partners j are a random permutation of the batch, so an
    example may meet itself (and then stays as it is).

    Source: Zhang et al., 2018.

    Args:
      images: the examples x.
      targets: their probabilities y.
      key: a typed key.
      alpha: small keeps examples apart, large mixes them evenly; may be traced (one that is not positive makes
        the result NaN).
      real: which rows are examples, rather than fill up the batch: these meet each other alone. Default: all.

    Returns:
      Mixed images and targets, in their dtypes.

    Raises:
      TypeError: images or targets that are no arrays of floats, an `alpha` that is no number, or no key.
      ValueError: images that are not [B Y X C], targets that are not [B V], or an `alpha` known not to be positive.
    """
    images = as_array("images", images, "B Y X C", kind="floats")
    targets = as_array("targets", targets, "B V", kind="floats")
    if targets.shape[0] != images.shape[0]:
        raise ValueError(f"targets must be one for each of the {images.shape[0]} images, got {targets.shape[0]}")
    if real is not None:
        real = gathered(as_array("real", real, shape=images.shape[:1]).astype(bool), 0)
    alpha = jnp.float32(as_number("alpha", alpha, POSITIVE))
    share_key, partner_key = jax.random.split(as_key("key", key))
    # Drawn by rejection, which NaN would never leave.
    drawable = jnp.where(jnp.isnan(alpha), 1.0, alpha)
    shares = jax.random.beta(share_key, drawable, drawable, (images.shape[0],), jnp.float32)
    shares = jnp.where(jnp.isnan(alpha), jnp.nan, shares)
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
    shares, mixed = shares.reshape(-1, *(1,) * (x.ndim - 1)), x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # On an explicit mesh partners come from other devices, and where to is said.
    others = mixed.at[partners].get(out_sharding=jax.typeof(mixed).sharding)
    return (shares * mixed + (1 - shares) * others).astype(x.dtype)
