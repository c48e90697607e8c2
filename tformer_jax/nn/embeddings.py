"""The two ends of the residual stream: token tables and what is done to their vectors, the output projection."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from .. import functional as F
from ..config import COUNT, ENDS, POSITIVE, Component, ConfigError, field, one_of
from ..functional.numbers import as_integer
from ..functional.products import product
from ..functional.quantization import Weight
from .config import ModelConfig
from .layers import Linear
from .module import Module
from .parameters import kernel, table, zeros
from .parametrization import divided_by_growth, reference_size
from .partitioning import spread_stream, whole_vectors


class TextModelConfig(ModelConfig):
    """The config that all models of text have.

    Attributes:
      vocab_size: V, the vocabulary size (of the target side, and of the source, when shared).
      max_length: length of the longest sequence, in tokens.
      scale_embeddings: multiply embeddings by √d_model (Vaswani et al., section 3.4), or by the root of their own width.
      embedding_width: E, the width of the vectors of tokens, which are mapped to d_model, and the states back for the
        output (ALBERT; Lan et al., 2020); None: d_model, without maps.
      embedding_projection: where the map to d_model stands: "first", before positions, without a bias (OPT), or "last",
        after positions, norm and dropout, which then are of width E, with a bias (ELECTRA).
      others: see `ModelConfig`.
    """

    vocab_size: int = field(wanted=COUNT, part=ENDS)
    max_length: int = field(512, COUNT, part=ENDS)
    scale_embeddings: bool = True
    embedding_width: int | None = field(None, COUNT)
    embedding_projection: str = field("first", one_of("first", "last"))

    def check(self) -> None:
        super().check()
        if self.embedding_projection != "first" and self.embedding_width is None:
            raise ConfigError(
                f"embedding_projection={self.embedding_projection!r} needs embedding_width: give it, or leave 'first'"
            )

    @property
    def token_axis(self) -> tuple[str, int]:
        """The name and size of the axis of the vectors of tokens."""
        return ("model", self.d_model) if self.embedding_width is None else ("embedding", self.embedding_width)

    @property
    def position_axis(self) -> tuple[str, int]:
        """The name and size of the axis of what positions are added to."""
        return self.token_axis if self.embedding_projection == "last" else ("model", self.d_model)


class OutputConfig(Component):
    """The projection of states to the vocabulary.

    Attributes:
      tie: use the (target) embedding, transposed (Press & Wolf, 2017).
      bias: add biases to the logits (BERT, Phi).
      scale: multiplies the logits, but for the bias (T5: 1 / √d_model); None: nothing does.
      softcap: c of c tanh(logit / c), on the logits; None: no cap.
    """

    tie: bool = field(True, part=ENDS)
    bias: bool = field(False, part=ENDS)
    scale: float | None = field(None, POSITIVE, part=ENDS)
    softcap: float | None = field(None, POSITIVE, part=ENDS)


class Embedding(Module):
    """A table of vectors of tokens, scaled by √E on the way out if the config says so: the E at m = 1, see `parametrization`."""

    def __init__(self, vocab_size: int, model: TextModelConfig, *, axis: str = "vocab", rngs: nnx.Rngs):
        self.vocab_size = vocab_size
        self.table = table(model, rngs, dict(((axis, vocab_size), model.token_axis)))
        self.scale = math.sqrt(reference_size(model, *model.token_axis)) if model.scale_embeddings else 1.0
        self.compute_dtype = model.dtypes.compute

    def __call__(self, tokens: Int[Array, "B T"], name: str = "tokens") -> Float[Array, "B T E"]:
        """The vectors of `tokens`, which errors call `name`.

        Within a compiled program a token out of the vocabulary gets NaN rather than another token's
        vector: a gather would clamp it silently.

        Raises:
          ValueError: a token outside [0, V), where the values are known (not under `jax.jit`).
        """
        check_tokens(tokens, self.vocab_size, name)
        # A negative index would count from the end; V is out of range and fills with NaN.
        tokens = tokens.astype(jnp.result_type(tokens, jnp.int32))  # V may be too large for a narrow type
        x = self._vectors(jnp.where(tokens < 0, self.vocab_size, tokens))  # [B T E]
        return spread_stream(x.astype(self.compute_dtype) * self.scale)

    def _vectors(self, index: Int[Array, "B T"]) -> Float[Array, "B T E"]:
        """The vectors, float32, so that a token's gradient is the sum over its occurrences: 16 bits stop at 256 of them."""
        held = self.table[...]
        if isinstance(held, F.Int8Matrix):
            return held.of_outputs(index)
        vectors = whole_vectors(held).astype(jnp.float32)  # [V E]
        return vectors.at[index].get(mode="fill", fill_value=jnp.nan)

    @property
    def output_matrix(self) -> Float[Weight, "E V"]:
        """The table as a projection to the vocabulary."""
        held = self.table[...]
        # In eight bits it is held as this projection.
        return held if isinstance(held, F.Int8Matrix) else whole_vectors(held).T


