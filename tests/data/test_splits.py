"""Splits: whole groups held out, nothing tested that was trained on."""

import collections
import itertools

import pytest
from hypothesis import given, settings, strategies as st

from tformer_jax.data.files import DataError
from tformer_jax.data.sources.pairs import Pair
from tformer_jax.data.splits import split_examples

examples = settings(derandomize=True, deadline=None, max_examples=30)

PAIRS = st.lists(
    st.builds(Pair, st.sampled_from("abcdefghijklmnopqrst"), st.sampled_from("xyz"), st.sampled_from("123456789")),
    min_size=10,
    max_size=40,
)
SIZES = st.integers(1, 4)
BY = st.sampled_from(["group", "sentence"])  # "both" has tests of its own
SEEDS = st.integers(0, 5)


def split_or_none(pairs, by="group", validation_size=2, test_size=2, seed=0):
    """The splits, or None where nothing would be left to train on."""
    try:
        return split_examples(pairs, by=by, validation_size=validation_size, test_size=test_size, seed=seed)
    except DataError:
        return None


def key_of(pair, by):
    return pair.group if by == "group" else pair.source


@examples
@given(PAIRS, BY, SIZES, SIZES, SEEDS)
def test_no_training_source_is_held_out(pairs, by, validation_size, test_size, seed):
    """The model would be tested on sentences that it has seen."""
    splits = split_or_none(pairs, by, validation_size, test_size, seed)
    if splits is not None:
        held_out = {pair.source for pair in [*splits["validation"], *splits["test"]]}
        assert held_out.isdisjoint(pair.source for pair in splits["train"])


@examples
@given(PAIRS, BY, SIZES, SIZES, SEEDS)
def test_groups_are_held_out_whole(pairs, by, validation_size, test_size, seed):
    """Half of a document would be tested after training on the other half, or pairs would be counted twice."""
    splits = split_or_none(pairs, by, validation_size, test_size, seed)
    if splits is not None:
        validation, test = ({key_of(pair, by) for pair in part} for part in (splits["validation"], splits["test"]))
        assert validation.isdisjoint(test)
        for part, keys in ((splits["validation"], validation), (splits["test"], test)):
            assert sorted(part) == sorted(pair for pair in pairs if key_of(pair, by) in keys)


@examples
@given(PAIRS, BY, SIZES, SIZES, SEEDS)
def test_all_that_is_not_held_out_is_trained_on(pairs, by, validation_size, test_size, seed):
    """Pairs would be lost for no reason."""
    splits = split_or_none(pairs, by, validation_size, test_size, seed)
    if splits is not None:
        held_out = [*splits["validation"], *splits["test"]]
        keys, sources = {key_of(pair, by) for pair in held_out}, {pair.source for pair in held_out}
        rest = [pair for pair in pairs if key_of(pair, by) not in keys and pair.source not in sources]
        assert sorted(splits["train"]) == sorted(rest)


@examples
@given(PAIRS, BY, SIZES, SIZES, SEEDS)
def test_no_more_groups_are_held_out_than_needed(pairs, by, validation_size, test_size, seed):
    """The held-out splits would be smaller than asked for, or larger by whole documents."""
    splits = split_or_none(pairs, by, validation_size, test_size, seed)
    if splits is not None:
        for part, size in ((splits["validation"], validation_size), (splits["test"], test_size)):
            last = sum(key_of(pair, by) == key_of(part[-1], by) for pair in part)
            assert len(part) - last < size <= len(part)


