"""Greedy and beam search against every sequence there is: five tokens, at most four long.

The oracle scores sequences with the model's uncached forward pass, all 256 at once, and NumPy does the rest.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import by_day, quick_jit, tiny_transformer, unchecked_annotations

import tformer_jax.functional as F
from tformer_jax import models
from tformer_jax.decoding import beam_search, greedy_search, search as programs

V, MAX_LENGTH, BOS, EOS = 5, 4, 1, 2
IDS = {"bos_id": BOS, "eos_id": EOS}
SOURCE = jnp.array([[3, 0, 4, 3, 1, 4], [4, 4, 3, 0, 0, 0], [1, 3, 3, 3, 4, 0]], jnp.int32)
MASK = F.AttentionMask(lengths=jnp.array([6, 3, 5]))
# Ended after 1, 2, 3 or 4 tokens, or cut after 4: as many hypotheses as there can be.
HYPOTHESES = 1 + 4 + 16 + 64 + 256
PENALTIES = (0.0, 0.6, 2.0)


def make_model(seed):
    """Weights strong enough that the hypotheses differ by more than rounding."""
    weak = tiny_transformer(seed, vocab_size=V, max_length=8, num_layers=1, tie_output=False)
    return jax.tree.map(lambda x: 1.5 * x, weak)


@pytest.fixture(scope="module")
def model():
    """A seed under which sources, penalties and beams have different winners (checked below)."""
    return make_model(541)


@pytest.fixture(scope="module")
def log_probs(model):
    """[B 256 4 5]: the next token's log-probabilities along each of the 256 sequences without an end."""
    others = [token for token in range(V) if token != EOS]
    prefixes = np.array([[BOS, *rest] for rest in itertools.product(others, repeat=MAX_LENGTH - 1)], np.int32)
    forward = quick_jit(lambda model, source, target, lengths: model(source, target, source_mask=lengths))
    scored = {}
    for row, (source, length) in enumerate(zip(np.asarray(SOURCE), np.asarray(MASK.lengths), strict=True)):
        rows = jnp.asarray(np.tile(source, (len(prefixes), 1)))
        seen = jnp.asarray(np.tile(np.arange(len(source)) < length, (len(prefixes), 1)))
        logits = np.asarray(forward(model, rows, jnp.asarray(prefixes), seen), np.float64)
        normalised = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for prefix, steps in zip(prefixes, normalised, strict=True):
            for t in range(MAX_LENGTH):
                scored[row, tuple(prefix[1 : t + 1])] = steps[t]
    return scored


@pytest.fixture(scope="module")
def ranking(log_probs):
    """`ranking(row, penalty)`: all hypotheses of a source as (score, tokens), best first."""

    @functools.cache
    def rank(row, length_penalty):
        found = []

        def extend(tokens, total):
            for token in range(V):
                longer, log_prob = (*tokens, token), total + log_probs[row, tokens][token]
                if token == EOS or len(longer) == MAX_LENGTH:
                    score = log_prob / ((5 + len(longer)) / 6) ** length_penalty
                    found.append((score, longer + (EOS,) * (MAX_LENGTH - len(longer))))
                else:
                    extend(longer, log_prob)

        extend((), 0.0)
        return sorted(found, reverse=True)

    return rank


@functools.cache
def compiled(find, **how):
    """A search for these settings, compiled in a hurry."""
    return quick_jit(lambda model, source, mask: find(model, source, source_mask=mask, **IDS, **how))


def search(model, length_penalty, source=SOURCE, mask=MASK, **how):
    """A beam search with room for every hypothesis, unless told otherwise."""
    how = {"beam_size": HYPOTHESES, "max_length": MAX_LENGTH, "length_penalty": length_penalty} | how
    found = compiled(beam_search, **how)(model, source, mask)
    return np.asarray(found.tokens), np.asarray(found.scores, np.float64)


def greedy(model, source=SOURCE, mask=MASK):
    return np.asarray(compiled(greedy_search, max_length=MAX_LENGTH)(model, source, mask))


