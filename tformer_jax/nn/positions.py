"""Position schemes: tables added to embeddings or patches, rotation of heads, biases of scores."""

import functools
import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import COUNT, POSITIVE, UNSIGNED, ConfigError, Wanted, field, one_of, up_to
from ..functional.relative import MOST_BUCKETS
from .config import POSITIONS, ModelConfig, PositionScheme
from .module import Module
from .parameters import kernel, table
from .parametrization import reference_size

Where = Int[Array, "T"] | Int[Array, "B T"]


@POSITIONS.register("none")
class NoPositions(PositionScheme):
    """Nothing tells where a token stands, but the mask (Kazemnejad et al., 2023)."""

    def at_patches(self, model: ModelConfig, grid: tuple[int, int], extra: int, *, rngs: nnx.Rngs) -> "Patches":
        return Patches()


@POSITIONS.register("sinusoidal")
class Sinusoidal(PositionScheme):
    """`functional.sinusoidal_positions`, added to the embeddings (equation 6); of patches, the sinusoids in 2-D.

    Attributes:
      base: that of the geometric sequence of wavelengths.
      concatenated: of text, all sines before all cosines (Marian), where equation 6 has them by turns.
      first: of text, the position of the first token (M2M100: 2).
    """

    base: float = field(10_000.0, POSITIVE)
    concatenated: bool = False
    first: int = field(0, UNSIGNED)

    def at_embedding(self, model: ModelConfig, *, rngs: nnx.Rngs) -> "Sinusoids":
        return Sinusoids(model)

    def check_patches(self, model: ModelConfig) -> None:
        if self.first or self.concatenated:
            raise ConfigError(
                "positions.first and positions.concatenated are of text: leave them as they are for images"
            )
        if model.d_model % 4:
            raise ConfigError(f"d_model must be divisible by 4 for 2-D sinusoidal positions, got {model.d_model}")

    def at_patches(self, model: ModelConfig, grid: tuple[int, int], extra: int, *, rngs: nnx.Rngs) -> "Patches":
        return PatchSinusoids(model.d_model, grid, base=self.base)


@POSITIONS.register("learned")
class Learned(PositionScheme):
    """A table that is learned, added to the embeddings or patches, the class token's too.

    Attributes:
      first: of text, the row of position 0; those before it are not used (OPT: 2).
      scaled: of text, scale the vectors as those of tokens, with scale_embeddings.
    """

    first: int = field(0, UNSIGNED)
    scaled: bool = True

    def at_embedding(self, model: ModelConfig, *, rngs: nnx.Rngs) -> "LearnedTable":
        return LearnedTable(model, rngs=rngs)

    def check_patches(self, model: ModelConfig) -> None:
        if self.first or not self.scaled:
            raise ConfigError("positions.first and positions.scaled are of text: leave them as they are for images")

    def at_patches(self, model: ModelConfig, grid: tuple[int, int], extra: int, *, rngs: nnx.Rngs) -> "Patches":
        return LearnedPatches(model, grid, extra, rngs=rngs)


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    """A field that is a tuple of positive numbers."""
    if not isinstance(value, list | tuple) or not all(type(x) in (int, float) and 0 < x < math.inf for x in value):
        raise ConfigError(f"{name} must be a tuple of positive numbers, got {value!r}")
    return tuple(map(float, value))


_EVEN = Wanted("be a positive even integer", lambda x: type(x) is int and x > 0 and x % 2 == 0)


