"""Rows of a token stream: every token predicted once, no document mixed up, and batch i from (seed, i) alone."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tformer_jax.data.batches.windows import Pieces, Windows
from tformer_jax.data.files import DataError
from tformer_jax.data.ragged import Ragged

examples = settings(derandomize=True, deadline=None, max_examples=40)

PAD, BOS, EOS, FIRST = 0, 1, 2, 10
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=8)
# Some documents of a corpus are empty.
SIZES_OR_NONE = st.lists(st.integers(0, 40), min_size=1, max_size=8)
SEEDS = st.integers(0, 5)


def stream(sizes):
    """A stream whose tokens are all different, FIRST, FIRST + 1, ...; and the document of each."""
    tokens = np.arange(FIRST, FIRST + sum(sizes), dtype=np.int32)
    return tokens, np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def ragged(sizes):
    """The documents of that stream, of 16 bits: the least that a vocabulary needs."""
    return Ragged(stream(sizes)[0].astype(np.uint16), np.cumsum([0, *sizes]))


def framed(sizes):
    """The stream with each document between start and end token, put together by hand; and the document of each."""
    tokens, documents = stream(sizes)
    parts = [[BOS, *tokens[documents == number].tolist(), EOS] for number in range(len(sizes))]
    return sum(parts, []), [number for number, part in enumerate(parts) for _ in part]


def windows_of(sizes, length=7, rows=2, seed=0, boundaries="segments"):
    return Windows(ragged(sizes), length, rows, seed, boundaries, BOS, EOS, PAD)


def pieces_of(sizes, length=7, rows=2, seed=0, words=None):
    return Pieces(ragged(sizes), words, length, rows, seed, BOS, EOS, PAD)


def epoch_of(batches, epoch=0):
    return [batches.batch(epoch * len(batches) + i) for i in range(len(batches))]


# Both ------------------------------------------------------------------------------------------

LONG = [3, 90, 41, 1, 60, 17]
KINDS = pytest.mark.parametrize(
    "make",
    [windows_of, lambda *a, **k: windows_of(*a, boundaries="stream", **k), pieces_of],
    ids=["segments", "stream", "pieces"],
)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@KINDS
@pytest.mark.parametrize("seed", [0, None])
def test_a_batch_is_a_function_of_seed_and_number(make, seed):
    """A resumed run would see other data than an undisturbed one."""
    batches, fresh = make(LONG, seed=seed), make(LONG, seed=seed)
    forward = [batches.batch(i) for i in range(3 * len(batches))]
    for i in reversed(range(3 * len(batches))):
        assert same(fresh.batch(i), forward[i]), i


@KINDS
def test_seeds_differ(make):
    """`data.seed` would not reach the batches."""
    first, second = make(LONG, seed=0), make(LONG, seed=1)
    assert not all(same(first.batch(i), second.batch(i)) for i in range(len(first)))


@KINDS
def test_epochs_permute_their_rows(make):
    """Rows would come in the order of the text, the same in every epoch."""
    first, second = ([b["tokens"][0, 1] for b in epoch_of(make(LONG * 3, rows=1), e)] for e in (0, 1))
    assert first != sorted(first)
    assert np.argsort(first).tolist() != np.argsort(second)[: len(first)].tolist()


@KINDS
def test_evaluation_is_in_order_and_repeats(make):
    """Scores would belong to other rows, or differ from one evaluation to the next."""
    batches = make(LONG, seed=None)
    tokens = np.concatenate([b["tokens"].ravel() for b in epoch_of(batches)])
    assert (np.diff(tokens[tokens >= FIRST]) >= 0).all()
    assert all(same(a, b) for a, b in zip(epoch_of(batches), epoch_of(batches, 1), strict=True))


@KINDS
@pytest.mark.parametrize("seed", [0, None])
def test_batches_have_one_shape_and_are_int32(make, seed):
    """Every other shape or type is another program to compile."""
    batches = make(LONG, rows=3, seed=seed)
    shapes = {tuple((name, a.shape, a.dtype) for name, a in b.items()) for b in epoch_of(batches)}
    assert len(shapes) == 1
    assert {dtype for _, _, dtype in shapes.pop()} == {np.dtype(np.int32)}


@KINDS
@pytest.mark.parametrize("seed", [0, None])
def test_documents_that_were_taken_are_read_as_if_alone(make, seed):
    """Documents that were left out would come back, or be counted: the others lie apart in the values."""
    alone = make([3, 41, 60, 17, 80], seed=seed)
    documents = ragged([3, 90, 41, 1, 60, 17, 80]).take(np.array([0, 2, 4, 5, 6]))
    taken = dataclasses.replace(alone, documents=documents)
    own = np.concatenate([[*range(FIRST)], *documents])  # what stands there for a token of the stream
    for i in range(2 * len(alone)):
        a, b = alone.batch(i), taken.batch(i)
        assert same(a | {"tokens": own[a["tokens"]].astype(np.int32)}, b)


@KINDS
def test_too_little_text_for_a_batch_is_an_error_with_the_numbers(make):
    """Training would divide by an epoch of no batches."""
    with pytest.raises(DataError, match="do not fill a batch of 4"):
        make([9], rows=4)


# Windows ---------------------------------------------------------------------------------------


def predictions(batch):
    """(token before, token) of every target in a batch, as a task reads them off."""
    tokens = batch["tokens"]
    if "segments" in batch:
        counts = (batch["segments"][:, 1:] == batch["segments"][:, :-1]) & (batch["segments"][:, 1:] > 0)
    else:
        counts = np.arange(1, tokens.shape[1]) < batch["lengths"][:, None]
    return [(int(a), int(b)) for a, b in zip(tokens[:, :-1][counts], tokens[:, 1:][counts], strict=True)]


def neighbours(sizes, boundaries):
    """Every (token before, token) of the stream, of one document with segments."""
    return [
        (a, b)
        for (a, d), (b, e) in itertools.pairwise(zip(*framed(sizes), strict=True))
        if boundaries == "stream" or d == e
    ]


BOUNDARIES = st.sampled_from(["segments", "stream"])


@examples
@given(SIZES_OR_NONE, st.integers(1, 12), st.integers(1, 4), BOUNDARIES)
def test_evaluation_predicts_every_token_once(sizes, length, rows, boundaries):
    """The perplexity would be that of part of the text, or count some of it twice."""
    batches = windows_of(sizes, length, rows, None, boundaries)
    assert [p for batch in epoch_of(batches) for p in predictions(batch)] == neighbours(sizes, boundaries)


@examples
@given(SIZES_OR_NONE, st.integers(1, 12), st.integers(1, 4), BOUNDARIES, SEEDS, st.integers(0, 2))
def test_training_predicts_no_token_twice(sizes, length, rows, boundaries, seed, epoch):
    """Some tokens would weigh more than others, or be predicted from what does not stand before them."""
    if len(framed(sizes)[0]) // length - 1 < rows:
        return
    batches = windows_of(sizes, length, rows, seed, boundaries)
    found = Counter(p for batch in epoch_of(batches, epoch) for p in predictions(batch))
    assert found <= Counter(neighbours(sizes, boundaries))


@examples
@given(SIZES, st.integers(1, 12), st.integers(1, 4), SEEDS, st.integers(0, 2))
def test_training_rows_are_full_and_leave_little_out(sizes, length, rows, seed, epoch):
    """Compute would go into padding, or part of the corpus would never be read."""
    count = len(framed(sizes)[0])
    if count // length - 1 < rows:
        return
    batches = windows_of(sizes, length, rows, seed, "stream")
    assert all((batch["lengths"] == length + 1).all() for batch in epoch_of(batches, epoch))
    assert len(batches) * rows * length > count - (rows + 2) * length


@examples
@given(SIZES, st.integers(1, 12), SEEDS, st.sampled_from([0, None]))
def test_segments_number_the_documents_of_a_row(sizes, length, epoch, seed):
    """A document would see the end of the one before it, or its own halves would not see each other."""
    if len(framed(sizes)[0]) // length - 1 < 1:
        return
    batches = windows_of(sizes, length, 1, seed)
    for batch in epoch_of(batches, epoch):
        (tokens,), (segments,) = batch["tokens"].tolist(), batch["segments"].tolist()
        here = [token for token in tokens if token != PAD]
        starts = [token == BOS and at > 0 for at, token in enumerate(here)]  # each begins another document
        assert segments == [1 + sum(starts[: at + 1]) for at in range(len(here))] + [0] * (len(tokens) - len(here))


@examples
@given(
    SIZES_OR_NONE.filter(any), st.integers(1, 12), st.sampled_from(["segments", "stream"]), SEEDS,
    st.sampled_from([BOS, None]), st.sampled_from([EOS, None]),
)  # fmt: skip
def test_documents_may_do_without_start_or_end(sizes, length, boundaries, seed, bos, eos):
    """Tokens of a file that has its own ends would have others among them, or some be lost."""
    tokens, documents = stream(sizes)
    parts = [
        [t for t in (bos, *tokens[documents == number].tolist(), eos) if t is not None] for number in range(len(sizes))
    ]
    whole, number_of = sum(parts, []), [number for number, part in enumerate(parts) for _ in part]
    made = lambda rows, seed: Windows(ragged(sizes), length, rows, seed, boundaries, bos, eos, PAD)
    lengths = lambda b: b["lengths"] if "lengths" in b else (b["segments"] > 0).sum(1)
    if len(whole) > 1:
        epoch = epoch_of(made(2, None))
        rows = [row[:n].tolist() for b in epoch for row, n in zip(b["tokens"], lengths(b), strict=True) if n]
        assert sum((row[1:] for row in rows), rows[0][:1]) == whole
        assert rows == [whole[at : at + length + 1] for at in range(0, len(whole) - 1, length)]
    if len(whole) >= 2 * length:
        for b in epoch_of(made(1, seed), 1):
            (row,) = b["tokens"].tolist()
            places = [i for i in range(len(whole)) if whole[i : i + length + 1] == row]
            changes = [np.diff(number_of[at : at + length + 1]) != 0 for at in places]
            assert places and (
                "lengths" in b or any(np.array_equal(np.diff(b["segments"][0]) != 0, found) for found in changes)
            )


@pytest.mark.parametrize("boundaries", ["segments", "stream"])
@pytest.mark.parametrize("size", [12, 13, 14])
def test_rows_without_a_target_are_padding(size, boundaries):
    """A row would hold the last token alone, or claim tokens that are not there."""
    batch = windows_of([size], length=7, rows=4, seed=None, boundaries=boundaries).batch(0)
    used = -(-(size + 2 - 1) // 7)  # start and end token, less the one that nothing stands before
    assert (batch["tokens"][used:] == PAD).all()
    assert not batch["segments" if boundaries == "segments" else "lengths"][used:].any()


def test_epochs_cut_the_stream_elsewhere():
    """A token that begins a row would never be predicted from what stands before it."""
    firsts = set()
    for epoch in range(20):
        first = epoch_of(windows_of([200], length=7, rows=1), epoch)[0]["tokens"][0].tolist()
        firsts.add(framed([200])[0].index(first[0]) % 7)
    assert len(firsts) > 3


def test_all_text_is_trained_on_in_some_epoch():
    """The beginning, the end, or the same rows would always sit out."""
    batches = windows_of(LONG, length=7, rows=4)
    seen = {p for epoch in range(100) for batch in epoch_of(batches, epoch) for p in predictions(batch)}
    assert seen == set(neighbours(LONG, "segments"))


# Pieces ----------------------------------------------------------------------------------------


def rows_of(batch):
    """The tokens of each row between start and end; checks that they are there and padding is elsewhere."""
    for tokens, length in zip(batch["tokens"].tolist(), batch["lengths"].tolist(), strict=True):
        assert tokens[length:] == [PAD] * (len(tokens) - length)
        if length:
            assert (tokens[0], tokens[length - 1]) == (BOS, EOS)
            assert length > 2
            yield tokens[1 : length - 1]


@examples
@given(SIZES_OR_NONE.filter(any), st.integers(3, 12), st.integers(1, 4))
def test_evaluation_pieces_are_the_documents(sizes, length, rows):
    """The score would be that of part of the text, or of rows that mix documents."""
    found = [row for batch in epoch_of(pieces_of(sizes, length, rows, None)) for row in rows_of(batch)]
    tokens, documents = stream(sizes)
    expected = []
    for number in range(len(sizes)):
        own = tokens[documents == number].tolist()
        expected += [own[at : at + length - 2] for at in range(0, len(own), length - 2)]
    assert found == expected


def epoch_rows(sizes, length, rows, seed, epoch):
    """The rows of one training epoch; none where the text does not fill a batch."""
    try:
        batches = pieces_of(sizes, length, rows, seed)
    except DataError:
        return []
    return [row for batch in epoch_of(batches, epoch) for row in rows_of(batch)]


@examples
@given(SIZES_OR_NONE, st.integers(3, 12), st.integers(1, 3), SEEDS, st.integers(0, 2))
def test_training_pieces_are_pieces_of_one_document(sizes, length, rows, seed, epoch):
    """A row would mix documents, or tokens would weigh more than others."""
    _, documents = stream(sizes)
    found = epoch_rows(sizes, length, rows, seed, epoch)
    for row in found:
        assert row == list(range(row[0], row[0] + len(row)))
        assert len({int(documents[token - FIRST]) for token in row}) == 1
    flat = [token for row in found for token in row]
    assert len(flat) == len(set(flat))


@examples
@given(SIZES, st.integers(3, 12), SEEDS, st.integers(0, 2))
def test_a_document_that_fits_a_row_is_never_cut(sizes, length, seed, epoch):
    """Short documents would be seen in halves only."""
    _, documents = stream(sizes)
    for row in epoch_rows(sizes, length, 1, seed, epoch):
        size = sizes[documents[row[0] - FIRST]]
        assert size > length - 2 or len(row) == size


def test_epochs_cut_documents_elsewhere():
    """A token at the edge of a row would always lack the same half of its context."""
    ends = {row[-1] for epoch in range(20) for row in epoch_rows(LONG, 12, 1, 0, epoch)}
    assert len(ends) > 3 * len(epoch_rows(LONG, 12, 1, None, 0))


def test_all_documents_are_trained_on_in_some_epoch():
    """The same rows would always sit out."""
    seen = {token for epoch in range(30) for row in epoch_rows(LONG, 12, 4, 0, epoch) for token in row}
    assert seen == set(stream(LONG)[0].tolist())


def test_the_end_of_a_document_sits_out_no_more_than_the_rest():
    """An epoch has a row more than fit into its batches: it would always be the last."""
    last = stream([200])[0][-1]
    epochs = [any(last in row for row in epoch_rows([200], 12, 1, 0, epoch)) for epoch in range(60)]
    assert sum(epochs) > 45  # 57 of 60 on average


@examples
@given(SIZES, st.integers(3, 12), st.integers(1, 4), st.sampled_from([None, 0]), st.data())
def test_words_are_numbered_in_their_row(sizes, length, rows, seed, data):
    """Half of a word would be masked without the other, or two words as one; each is counted here by hand."""
    words = np.sort(data.draw(st.lists(st.integers(0, 20), min_size=sum(sizes), max_size=sum(sizes)))).astype(np.int32)
    try:
        batches = pieces_of(sizes, length, rows, seed, words)
    except DataError:
        return
    for batch in epoch_of(batches):
        for tokens, numbers in zip(batch["tokens"].tolist(), batch["word_ids"].tolist(), strict=True):
            keys = [(at,) if t < FIRST else ("word", words[t - FIRST]) for at, t in enumerate(tokens)]
            assert [len(list(run)) for _, run in itertools.groupby(keys)] == [
                len(list(run)) for _, run in itertools.groupby(numbers)
            ]
            assert sorted(set(numbers)) == list(range(len(set(numbers))))
            assert numbers == sorted(numbers)


def test_words_come_only_if_there_are_any():
    """A batch would carry an array that nobody reads, or that says nothing."""
    assert sorted(pieces_of(LONG).batch(0)) == ["lengths", "tokens"]
