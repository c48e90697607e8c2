"""The two ends of the residual stream: token tables, positions, the output projection."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import TransformerConfig
from .layers import Norm
from .parameters import kernel, table, zeros
from .parametrization import divided_by_growth, reference_width
from .partitioning import spread_stream, whole_vectors


class Embedding(nnx.Module):
    """A table of vectors of tokens, scaled by √D on the way out if the config says so: the D of `reference_width`."""

    def __init__(self, vocab_size: int, config: TransformerConfig, *, rngs: nnx.Rngs, axis: str = "vocab"):
        self.table = table(config, rngs, {axis: vocab_size, "model": config.d_model})
        self.scale = math.sqrt(reference_width(config)) if config.scale_embeddings else 1.0
        self.compute_dtype = config.dtypes.compute

    def __call__(self, tokens: Int[Array, "B T"], name: str = "tokens") -> Float[Array, "B T D"]:
        """The vectors of `tokens`, which errors call `name`.

        Within a compiled program a token out of the vocabulary gets NaN rather than another token's
        vector: a gather would clamp it silently.

        Raises:
          ValueError: a token outside [0, V), where the values are known (not under `jax.jit`).
        """
        vocab_size = self.table.shape[0]
        check_tokens(tokens, vocab_size, name)
        # A negative index would count from the end; V is out of range and fills with NaN.
        tokens = tokens.astype(jnp.result_type(tokens, jnp.int32))  # V may be too large for a narrow type
        index = jnp.where(tokens < 0, vocab_size, tokens)
        # In float32, so that the gradient of a token is the sum over its occurrences: 16 bits stop at 256 of them.
        table = whole_vectors(self.table[...]).astype(jnp.float32)
        vectors = table.at[index].get(mode="fill", fill_value=jnp.nan)
        return spread_stream(vectors.astype(self.compute_dtype) * self.scale)


def check_tokens(tokens: Array | np.ndarray, vocab_size: int, name: str) -> None:
    """Refuses what are no ids [B T], and ids out of the vocabulary, on the host; while tracing, values are unknown.

    Raises:
      TypeError: no integers.
      ValueError: another rank, or an id out of the vocabulary: names the first one and where it stands.
    """
    if not hasattr(tokens, "dtype") or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"{name} must be an array of integers, got {getattr(tokens, 'dtype', type(tokens).__name__)}")
    if tokens.ndim != 2:
        raise ValueError(f"{name} must have two axes, rows and tokens, got shape {tokens.shape}")
    if isinstance(tokens, jax.core.Tracer):
        return
    outside = np.argwhere((np.asarray(tokens) < 0) | (np.asarray(tokens) >= vocab_size))
    if len(outside):
        at = tuple(map(int, outside[0]))
        raise ValueError(f"{name}{list(at)} is {int(tokens[at])}, outside the vocabulary [0, {vocab_size})")


class Positions(nnx.Module):
    """A [max_length, D] table added to the embeddings, sinusoidal (equation 6) or learned; then norm and dropout.

    Other position schemes act within attention and add nothing here.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        # As large as the embeddings that it is added to.
        axes = {"position": config.max_length, "model": config.d_model}
        self.table = table(config, rngs, axes) if config.positions == "learned" else None
        self.scale = math.sqrt(reference_width(config)) if config.scale_embeddings else 1.0
        self.norm = Norm(config) if config.embedding_norm else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "T"] | Int[Array, "B T"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        """x plus the vectors of its positions, by default 0 .. T-1, normed if `embedding_norm`, dropped out.

        A position that the table does not have gives NaN: a gather would clamp it silently.

        Raises:
          ValueError: T exceeds max_length, where no positions are given.
        """
        length, limit = x.shape[1], self.config.max_length
        if positions is None and length > limit:
            raise ValueError(f"a sequence of {length} tokens does not fit max_length={limit}")
        vectors = None
        if self.config.positions == "sinusoidal":
            vectors = F.sinusoidal_positions(limit, self.config.d_model)
        elif self.table is not None:
            vectors = self.table[...].astype(jnp.float32) * self.scale  # float32 as in `Embedding`
        if vectors is not None:
            index = jnp.arange(length) if positions is None else positions
            x = x + vectors.at[index].get(mode="fill", fill_value=jnp.nan).astype(x.dtype)
        x = x if self.norm is None else self.norm(x)
        return F.dropout(x, self.config.dropout_rate, key)


class PositionBias(nnx.Module):
    """The bias of attention scores by distance: ALiBi, T5's learned buckets, or nothing."""

    def __init__(self, config: TransformerConfig, *, bidirectional: bool, rngs: nnx.Rngs):
        self.config, self.bidirectional = config, bidirectional
        axes, how = {"buckets": config.relative_buckets, "heads": config.num_heads}, {"role": "embedding"}
        learned = config.positions == "relative"
        self.table = kernel(config, rngs, axes, contracted=["buckets"], **how) if learned else None

    def __call__(self, mask: F.Mask, query_length: int, key_length: int) -> Float[Array, "b N T S"] | None:
        """The bias for the positions of `mask`; b is 1 where all rows have the same. None if there is none."""
        config = self.config
        queries, keys = mask.query_block(0, query_length), mask.key_block(0, key_length)
        if config.positions == "alibi":
            return F.alibi_bias(queries, keys, config.num_heads)
        if self.table is None:
            return None
        distances = keys[:, None, :] - queries[:, :, None]
        buckets = F.relative_position_buckets(
            distances,
            bidirectional=self.bidirectional,
            num_buckets=config.relative_buckets,
            max_distance=config.relative_max_distance,
        )
        return jnp.moveaxis(self.table[...].astype(jnp.float32)[buckets], -1, 1)


class Output(nnx.Module):
    """The projection to the vocabulary: its own matrix, or the embedding table transposed."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs, bias: bool = False):
        self.config = config
        axes = {"model": config.d_model, "vocab": config.vocab_size}
        self.w = None if config.tie_output else kernel(config, rngs, axes, contracted=["model"], role="output")
        self.b = zeros(config, {"vocab": config.vocab_size}) if bias else None

    def weights(self, embedding: Embedding) -> tuple[Float[Array, "D V"], Float[Array, "V"] | None]:
        """W_o and its bias, for `functional.fused_cross_entropy`; W_o is the matrix / m, see `parametrization`."""
        w = embedding.table[...].T if self.w is None else self.w[...]
        return divided_by_growth(self.config, w), None if self.b is None else self.b[...]

    def __call__(self, hidden: Float[Array, "B T D"], embedding: Embedding) -> Float[Array, "B T V"]:
        """W_o h_t in the policy's output dtype: equation 10 before its softmax."""
        w, b = self.weights(embedding)
        logits = jnp.einsum("BTD,DV->BTV", hidden, w.astype(hidden.dtype), preferred_element_type=jnp.float32)
        logits = logits if b is None else logits + b
        cap = self.config.output_softcap
        logits = logits if cap is None else cap * jnp.tanh(logits / cap)
        return logits.astype(self.config.dtypes.output)