@POSITIONS.register("rotary")
class Rotary(PositionScheme):
    """`functional.apply_rotary`: queries and keys are turned by their positions (Su et al., 2021).

    Attributes:
      base: that of the geometric sequence of wavelengths.
      scaling: for contexts that are longer than those of training, see `functional.rotary_tables`; or "longrope" (Phi 3),
        whose pairs have divisors of their own, others as soon as a position of the batch is beyond trained_length.
      factor: how many times as long contexts become by scaling; 1 with "none" and "longrope".
      trained_length: of "llama3", "yarn" and "longrope", the tokens of a context before it became longer; None with the
        others.
      turns: of "llama3" and "yarn", two numbers, see `functional.rotary_tables`; (): what these scalings say.
      whole_pairs: of "yarn", begin and end at whole pairs, as published code does.
      magnitude: multiplies cosines and sines; None: what the scaling says.
      short_divisors, long_divisors: of "longrope", a number for each pair.
      width: how much of each head is turned, from its beginning; None: all of it.
      layout: of its pairs, "half" (Llama) or "interleaved" (GPT-J), see `functional.rotate`.
    """

    base: float = field(10_000.0, POSITIVE)
    scaling: str = field("none", one_of("none", "linear", "ntk", "llama3", "yarn", "longrope"))
    factor: float = field(1.0, POSITIVE)
    trained_length: int | None = field(None, COUNT)
    turns: tuple = ()
    whole_pairs: bool = True
    magnitude: float | None = field(None, POSITIVE)
    short_divisors: tuple = ()
    long_divisors: tuple = ()
    width: int | None = field(None, _EVEN)
    layout: str = field("half", one_of("half", "interleaved"))

    def check(self) -> None:
        for name in ("turns", "short_divisors", "long_divisors"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if (self.scaling in ("none", "longrope")) != (self.factor == 1.0) or self.factor < 1.0:
            raise ConfigError(
                "scaling and factor go together: 'none' and 'longrope' with 1, the others with a factor above 1, "
                f"got {self.scaling!r} with {self.factor}"
            )
        if (self.scaling in ("llama3", "yarn", "longrope")) != (self.trained_length is not None):
            raise ConfigError(
                "trained_length goes with scaling='llama3', 'yarn' or 'longrope', which need it, got "
                f"{self.trained_length} with {self.scaling!r}"
            )
        for name in ("short_divisors", "long_divisors"):
            if (self.scaling == "longrope") != bool(getattr(self, name)):
                raise ConfigError(f"{name} goes with scaling='longrope', which needs it, got {self.scaling!r}")
        if self.turns and self.scaling not in ("llama3", "yarn"):
            raise ConfigError(f"turns goes with scaling='llama3' or 'yarn', got {self.scaling!r}")
        if self.turns and not (len(self.turns) == 2 and self.turns[0] < self.turns[1]):
            raise ConfigError(f"turns must be two numbers, the lower one first, got {self.turns}")
        if not self.whole_pairs and self.scaling != "yarn":
            raise ConfigError(f"whole_pairs=False goes with scaling='yarn', got {self.scaling!r}")

    def check_model(self, model: ModelConfig) -> None:
        head = model.attention.head_width(model.d_model)
        width = self.width or head
        if width > head:
            raise ConfigError(f"positions.width={width} exceeds the head width {head}")
        if width % 2:
            raise ConfigError(f"positions.name='rotary' turns pairs: the head width must be even, got {width}")
        if self.scaling == "ntk" and width == 2:
            raise ConfigError("positions.scaling='ntk' needs a head width above 2, got 2")
        for name in ("short_divisors", "long_divisors"):
            numbers = getattr(self, name)
            if numbers and len(numbers) != width // 2:
                raise ConfigError(
                    f"positions.{name} must be {width // 2} numbers, one for each pair, got {len(numbers)}"
                )

    def turn(self, heads: Float[Array, "B T N H"], positions: Int[Array, "b T"]) -> Float[Array, "B T N H"]:
        tables = functools.partial(F.rotary_tables, positions, self.width or heads.shape[-1], base=self.base)
        if self.scaling == "longrope":
            beyond = positions.max() >= self.trained_length
            short, long = (
                tables(divisors=x, magnitude=self.magnitude) for x in (self.short_divisors, self.long_divisors)
            )
            cos, sin = (jnp.where(beyond, *pair) for pair in zip(long, short, strict=True))
        else:
            how = {name: getattr(self, name) for name in ("scaling", "factor", "trained_length", "whole_pairs")}
            cos, sin = tables(magnitude=self.magnitude, turns=self.turns or None, **how)
        return F.rotate(heads, cos, sin, layout=self.layout)


class _OfScores(PositionScheme):
    """A scheme that biases the scores of heads."""

    def check_model(self, model: ModelConfig) -> None:
        if not model.attention.num_heads:
            kind = f"attention.name={model.attention.name!r}"
            raise ConfigError(f"positions.name={self.name!r} biases the scores of heads: {kind} has no num_heads")


@POSITIONS.register("alibi")
class ALiBi(_OfScores):
    """`functional.alibi_bias`: scores fall with distance (Press et al., 2022)."""

    def in_scores(self, model: ModelConfig, *, bidirectional: bool, rngs: nnx.Rngs) -> "DistanceBias":
        return DistanceBias(model.attention.num_heads)


@POSITIONS.register("relative")
class Relative(_OfScores):
    """T5's learned biases by distance (Raffel et al., 2020).

    Attributes:
      num_buckets: number of biases of a head, each of some distances, in both directions together; see
        `functional.relative_position_buckets`.
      max_distance: from about here on, all distances of a direction have one bias.
      by_layer: each layer has a table of its own (UMT5); False: all layers of a stack share one.
    """

    num_buckets: int = field(32, up_to(MOST_BUCKETS))
    max_distance: int = field(128, COUNT)
    by_layer: bool = False

    def check(self) -> None:
        # T5: half of the buckets of a direction are exact, and the other half must reach further.
        if self.num_buckets % 4 or self.max_distance <= self.num_buckets // 2:
            raise ConfigError(
                "num_buckets must be a multiple of 4 and max_distance above half of it, "
                f"got {self.num_buckets} and {self.max_distance}"
            )

    def in_scores(self, model: ModelConfig, *, bidirectional: bool, rngs: nnx.Rngs) -> "RelativeBias":
        return RelativeBias(self, model, bidirectional=bidirectional, rngs=rngs)


class Sinusoids(Module):
    """The table of equation 6, computed where it is added."""

    def __init__(self, model: ModelConfig):
        self.scheme, self.shape = model.positions, (model.positions.first + model.max_length, model.position_axis[1])

    def __call__(self, x: Float[Array, "B T D"], positions: Where) -> Float[Array, "B T D"]:
        layout = "concatenated" if self.scheme.concatenated else "interleaved"
        table = F.sinusoidal_positions(*self.shape, base=self.scheme.base, layout=layout)
        return _added(x, table, positions + self.scheme.first)


class LearnedTable(Module):
    """A learned table [first + max_length, D], as large as the embeddings that it is added to."""

    def __init__(self, model: ModelConfig, *, rngs: nnx.Rngs):
        self.first = model.positions.first
        self.table = table(model, rngs, dict((("position", self.first + model.max_length), model.position_axis)))
        scaled = model.scale_embeddings and model.positions.scaled
        self.scale = math.sqrt(reference_size(model, *model.position_axis)) if scaled else 1.0

    def __call__(self, x: Float[Array, "B T D"], positions: Where) -> Float[Array, "B T D"]:
        # In float32, so that the gradient of a position is a sum of many that loses none.
        return _added(x, self.table[...].astype(jnp.float32) * self.scale, positions + self.first)


def _added(x: Array, vectors: Float[Array, "P D"], positions: Where) -> Array:
    """x plus the vectors of its positions; one that the table does not have gives NaN: a gather would clamp it."""
    return x + vectors.at[positions].get(mode="fill", fill_value=jnp.nan).astype(x.dtype)


class Patches(Module):
    """The positions of patches: none. The class token comes first."""

    def __call__(self, x: Float[Array, "B P D"], first: Float[Array, "B E D"] | None) -> Float[Array, "B Q D"]:
        return x if first is None else jnp.concatenate([first, x], axis=1)

    def resized(self, grid: tuple[int, int]) -> "Patches":
        """Returns the positions for another grid of patches."""
        return self


class PatchSinusoids(Patches):
    """`functional.sinusoidal_positions_2d` of the grid that the model was trained on, interpolated to another."""

    def __init__(self, d_model: int, trained: tuple[int, int], grid: tuple[int, int] | None = None, *, base: float):
        self.d_model, self.trained, self.grid, self.base = d_model, trained, grid or trained, base

    def __call__(self, x: Float[Array, "B P D"], first: Float[Array, "B E D"] | None) -> Float[Array, "B Q D"]:
        positions = F.sinusoidal_positions_2d(*self.trained, self.d_model, base=self.base)
        return super().__call__(x + F.interpolate_positions(positions, self.trained, self.grid).astype(x.dtype), first)

    def resized(self, grid: tuple[int, int]) -> "PatchSinusoids":
        return PatchSinusoids(self.d_model, self.trained, grid, base=self.base)


class LearnedPatches(Patches):
    """A learned table [E + P, D]: of what stands before the patches, and of these."""

    def __init__(self, model: ModelConfig, grid: tuple[int, int], extra: int, *, rngs: nnx.Rngs):
        self.grid = grid
        self.table = table(model, rngs, {"position": extra + grid[0] * grid[1], "model": model.d_model})

    def __call__(self, x: Float[Array, "B P D"], first: Float[Array, "B E D"] | None) -> Float[Array, "B Q D"]:
        return super().__call__(x, first) + self.table[...].astype(x.dtype)

    def resized(self, grid: tuple[int, int]) -> "LearnedPatches":
        other, old = nnx.clone(self), self.table[...]
        extra = old.shape[0] - self.grid[0] * self.grid[1]  # what stands before the patches has no place in the grid
        vectors = F.interpolate_positions(old[extra:], self.grid, grid)
        other.grid, other.table = grid, self.table.replace(jnp.concatenate([old[:extra], vectors]))
        return other


class DistanceBias(Module):
    """`functional.alibi_bias`."""

    def __init__(self, num_heads: int):
        self.num_heads = num_heads

    def __call__(self, queries: Int[Array, "b T"], keys: Int[Array, "b S"]) -> Float[Array, "b N T S"]:
        return F.alibi_bias(queries, keys, self.num_heads)


class RelativeBias(Module):
    """A learned bias for each bucket of distances and each head."""

    def __init__(self, config: Relative, model: ModelConfig, *, bidirectional: bool, rngs: nnx.Rngs):
        self.config, self.bidirectional = config, bidirectional
        axes = {"buckets": config.num_buckets, "heads": model.attention.num_heads}
        self.table = kernel(model, rngs, axes, contracted=("buckets",), role="embedding")

    def __call__(self, queries: Int[Array, "b T"], keys: Int[Array, "b S"]) -> Float[Array, "b N T S"]:
        config, distances = self.config, keys[:, None, :] - queries[:, :, None]  # [b T S]
        sizes = {"num_buckets": config.num_buckets, "max_distance": config.max_distance}
        buckets = F.relative_position_buckets(distances, bidirectional=self.bidirectional, **sizes)
        return jnp.moveaxis(self.table[...].astype(jnp.float32)[buckets], -1, 1)  # [b T S N] to [b N T S]
