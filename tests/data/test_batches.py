"""Bucket lengths, buckets and packing: every example where it belongs, and batch i from (seed, i) alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from tformer_jax.data.batches import packed
from tformer_jax.data.batches.buckets import Buckets, choose_buckets, ladder
from tformer_jax.data.batches.packed import Packed
from tformer_jax.data.files import DataError
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


def parallel(lengths):
    """One list of token lists per side; every token occurs once in all."""
    numbers = itertools.count(1)
    pairs = [[[next(numbers) for _ in range(length)] for length in pair] for pair in lengths]
    return tuple(list(side) for side in zip(*pairs, strict=True))


def ragged(lengths):
    """The same as one `Ragged` per side."""
    return tuple(map(Ragged.from_lists, parallel(lengths)))


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


# Packed ----------------------------------------------------------------------------------------

FULL = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=60)


def unpacked(batch):
    """The examples of a packed batch, as pairs of tuples, read off the segments of each row."""
    found = []
    for a, a_seg, b, b_seg in zip(batch["a"], batch["a_segments"], batch["b"], batch["b_segments"], strict=True):
        assert set(a_seg) - {0} == set(b_seg) - {0} == set(range(1, max(a_seg) + 1))
        found += [(tuple(a[a_seg == s]), tuple(b[b_seg == s])) for s in range(1, max(a_seg) + 1)]
    return found


@examples
@given(FULL, SEEDS, st.integers(0, 2))
def test_packing_loses_and_repeats_nothing(lengths, seed, epoch):
    """With one row a batch an epoch is the whole plan: every example is in it once, whole, sides together."""
    batches = packed_of(lengths, rows=1, seed=seed)
    seen = [e for i in range(len(batches)) for e in unpacked(batches.batch(epoch * len(batches) + i))]
    assert sorted(seen) == sorted((tuple(a), tuple(b)) for a, b in zip(*parallel(lengths), strict=True))


@examples
@given(FULL.filter(lambda lengths: len(lengths) > 30), SEEDS, st.integers(2, 5), st.integers(0, 2))
def test_an_epoch_of_packed_batches_holds_an_example_at_most_once(lengths, seed, rows, epoch):
    """Some examples would weigh more than others."""
    batches = packed_of(lengths, rows, seed)
    seen = [e for i in range(len(batches)) for e in unpacked(batches.batch(epoch * len(batches) + i))]
    everything = {(tuple(a), tuple(b)) for a, b in zip(*parallel(lengths), strict=True)}
    assert len(seen) == len(set(seen))
    assert set(seen) <= everything


@examples
@given(FULL, SEEDS)
def test_segments_stand_one_after_the_other_and_then_padding(lengths, seed):
    """Positions that restart at each segment would be wrong where a segment is torn apart."""
    batches = packed_of(lengths, rows=1, seed=seed)
    for i in range(len(batches)):
        batch = batches.batch(i)
        for name in ("a", "b"):
            (tokens,), (segments,) = batch[name], batch[f"{name}_segments"]
            runs = [segment for segment, _ in itertools.groupby(segments)]
            assert [s for s in runs if s] == list(range(1, max(segments) + 1))
            assert 0 not in runs[:-1]
            np.testing.assert_array_equal(tokens == PAD, segments == 0)


@examples
@given(FULL, SEEDS, st.tuples(st.integers(9, 20), st.integers(9, 20)))
def test_packed_batches_have_one_shape(lengths, seed, capacity):
    """Rows would be longer than the program was compiled for."""
    batches = packed_of(lengths, rows=1, seed=seed, capacity=capacity)
    shapes = {(b["a"].shape[1], b["b"].shape[1]) for b in map(batches.batch, range(len(batches)))}
    assert shapes == {capacity}


def test_packing_leaves_little_padding():
    """Packing would be no better than one example a row: the tokens of 2,000 examples nearly fill their rows."""
    rng = np.random.default_rng(0)
    lengths = [(n, n) for n in map(int, rng.integers(3, 20, 2000))]
    batches = packed_of(lengths, rows=8, capacity=(64, 64))
    assert batches.padding_share() < 0.05


def by_order(seed, sizes, capacity, open_rows):
    """Examples by row, packed one after the other in plain Python: into the fullest of a few rows that holds it; where
    none does, the fullest row is closed."""
    done, rows = [], []
    for example in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        room = [[c - sum(sizes[e][k] for e in row) for k, c in enumerate(capacity)] for row in rows]
        left = [min(r - s for r, s in zip(of, sizes[example], strict=True)) for of in room]
        if fitting := [(least, at) for at, least in enumerate(left) if least >= 0]:
            rows[min(fitting)[1]].append(example)
        else:
            if len(rows) == open_rows:
                done.append(rows.pop(min(range(open_rows), key=lambda at: sum(room[at]))))
            rows.append([example])
    return done + rows


@examples
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=300),
    st.tuples(st.integers(9, 20), st.integers(9, 20)),
    SEEDS,
    st.integers(1, 4),
)
def test_packing_in_groups_loses_nothing_and_overfills_no_row(sizes, capacity, seed, open_rows):
    """An example would be lost or doubled where groups are packed again, or a row would hold more than it can: with few
    open rows there are many groups of as few examples as there are here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_OPEN_ROWS", open_rows)
        plan = packed.packed_rows(np.array(sizes, np.int32).reshape(-1, 2).T, capacity, seed)
    assert sorted(e for row in plan for e in row.tolist()) == list(range(len(sizes)))
    for row in plan:
        assert len(row) > 0
        assert all(sum(sizes[e][k] for e in row) <= c for k, c in enumerate(capacity))