def pair_search(model, source=SOURCE, mask=MASK):
    """The tokens that a beam of two finds, all rows of all sources below one another."""
    return search(model, 0.6, source, mask, beam_size=2)[0].reshape(-1, MAX_LENGTH)


@pytest.fixture(scope="module", params=by_day(PENALTIES, 1))
def exhaustive(request, model):
    """The length penalty, and all hypotheses of all sources."""
    return request.param, *search(model, request.param)


def test_a_wide_beam_finds_every_hypothesis_in_order(exhaustive, ranking):
    """Hypotheses are lost, repeated or ranked wrongly: against exhaustive enumeration."""
    length_penalty, tokens, _ = exhaustive
    for row in range(len(SOURCE)):
        assert ranking(row, length_penalty)[0][1] == tuple(tokens[row, 0])
        assert {t for _, t in ranking(row, length_penalty)} == {tuple(t) for t in tokens[row]}


def test_scores_are_penalised_log_probabilities(exhaustive, ranking):
    """A score is not log P / ((5 + |y|) / 6)^a of its tokens: the cache, the end token or the length is wrong."""
    length_penalty, tokens, scores = exhaustive
    for row in range(len(SOURCE)):
        wanted = {t: score for score, t in ranking(row, length_penalty)}
        np.testing.assert_allclose(scores[row], [wanted[tuple(t)] for t in tokens[row]], rtol=2e-5, atol=2e-5)


def test_hypotheses_come_best_first(exhaustive):
    """The first hypothesis would not be the translation."""
    _, _, scores = exhaustive
    assert (np.diff(scores, axis=1) <= 0).all()


def test_the_length_penalty_changes_the_winner(ranking):
    """The cases above would not tell one penalty from another."""
    winners = {tuple(ranking(row, penalty)[0][1] for row in range(len(SOURCE))) for penalty in PENALTIES}
    assert len(winners) > 1


def test_the_sources_have_different_winners(ranking):
    """The cases above would not notice rows of the batch that are mixed up."""
    assert len({ranking(row, 0.6)[0][1] for row in range(len(SOURCE))}) > 1


@pytest.fixture(scope="module")
def small_beam(model):
    return search(model, 0.6, beam_size=2)


def test_the_small_beam_misses_the_best_of_a_source(small_beam, ranking):
    """The tests of the small beam would not tell it from an exhaustive search."""
    tokens, _ = small_beam
    assert any(ranking(row, 0.6)[0][1] != tuple(tokens[row, 0]) for row in range(len(SOURCE)))


def test_a_small_beam_reports_true_scores(small_beam, ranking):
    """Reordering the cache mixes up histories: a reported score is not that of the reported tokens."""
    tokens, scores = small_beam
    for row in range(len(SOURCE)):
        wanted = {t: score for score, t in ranking(row, 0.6)}
        np.testing.assert_allclose(scores[row], [wanted[tuple(t)] for t in tokens[row]], rtol=2e-5, atol=2e-5)


def test_a_small_beam_never_beats_the_best(small_beam, ranking):
    """A score would count something twice: nothing is better than the best of all."""
    _, scores = small_beam
    assert all(scores[row, 0] <= ranking(row, 0.6)[0][0] + 1e-5 for row in range(len(SOURCE)))


def test_a_small_beam_returns_different_hypotheses(small_beam):
    """The beam would be filled with copies of one hypothesis."""
    tokens, _ = small_beam
    assert all(len({tuple(t) for t in row}) == len(row) for row in tokens)


