"""The request for one attention, as far as it decides which kernel can take it."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax

from ..masks import AttentionMask, Mask
from ..numbers import is_off
from .scores import ScoreOptions


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of a kernel, and where it runs.

    Attributes:
      q, k, v, bias: arrays, or what has their shapes and dtypes.
      mask, options, key: as a kernel is given them.
      split_queries: whether each device is given some of the queries, by their positions, and all keys.
      platform: "cpu", "gpu" or "tpu"; by default that of this process.
    """

    q: Any
    k: Any
    v: Any
    mask: Mask
    bias: Any
    options: ScoreOptions
    key: Any
    split_queries: bool = False
    platform: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "platform", self.platform or jax.default_backend())

    @property
    def lengths(self) -> tuple[int, int]:
        """T and S."""
        return self.q.shape[1], self.k.shape[1]

    @property
    def here(self) -> bool:
        """Says whether this process runs on the platform, so that its devices may be asked."""
        return self.platform == jax.default_backend()

    @property
    def drops(self) -> bool:
        """Says whether weights may be dropped."""
        return self.key is not None and not is_off(self.options.dropout_rate)

    def why_dense(self) -> str | None:
        """Says what makes the mask one that accelerators' kernels could read as a [T S] array alone, or None.

        They know causality, windows, lengths and segments of tokens that stand in order.
        """
        if not isinstance(self.mask, AttentionMask):
            return "a mask of several by `|` or `~` would be held as [T S]"
        names = ("prefix", "explicit", "query_positions", "key_positions")
        held = [name for name in names if getattr(self.mask, name) is not None]
        if self.split_queries:
            return "a mesh splits the queries: their positions are no array indices"
        return f"the mask's {held[0]} would be held as [T S]" if held else None

    def check(self, kernel: str, refusal: Callable[["Request"], str | None]) -> None:
        """Raises:
        ValueError: something rules the kernel out.
        """
        if why := refusal(self):
            raise ValueError(f"{kernel} attention cannot be taken: {why}; take implementation='auto'")


def first(reasons: Iterable[tuple[Any, str]]) -> str | None:
    """The first text that is marked as true."""
    return next((why for holds, why in reasons if holds), None)


def band(mask: AttentionMask, T: int, S: int) -> tuple[int | None, int | None]:
    """The number of positions before and after its own a query may see, by causality and window; None hides nothing."""
    before, after = mask.reach or (T, S)
    after = 0 if mask.causal else after
    return None if before >= T - 1 else before, None if after >= S - 1 else after
