"""Samplers: how the next token is drawn from its logits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from ..functional.checks import as_array, as_key, width
from ..functional.numbers import RATE, Number, Range, as_integer, as_number

# For each unit of the largest logit: as good as greedy; a smaller temperature would make all large logits infinite,
# and so alike.
_COLDEST = 1e-30
# Tokens among which a nucleus is looked for before all are sorted.
_LIKELY = 256
_LARGEST = float(jnp.finfo(jnp.float32).max)

_ABOVE_0 = Range("in (0, inf)", lambda x: (0 < x) & (x <= _LARGEST), f"; at most {_LARGEST:.3g}, as it is a float32")
_PROBABILITY = Range("in (0, 1.0]", RATE.holds)


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
          TypeError: logits that are no array, or a key that is none.
          ValueError: logits that are not [B V] or of no token, a draw without a key, or a penalty without `seen`.
        """
        if key is None and not self.is_greedy:
            raise ValueError("sampling needs a random key: pass key=jax.random.key(0), or take decoding.greedy()")
        logits = self.filtered(logits, seen)
        tokens = logits.argmax(-1) if self.is_greedy else jax.random.categorical(as_key("key", key), logits)
        return tokens.astype(jnp.int32)

    @property
    def is_greedy(self) -> bool:
        return self.temperature is None

    def filtered(self, logits: Float[Array, "B V"], seen: Bool[Array, "B V"] | None = None) -> Float[Array, "B V"]:
        """Returns the logits to draw from, float32; -inf for what is left out. The most probable always stays."""
        logits = as_array("logits", logits, "B V", kind="floats").astype(jnp.float32)
        width("logits", logits)
        if self.repetition_penalty is not None:
            if seen is None:
                raise ValueError("repetition_penalty needs `seen`: which tokens each row contains already, [B V]")
            seen = as_array("seen", seen, shape=logits.shape)
            penalty = jnp.float32(self.repetition_penalty)
            penalised = jnp.where(logits > 0, logits / penalty, logits * penalty)
            logits = jnp.where(seen, penalised, logits)
        if self.is_greedy:
            return logits
        largest = jnp.where(jnp.isfinite(logits), jnp.abs(logits), 0.0).max(-1, keepdims=True)
        logits = logits / jnp.maximum(jnp.float32(self.temperature), _COLDEST * jnp.maximum(largest, 1.0))
        if self.top_k is not None:
            # The least of them, not the last: XLA sorts the whole vocabulary for a slice of what `top_k` finds.
            least = lax.top_k(logits, min(self.top_k, logits.shape[-1]))[0].min(-1, keepdims=True)
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if self.top_p is not None:
            logits = _nucleus(logits, jnp.float32(self.top_p))
        if self.min_p is not None:
            least = logits.max(-1, keepdims=True) + jnp.log(jnp.float32(self.min_p))
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return logits


def greedy(*, repetition_penalty: Number | None = None) -> Sampler:
    """The most probable token; of several, the lowest id.

    Raises:
      ValueError: as `sampling`.
    """
    return Sampler(repetition_penalty=_optional("repetition_penalty", repetition_penalty, _ABOVE_0))


def sampling(
    *,
    temperature: Number = 1.0,
    top_k: int | None = None,
    top_p: Number | None = None,
    min_p: Number | None = None,
    repetition_penalty: Number | None = None,
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
      TypeError: a `top_k` that is no integer, or a value that is no number.
      ValueError: a known value out of its range, by the argument's name. (A traced one cannot be refused: it becomes
        NaN, and no draw from such logits means anything.)
    """
    return Sampler(
        temperature=as_number("temperature", temperature, _ABOVE_0),
        top_k=None if top_k is None else as_integer("top_k", top_k, least=1),
        top_p=_optional("top_p", top_p, _PROBABILITY),
        min_p=_optional("min_p", min_p, _PROBABILITY),
        repetition_penalty=_optional("repetition_penalty", repetition_penalty, _ABOVE_0),
    )


def _nucleus(logits: Float[Array, "B V"], top_p: Any) -> Float[Array, "B V"]:
    """-inf for the tokens after the first ones, by falling probability, that together reach `top_p`.

    They are looked for among the likeliest few, and among all, which have to be sorted for it, only where these few of
    some row do not reach `top_p`.
    """
    V, total = logits.shape[-1], jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    def among_all() -> Array:
        order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
        return _kept(logits, order, top_p, total)

    if V <= _LIKELY:
        return among_all()
    likely, order = lax.top_k(logits, _LIKELY)  # of equal ones the first, as a stable sort
    reached = jnp.exp(likely - total).sum(-1)
    # A row of as many as are not hidden by another filter has nothing beyond them.
    enough = ((reached > top_p) & (top_p < 1.0)) | (likely.min(-1) == -jnp.inf)
    return lax.cond(enough.all(), lambda: _kept(logits, order, top_p, total), among_all)


def _kept(logits: Float[Array, "B V"], order: Int[Array, "B n"], top_p: Any, total: Float[Array, "B 1"]) -> Array:
    """-inf for the tokens that `order`, by falling probability, has after those that reach `top_p`, or does not have."""
    probabilities = jnp.exp(jnp.take_along_axis(logits, order, axis=-1) - total)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounded, the sum may reach 1 before its last terms.
    wanted = (before < top_p) | jnp.greater_equal(top_p, 1.0)
    kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), order, wanted, axis=-1, inplace=False)
    return jnp.where(kept, logits, -jnp.inf)


def _optional(name: str, value: Number | None, within: Range) -> float | Array | None:
    return None if value is None else as_number(name, value, within)