def by_hand(following, beam_size, length_penalty, max_length=MAX_LENGTH, penalty_kind="gnmt", stop="exact"):
    """Beam search in Python, one hypothesis at a time, an exact one without stopping early: (score, tokens), best first.

    `following(tokens)` are the log-probabilities of the next token. An end counts where the beam would go on with it,
    were it none.
    """
    alive, finished = [(0.0, ())], []
    for length in range(1, max_length + 1):
        grown = [(p + log_prob, (*t, v)) for p, t in alive for v, log_prob in enumerate(following(t))]
        grown = sorted(grown, reverse=True)
        penalty = ((5 + length) / 6 if penalty_kind == "gnmt" else length) ** length_penalty
        for p, t in grown[:beam_size]:
            if t[-1] == EOS or length == max_length:
                finished.append((p / penalty, t + (EOS,) * (max_length - length)))
        alive = [(p, t) for p, t in grown if t[-1] != EOS][:beam_size]
        finished = sorted(finished, reverse=True)[:beam_size]
        is_full = len(finished) == beam_size
        if is_full and (stop == "full" or stop == "heuristic" and alive[0][0] / penalty <= finished[-1][0]):
            break
    return finished


def test_a_small_beam_is_beam_search(small_beam, log_probs):
    """The search would keep other hypotheses than the algorithm says, or stop before its results are final."""
    tokens, _ = small_beam
    for row in range(len(SOURCE)):
        wanted = [t for _, t in by_hand(lambda t, row=row: log_probs[row, t], tokens.shape[1], 0.6)]
        assert [tuple(t) for t in tokens[row]] == wanted


