"""Packed rows: every example once, whole, and little padding."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from sequences import parallel, ragged

from tformer_jax.data.batches import packed
from tformer_jax.data.batches.packed import Packed
from tformer_jax.data.files import DataError

examples = settings(derandomize=True, deadline=None, max_examples=30)

PAD = 0
SEEDS = st.integers(0, 5)


def packed_of(lengths, rows=2, seed=0, capacity=(11, 9)):
    return Packed(ragged(lengths), ("a", "b"), capacity, rows, seed, PAD)


# Batches ---------------------------------------------------------------------------------------

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


# The plan --------------------------------------------------------------------------------------


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
