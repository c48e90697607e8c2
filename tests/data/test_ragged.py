"""Sequences in one flat array: the same as lists of lists, whatever is left out, and nothing else is read."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tformer_jax.data.ragged import Ragged, longest_sides

examples = settings(derandomize=True, deadline=None, max_examples=60)
PAD = 7
LISTS = st.lists(st.lists(st.integers(0, 65_535), max_size=6), max_size=8)


@st.composite
def taken(draw):
    """Lists, and the same as a `Ragged` of 16 or 32 bits; of some, only a part was taken, in any order, or twice."""
    lists = draw(LISTS)
    made = Ragged.from_lists(lists)
    ragged = Ragged(made.values.astype(draw(st.sampled_from([np.uint16, np.int32]))), made.offsets)
    for _ in range(draw(st.integers(0, 2))):
        numbers = draw(st.lists(st.integers(0, len(lists) - 1), max_size=9)) if lists else []
        lists, ragged = [lists[i] for i in numbers], ragged.take(np.array(numbers, np.int64))
    return lists, ragged


@examples
@given(taken())
def test_sequences_are_the_lists(case):
    """Sequences would begin or end elsewhere, or be those that were left out."""
    lists, ragged = case
    assert len(ragged) == len(lists)
    assert [sequence.tolist() for sequence in ragged] == lists
    assert [ragged[i - len(lists)].tolist() for i in range(len(lists))] == lists


@examples
@given(taken())
def test_lengths_are_those_of_the_lists(case):
    """Plans of batches would be made of other lengths than there are."""
    lists, ragged = case
    assert ragged.lengths.tolist() == [len(sequence) for sequence in lists]
    assert ragged.lengths.dtype == np.int64


@examples
@given(taken(), st.data())
def test_rows_are_the_lists_and_padding(case, data):
    """A row would hold another sequence, the end of its neighbour, or something where it is empty."""
    lists, ragged = case
    numbers = data.draw(st.lists(st.integers(-1, len(lists) - 1), max_size=9))
    wanted = [lists[i] if i >= 0 else [] for i in numbers]
    length = max(map(len, wanted), default=0) + data.draw(st.integers(0, 3))
    rows, lengths = ragged.rows(np.array(numbers, np.int64), length, PAD)
    assert rows.shape == (len(numbers), length)
    assert rows.tolist() == [[*tokens, *[PAD] * (length - len(tokens))] for tokens in wanted]
    assert lengths.tolist() == [len(tokens) for tokens in wanted]
    assert rows.dtype == lengths.dtype == np.int32


@examples
@given(taken(), st.data())
def test_joined_sequences_are_the_lists_one_after_another(case, data):
    """Packed rows would mix their examples."""
    lists, ragged = case
    numbers = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=9)) if lists else []
    values, lengths = ragged.joined(np.array(numbers, np.int64))
    assert values.tolist() == sum((lists[i] for i in numbers), [])
    assert lengths.tolist() == [len(lists[i]) for i in numbers]


def test_a_number_past_the_end_is_refused():
    """A loop over the sequences would not end, or begin anew."""
    with pytest.raises(IndexError):
        Ragged.from_lists([[1], [2, 3]])[2]


def test_what_is_taken_shares_its_values():
    """A split of which a few long sentences are left out would lie in memory twice."""
    whole = Ragged.from_lists([[1, 2], [3], [4, 5, 6]])
    part = whole.take(np.array([0, 2]))
    assert part.values is whole.values
    assert np.shares_memory(part[1], whole.values)


def test_rows_of_a_file_larger_than_memory_are_read(tmp_path):
    """All of a corpus would be read for a batch: here 1 TiB, which no memory holds, nearly all of it a hole."""
    file, count = tmp_path / "tokens.bin", 1 << 39
    with open(file, "wb") as out:
        out.seek(2 * (count - 3))
        out.write(np.array([5, 6, 7], np.uint16).tobytes())
    offsets = np.array([0, 4, count - 3, count - 1, count], np.int64)
    ragged = Ragged(np.memmap(file, np.uint16, "r"), offsets)
    rows, lengths = ragged.rows(np.array([3, -1, 2, 0]), 4, PAD)
    assert rows.tolist() == [[7, PAD, PAD, PAD], [PAD] * 4, [5, 6, PAD, PAD], [0] * 4]
    assert lengths.tolist() == [1, 0, 2, 4]


def test_the_longest_side_counts():
    """A pair would be put into a bucket that holds one side alone."""
    sides = Ragged.from_lists([[1, 2, 3], [1], []]), Ragged.from_lists([[1], [1, 2], []])
    assert longest_sides(sides).tolist() == [3, 2, 0]