def test_fewer_results_are_the_first_of_all(model, small_beam):
    """Stopping earlier would change the translation."""
    tokens, scores = small_beam
    best, best_scores = search(model, 0.6, beam_size=2, num_results=1)
    assert best.shape == (len(SOURCE), 1, MAX_LENGTH)
    np.testing.assert_array_equal(best, tokens[:, :1])
    np.testing.assert_allclose(best_scores, scores[:, :1], rtol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tabulated:
    """A stand-in for a model: the next token's logits of each row are looked up by step and last token, [B T V V]."""

    table: Any
    step: Any = 0

    config = models.Transformer.Config(vocab_size=V, max_length=6)

    def encode(self, source, mask=None):
        return source, None

    def start_cache(self, memory, length, source_mask=None):
        return self

    def extend(self, tokens, cache):
        rows = jnp.arange(len(tokens))[:, None]
        return cache.table[rows, cache.step, tokens], dataclasses.replace(cache, step=cache.step + 1)

    def map_rows(self, change):
        return dataclasses.replace(self, table=change(self.table, 0))

    def map_history(self, change):
        return self


TABLES = 2 * np.random.default_rng(0).standard_normal((200, 6, V, V)).astype(np.float32)
LOG_PROBS = TABLES - np.log(np.exp(TABLES.astype(np.float64)).sum(-1, keepdims=True))


def all_by_hand(**how):
    """Of each table, what a beam of two finds."""
    following = lambda table: lambda t: table[len(t)][t[-1] if t else BOS]
    return [by_hand(following(table), 2, max_length=6, **how) for table in LOG_PROBS]


def assert_found_by_hand(num_results, **how):
    """Searches with the tables of logits, four rows at a time, of which one may be over before another."""

    def find(tables):
        sizes = {"beam_size": 2, "max_length": 6, "num_results": num_results}
        return beam_search(Tabulated(tables, jnp.int32(0)), jnp.zeros((4, 1), jnp.int32), **sizes, **how, **IDS)

    found = quick_jit(jax.vmap(find))(TABLES.reshape(50, 4, 6, V, V))
    rows = (np.asarray(x).reshape(200, num_results, *x.shape[3:]) for x in found)
    for wanted, tokens, scores in zip(all_by_hand(**how), *rows, strict=True):
        assert [tuple(t) for t in tokens] == [t for _, t in wanted[:num_results]]
        np.testing.assert_allclose(scores, [score for score, _ in wanted[:num_results]], rtol=1e-5)


@pytest.mark.parametrize("num_results", by_day([1, 2], 1))
@pytest.mark.parametrize("length_penalty", by_day([0.0, 2.0], 1))
def test_stopping_early_changes_nothing(length_penalty, num_results):
    """The search would stop before its results are final."""
    assert_found_by_hand(num_results, length_penalty=length_penalty)


EACH_KIND = [(kind, stop) for kind in ("power", "gnmt") for stop in ("heuristic", "full", "exact")]


@pytest.mark.parametrize("num_results", by_day([1, 2], 0))
@pytest.mark.parametrize(("penalty_kind", "stop"), by_day(EACH_KIND, 0, 1))
def test_each_kind_of_penalty_and_stop_is_as_by_hand(penalty_kind, stop, num_results):
    """A row that is over would take more hypotheses, or end with fewer results than were asked for."""
    assert_found_by_hand(num_results, length_penalty=2.0, penalty_kind=penalty_kind, stop=stop)


def test_each_kind_of_penalty_and_stop_has_other_results():
    """The tables would not tell one from another."""
    found = [all_by_hand(length_penalty=2.0, penalty_kind=kind, stop=stop) for kind, stop in EACH_KIND]
    best = [tuple(wanted[0][1] for wanted in each) for each in found]
    assert len(set(best)) == len(EACH_KIND)


def test_greedy_search_takes_the_most_probable_token_of_each_step(model, log_probs):
    """The cached steps would not be those of the uncached model."""
    for row, found in enumerate(greedy(model)):
        tokens = ()
        while len(tokens) < MAX_LENGTH and EOS not in tokens:
            tokens += (int(np.argmax(log_probs[row, tokens])),)
        assert tuple(found) == tokens + (EOS,) * (MAX_LENGTH - len(tokens))


def test_a_beam_of_one_is_greedy_search(model, log_probs):
    """One hypothesis would not follow the most probable token, or end where another one is more probable."""
    tokens, scores = search(model, 0.0, beam_size=1)
    np.testing.assert_array_equal(tokens[:, 0], greedy(model))
    for row, path in enumerate(tokens[:, 0]):
        end = (list(path) + [EOS]).index(EOS) + 1
        score = sum(log_probs[row, tuple(path[:t])][path[t]] for t in range(min(end, MAX_LENGTH)))
        np.testing.assert_allclose(scores[row, 0], score, rtol=2e-5)


@pytest.mark.parametrize("find", [greedy, pair_search])
def test_all_after_the_end_is_the_end(model, find):
    """What stands behind the end of a sentence would be printed or scored."""
    rows = find(model)
    ended = np.cumsum(rows == EOS, axis=1) > 0
    assert ended.any()
    np.testing.assert_array_equal(rows[ended], EOS)


@pytest.mark.parametrize("find", [greedy, pair_search])
def test_what_stands_in_the_padding_does_not_matter(model, find):
    """A translation would depend on the padding of its batch."""
    padding = np.arange(SOURCE.shape[1]) >= np.asarray(MASK.lengths)[:, None]
    other = jnp.where(padding, (SOURCE + 1) % V, SOURCE)
    np.testing.assert_array_equal(find(model, other, MASK), find(model, SOURCE, MASK))


def test_how_much_padding_there_is_does_not_matter(model):
    """A translation would depend on the longest sentence of its batch."""
    short = SOURCE[1:2, :3]
    tokens, scores = search(model, 0.6, short, None, beam_size=2)
    padded_tokens, padded_scores = search(model, 0.6, beam_size=2)
    np.testing.assert_array_equal(tokens[0], padded_tokens[1])
    np.testing.assert_allclose(scores[0], padded_scores[1], rtol=1e-5)


def test_a_length_penalty_of_any_kind(model, small_beam):
    """Only a Python number is taken, each penalty is another program, or a traced one has no derivative."""

    tokens, wanted_scores = small_beam

    def scores(penalty):
        how = dict(beam_size=2, max_length=MAX_LENGTH, length_penalty=penalty, source_mask=MASK)
        return beam_search(model, SOURCE, **how, **IDS).scores

    for penalty in (np.float64(0.6), np.array(0.6), jnp.float32(0.6)):
        np.testing.assert_allclose(scores(penalty), wanted_scores, rtol=1e-5)
    found, slope = quick_jit(lambda penalty: jax.jvp(scores, (penalty,), (1.0,)))(0.6)
    np.testing.assert_allclose(found, wanted_scores, rtol=1e-5)
    lengths = (np.cumsum(tokens == EOS, axis=-1) == 0).sum(-1) + 1
    wanted = -np.asarray(found) * np.log((5 + np.minimum(lengths, MAX_LENGTH)) / 6)
    np.testing.assert_allclose(slope, wanted, rtol=1e-4)
    with unchecked_annotations(), pytest.raises(TypeError, match="length_penalty must be a number, got '1'"):
        scores("1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 9}, "max_length=9 exceeds the model's max_length=8"),
        ({"beam_size": 0}, "beam_size must be at least 1, got 0"),
        ({"beam_size": 10**30}, "beam_size must be at most"),
        ({"length_penalty": -0.1}, "length_penalty must not be negative, got -0.1"),
        ({"beam_size": 2, "num_results": 3}, "num_results must be between 1 and beam_size=2, got 3"),
        ({"beam_size": 2, "num_results": 0}, "num_results must be between 1 and beam_size=2, got 0"),
        ({"penalty_kind": "wu"}, "penalty_kind must be 'gnmt' or 'power', got 'wu'"),
        ({"stop": "never"}, "stop must be 'exact', 'heuristic' or 'full', got 'never'"),
    ],
)
def test_a_beam_that_cannot_be_is_refused(model, changes, message):
    """The search would return nothing, or run past the model's positions."""
    with unchecked_annotations(), pytest.raises(ValueError, match=message):
        beam_search(model, SOURCE, **{"max_length": MAX_LENGTH, **IDS} | changes)


