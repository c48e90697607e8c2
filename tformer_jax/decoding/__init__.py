"""Decoding: pure functions over a model's `encode`, `start_cache` and `extend`."""

from .search import Hypotheses, beam_search, greedy_search

__all__ = ["Hypotheses", "beam_search", "greedy_search"]
