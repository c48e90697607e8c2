"""Position schemes: tables added to embeddings or patches, rotation of heads, biases of scores."""

import math

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import COUNT, POSITIVE, ConfigError, Wanted, field, one_of, up_to
from ..functional.relative import MOST_BUCKETS
from .config import POSITIONS, ModelConfig, PositionScheme
from .parameters import kernel, table
from .parametrization import reference_width

Where = Int[Array, "T"] | Int[Array, "B T"]


@POSITIONS.register("none")
class NoPositions(PositionScheme):
    """Nothing tells where a token stands, but the mask (Kazemnejad et al., 2023)."""

    def at_patches(self, model: ModelConfig, grid: tuple[int, int], extra: int, *, rngs: nnx.Rngs) -> "Patches":
        return Patches()


@POSITIONS.register("sinusoidal")
class Sinusoidal(PositionScheme):
    """`functional.sinusoidal_positions`, added to the embeddings (equation 6); of patches, the sinusoids in 2-D."""

    def at_embedding(self, model: ModelConfig, *, rngs: nnx.Rngs) -> "Sinusoids":
        return Sinusoids(model)

    def check_patches(self, model: ModelConfig) -> None:
        if model.d_model % 4:
            raise ConfigError(f"d_model must be divisible by 4 for 2-D sinusoidal positions, got {model.d_model}")

    def at_patches(self, model: ModelConfig, grid: tuple[int, int], extra: int, *, rngs: nnx.Rngs) -> "Patches":
        return PatchSinusoids(model.d_model, grid)


@POSITIONS.register("learned")
class Learned(PositionScheme):
    """A table that is learned, added to the embeddings or patches, the class token's too."""

    def at_embedding(self, model: ModelConfig, *, rngs: nnx.Rngs) -> "LearnedTable":
        return LearnedTable(model, rngs=rngs)

    def at_patches(self, model: ModelConfig, grid: tuple[int, int], extra: int, *, rngs: nnx.Rngs) -> "Patches":
        return LearnedPatches(model, grid, extra, rngs=rngs)


@POSITIONS.register("rotary")
class Rotary(PositionScheme):
    """`functional.apply_rotary`: queries and keys are turned by their positions (Su et al., 2021).

    Attributes:
      base: of the geometric sequence of wavelengths.
      scaling: "none", "linear", "ntk" or "llama3" (Llama 3.1), for contexts that are longer by a factor.
      factor: of scaling; 1 with "none".
      trained_length: of "llama3", the tokens of a context before it became longer; None with the others.
      width: how much of each head is turned, from its beginning; None: all of it.
    """

    base: float = field(10_000.0, POSITIVE)
    scaling: str = field("none", one_of("none", "linear", "ntk", "llama3"))
    factor: float = field(1.0, POSITIVE)
    trained_length: int | None = field(None, COUNT)
    width: int | None = field(
        None, Wanted("be a positive even integer", lambda x: type(x) is int and x > 0 and x % 2 == 0)
    )

    def check(self) -> None:
        if (self.scaling == "none") != (self.factor == 1.0) or self.factor < 1.0:
            raise ConfigError(
                "scaling and factor go together: 'none' with 1, the others with a factor above 1, "
                f"got {self.scaling!r} with {self.factor}"
            )
        if (self.scaling == "llama3") != (self.trained_length is not None):
            raise ConfigError(
                f"trained_length goes with scaling='llama3', which needs it, got {self.trained_length} with {self.scaling!r}"
            )

    def check_model(self, model: ModelConfig) -> None:
        head = model.attention.head_width(model.d_model)
        width = self.width or head
        if width > head:
            raise ConfigError(f"positions.width={width} exceeds the head width {head}")
        if width % 2:
            raise ConfigError(f"positions.name='rotary' turns pairs: the head width must be even, got {width}")
        if self.scaling == "ntk" and width == 2:
            raise ConfigError("positions.scaling='ntk' needs a head width above 2, got 2")

    def turn(self, heads: Float[Array, "B T N H"], positions: Int[Array, "b T"]) -> Float[Array, "B T N H"]:
        how = {"base": self.base, "scaling": self.scaling, "factor": self.factor, "width": self.width}
        return F.apply_rotary(heads, positions, trained_length=self.trained_length, **how)


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
    """T5's learned biases by distance (Raffel et al., 2020), one table for all layers of a stack.

    Attributes:
      num_buckets, max_distance: see `functional.relative_position_buckets`.
    """

    num_buckets: int = field(32, up_to(MOST_BUCKETS))
    max_distance: int = field(128, COUNT)

    def check(self) -> None:
        # T5: half of the buckets of a direction are exact, and the other half must reach further.
        if self.num_buckets % 4 or self.max_distance <= self.num_buckets // 2:
            raise ConfigError(
                "num_buckets must be a multiple of 4 and max_distance above half of it, "
                f"got {self.num_buckets} and {self.max_distance}"
            )

    def in_scores(self, model: ModelConfig, *, bidirectional: bool, rngs: nnx.Rngs) -> "RelativeBias":
        return RelativeBias(self, model, bidirectional=bidirectional, rngs=rngs)


