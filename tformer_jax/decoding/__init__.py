"""Decoding: pure functions over a model's cached steps."""

from .generation import generate, stream
from .recomputed import Recomputed
from .samplers import Sampler, greedy, sampling
from .search import Hypotheses, beam_search, greedy_search

__all__ = [
    "Hypotheses",
    "Recomputed",
    "Sampler",
    "beam_search",
    "generate",
    "greedy",
    "greedy_search",
    "sampling",
    "stream",
]