@examples
@given(PAIRS, BY, SEEDS, st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_the_pairs(pairs, by, seed, random):
    """Another order of files on another machine would change what is tested."""
    shuffled = list(pairs)
    random.shuffle(shuffled)
    first, second = split_or_none(pairs, by, seed=seed), split_or_none(shuffled, by, seed=seed)
    assert (first is None) == (second is None)
    if first is not None:
        assert {n: sorted(part) for n, part in first.items()} == {n: sorted(part) for n, part in second.items()}


def many_groups(count=40):
    return [Pair(f"source {g} {i}", "target", f"group {g}") for g in range(count) for i in range(1 + g % 3)]


def test_the_seed_decides_which_groups_are_held_out():
    """`data.seed` would be a knob that turns nothing, or two runs of one config would test different sentences."""
    tests = [frozenset(split_or_none(many_groups(), seed=seed)["test"]) for seed in (0, 0, 1, 2, 3)]
    assert tests[0] == tests[1]
    assert len(set(tests)) == 4


@examples
@given(st.integers(0, 50), SEEDS)
def test_one_more_pair_leaves_the_order_of_the_other_groups(group, seed):
    """A corpus that grows by a sentence would be dealt out anew."""

    def order(pairs):
        splits = split_or_none(pairs, seed=seed)
        return list(dict.fromkeys(pair.group for pair in [*splits["test"], *splits["validation"]]))

    new = Pair("new source", "target", f"group {group}")
    before, after = order(many_groups()), order([*many_groups(), new])
    assert [name for name in after if name in before] == [name for name in before if name in after]


@examples
@given(st.integers(0, 50), SEEDS, SIZES, SIZES)
def test_one_more_pair_brings_no_tested_group_into_training(group, seed, validation_size, test_size):
    """What an earlier model was tested on would be what the next one learns."""
    new = Pair("new source", "target", f"group {group}")
    sizes = {"validation_size": validation_size, "test_size": test_size, "seed": seed}
    before, after = split_or_none(many_groups(), **sizes), split_or_none([*many_groups(), new], **sizes)
    assert {pair.group for pair in before["test"]}.isdisjoint(pair.group for pair in after["train"])


def test_a_group_that_is_trained_on_can_grow_without_any_other_change():
    """One more pair in a training document would change the held-out splits."""
    before = split_or_none(many_groups())
    new = Pair("new source", "target", before["train"][0].group)
    after = split_or_none([*many_groups(), new])
    assert (after["validation"], after["test"]) == (before["validation"], before["test"])
    assert sorted(after["train"]) == sorted([*before["train"], new])


def test_splitting_by_sentence_keeps_the_translations_of_a_source_together():
    """A source would be trained on with one translation and tested with another."""
    pairs = [Pair(f"source {i}", f"target {i} {j}") for i in range(20) for j in range(3)]
    splits = split_or_none(pairs, "sentence", 5, 5)
    assert [len(part) for part in (splits["validation"], splits["test"])] == [6, 6]
    assert set(collections.Counter(pair.source for pair in splits["test"]).values()) == {3}


def test_nothing_left_to_train_on_is_an_error_with_the_numbers():
    """Training would start on nothing."""
    with pytest.raises(DataError, match="no pair is left to train on: 3 pairs, test_size=2, validation_size=2"):
        split_examples([Pair(c, c, c) for c in "abc"], by="group", validation_size=2, test_size=2, seed=0)


def test_no_example_at_all_is_an_error():
    """A source that gives nothing would end in a traceback."""
    with pytest.raises(DataError, match="no pair is left to train on: 0 pairs"):
        split_examples([], by="sentence", validation_size=1, test_size=1, seed=0)


def test_splitting_by_group_needs_groups():
    """All pairs without a document would be held out as one document called None."""
    with pytest.raises(DataError, match="no groups to split by; set data.split='sentence'"):
        split_examples([Pair("a", "b"), Pair("c", "d", "e")], by="group", validation_size=1, test_size=1, seed=0)


@examples
@given(PAIRS, SEEDS)
def test_splitting_by_both_holds_out_sentences_of_seen_documents_too(pairs, seed):
    """The second held-out splits would hold sentences that are trained on, or replace the first."""
    both, group = split_or_none(pairs, "both", seed=seed), split_or_none(pairs, "group", seed=seed)
    if both is not None:
        assert (both["validation"], both["test"]) == (group["validation"], group["test"])
        held_out = both["validation_sentences"], both["test_sentences"]
        assert sorted(itertools.chain(*held_out, both["train"])) == sorted(group["train"])
        for part, others in zip(held_out, ("test_sentences", "validation_sentences"), strict=True):
            assert {p.source for p in part}.isdisjoint(p.source for p in [*both["train"], *both[others]])


def test_splitting_by_both_says_when_too_little_is_left():
    """Training would start on nothing once the sentences are held out."""
    pairs = [Pair(c, c, c) for c in "abc"]
    with pytest.raises(DataError, match="no pair is left to train on"):
        split_examples(pairs, by="both", validation_size=1, test_size=1, seed=0)