@pytest.mark.parametrize("capacity", [(120, 128), (256, 256)])
def test_packing_in_groups_pads_no_more_than_one_by_one(capacity):
    """Speed would be paid for with padding: lengths of two sides as sentences have them, log-normal and correlated."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(6000, 1)), rng.normal(size=(6000, 2))
    sizes = np.clip(np.exp(3.2 + 0.5 * (0.95 * common + 0.3 * own)).round().astype(np.int32), 1, min(capacity))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_OPEN_ROWS", 16)
        plan = packed.packed_rows(sizes.T, capacity, 0)
    assert len(plan) <= len(by_order(0, sizes.tolist(), capacity, 16))


def test_any_two_examples_may_share_a_row():
    """An example would always be read beside the same ones, such as its neighbours in the corpus or those of its length:
    of 13 others one fits beside the first, another for each seed."""
    sizes = np.full((1, 14), 5, np.int32)
    company = [
        next(set(row.tolist()) - {0} for row in packed.packed_rows(sizes, (10,), s) if 0 in row) for s in range(650)
    ]
    counts = np.bincount([other for (other,) in company], minlength=14)[1:]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_other_rows_sit_out_in_other_epochs():
    """The examples of the rows that do not fill a batch would never be trained on."""
    batches = packed_of([(9, 9)] * 7, rows=4)  # seven rows, one batch: three rows sit out
    epochs = [frozenset(unpacked(batches.batch(epoch))) for epoch in range(8)]
    assert len(batches) == 1
    assert len(frozenset.union(*epochs)) == 7


@examples
@given(FULL, SEEDS)
def test_the_padding_share_of_packed_rows_is_what_one_counts(lengths, seed):
    """The report would promise less (or more) waste than there is."""
    batches = packed_of(lengths, rows=1, seed=seed)
    epoch = [batches.batch(i)[name] for i in range(len(batches)) for name in ("a", "b")]
    counted = sum((array == PAD).sum() for array in epoch) / sum(array.size for array in epoch)
    assert batches.padding_share() == pytest.approx(counted, abs=1e-12)


def test_too_few_rows_for_a_batch_is_an_error_with_both_numbers():
    """Training would divide by an epoch of no batches."""
    with pytest.raises(DataError, match="3 packed rows do not fill a batch of 4"):
        packed_of([(9, 9)] * 3, rows=4)
