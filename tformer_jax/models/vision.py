"""The Vision Transformer (equation 15; Dosovitskiy et al., 2021)."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import TransformerConfig
from ..nn import Classifier, EncoderLayer, Linear, Norm, Stack
from ..nn.layers import split_key
from ..nn.parameters import table, zeros
from .inputs import check_captures

CAPTURES = ("attention_weights", "residual")


class VisionTransformer(nnx.Module):
    """An encoder over image patches, and a linear classifier on its class token or on the mean of all.

        x_i = W_e Flatten(patch_i) + b_e + position_i                                (equation 15)

    Positions are learned (the class token has one too) or the 2-D sinusoids of
    `functional.sinusoidal_positions_2d`; `resized` interpolates them to another resolution.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        config.check_for("VisionTransformer")
        self.config = config
        # The grid that positions were made for; `resized` changes the config's, not this one.
        self.trained_grid = _grid(config)
        D, inputs = config.d_model, config.patch_size**2 * config.num_channels
        self.patch_embedding = Linear(config, {"pixels": inputs}, {"model": D}, rngs=rngs, role="input")
        self.class_token = zeros(config, {"model": D}) if config.pooling == "cls" else None
        rows = _grid(config)[0] ** 2 + (config.pooling == "cls")
        self.position_table = table(config, rngs, {"position": rows, "model": D}) if config.positions == "learned" else None
        self.embedding_norm = Norm(config) if config.embedding_norm else None
        self.encoder = Stack(EncoderLayer, config.num_layers, config, rngs=rngs, bidirectional=True)
        self.classifier = Classifier(config, rngs=rngs)

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
        check_captures(capture, CAPTURES)
        config = self.config
        wanted = (config.image_size, config.image_size, config.num_channels)
        if images.shape[1:] != wanted:
            raise ValueError(f"images must be {wanted} (height, width, channels), got {images.shape[1:]}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images must be floats, scaled as the model was trained on them, got {images.dtype}")
        embed_key, layers_key = split_key(key, 2)
        patches = F.patchify(images.astype(config.dtypes.compute), config.patch_size)
        x = self._start(self.patch_embedding(patches))
        x = F.dropout(x, config.dropout_rate, embed_key)
        x, captured = self.encoder.self_attend(x, F.AttentionMask(), key=layers_key, capture=capture)
        x = x[:, 0] if config.pooling == "cls" else x.mean(1)
        logits = self.classifier(x)
        return (logits, captured) if capture else logits

    def _start(self, x: Float[Array, "B P D"]) -> Float[Array, "B Q D"]:
        """Positions, and the class token in front."""
        token = None
        if self.class_token is not None:
            token = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        if self.position_table is not None:
            x = x if token is None else jnp.concatenate([token, x], axis=1)
            x = x + self.position_table[...].astype(x.dtype)
        else:
            x = x + self._sinusoids().astype(x.dtype)
            x = x if token is None else jnp.concatenate([token, x], axis=1)
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def _sinusoids(self) -> Array:
        if self.config.positions == "none":
            return jnp.zeros(())
        positions = F.sinusoidal_positions_2d(*self.trained_grid, self.config.d_model)
        return F.interpolate_positions(positions, self.trained_grid, _grid(self.config))

    def resized(self, image_size: int) -> "VisionTransformer":
        """Returns the model for images of another size: its positions, as a grid, interpolated (section 3.2).

        The result's own `config` says the new size; those of its layers, which read no size, stay.

        Raises:
          ConfigError: patch_size does not divide `image_size`.
        """
        config = dataclasses.replace(self.config, image_size=image_size)
        other = jax.tree.map(lambda x: x, self)  # another module with the same arrays
        other.config = config
        if self.position_table is not None:
            old = self.position_table[...]
            first = old.shape[0] - _grid(self.config)[0] ** 2  # the class token has no place in the grid
            grid = F.interpolate_positions(old[first:], _grid(self.config), _grid(config))
            other.position_table = self.position_table.replace(jnp.concatenate([old[:first], grid]))
        return other


def _grid(config: TransformerConfig) -> tuple[int, int]:
    """Patches down and across."""
    side = config.image_size // config.patch_size
    return side, side