def check_tokens(tokens: Array | np.ndarray, vocab_size: int, name: str) -> None:
    """Refuses what are no ids [B T], and ids out of the vocabulary, on the host; while tracing, and of rows that other processes
    hold, values are unknown.

    Raises:
      TypeError: no integers.
      ValueError: another rank, or an id out of the vocabulary: names the first one and where it stands.
    """
    if not hasattr(tokens, "dtype") or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"{name} must be an array of integers, got {getattr(tokens, 'dtype', type(tokens).__name__)}")
    if tokens.ndim != 2:
        raise ValueError(f"{name} must have two axes, rows and tokens, got shape {tokens.shape}")
    if isinstance(tokens, jax.core.Tracer) or not getattr(tokens, "is_fully_addressable", True):
        return
    outside = np.argwhere((np.asarray(tokens) < 0) | (np.asarray(tokens) >= vocab_size))
    if len(outside):
        at = tuple(map(int, outside[0]))
        raise ValueError(f"{name}{list(at)} is {int(tokens[at])}, outside the vocabulary [0, {vocab_size})")


def as_token(name: str, value: Any, vocab_size: int) -> int:
    """A token id.

    Raises:
      TypeError: no integer.
      ValueError: outside [0, vocab_size).
    """
    value = as_integer(name, value)
    if not 0 <= value < vocab_size:
        raise ValueError(f"{name}={value} is outside the vocabulary [0, {vocab_size})")
    return value


class Positions(Module):
    """The beginning of the stream: what the position scheme adds to embeddings, if anything; then norm and dropout.

    Where embeddings have a width of their own, they are mapped to the model's: before all that, or after.
    """

    def __init__(self, model: TextModelConfig, *, rngs: nnx.Rngs):
        self.model = model
        self.scheme = model.positions.at_embedding(model, rngs=rngs)
        self.norm = model.norm.make(model, dict((model.position_axis,))) if model.embedding_norm else None
        last = model.embedding_projection == "last"
        to_model = lambda: Linear(model, model.token_axis, ("model", model.d_model), role="input", bias=last, rngs=rngs)
        self.projection = None if model.embedding_width is None else to_model()

    def __call__(
        self,
        x: Float[Array, "B T E"],
        positions: Int[Array, "T"] | Int[Array, "B T"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        """x with its positions, by default 0 .. T-1, normed if `embedding_norm`, dropped out; as wide as the model.

        Raises:
          ValueError: T exceeds max_length, where no positions are given.
        """
        length, limit = x.shape[1], self.model.max_length
        if positions is None and length > limit:
            raise ValueError(f"a sequence of {length} tokens does not fit max_length={limit}")
        place = None if self.projection is None else self.model.embedding_projection
        x = self.projection(x) if place == "first" else x  # [B T D]
        if self.scheme is not None:
            x = self.scheme(x, jnp.arange(length) if positions is None else positions)
        x = x if self.norm is None else self.norm(x)
        x = F.dropout(x, self.model.dropout_rate, key)
        return self.projection(x) if place == "last" else x


class Output(Module):
    """The projection to the vocabulary: its own matrix, or the embedding table transposed.

    It takes states as wide as the vectors of tokens: `projected` makes them so, unless the model does it by itself,
    `mapped`.
    """

    def __init__(self, model: TextModelConfig, *, mapped: bool = False, rngs: nnx.Rngs):
        self.model, width = model, model.token_axis
        axes = dict((width, ("vocab", model.vocab_size)))
        self.w = None if model.output.tie else kernel(model, rngs, axes, contracted=width[:1], role="output")
        self.b = zeros(model, {"vocab": model.vocab_size}) if model.output.bias else None
        from_model = lambda: Linear(model, ("model", model.d_model), width, role="output", bias=False, rngs=rngs)
        self.projection = None if mapped or model.embedding_width is None else from_model()

    def projected(self, states: Float[Array, "B T D"]) -> Float[Array, "B T E"]:
        """The states in the width of the vectors of tokens: what `__call__` and the fused loss take."""
        return states if self.projection is None else self.projection(states)

    def weights(self, embedding: Embedding) -> tuple[Float[Weight, "E V"], Float[Array, "V"] | None]:
        """W_o, the matrix * scale / m (see `parametrization`), and its bias, for `functional.fused_cross_entropy`."""
        w, scale = embedding.output_matrix if self.w is None else self._own, self.model.output.scale
        w = divided_by_growth(self.model, w if scale is None else w * scale, self.model.token_axis[0])
        return w, None if self.b is None else self.b[...]

    @property
    def _own(self) -> Float[Weight, "E V"]:
        held = self.w[...]
        return held if isinstance(held, F.Int8Matrix) else whole_vectors(held.T).T

    def __call__(self, hidden: Float[Array, "B T E"], embedding: Embedding) -> Float[Array, "B T V"]:
        """W_o h_t in the policy's output dtype: equation 10 before its softmax."""
        w, b = self.weights(embedding)
        logits = product(hidden, w.astype(hidden.dtype), dtype=jnp.float32)
        logits = logits if b is None else logits + b
        cap = self.model.output.softcap
        logits = logits if cap is None else cap * jnp.tanh(logits / cap)
        return logits.astype(self.model.dtypes.output)
