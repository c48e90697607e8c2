"""Random orders of which any place is computed by itself: an epoch of a billion rows needs no array of them."""

import functools
import math

import numpy as np

# With 8, or 12, some of the orders of 5 or 6 things come too often; longer ones need fewer rounds.
ROUNDS = 16

# So many places in a row are computed together, and kept: for a few of them, most of the time is NumPy's own.
_BLOCK = 4096


def shuffled(seed: tuple[int, ...], count: int, positions: np.ndarray) -> np.ndarray:
    """Returns what stands at some positions of a random order of 0, 1, ..., count - 1; int64, as many.

    The "generalized Feistel" and the "cycle-walking" cipher of Black & Rogaway (2002, "Ciphers with arbitrary finite
    domains") together: a number x is taken for the pair (x // b, x % b), and each round adds a random function of one
    half to the other, modulo the number of its values, a or b. That permutes the a * b >= count pairs. What comes out
    as count or more, a few in sqrt(count), is put in again until it does not. The random function of a round is the
    x-th number of SplitMix64 (Steele et al., 2014, "Fast splittable pseudorandom number generators") from the key of
    the round. Time and memory grow with the positions alone.

    Args:
      seed: at least one number, none negative; other ones, or another number of them, give another order.
      count: of what is in order, at least 1.
      positions: integers in [0, count), of any shape.
    """
    positions = np.asarray(positions)
    block = int(positions.flat[0]) // _BLOCK if positions.size else 0
    within = positions - block * _BLOCK
    if ((within >= 0) & (within < _BLOCK)).all():
        return _block(seed, count, block)[within]
    return _computed(seed, count, positions)


@functools.lru_cache(maxsize=64)
def _block(seed: tuple[int, ...], count: int, block: int) -> np.ndarray:
    """Returns what stands at the places of a block."""
    return _computed(seed, count, np.arange(block * _BLOCK, min((block + 1) * _BLOCK, count)))


def _computed(seed: tuple[int, ...], count: int, positions: np.ndarray) -> np.ndarray:
    a = math.isqrt(count - 1) + 1
    a += a % 2  # where a and b are odd, every round is an even permutation, and so is all that comes of them
    halves = np.uint64(a), np.uint64(-(-count // a))
    keys = np.random.SeedSequence(seed[0], spawn_key=seed[1:]).generate_state(ROUNDS, np.uint64)
    found = positions.astype(np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        found[outside] = _permuted(found[outside], *halves, keys)
        outside = found >= count
    return found.astype(np.int64)


def _permuted(x: np.ndarray, a: np.uint64, b: np.uint64, keys: np.ndarray) -> np.ndarray:
    """Returns numbers in [0, a * b), uint64, after all rounds."""
    left, right = x // b, x % b
    for even, odd in keys.reshape(-1, 2):
        left = (left + _split_mix(right, even) % a) % a
        right = (right + _split_mix(left, odd) % b) % b
    return left * b + right


def _split_mix(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """Returns the x-th numbers, uint64, that SplitMix64 draws from a key; all sums and products are modulo 2 ** 64."""
    z = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
