"""The Vision Transformer (equation 15; Dosovitskiy et al., 2021)."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from .. import functional as F
from ..config import COUNT, ENDS, UNSIGNED, ConfigError, field, one_of
from ..functional.activations import ACTIVATIONS
from ..nn import AttentionPooling, Beside, Classifier, Linear, ModelConfig, Module, Stack, table, zeros
from ..nn.layers import split_key
from .inputs import check_captures

CAPTURES = ("attention_weights", "residual")


class VisionTransformerConfig(ModelConfig):
    """The config of a `VisionTransformer`.

    Attributes:
      image_size: height and width of an image, in pixels.
      patch_size: height and width of a patch, in pixels; divides image_size.
      num_channels: number of channels of an image, 1 (grey) or 3 (RGB).
      patch_bias: add a bias in the embedding of patches (CLIP has none).
      num_registers: number of learned tokens between the class token and the patches (DeiT's token of distillation is one;
        Darcet et al., 2024).
      register_positions: add learned positions to registers too (DeiT); False: they have none (DINOv2).
      num_classes: number of classes; None: the model has no classifier, and gives the pooled state.
      pooling: what the classifier reads: "cls", the class token; "mean", of all patches; "cls_mean", one beside the other
        (DINOv2); "attention", what a learned query finds (SigLIP, see `nn.AttentionPooling`); "prefix", the class token and
        each register by a classifier of its own, whose logits are averaged (DeiT).
      pooler: apply pooler_activation(W x + b) to the pooled state.
      pooler_activation: the nonlinearity, by its name; "tanh" with pooler=False.
      others: see `ModelConfig`.
    """

    image_size: int = field(wanted=COUNT, part=ENDS)
    patch_size: int = field(wanted=COUNT)
    num_channels: int = field(3, one_of(1, 3))
    patch_bias: bool = True
    num_registers: int = field(0, UNSIGNED)
    register_positions: bool = True
    num_classes: int | None = field(None, COUNT, part=ENDS)
    pooling: str = field("cls", one_of("cls", "mean", "cls_mean", "attention", "prefix"), part=ENDS)
    pooler: bool = field(False, part=ENDS)
    pooler_activation: str = field("tanh", among=ACTIVATIONS, part=ENDS)

    def check(self) -> None:
        super().check()
        if self.image_size % self.patch_size:
            raise ConfigError(f"patch_size={self.patch_size} must divide image_size={self.image_size}")
        self.positions.check_patches(self)
        if not self.register_positions and not self.num_registers:
            raise ConfigError("register_positions=False goes with num_registers above 0")
        if self.num_registers and self.register_positions and self.positions.name != "learned":
            raise ConfigError(
                f"register_positions goes with positions.name='learned', got {self.positions.name!r}: set it to False"
            )
        if self.pooling == "prefix" and not (self.num_registers and self.num_classes):
            raise ConfigError("pooling='prefix' needs registers and classifiers: set num_registers and num_classes")
        if self.pooler and self.pooling in ("cls_mean", "prefix"):
            raise ConfigError(f"pooler=True goes with a pooled state of d_model, not with pooling={self.pooling!r}")
        if self.pooler_activation != "tanh" and not self.pooler:
            raise ConfigError(f"pooler_activation={self.pooler_activation!r} goes with pooler=True")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def has_class_token(self) -> bool:
        """Says that a class token comes before registers and patches."""
        return self.pooling in ("cls", "cls_mean", "prefix")

    @property
    def prefix_length(self) -> int:
        """Tokens before the patches: E, the class token and registers."""
        return self.has_class_token + self.num_registers


class VisionTransformer(Module):
    """An encoder over image patches, and a linear classifier on its class token or on the mean of all.

        x_i = W_e Flatten(patch_i) + b_e + position_i                                (equation 15)

    Positions are learned (the class token has one too) or the 2-D sinusoids of
    `functional.sinusoidal_positions_2d`; `resized` interpolates them to another resolution.
    """

    Config = VisionTransformerConfig

    def __init__(self, config: VisionTransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        pixels, D = ("pixels", config.patch_size**2 * config.num_channels), ("model", config.d_model)
        self.patch_embedding = Linear(config, pixels, D, role="input", bias=config.patch_bias, rngs=rngs)
        self.class_token = zeros(config, dict((D,))) if config.has_class_token else None
        registers = {"registers": config.num_registers, "model": config.d_model}
        self.registers = table(config, rngs, registers) if config.num_registers else None
        placed = config.has_class_token + config.num_registers * config.register_positions
        self.positions = config.positions.at_patches(config, config.grid, placed, rngs=rngs)
        self.embedding_norm = config.norm.make(config) if config.embedding_norm else None
        self.encoder = Stack(config, config.num_layers, bidirectional=True, rngs=rngs)
        self.attention_pooling = AttentionPooling(config, rngs=rngs) if config.pooling == "attention" else None
        self.pooler = Linear(config, D, ("ff", config.d_model), rngs=rngs) if config.pooler else None
        count = config.prefix_length if config.pooling == "prefix" else 1
        width = config.d_model * (2 if config.pooling == "cls_mean" else 1)
        make = lambda: Classifier(config, config.num_classes, width=width, rngs=rngs)
        first, *others = [make() for _ in range(count)] if config.num_classes else [None]
        self.classifier, self.register_classifiers = first, nnx.List(others)

    def __call__(
        self, images: Float[Array, "B Y X C"], *, key: Array | None = None, capture: Collection[str] = ()
    ) -> Any:
        """Logits of the classes [B num_classes]; with `capture`, (logits, {name: array}).

        Without num_classes, the pooled state [B D] in their place.

        Args:
          images: pixels as the model was trained on, [B image_size image_size num_channels].
          key: for dropout; None means deterministic.
          capture: of "attention_weights" [L B N Q Q] and "residual" [L B Q D], of the E + P tokens before and of the patches.

        Raises:
          ValueError: images of another size or number of channels.
          TypeError: pixels that are not floats.
        """
        pooled, beside = self.hidden(images, key=key, capture=capture)
        result = pooled if self.classifier is None else self.logits(pooled)
        return (result, beside.captured) if capture else result

    def hidden(
        self, images: Float[Array, "B Y X C"], *, key: Array | None = None, capture: Collection[str] = ()
    ) -> tuple[Float[Array, "B ..."], Beside]:
        """The pooled state of each image that `logits` takes; what was captured, and auxiliary losses.

        It is [B D], with pooling="cls_mean" [B 2D], with "prefix" [B E D].
        """
        states_key, pooling_key = split_key(key, 2) if self.attention_pooling is not None else (key, None)
        states, beside = self.states(images, key=states_key, capture=capture)  # [B E+P D]
        return self._pooled(states, pooling_key), beside

    def states(
        self, images: Float[Array, "B Y X C"], *, key: Array | None = None, capture: Collection[str] = ()
    ) -> tuple[Float[Array, "B Q D"], Beside]:
        """The states of the class token, the registers and the patches, normed; what was captured, and auxiliary losses."""
        check_captures(capture, CAPTURES)
        config = self.config
        wanted = (config.image_size, config.image_size, config.num_channels)
        if images.shape[1:] != wanted:
            raise ValueError(f"images must be {wanted} (height, width, channels), got {images.shape[1:]}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images must be floats, scaled as the model was trained on them, got {images.dtype}")
        embed_key, layers_key = split_key(key, 2)
        patches = F.patchify(images.astype(config.dtypes.compute), config.patch_size)  # [B P pixels]
        x = self._placed(self.patch_embedding(patches))  # [B E+P D]
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        x = F.dropout(x, config.dropout_rate, embed_key)
        return self.encoder(x, mask=F.AttentionMask(), key=layers_key, capture=capture)

    def _placed(self, patches: Float[Array, "B P D"]) -> Float[Array, "B Q D"]:
        """The patches with their positions, after the class token and the registers."""
        of_rows = lambda x: jnp.broadcast_to(x[...].astype(patches.dtype), (len(patches), *x.shape[-2:]))
        token = None if self.class_token is None else of_rows(self.class_token[...][None])  # [B 1 D]
        if self.registers is None:
            return self.positions(patches, token)
        registers = of_rows(self.registers)  # [B R D]
        if self.config.register_positions:
            return self.positions(patches, registers if token is None else jnp.concatenate([token, registers], 1))
        x, first = self.positions(patches, token), 0 if token is None else 1
        return jnp.concatenate([x[:, :first], registers, x[:, first:]], 1)

    def _pooled(self, states: Float[Array, "B Q D"], key: Array | None) -> Float[Array, "B ..."]:
        E = self.config.prefix_length
        match self.config.pooling:
            case "cls":
                x = states[:, 0]
            case "mean":
                x = states[:, E:].mean(1)
            case "cls_mean":
                x = jnp.concatenate([states[:, 0], states[:, E:].mean(1)], -1)
            case "attention":
                x = self.attention_pooling(states, key=key)
            case "prefix":
                x = states[:, :E]
        return x if self.pooler is None else ACTIVATIONS[self.config.pooler_activation](self.pooler(x))

    def logits(self, pooled: Float[Array, "B ..."]) -> Float[Array, "B C"]:
        """W x + b in the policy's output dtype; with pooling="prefix", the mean of those of each token.

        Raises:
          ValueError: the model has no classifier.
        """
        if self.classifier is None:
            raise ValueError("logits need a classifier: set num_classes in the config")
        if self.config.pooling != "prefix":
            return self.classifier(pooled)
        each = [self.classifier, *self.register_classifiers]
        return jnp.stack([of(pooled[:, i]) for i, of in enumerate(each)]).mean(0)

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
