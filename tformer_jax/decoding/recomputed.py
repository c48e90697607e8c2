"""A causal model without a cache, for masks that a cache cannot follow: each token computes its whole row anew."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The tokens so far, in the place of a cache.

    Attributes:
      tokens: [B S], each row from its beginning; 0 where there is none yet.
      lengths: [B], tokens of each row.
    """

    tokens: Any
    lengths: Any

    def resized(self, slots: int) -> "Rows":
        """Returns the same: there is room for as many tokens as the model reads."""
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recomputed:
    """A `models.CausalLM` as `generate` and `stream` take it, under a mask that may depend on all of a row.

    Attributes:
      model: the model.
      mask: static; who sees whom, of a batch as a task has it: "tokens" [B S+1], "lengths" [B], and "segments" [B S+1],
        1 for tokens and 0 for padding.
    """

    model: Any
    mask: Callable[[Mapping[str, Array]], Any] = dataclasses.field(metadata={"static": True})

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """See `CausalLM.logits`."""
        return self.model.logits(hidden)

    def start_cache(self, batch_size: int, length: int) -> Rows:
        """Returns rows without a token, as long as the model reads: a mask may depend on how long they are."""
        tokens = jnp.zeros((batch_size, self.config.max_length), jnp.int32)
        return Rows(tokens, jnp.zeros(batch_size, jnp.int32))

    def extend_hidden(
        self, tokens: Int[Array, "B T"], cache: Rows, *, valid: Bool[Array, "B T"] | None = None, mask: Any = None
    ) -> tuple[Float[Array, "B T D"], Rows]:
        """The states of the next T tokens, of which those that are not `valid` are padding; and the rows with them.

        Raises:
          ValueError: another mask than its own.
        """
        if mask is not None:
            raise ValueError("prefix must be False with Recomputed, whose mask says who sees whom")
        (B, S), valid = cache.tokens.shape, jnp.ones(tokens.shape, bool) if valid is None else valid
        places = cache.lengths[:, None] + jnp.cumsum(valid, axis=1) - 1  # [B T]
        rows = cache.tokens.at[jnp.arange(B)[:, None], jnp.where(valid, places, S)].set(tokens, mode="drop")
        lengths = cache.lengths + valid.sum(1, dtype=jnp.int32)
        segments = (jnp.arange(S + 1) < lengths[:, None]).astype(jnp.int32)  # [B S+1]
        batch = {"tokens": jnp.pad(rows, ((0, 0), (0, 1))), "lengths": lengths, "segments": segments}
        hidden, _ = self.model.hidden(rows, mask=self.mask(batch), segments=segments[:, :-1])  # [B S D]
        wanted = jnp.where(valid, places, 0)[..., None]
        return jnp.take_along_axis(hidden, wanted, axis=1), Rows(rows, lengths)
