"""How the next token is drawn from its logits."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from .checks import as_count

# As good as greedy; a smaller temperature would make all large logits infinite, and so alike.
_COLDEST = 1e-30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """The most probable token, or a draw from what a chain of filters leaves: see `sampling`.

    A pytree: another temperature is other data, not another program.
    """

    temperature: Any = None
    top_k: int | None = dataclasses.field(default=None, metadata={"static": True})
    top_p: Any = None
    min_p: Any = None
    repetition_penalty: Any = None

    def __call__(
        self, logits: Float[Array, "B V"], key: Array | None = None, seen: Bool[Array, "B V"] | None = None
    ) -> Int[Array, "B"]:
        """The next token of each row.

        Args:
          logits: of the next token.
          key: for the draw; not needed by `greedy`.
          seen: which tokens stand in the row already; needed for a repetition penalty.

        Raises:
          ValueError: a draw without a key, or a penalty without `seen`.
        """
        if key is None and not self.is_greedy:
            raise ValueError("a sampler that draws needs a key")
        logits = self.filtered(logits, seen)
        tokens = logits.argmax(-1) if self.is_greedy else jax.random.categorical(key, logits)
        return tokens.astype(jnp.int32)

    @property
    def is_greedy(self) -> bool:
        return self.temperature is None

    def filtered(self, logits: Float[Array, "B V"], seen: Bool[Array, "B V"] | None = None) -> Float[Array, "B V"]:
        """The logits that are drawn from, float32; -inf for what is left out. The most probable always stays."""
        logits = logits.astype(jnp.float32)
        if self.repetition_penalty is not None:
            if seen is None:
                raise ValueError("a repetition penalty needs to know which tokens the row has seen")
            penalised = jnp.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = jnp.where(seen, penalised, logits)
        if self.is_greedy:
            return logits
        logits = logits / jnp.maximum(self.temperature, _COLDEST)
        if self.top_k is not None:
            least = lax.top_k(logits, min(self.top_k, logits.shape[-1]))[0][..., -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if self.top_p is not None:
            logits = _nucleus(logits, self.top_p)
        if self.min_p is not None:
            least = logits.max(-1, keepdims=True) + jnp.log(self.min_p)
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return logits


def greedy(*, repetition_penalty: float | None = None) -> Sampler:
    """The most probable token; of several, the lowest id.

    Raises:
      ValueError: as `sampling`.
    """
    _check("repetition_penalty", repetition_penalty)
    return Sampler(repetition_penalty=repetition_penalty)


def sampling(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
) -> Sampler:
    """A draw from softmax(logits / temperature), after these filters, in this order; None leaves one out.

    Args:
      repetition_penalty: a token that stands in the row already has its logit divided by this if it
        is positive, multiplied if not (Keskar et al., 2019); 1 changes nothing.
      temperature: below 1 sharpens, above 1 flattens.
      top_k: of the most probable tokens alone (Fan et al., 2018); those as probable as the k-th stay.
      top_p: of the fewest tokens that together have at least this probability (Holtzman et al., 2020).
      min_p: of the tokens that have at least this share of the highest probability (Nguyen et al., 2024).

    Raises:
      TypeError: a `top_k` that is no integer.
      ValueError: a value out of its range, by the argument's name.
    """
    _check("temperature", temperature)
    _check("top_p", top_p, highest=1.0)
    _check("min_p", min_p, highest=1.0)
    _check("repetition_penalty", repetition_penalty)
    top_k = None if top_k is None else as_count("top_k", top_k)
    return Sampler(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )


def _nucleus(logits: Float[Array, "B V"], top_p: Any) -> Float[Array, "B V"]:
    """-inf for the tokens after the first ones, by falling probability, that together reach `top_p`."""
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounded, the sum may reach 1 before its last terms.
    wanted = (before < top_p) | jnp.greater_equal(top_p, 1.0)
    kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), order, wanted, axis=-1, inplace=False)
    return jnp.where(kept, logits, -jnp.inf)


def _check(name: str, value: float | None, highest: float = math.inf) -> None:
    if value is not None and not (0.0 < value <= highest and value < math.inf):
        raise ValueError(f"{name} must be in (0, {highest}{')' if highest == math.inf else ']'}, got {value}")
