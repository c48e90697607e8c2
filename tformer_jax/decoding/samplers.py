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
        logits = self._prepared(logits, seen)
        if self.is_greedy:
            return logits.argmax(-1).astype(jnp.int32)
        key = as_key("key", key)
        if self.top_k is None and self.top_p is None:
            return jax.random.categorical(key, self._left(logits)).astype(jnp.int32)
        return self._drawn(logits, key).astype(jnp.int32)

    def _drawn(self, logits: Float[Array, "B V"], key: Array) -> Int[Array, "B"]:
        """A draw from what is left by `top_k` and `top_p`, each row by one number for the tokens by falling probability.

        The number finds the same token among the likeliest few as among all, which have to be sorted for it: rows do
        not depend on which of them need all.
        """
        number = jax.random.uniform(key, (len(logits), 1))

        def among_all() -> Array:
            left = self._left(logits)
            order = jnp.argsort(left, axis=-1, descending=True, stable=True)
            return _first_beyond(number, jnp.take_along_axis(left, order, axis=-1), order)

        # More than `top_k`, so that it is seen where others are as probable as the k-th.
        few = _LIKELY if self.top_k is None else 1 << self.top_k.bit_length()
        if few >= logits.shape[-1]:
            return among_all()
        likely, order = lax.top_k(logits, few)  # of equal ones the first, as a stable sort
        if self.top_k is None:
            total = _total(logits)
            left = jnp.where(_wanted(likely, total, self.top_p), likely, -jnp.inf)
            enough = _reaches(likely, total, self.top_p)
        else:
            least = jnp.where(jnp.arange(few) < self.top_k, likely, jnp.inf).min(-1, keepdims=True)
            left, enough = jnp.where(likely < least, -jnp.inf, likely), likely.min(-1) < least[:, 0]
            if self.top_p is not None:
                left = jnp.where(_wanted(left, _total(left), self.top_p), left, -jnp.inf)
        left = self._probable(left)
        return lax.cond(enough.all(), lambda: _first_beyond(number, left, order), among_all)

    @property
    def is_greedy(self) -> bool:
        return self.temperature is None

    def filtered(self, logits: Float[Array, "B V"], seen: Bool[Array, "B V"] | None = None) -> Float[Array, "B V"]:
        """Returns the logits to draw from, float32; -inf for what is left out. The most probable always stays."""
        logits = self._prepared(logits, seen)
        return logits if self.is_greedy else self._left(logits)

    def _prepared(self, logits: Array, seen: Array | None) -> Float[Array, "B V"]:
        """The logits, float32, with the penalty and the temperature."""
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
        return logits / jnp.maximum(jnp.float32(self.temperature), _COLDEST * jnp.maximum(largest, 1.0))

    def _left(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """Returns what `top_k`, `top_p` and `min_p` leave."""
        if self.top_k is not None:
            # The least of them, not the last: XLA sorts the whole vocabulary for a slice of what `top_k` finds.
            least = lax.top_k(logits, min(self.top_k, logits.shape[-1]))[0].min(-1, keepdims=True)
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if self.top_p is not None:
            order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
            wanted = _wanted(jnp.take_along_axis(logits, order, axis=-1), _total(logits), self.top_p)
            kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), order, wanted, axis=-1, inplace=False)
            logits = jnp.where(kept, logits, -jnp.inf)
        return self._probable(logits)

    def _probable(self, logits: Float[Array, "B n"]) -> Float[Array, "B n"]:
        """Returns what `min_p` leaves."""
        if self.min_p is None:
            return logits
        least = logits.max(-1, keepdims=True) + jnp.log(jnp.float32(self.min_p))
        return jnp.where(logits < least, -jnp.inf, logits)


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


def _total(logits: Float[Array, "B n"]) -> Float[Array, "B 1"]:
    """log Σ exp(logits)."""
    return jax.nn.logsumexp(logits, axis=-1, keepdims=True)


def _wanted(logits: Float[Array, "B n"], total: Float[Array, "B 1"], top_p: Any) -> Bool[Array, "B n"]:
    """Tells which of the logits, by falling probability, are the first that together reach `top_p`."""
    probabilities = jnp.exp(logits - total)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounded, the sum may reach 1 before its last terms.
    return (before < jnp.float32(top_p)) | jnp.greater_equal(top_p, 1.0)


def _reaches(logits: Float[Array, "B n"], total: Float[Array, "B 1"], top_p: Any) -> Bool[Array, "B"]:
    """Tells whether the likeliest few have this probability, so that nothing of a nucleus is beyond them."""
    reached = jnp.exp(logits - total).sum(-1)
    return (reached > jnp.float32(top_p)) & (jnp.float32(top_p) < 1.0)


def _first_beyond(number: Float[Array, "B 1"], logits: Float[Array, "B n"], tokens: Int[Array, "B n"]) -> Array:
    """The first token up to which more than a share `number` of the probability lies: one draw of inverse sampling."""
    upto = jnp.cumsum(jnp.exp(logits - logits.max(-1, keepdims=True)), axis=-1)
    place = (upto <= number * upto.max(-1, keepdims=True)).sum(-1, keepdims=True)
    return jnp.take_along_axis(tokens, jnp.minimum(place, tokens.shape[-1] - 1), axis=-1)[:, 0]


def _optional(name: str, value: Number | None, within: Range) -> float | Array | None:
    return None if value is None else as_number(name, value, within)