class Sinusoids(nnx.Module):
    """The table of equation 6, computed where it is added."""

    def __init__(self, model: ModelConfig):
        self.shape = (model.max_length, model.d_model)

    def __call__(self, x: Float[Array, "B T D"], positions: Where) -> Float[Array, "B T D"]:
        return _added(x, F.sinusoidal_positions(*self.shape), positions)


class LearnedTable(nnx.Module):
    """A learned table [max_length D], as large as the embeddings that it is added to."""

    def __init__(self, model: ModelConfig, *, rngs: nnx.Rngs):
        self.table = table(model, rngs, {"position": model.max_length, "model": model.d_model})
        self.scale = math.sqrt(reference_width(model)) if model.scale_embeddings else 1.0

    def __call__(self, x: Float[Array, "B T D"], positions: Where) -> Float[Array, "B T D"]:
        # In float32, so that the gradient of a position is a sum of many that loses none.
        return _added(x, self.table[...].astype(jnp.float32) * self.scale, positions)


def _added(x: Array, vectors: Float[Array, "P D"], positions: Where) -> Array:
    """x plus the vectors of its positions; one that the table does not have gives NaN: a gather would clamp it."""
    return x + vectors.at[positions].get(mode="fill", fill_value=jnp.nan).astype(x.dtype)


class Patches(nnx.Module):
    """The positions of patches: none. The class token comes first."""

    def __call__(self, x: Float[Array, "B P D"], first: Float[Array, "B E D"] | None) -> Float[Array, "B Q D"]:
        return x if first is None else jnp.concatenate([first, x], axis=1)

    def resized(self, grid: tuple[int, int]) -> "Patches":
        """Returns the positions for another grid of patches."""
        return self


class PatchSinusoids(Patches):
    """`functional.sinusoidal_positions_2d` of the grid that the model was trained on, interpolated to another."""

    def __init__(self, d_model: int, trained: tuple[int, int], grid: tuple[int, int] | None = None):
        self.d_model, self.trained, self.grid = d_model, trained, grid or trained

    def __call__(self, x: Float[Array, "B P D"], first: Float[Array, "B E D"] | None) -> Float[Array, "B Q D"]:
        positions = F.sinusoidal_positions_2d(*self.trained, self.d_model)
        return super().__call__(x + F.interpolate_positions(positions, self.trained, self.grid).astype(x.dtype), first)

    def resized(self, grid: tuple[int, int]) -> "PatchSinusoids":
        return PatchSinusoids(self.d_model, self.trained, grid)


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


class DistanceBias(nnx.Module):
    """`functional.alibi_bias`."""

    def __init__(self, num_heads: int):
        self.num_heads = num_heads

    def __call__(self, queries: Int[Array, "b T"], keys: Int[Array, "b S"]) -> Float[Array, "b N T S"]:
        return F.alibi_bias(queries, keys, self.num_heads)


class RelativeBias(nnx.Module):
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
