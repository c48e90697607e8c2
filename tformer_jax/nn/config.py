"""The config of every model, a tree of components, and what each family of components must do.

A family is a base class and a registry. Its members stand beside the modules that they make; a plugin registers more.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from jax import Array

from ..config import RUN, TRAINING, Component, ConfigError, build, field, merged, nearest, to_dict
from ..config.values import COUNT, POSITIVE, SHARE, Precision, one_of, up_to
from ..presets import PRESETS
from ..registry import Registry

# As many as the deepest Transformer has (Wang et al., 2022); counting FLOPs unrolls them all.
LAYERS_WANTED = up_to(1000)


class Part(Component):
    """A component of a model."""

    def check_model(self, model: "ModelConfig") -> None:
        """Raises a ConfigError where it does not go with the model's other components, by the name of a field."""


class AttentionConfig(Part):
    """A kind of attention: how tokens of a layer look at each other, or at a memory.

    Attributes:
      num_heads: N, for biases of scores by head; 0: it has no scores.
    """

    num_heads = 0

    def make(self, model: "ModelConfig", *, rngs: Any) -> Any:
        """Makes the module, called as `nn.Attention` is."""
        raise NotImplementedError

    def head_width(self, d_model: int) -> int:
        """Returns H, the width of a head; 0 without heads."""
        return 0

    def start_cache(
        self, model: "ModelConfig", layers: tuple[int, ...], batch_size: int, slots: int, at_once: int | None = None
    ) -> Any:
        """Makes the empty cache of all layers of this kind, see `nn.KVCache`, for `slots` tokens in all.

        `layers` is its leading shape; `at_once`, if given, is the most tokens that will be written together.
        """
        raise NotImplementedError


class PositionScheme(Part):
    """A way to tell the model where tokens stand, in one or more of three places; a scheme defines those where it acts.

    Attributes:
      by_layer: whether each layer has a module of its own in its scores; else all layers of a stack share one.
    """

    by_layer = False

    def at_embedding(self, model: "ModelConfig", *, rngs: Any) -> Any:
        """Makes a module `(x [B T D], positions [T] or [B T] or None) -> x`, applied to embeddings; None: nothing.

        That D is of the model's `position_axis`.
        """
        return None

    def at_patches(self, model: "ModelConfig", grid: tuple[int, int], extra: int, *, rngs: Any) -> Any:
        """Makes a module `(patches [B P D], first [B extra D] or None) -> [B extra+P D]`, with a method `resized(grid)`."""
        raise NotImplementedError

    def check_patches(self, model: "ModelConfig") -> None:
        """Raises a ConfigError where it is no scheme of a model of images; by default if it lacks `at_patches`."""
        names = [n for n, scheme in POSITIONS.items() if _acts(scheme, "at_patches")]
        if self.name not in names:
            raise ConfigError(f"positions.name of images must be one of {names}, got {self.name!r}")

    def in_scores(self, model: "ModelConfig", *, bidirectional: bool, rngs: Any) -> Any:
        """Makes a module `(queries [b T], keys [b S]) -> [b N T S]`, positions to a bias of the scores; None: none."""
        return None

    def turn(self, heads: Array, positions: Array) -> Array:
        """Returns queries or keys [B T N H], changed by their positions [b T]."""
        return heads


class NormConfig(Part):
    """A kind of normalisation over the last axis."""

    def make(self, model: "ModelConfig", axes: Mapping[str, int] | None = None) -> Any:
        """Makes a module `x -> x`; `axes`: the name and size of the last axis, by default the model's width."""
        raise NotImplementedError


class FeedForwardConfig(Part):
    """A kind of feed-forward network: what a layer does with each token by itself."""

    def make(self, model: "ModelConfig", *, rngs: Any) -> Any:
        """Makes a module `(x [B T D], key=None) -> x`, or `-> (x, losses)` with auxiliary losses {name: scalar}."""
        raise NotImplementedError


class LayerConfig(Part):
    """A kind of layer, and where its norms stand.

    Attributes:
      ends_normed: whether the stream after a layer is normed, or not to be; else a stack has a norm at its end.
    """

    ends_normed = False

    def check_cross(self) -> None:
        """Raises a ConfigError, which begins with "layer.", if its layers cannot attend to a memory."""

    def make(self, model: "ModelConfig", *, cross: bool, rngs: Any) -> Any:
        """Makes a module called as `nn.EncoderLayer` is, or with `cross`, which attends to a memory, as `nn.DecoderLayer`."""
        raise NotImplementedError


ATTENTIONS: Registry[type[AttentionConfig]] = Registry("attention", family=AttentionConfig, needs=("make",))
POSITIONS: Registry[type[PositionScheme]] = Registry(
    "position scheme", family=PositionScheme, needs=(("at_embedding", "at_patches", "in_scores", "turn"),)
)
NORMS: Registry[type[NormConfig]] = Registry("norm", family=NormConfig, needs=("make",))
FEED_FORWARDS: Registry[type[FeedForwardConfig]] = Registry(
    "feed-forward network", family=FeedForwardConfig, needs=("make",)
)
LAYERS: Registry[type[LayerConfig]] = Registry("layer", family=LayerConfig, needs=("make",))


class InitConfig(Component):
    """The start of parameters.

    Attributes:
      std: standard deviation of initial matrices and tables, which are normal; None: Glorot-uniform matrices, tables
        N(0, 1/D).
      scale_residual: divide the initial output projections of sublayers by √(2 num_layers) (GPT-2).
      mup_base_width: with maximal update parametrization (Yang et al., 2022), the width at which nothing differs from
        without, so that a learning rate found there serves wider models; None: without. See `nn.parametrization`.
    """

    std: float | None = field(None, POSITIVE, part=TRAINING, traced=True)
    scale_residual: bool = field(False, part=TRAINING)
    mup_base_width: int | None = field(None, COUNT)


