"""Masked language modelling's noise: who is chosen, what it becomes, and that a key decides."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from support import examples, quick_jit

import tformer_jax.functional as F

MASK, V, SPECIAL = 3, 20, (0, 1, 19)
ORDINARY = sorted(set(range(V)) - {MASK, *SPECIAL})
TOKENS = np.random.default_rng(0).integers(0, V, (64, 256))


@functools.cache
def program(rate: float = 0.15):
    return quick_jit(functools.partial(F.mask_tokens, mask_id=MASK, vocab_size=V, special_ids=SPECIAL, rate=rate))


def corrupt(seed: int = 0, rate: float = 0.15, tokens=TOKENS, word_ids=None):
    """The corrupted tokens and the chosen set, as NumPy."""
    word_ids = None if word_ids is None else jnp.asarray(word_ids)
    return tuple(map(np.asarray, program(rate)(jnp.asarray(tokens), jax.random.key(seed), word_ids=word_ids)))


def assert_share(count: int, total: int, share: float):
    """Within five standard deviations of a binomial."""
    assert abs(count - total * share) <= 5 * np.sqrt(total * share * (1 - share)), f"{count} of {total}, not {share}"


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_rate_is_the_share_of_the_ordinary_tokens_that_is_chosen(rate):
    """Another share is chosen, or special tokens count among those it is a share of."""
    _, masked = corrupt(rate=rate)
    assert_share(masked.sum(), np.isin(TOKENS, ORDINARY).sum(), rate)


def test_rate_one_chooses_every_ordinary_token():
    """The draw misses some."""
    np.testing.assert_array_equal(corrupt(rate=1.0)[1], np.isin(TOKENS, ORDINARY))


@examples(20)
@given(st.integers(0, 1000))
def test_what_is_not_chosen_or_special_stays(seed):
    """Padding, separators or tokens that the loss does not read are changed."""
    corrupted, masked = corrupt(seed)
    np.testing.assert_array_equal(corrupted[~masked], TOKENS[~masked])
    assert not masked[np.isin(TOKENS, [MASK, *SPECIAL])].any()


def test_of_the_chosen_80_percent_are_hidden_10_drawn_10_stay():
    """The three fates have other shares. A drawn token is the old one in 1 of 16 cases."""
    corrupted, masked = corrupt(rate=1.0)
    total, before, after = masked.sum(), TOKENS[masked], corrupted[masked]
    assert_share((after == MASK).sum(), total, 0.8)
    assert_share((after == before).sum(), total, 0.1 + 0.1 / len(ORDINARY))


def test_drawn_tokens_are_uniform_over_the_ordinary_ones():
    """A special token is drawn, or some ordinary ones more often than others."""
    corrupted, masked = corrupt(rate=1.0)
    drawn = corrupted[masked & (corrupted != MASK) & (corrupted != TOKENS)]
    counts = np.bincount(drawn, minlength=V)
    assert counts[[MASK, *SPECIAL]].sum() == 0
    for token in ORDINARY:
        assert_share(counts[token], drawn.size, 1 / len(ORDINARY))


def test_the_key_decides():
    """The same key chooses others, or other keys choose the same."""
    (a, _), (b, _), (c, _) = (corrupt(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_words_of_a_sequence_are_chosen_whole():
    """Part of a word gives its masked rest away, or all words fall together."""
    word_ids = np.sort(np.random.default_rng(1).integers(0, 100, TOKENS.shape), axis=1)
    _, masked = corrupt(word_ids=word_ids, rate=0.5)
    ordinary = np.isin(TOKENS, ORDINARY)
    chosen = words = 0
    for row in range(len(TOKENS)):
        for word in np.unique(word_ids[row][ordinary[row]]):
            of_word = masked[row][ordinary[row] & (word_ids[row] == word)]
            assert of_word.all() or not of_word.any()
            chosen, words = chosen + of_word[0], words + 1
    assert_share(chosen, words, 0.5)


def test_the_tokens_of_a_word_have_fates_of_their_own():
    """80/10/10 is drawn once a word."""
    tokens = np.full((8, 64), ORDINARY[0])
    corrupted, _ = corrupt(tokens=tokens, word_ids=np.zeros_like(tokens), rate=1.0)
    assert all(0 < (row == MASK).sum() < 64 for row in corrupted)


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
def test_the_dtype_is_kept(dtype):
    """Tokens come back wider than they went in."""
    corrupted, masked = corrupt(tokens=TOKENS[:2].astype(dtype))
    assert corrupted.dtype == dtype and masked.dtype == bool


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rate=0.0), r"rate must be in \(0, 1\], got 0.0"),
        (dict(rate=1.1), r"rate must be in \(0, 1\], got 1.1"),
        (dict(mask_id=5), r"must be in \[0, 5\), got \[0, 5\]"),
        (dict(special_ids=(-1,)), r"must be in \[0, 5\), got \[-1, 4\]"),
        (dict(special_ids=(0, 1, 2, 3)), "all 5 tokens are special"),
    ],
)
def test_arguments_that_cannot_be_are_refused(changes, message):
    """An impossible vocabulary masks the wrong tokens without a word."""
    arguments = dict(mask_id=4, vocab_size=5, special_ids=(0,)) | changes
    with pytest.raises(ValueError, match=message):
        F.mask_tokens(jnp.zeros((1, 2), int), jax.random.key(0), **arguments)


@pytest.mark.parametrize("wrong", [-1, 2])
def test_words_outside_of_a_sequence_are_refused_or_choose_nothing(wrong):
    """Tokens are chosen with a word of the other end, or always."""
    tokens, words, how = jnp.zeros((1, 2), int), jnp.array([[0, wrong]]), dict(mask_id=4, vocab_size=5, rate=1.0)
    with pytest.raises(ValueError, match=rf"^word_ids must be in \[0, 2\), got {wrong}$"):
        F.mask_tokens(tokens, jax.random.key(0), word_ids=words, **how)
    traced = quick_jit(lambda words: F.mask_tokens(tokens, jax.random.key(0), word_ids=words, **how)[1])
    np.testing.assert_array_equal(traced(words), [[True, False]])
