"""Orders computed place by place: permutations, as uniform as those of a shuffled deck, the same on every machine."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from tformer_jax.data.batches.order import ROUNDS, _split_mix, shuffled

examples = settings(derandomize=True, deadline=None, max_examples=60)
# Of sound orders one in 10,000 tests would fail; seeds are fixed, so that it is always the same ones.
LEAST = 1e-4


def orders(count, seeds, epoch=1):
    """One order of `count` a row, [seeds count]."""
    return np.stack([shuffled((seed, epoch), count, np.arange(count)) for seed in range(seeds)])


@pytest.mark.parametrize("first", range(1, 2001, 250))
def test_short_orders_have_every_number_once(first):
    """Examples would be seen twice in an epoch, and others never: every count up to 2,000."""
    for count in range(first, first + 250):
        assert np.array_equal(np.sort(shuffled((count, 0), count, np.arange(count))), np.arange(count)), count


@pytest.mark.parametrize("count", [65_536, 65_537, 99_991, 123_456, 1_000_000])
def test_long_orders_have_every_number_once(count):
    """Examples would be seen twice in an epoch, and others never."""
    assert (np.bincount(shuffled((0, 3), count, np.arange(count)), minlength=count) == 1).all()


@pytest.mark.parametrize("count", [1, 4096, 4097, 10_000])
def test_places_are_the_same_alone_and_together(count):
    """Another process, or a batch at the end of a block of places, would have other examples."""
    whole = shuffled((5, 2), count, np.arange(count))
    for some in (np.arange(4000, 4200), np.array([4095]), np.array([9999, 0, 4096]), np.arange(0)):
        some = some[some < count]
        np.testing.assert_array_equal(shuffled((5, 2), count, some), whole[some])


@examples
@given(st.integers(1, 1 << 62), st.integers(0, 9), st.data())
def test_places_of_any_order_are_numbers_of_it_and_differ(count, seed, data):
    """The order of an epoch that no memory holds would repeat numbers, or have some that are too large."""
    positions = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=50, unique=True)))
    found = shuffled((seed, 0), count, positions)
    assert found.dtype == np.int64
    assert len(set(found.tolist())) == len(positions)
    assert 0 <= found.min() and found.max() < count


@examples
@given(st.integers(1, 3000), st.data())
def test_a_place_does_not_depend_on_what_else_is_asked(count, data):
    """Batch i would depend on how many rows a process reads of it."""
    positions = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=20)), np.int64)
    whole = shuffled((0, 1), count, np.arange(count))
    assert np.array_equal(shuffled((0, 1), count, positions), whole[positions])
    assert all(int(shuffled((0, 1), count, p)) == whole[p] for p in positions[:3])


def test_seeds_and_epochs_differ():
    """Two epochs, or two orders within one, would be the same: also where numbers are 0, or one is left out."""
    seeds = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 2), (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0, 0)]
    found = [shuffled(seed, 1000, np.arange(1000)) for seed in seeds]
    agree = [(a == b).sum() for at, a in enumerate(found) for b in found[:at]]
    assert max(agree) < 10  # 1 on average


# Uniformity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 5])
def test_all_orders_of_few_are_equally_frequent(count):
    """Some orders of a few buckets or rows would come more often than others."""
    found = Counter(map(tuple, orders(count, 5000).tolist()))
    counts = [*found.values(), *[0] * (math.factorial(count) - len(found))]
    assert stats.chisquare(counts).pvalue > LEAST


@pytest.mark.parametrize("count", [10, 37])
def test_an_example_stands_anywhere_equally_often(count):
    """Some examples would come early in most epochs."""
    found = orders(count, 3000)
    p = [stats.chisquare(np.bincount(found[:, i], minlength=count)).pvalue for i in range(count)]
    assert min(p) * count > LEAST


def test_neighbours_stand_anywhere_equally_often():
    """Batches would be much the same in every epoch: the places of two neighbours tell nothing of each other."""
    count, found = 9, orders(9, 4000)
    p = []
    for i in range(count - 1):
        pairs = np.bincount(found[:, i] * count + found[:, i + 1], minlength=count**2).reshape(count, count)
        p.append(stats.chisquare(pairs[~np.eye(count, dtype=bool)]).pvalue)
    assert min(p) * len(p) > LEAST


def test_neighbours_of_a_long_order_tell_nothing_of_each_other():
    """Neighbouring examples of a corpus, often of one document, would come in one batch."""
    found = shuffled((0, 1), 4_500_000, np.arange(200_000))
    boxes = found * 32 // 4_500_000
    for step in (1, 2, 1061, 2122):  # the two halves of a number are neighbours, and 2,122 is the size of one
        table = np.bincount(boxes[:-step] * 32 + boxes[step:], minlength=1024)
        assert stats.chisquare(table).pvalue > LEAST, step


def cycle_lengths(order):
    """The lengths of the cycles of a permutation."""
    order, seen = order.tolist(), set()
    for start in range(len(order)):
        length = 0
        while start not in seen:
            seen.add(start)
            start, length = order[start], length + 1
        if length:
            yield length


def test_cycles_are_those_of_random_orders():
    """Too many examples would keep their places: of length k there are a Poisson number, of mean 1/k; of all, the sum
    of one chance of 1/i for each i (Feller). All numbers of one parity, where only half of the orders can come."""
    count, found = 90, [list(cycle_lengths(order)) for order in orders(90, 3000)]
    for k in (1, 2, 3):
        seen = np.bincount([lengths.count(k) for lengths in found], minlength=4)
        chances = stats.poisson(1 / k).pmf(np.arange(3))
        observed = [*seen[:3], seen[3:].sum()]
        wanted = len(found) * np.append(chances, 1 - chances.sum())
        assert stats.chisquare(observed, wanted).pvalue > LEAST, k
    chances = np.ones(1)
    for i in range(1, count + 1):
        chances = np.convolve(chances, [1 - 1 / i, 1 / i])
    seen = np.bincount([len(lengths) for lengths in found], minlength=count + 1)
    often = len(found) * chances > 5
    observed = [*seen[often], seen[~often].sum()]
    wanted = len(found) * np.append(chances[often], chances[~often].sum())
    assert stats.chisquare(observed, wanted).pvalue > LEAST


# The same everywhere ---------------------------------------------------------------------------


def by_hand(seed, count, position):
    """What stands at a place, by the formulas of the paper in plain integers."""

    def split_mix(x, key):
        z = ((x + 1) * 0x9E3779B97F4A7C15 + key) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    a = next(a for a in range(2, 10**6, 2) if a * a >= count)
    b = -(-count // a)
    keys = np.random.SeedSequence(seed[0], spawn_key=seed[1:]).generate_state(ROUNDS, np.uint64).tolist()
    while True:
        left, right = divmod(position, b)
        for number, key in enumerate(keys):
            if number % 2 == 0:
                left = (left + split_mix(right, key)) % a
            else:
                right = (right + split_mix(left, key)) % b
        position = left * b + right
        if position < count:
            return position


COMMITTED = {
    ((0, 0), 10): [7, 5, 9, 6, 8, 2, 3],
    ((7, 3), 1000): [755, 715, 449, 116, 158, 280, 448],
    ((1, 2, 3), 4500000): [1694650, 1748580, 991278, 2289811, 3853194, 4442543, 2588825],
    ((5,), 100000000000): [9138984222, 17155711493, 66524611511, 13993622712, 26872528143, 97623647449, 86218391327],
}


@pytest.mark.parametrize(("seed", "count"), COMMITTED)
def test_orders_are_the_same_everywhere(seed, count):
    """A run that goes on elsewhere, or under another NumPy, would see other data: numbers that were written down."""
    assert shuffled(seed, count, np.arange(7)).tolist() == COMMITTED[seed, count]
    assert [by_hand(seed, count, position) for position in range(7)] == COMMITTED[seed, count]


def test_numbers_are_those_of_split_mix():
    """The mixing would be another one than its name says: the first numbers of seed 1234567 (Vigna's test vector)."""
    found = _split_mix(np.arange(3, dtype=np.uint64), np.uint64(1234567)).tolist()
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]