class ModelConfig(Component):
    """The config that all models have: the width, the depth, and the components of a layer.

    Attributes:
      d_model: D, the width of the residual stream.
      num_layers: L, the number of layers of a stack.
      pattern: what differs by layer, a table of changes each, cycled: `({"attention": {"window": 64}}, {})` gives every
        other layer a window. A depth that the pattern does not divide ends within it.
      attention: how tokens look at each other, by name; see `ATTENTIONS`.
      positions: how the model is told where tokens stand, by name; see `POSITIONS`.
      norm: how a token's state is normalised, by name; see `NORMS`.
      feed_forward: what a layer does with each token by itself, by name; see `FEED_FORWARDS`.
      layer: how attention, feed-forward network and norms make a layer, by name; see `LAYERS`.
      embedding_norm: normalise the embeddings, positions included (BERT).
      dropout_rate: dropout rate of embeddings and of each sublayer's output.
      init: how parameters start.
      scan_unroll: the most periods of the pattern per iteration of the scan over layers; None: on a CPU all of them, if
        they have no more than 8 layers, else 1. With `remat` always 1 on a CPU, whose compiler would keep in memory what
        is to be recomputed.
      remat: what the backward pass recomputes: "none", "dots" (all but matrix products) or "full" (everything but the
        layers' inputs).
      precision: dtypes, as "params=...,compute=...,output=..."; see `Precision`.
    """

    d_model: int = field(512, COUNT)
    num_layers: int = field(6, LAYERS_WANTED)
    pattern: tuple = field(({},))
    attention: AttentionConfig = field(lambda: ATTENTIONS["multi_head"]())
    positions: PositionScheme = field(lambda: POSITIONS["sinusoidal"]())
    norm: NormConfig = field(lambda: NORMS["layer"]())
    feed_forward: FeedForwardConfig = field(lambda: FEED_FORWARDS["mlp"]())
    layer: LayerConfig = field(lambda: LAYERS["transformer"]())
    embedding_norm: bool = False
    dropout_rate: float = field(0.1, SHARE, part=TRAINING, traced=True)
    init: InitConfig = field(InitConfig)
    scan_unroll: int | None = field(None, COUNT, part=RUN)
    remat: str = field("none", one_of("none", "dots", "full"), part=RUN)
    precision: str = field("params=float32,compute=float32,output=float32", part=RUN)

    def check(self) -> None:
        Precision.parse(self.precision)
        self._check_pattern()
        for part in (self.attention, self.positions, self.norm, self.feed_forward, self.layer):
            part.check_model(self)

    def _check_pattern(self) -> None:
        tables = self.pattern
        if not isinstance(tables, list | tuple) or not tables or not all(isinstance(t, Mapping) for t in tables):
            raise ConfigError(f"pattern must be a tuple of tables, one for each layer of a period, got {tables!r}")
        object.__setattr__(self, "pattern", copy.deepcopy(tuple(map(dict, tables))))  # nobody else may change it
        if len(tables) > self.num_layers:
            raise ConfigError(f"pattern has {len(tables)} layers, more than num_layers={self.num_layers}")
        for i, table in enumerate(tables):
            for name in table:
                if name not in _BY_LAYER:
                    raise ConfigError(
                        f"pattern[{i}] may change {', '.join(_BY_LAYER)}, got {name!r}{nearest(str(name), _BY_LAYER)}"
                    )
            if table:
                self._check_positions(i, self.of_layer(i))

    def _check_positions(self, i: int, layer: "ModelConfig") -> None:
        """Raises a ConfigError where a layer of a period has positions of its own that act for all layers at once."""
        own, shared = layer.positions, self.positions
        if own != shared and (_acts(type(own), "at_embedding", "in_scores") or _acts(type(shared), "at_embedding")):
            raise ConfigError(
                f"pattern[{i}].positions must be those of the model, {shared.name!r}, got {own.name!r}: layers may "
                "differ in what turns heads alone, and where nothing is added to embeddings"
            )
        if own == shared and _acts(type(shared), "in_scores") and layer.attention.num_heads != self.attention.num_heads:
            raise ConfigError(
                f"pattern[{i}].attention.num_heads must be the model's, {self.attention.num_heads}, got "
                f"{layer.attention.num_heads}: all layers share the biases of positions.name={shared.name!r}"
            )

    def of_layer(self, i: int) -> "ModelConfig":
        """Returns the config of the i-th layer of a period: with the pattern's changes, and without a pattern."""
        if self.pattern == ({},):
            return self
        changes = {**self.pattern[i], "pattern": ({},)}
        return build(type(self), merged(type(self), to_dict(self), changes), f"pattern[{i}]")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "ModelConfig":
        """Returns a published model's config, with changes: `preset("gpt2", num_layers=2, attention={"window": 64})`.

        Raises:
          ConfigError: no such preset, one of another model, or changes that cannot be.
        """
        table, known = PRESETS.named(name, "preset")(), {of.name for of in dataclasses.fields(cls)}
        if others := sorted(table.keys() - known):
            raise ConfigError(f"the preset {name!r} is of another model: {cls.__name__} has no {', '.join(others)}")
        return build(cls, merged(cls, table, changes), name)

    @property
    def dtypes(self) -> Precision:
        """The parsed precision policy."""
        return Precision.parse(self.precision)


def _acts(scheme: type[PositionScheme], *places: str) -> bool:
    """Returns whether a position scheme does something in one of the places."""
    return any(getattr(scheme, place) is not getattr(PositionScheme, place) for place in places)


# What a pattern may change: what a layer reads. The rest is of the whole model.
_BY_LAYER = ("attention", "positions", "norm", "feed_forward", "layer", "dropout_rate")
