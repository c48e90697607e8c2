"""The Vision Transformer (equation 15; Dosovitskiy et al., 2021)."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import COUNT, ENDS, ConfigError, field, one_of
from ..nn import Beside, Classifier, Linear, ModelConfig, Stack, zeros
from ..nn.layers import split_key
from .inputs import check_captures

CAPTURES = ("attention_weights", "residual")


class VisionTransformerConfig(ModelConfig):
    """The config of a `VisionTransformer`.

    Attributes:
      image_size: height and width of an image, in pixels.
      patch_size: height and width of a patch, in pixels; divides image_size.
      num_channels: number of channels of an image, 1 (grey) or 3 (RGB).
      num_classes: number of classes.
      pooling: what the classifier reads: "cls", the class token, or "mean", of all patches.
      others: see `ModelConfig`.
    """

    image_size: int = field(wanted=COUNT, part=ENDS)
    patch_size: int = field(wanted=COUNT)
    num_channels: int = field(3, one_of(1, 3))
    num_classes: int = field(wanted=COUNT, part=ENDS)
    pooling: str = field("cls", one_of("cls", "mean"), part=ENDS)

    def check(self) -> None:
        super().check()
        if self.image_size % self.patch_size:
            raise ConfigError(f"patch_size={self.patch_size} must divide image_size={self.image_size}")
        self.positions.check_patches(self)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        side = self.image_size // self.patch_size
        return side, side


class VisionTransformer(nnx.Module):
    """An encoder over image patches, and a linear classifier on its class token or on the mean of all.

        x_i = W_e Flatten(patch_i) + b_e + position_i                                (equation 15)

    Positions are learned (the class token has one too) or the 2-D sinusoids of
    `functional.sinusoidal_positions_2d`; `resized` interpolates them to another resolution.
    """

    Config = VisionTransformerConfig

    def __init__(self, config: VisionTransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        pixels, D = ("pixels", config.patch_size**2 * config.num_channels), ("model", config.d_model)
        self.patch_embedding = Linear(config, pixels, D, role="input", rngs=rngs)
        self.class_token = zeros(config, dict((D,))) if config.pooling == "cls" else None
        self.positions = config.positions.at_patches(config, config.grid, int(config.pooling == "cls"), rngs=rngs)
        self.embedding_norm = config.norm.make(config) if config.embedding_norm else None
        self.encoder = Stack(config, config.num_layers, bidirectional=True, rngs=rngs)
        self.classifier = Classifier(config, config.num_classes, rngs=rngs)

    def __call__(
        self, images: Float[Array, "B Y X C"], *, key: Array | None = None, capture: Collection[str] = ()
    ) -> Any:
        """Logits of the classes [B num_classes]; with `capture`, (logits, {name: array}).

        Args:
          images: pixels as the model was trained on, [B image_size image_size num_channels].
          key: for dropout; None means deterministic.
          capture: of "attention_weights" [L B N P P] and "residual" [L B P D].

        Raises:
          ValueError: images of another size or number of channels.
          TypeError: pixels that are not floats.
        """
        pooled, beside = self.hidden(images, key=key, capture=capture)
        logits = self.logits(pooled)
        return (logits, beside.captured) if capture else logits

    def hidden(
        self, images: Float[Array, "B Y X C"], *, key: Array | None = None, capture: Collection[str] = ()
    ) -> tuple[Float[Array, "B D"], Beside]:
        """The pooled state [B D] of each image that `logits` takes; what was captured, and auxiliary losses."""
        check_captures(capture, CAPTURES)
        config = self.config
        wanted = (config.image_size, config.image_size, config.num_channels)
        if images.shape[1:] != wanted:
            raise ValueError(f"images must be {wanted} (height, width, channels), got {images.shape[1:]}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images must be floats, scaled as the model was trained on them, got {images.dtype}")
        embed_key, layers_key = split_key(key, 2)
        patches = F.patchify(images.astype(config.dtypes.compute), config.patch_size)  # [B P pixels]
        x, first = self.patch_embedding(patches), None  # [B P D]
        if self.class_token is not None:
            first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        x = self.positions(x, first)  # [B 1+P D] with a class token
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        x = F.dropout(x, config.dropout_rate, embed_key)
        x, beside = self.encoder(x, mask=F.AttentionMask(), key=layers_key, capture=capture)
        return x[:, 0] if config.pooling == "cls" else x.mean(1), beside

    def logits(self, pooled: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """W x + b in the policy's output dtype."""
        return self.classifier(pooled)

    def resized(self, image_size: int) -> "VisionTransformer":
        """Returns the model for images of another size: its positions, as a grid, interpolated (section 3.2).

        The result's own `config` says the new size; those of its layers, which read no size, stay.

        Raises:
          ConfigError: patch_size does not divide `image_size`.
        """
        other = nnx.clone(self)
        other.config = self.config.changed(image_size=image_size)
        other.positions = self.positions.resized(other.config.grid)
        return other
