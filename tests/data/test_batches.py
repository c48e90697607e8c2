"""Bucket lengths, buckets, and what they share with packed rows: every example where it belongs, and batch i from
(seed, i) alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sequences import parallel, ragged

from tformer_jax.data.batches.buckets import Buckets, choose_buckets, ladder
from tformer_jax.data.batches.packed import Packed
from tformer_jax.data.ragged import Ragged

examples = settings(derandomize=True, deadline=None, max_examples=30)

# Bucket lengths --------------------------------------------------------------------------------


def slots(lengths, buckets):
    """Token slots when each example goes into the shortest bucket that holds it."""
    return sum(min(b for b in buckets if b >= length) for length in lengths)


@examples
@given(st.lists(st.integers(1, 30), min_size=1, max_size=25), st.integers(1, 4))
def test_bucket_lengths_pad_as_little_as_any_choice(lengths, count):
    """Compute would go into padding: by exhaustive search over all choices of bucket lengths."""
    others = sorted(set(lengths) - {max(lengths)})
    choices = (c for k in range(count) for c in itertools.combinations(others, k))
    best = min(slots(lengths, [*choice, max(lengths)]) for choice in choices)
    assert slots(lengths, choose_buckets(lengths, count)) == best


@examples
@given(st.lists(st.integers(1, 30), min_size=1, max_size=25), st.integers(1, 6))
def test_bucket_lengths_ascend_to_the_longest(lengths, count):
    """The longest example would fit no bucket, or there would be more shapes to compile than allowed."""
    buckets = choose_buckets(lengths, count)
    assert buckets == sorted(set(buckets))
    assert buckets[-1] == max(lengths)
    assert len(buckets) <= count


@examples
@given(st.integers(1, 600), st.integers(0, 600))
def test_a_ladder_reaches_the_longest_and_not_past_the_limit(limit, longest):
    """A sentence would fit no bucket, or would be padded beyond what the model reads."""
    longest = min(limit, longest)
    lengths = ladder(longest, limit)
    assert lengths == sorted(set(lengths))
    assert longest <= lengths[-1] <= limit
    assert all(length < longest for length in lengths[:-1])


@examples
@given(st.integers(1, 600), st.integers(0, 600), st.integers(0, 600))
def test_a_ladder_does_not_depend_on_the_data(limit, a, b):
    """Splits would not share compiled programs: one ladder is the beginning of the other."""
    short, long = sorted((ladder(min(limit, a), limit), ladder(min(limit, b), limit)), key=len)
    assert long[: len(short)] == short


# Batches of both kinds -------------------------------------------------------------------------

PAD = 0
SEEDS = st.integers(0, 5)
# Pairs of lengths; a side may be empty as long as the other is not.
LENGTHS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: max(pair) > 0), min_size=1, max_size=30
)


def buckets_of(lengths, count=3, batch_tokens=24, seed=0):
    longest = [max(pair) for pair in lengths]
    return Buckets(ragged(lengths), ("a", "b"), choose_buckets(longest, count), batch_tokens, seed, PAD)


def packed_of(lengths, rows=2, seed=0, capacity=(11, 9)):
    return Packed(ragged(lengths), ("a", "b"), capacity, rows, seed, PAD)


def fixed_lengths(count=60):
    rng = np.random.default_rng(0)
    return [(int(a), int(b)) for a, b in rng.integers(1, 10, (count, 2))]


KINDS = pytest.mark.parametrize("make", [buckets_of, packed_of], ids=["buckets", "packed"])


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@KINDS
def test_a_batch_is_a_function_of_seed_and_number(make):
    """A resumed run would see other data than an undisturbed one."""
    batches = make(fixed_lengths())
    forward = [batches.batch(i) for i in range(2 * len(batches))]
    fresh = make(fixed_lengths())
    for i in reversed(range(2 * len(batches))):
        assert same(fresh.batch(i), forward[i]), i


@KINDS
def test_epochs_differ(make):
    """Every epoch would show the examples in the same order and the same company."""
    batches = make(fixed_lengths())
    epochs = [{batches.batch(epoch * len(batches) + i)["a"].tobytes() for i in range(len(batches))} for epoch in (0, 1)]
    assert epochs[0] != epochs[1]


@KINDS
def test_seeds_differ(make):
    """`data.seed` would not reach the order of the examples."""
    first, second = make(fixed_lengths(), seed=0), make(fixed_lengths(), seed=1)
    assert not all(same(first.batch(i), second.batch(i)) for i in range(min(len(first), len(second))))


@KINDS
def test_batches_are_int32(make):
    """Token ids of another type would compile another program, or not fit one compiled before."""
    assert {array.dtype for array in make(fixed_lengths()).batch(0).values()} == {np.dtype(np.int32)}


# Buckets ---------------------------------------------------------------------------------------


def unbatched(batch):
    """The examples of a bucket batch that have any token, as pairs of tuples."""
    rows = zip(batch["a"], batch["a_lengths"], batch["b"], batch["b_lengths"], strict=True)
    return [(tuple(a[:m]), tuple(b[:n])) for a, m, b, n in rows if max(m, n) > 0]


@examples
@given(LENGTHS, st.integers(1, 4), st.integers(1, 60), st.sampled_from([None, 0, 7]), st.integers(0, 2))
def test_an_epoch_of_buckets_holds_every_example_once(lengths, count, batch_tokens, seed, epoch):
    """Examples would be lost, cut or repeated within an epoch."""
    batches = buckets_of(lengths, count, batch_tokens, seed)
    seen = [e for i in range(len(batches)) for e in unbatched(batches.batch(epoch * len(batches) + i))]
    assert sorted(seen) == sorted((tuple(a), tuple(b)) for a, b in zip(*parallel(lengths), strict=True))


@examples
@given(LENGTHS, st.integers(1, 4), st.integers(1, 60))
def test_bucket_batches_have_few_shapes_of_the_asked_size(lengths, count, batch_tokens):
    """Each further shape is another compilation; a larger batch may not fit into memory."""
    batches = buckets_of(lengths, count, batch_tokens)
    shapes = {batches.batch(i)["a"].shape for i in range(len(batches))}
    assert len(shapes) <= count
    assert all(rows == 1 or rows * length <= batch_tokens for rows, length in shapes)


@examples
@given(LENGTHS, st.integers(1, 60))
def test_all_beyond_the_lengths_of_a_bucket_batch_is_padding(lengths, batch_tokens):
    """Stray tokens would stand behind the end of a sentence."""
    batches = buckets_of(lengths, 3, batch_tokens)
    for i in range(len(batches)):
        batch = batches.batch(i)
        for name in ("a", "b"):
            beyond = np.arange(batch[name].shape[1]) >= batch[f"{name}_lengths"][:, None]
            np.testing.assert_array_equal(batch[name] == PAD, beyond)


@examples
@given(LENGTHS, st.integers(1, 4), st.integers(1, 60))
def test_the_padding_share_of_buckets_is_what_one_counts(lengths, count, batch_tokens):
    """The report would promise less (or more) waste than there is."""
    batches = buckets_of(lengths, count, batch_tokens)
    epoch = [batches.batch(i)[name] for i in range(len(batches)) for name in ("a", "b")]
    counted = sum((array == PAD).sum() for array in epoch) / sum(array.size for array in epoch)
    assert batches.padding_share() == pytest.approx(counted, abs=1e-12)


def test_buckets_without_a_seed_keep_their_order():
    """Translations would be attributed to other sentences."""
    batches = buckets_of([(3, 3)] * 5, count=1, batch_tokens=6, seed=None)
    assert [list(batches.indices(i)) for i in range(2 * len(batches))] == 2 * [[0, 1], [2, 3], [4]]


@examples
@given(LENGTHS, st.sampled_from([None, 3]), st.integers(0, 20))
def test_the_indices_of_a_bucket_batch_say_which_examples_it_holds(lengths, seed, i):
    """Whoever writes results back by index would put them into other rows."""
    batches = buckets_of(lengths, seed=seed)
    sides, indices, batch = parallel(lengths), batches.indices(i), batches.batch(i)
    assert unbatched(batch) == [(tuple(sides[0][e]), tuple(sides[1][e])) for e in indices]


@examples
@given(LENGTHS, st.integers(1, 60), st.integers(1, 5), st.sampled_from([None, 0]))
def test_bucket_batches_can_be_split_evenly(lengths, batch_tokens, multiple, seed):
    """Parts of a batch would have different sizes, or examples would be lost to make them alike."""
    longest = [max(pair) for pair in lengths]
    sides, names = parallel(lengths), ("a", "b")
    batches = Buckets(
        ragged(lengths), names, choose_buckets(longest, 3), batch_tokens, seed, PAD, rows_multiple=multiple
    )
    epoch = [batches.batch(i) for i in range(len(batches))]
    assert all(len(batch["a"]) % multiple == 0 for batch in epoch)
    seen = [e for batch in epoch for e in unbatched(batch)]
    assert sorted(seen) == sorted((tuple(a), tuple(b)) for a, b in zip(*sides, strict=True))


def test_splits_of_a_like_size_share_their_shapes():
    """Every split would compile its own programs: 33 and 60 examples of one bucket make batches of 64 rows."""
    shapes = {buckets_of([(3, 3)] * count, count=1, batch_tokens=3 * 200).batch(0)["a"].shape for count in (33, 60, 64)}
    assert len(shapes) == 1


def test_sides_of_different_length_are_refused():
    """A source would be paired with the translation of another one."""
    sides = Ragged.from_lists([[1], [2]]), Ragged.from_lists([[1]])
    with pytest.raises(ValueError, match="same shape"):
        Buckets(sides, ("a", "b"), [1], 8, 0)
