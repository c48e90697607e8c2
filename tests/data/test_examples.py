"""Examples in files against plain lists of the same examples."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tformer_jax.data import examples as module
from tformer_jax.data.examples import Examples, are_among, kept_examples, kept_splits
from tformer_jax.data.files import DataError

examples = settings(derandomize=True, deadline=None, max_examples=60)


class Row(NamedTuple):
    """An example of these tests."""

    text: str
    group: str | None


TEXTS = st.text(st.characters(codec=None), max_size=12)
ROWS = st.lists(st.builds(Row, TEXTS, st.none() | TEXTS), min_size=1, max_size=12)


@examples
@given(ROWS, st.data())
def test_they_are_the_examples(rows, data):
    """A text would lose a character, or have one of the next; None would be a text."""
    found = Examples.of(Row, rows, "text")
    assert len(found) == len(rows) and list(found) == rows and [found[i] for i in range(len(rows))] == rows
    assert found[-1] == rows[-1] and found[1:] == rows[1:] and found == rows and found != rows[1:]
    assert found.facts.characters.tolist() == [len(row.text) for row in rows]
    numbers = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    some = found.take(np.asarray(numbers, np.int64))
    assert (
        list(some) == [rows[i] for i in numbers] and list(some.take(np.arange(len(numbers))[::-1])) == list(some)[::-1]
    )


@examples
@given(ROWS, ROWS)
def test_sums_tell_examples_apart(rows, others):
    """Changed data would pass for those that a run began with."""
    sums, other = (Examples.of(Row, x, "text").facts.sums for x in (rows, others))
    for i, row in enumerate(rows):
        for j, its in enumerate(others):
            assert (sums[i].tolist() == other[j].tolist()) == (row == its)


def test_what_is_the_same_to_a_reader_is_the_same():
    """The same sentence in another form would be trained on and tested on."""
    same = Examples.of(Row, [Row("é", None), Row("e\u0301", "x"), Row("e", None)], "text").facts.same
    assert same[0].tolist() == same[1].tolist() != same[2].tolist()


@examples
@given(ROWS, st.data())
def test_parts_of_texts_are_those_of_slices(rows, data):
    """The end of a document would begin within a character, or be in two splits."""
    found = Examples.of(Row, rows, "text")
    ends = [sorted(data.draw(st.tuples(st.integers(0, len(row.text)), st.integers(0, len(row.text))))) for row in rows]
    for k, part in enumerate(found.cut("text", np.asarray(ends, np.int64))):
        edges = [(0, *end, len(row.text)) for row, end in zip(rows, ends, strict=True)]
        wanted = [Row(r.text[e[k] : e[k + 1]], r.group) for r, e in zip(rows, edges, strict=True) if e[k] < e[k + 1]]
        assert list(part) == wanted and part.facts.characters.tolist() == [len(row.text) for row in wanted]


def test_sums_tell_the_parts_of_a_text_apart():
    """Validation's tokens would be taken for those of a test split that was cut off the same texts, as long as it."""
    found = Examples.of(Row, [Row("abcdef", None), Row("ghijkl", "x")], "text")
    parts = found.cut("text", np.asarray([[2, 4], [2, 4]], np.int64))
    again = found.cut("text", np.asarray([[2, 4], [2, 4]], np.int64))
    sums = [tuple(row) for part in (found, *parts) for row in part.facts.sums.tolist()]
    assert len(set(sums)) == 8 and sums == [tuple(r) for part in (found, *again) for r in part.facts.sums.tolist()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_long_texts_are_read_in_pieces(size, monkeypatch):
    """A character between two pieces would be lost, or a document of a gigabyte be held whole."""
    monkeypatch.setattr(module, "_BLOCK_BYTES", size)
    rows = [Row("aé日🙂" * 3, None), Row("", None), Row("x", None), Row("🙂🙂", None)]
    found = Examples.of(Row, rows, "text")
    pieces = [*found.pieces("text")]
    assert ["".join(piece for number, piece in pieces if number == i) for i in range(4)] == [row.text for row in rows]
    assert max(len(piece.encode()) for _, piece in pieces) <= size + 3
    parts = found.cut("text", np.asarray([[3, 7], [0, 0], [0, 1], [1, 1]], np.int64))
    assert [[row.text for row in part] for part in parts] == [["aé日", "🙂"], ["🙂aé日", "x"], ["🙂aé日🙂", "🙂"]]


def refused():
    raise AssertionError("read again")
    yield


def test_they_are_read_once(tmp_path, monkeypatch):
    """Every start would read 40 GB again."""
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path))
    rows = [Row(str(i), None) for i in range(5000)]
    assert list(kept_examples(Row, [iter(rows)], "key", "text")) == rows
    assert list(kept_examples(Row, [refused()], "key", "text")) == rows
    assert list(kept_examples(Row, [iter(rows[:2])], "another key", "text")) == rows[:2]


def test_splits_are_made_once(tmp_path, monkeypatch):
    """Of millions of examples, every start would draw anew what is held out."""
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path))
    rows = [Row(f"text {i}", None) for i in range(40)]
    found = kept_examples(Row, [iter(rows)], "key", "text")

    def split(say):
        say("half of them")
        ends = np.tile([2, 4], (40, 1))
        return {"odd": found.take(np.arange(1, 40, 2)), "ends": found.cut("text", ends)[2]}

    wanted = {"odd": rows[1::2], "ends": [Row(row.text[4:], None) for row in rows]}
    for make in (split, lambda _: refused().send(None)):
        said = []
        splits = kept_splits(found, "key", make, said.append)
        assert said == ["half of them"]
        assert {name: list(part) for name, part in splits.items()} == wanted
        assert splits["ends"].facts.characters.tolist() == [len(row.text) for row in wanted["ends"]]


@pytest.mark.parametrize("value", [3, b"text", ["text"]])
def test_what_is_no_text_is_refused(value):
    """A number would be written as bytes that nothing can read."""
    with pytest.raises(DataError, match="text must be a text, got"):
        Examples.of(Row, [Row(value, None)], "text")


def test_digests_are_found_as_a_whole():
    """Texts whose digests have one half in common would be taken for the same; one with zeros at its end be lost."""
    digests = [
        first + last for first in (b"a" * 8, b"b" * 8, bytes(8)) for last in (b"c" * 8, b"d" * 7 + b"\0", bytes(8))
    ]
    for others in (digests[:1], digests[1:4], digests[4:], []):
        same, wanted = np.array(digests, "S16"), [digest in others for digest in digests]
        assert are_among(same, np.array(others, "S16")).tolist() == wanted