@pytest.mark.parametrize("find", [greedy_search, beam_search])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": [[1, V]]}, ValueError, rf"source\[0, 1\] is {V}, outside the vocabulary \[0, {V}\)"),
        ({"source": [[-1, 1]]}, ValueError, r"source\[0, 0\] is -1"),
        ({"source": [[0.5, 1.0]]}, TypeError, "source must be an array of integers, got float64"),
        ({"source": [1, 2]}, ValueError, r"source must have two axes, rows and tokens, got shape \(2,\)"),
        ({"source": np.zeros((0, 3), int)}, ValueError, r"source must have rows and tokens, got the shape \(0, 3\)"),
        ({"bos_id": V}, ValueError, rf"bos_id={V} is outside the vocabulary"),
        ({"eos_id": -1}, ValueError, "eos_id=-1 is outside the vocabulary"),
        ({"max_length": 2.0}, TypeError, "max_length must be an integer, got 2.0"),
    ],
)
def test_ids_that_cannot_be_are_refused(model, find, changes, error, message):
    """The logits would be NaN, and the hypotheses look like any others."""
    arguments = {"source": [[1, 2]], "max_length": 3, **IDS} | changes
    with unchecked_annotations(), pytest.raises(error, match=message):
        find(model, np.asarray(arguments.pop("source")), **arguments)


def test_greedy_search_past_the_model_is_refused(model):
    """The cache would overwrite its last entries."""
    with pytest.raises(ValueError, match="max_length=9 exceeds the model's max_length=8"):
        greedy_search(model, SOURCE, max_length=9, **IDS)


@pytest.mark.parametrize(
    ("find", "program", "how"),
    by_day([(greedy_search, programs._greedy_search, {}), (beam_search, programs._beam_search, {"beam_size": 2})], 1),
)
def test_one_compilation_serves_other_contents(find, program, how, model):
    """Every batch, or every checkpoint, would be compiled anew."""
    how = {"max_length": 3, **IDS} | how
    find(model, SOURCE, source_mask=MASK, **how)
    before = program._cache_size()
    find(make_model(4), SOURCE[::-1], source_mask=F.AttentionMask(lengths=jnp.array([2, 4, 1])), **how)
    assert program._cache_size() == before
