"""Parallel sequences of given lengths, of tokens that all differ."""

import itertools

from tformer_jax.data.ragged import Ragged


def parallel(lengths):
    """One list of token lists per side; every token occurs once in all."""
    numbers = itertools.count(1)
    pairs = [[[next(numbers) for _ in range(length)] for length in pair] for pair in lengths]
    return tuple(list(side) for side in zip(*pairs, strict=True))


def ragged(lengths):
    """The same as one `Ragged` per side."""
    return tuple(map(Ragged.from_lists, parallel(lengths)))
