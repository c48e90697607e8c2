"""What is left to draw from, against the definitions in float64 NumPy, one row and one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from support import examples, normal, quick_jit

from tformer_jax.decoding import Sampler, greedy, sampling

B, V = 6, 11
LOGITS = np.asarray(normal(0, B, V, scale=2.0))
SEEN = np.random.default_rng(1).random((B, V)) < 0.4


def probabilities(logits):
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def by_definition(logits, seen=None, *, repetition_penalty=None, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The logits [V] of one row that are drawn from; -inf for what is left out."""
    logits = np.array(logits, np.float64)
    for token in range(len(logits)):
        if repetition_penalty is not None and seen[token]:
            logits[token] *= 1 / repetition_penalty if logits[token] > 0 else repetition_penalty
    logits /= temperature
    if top_k is not None:
        kth = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        logits[[x < kth for x in logits]] = -np.inf
    if top_p is not None:
        likely_first = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
        total, kept, p = 0.0, set(), probabilities(logits)
        for token in likely_first:
            if total >= top_p:
                break
            kept.add(token)
            total += p[token]
        logits[[token not in kept for token in range(len(logits))]] = -np.inf
    if min_p is not None:
        p = probabilities(logits)
        logits[p < min_p * p.max()] = -np.inf
    return logits


def assert_filtered(found, wanted):
    found, wanted = np.asarray(found), np.asarray(wanted)
    np.testing.assert_array_equal(found == -np.inf, wanted == -np.inf)
    np.testing.assert_allclose(np.where(found == -np.inf, 0, found), np.where(wanted == -np.inf, 0, wanted), rtol=1e-5)


FILTERS = [
    dict(),
    dict(temperature=0.3),
    dict(temperature=2.5),
    dict(repetition_penalty=1.7),
    dict(repetition_penalty=0.5),
    dict(top_k=1),
    dict(top_k=4),
    dict(top_k=V),
    dict(top_k=V + 5),
    dict(top_p=1e-6),
    dict(top_p=0.5),
    dict(top_p=0.9),
    dict(top_p=1.0),
    dict(min_p=0.05),
    dict(min_p=0.3),
    dict(min_p=1.0),
    dict(top_k=6, top_p=0.7),
    dict(top_p=0.9, min_p=0.2, temperature=1.6),
    dict(repetition_penalty=1.3, temperature=0.7, top_k=8, top_p=0.95, min_p=0.01),
]


@pytest.mark.parametrize("how", FILTERS, ids=str)
def test_filters_are_their_definitions(how):
    """A filter would keep a token too many or too few, leave logits unscaled, or act out of its order."""
    wanted = [by_definition(row, seen, **how) for row, seen in zip(LOGITS, SEEN, strict=True)]
    assert_filtered(sampling(**how).filtered(jnp.asarray(LOGITS), jnp.asarray(SEEN)), wanted)


@pytest.mark.parity
@pytest.mark.parametrize("how", FILTERS, ids=str)
def test_filters_are_those_of_transformers(how):
    """The same settings would draw from other tokens than Hugging Face's generate does."""
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    theirs = {
        "repetition_penalty": processors.RepetitionPenaltyLogitsProcessor,
        "temperature": processors.TemperatureLogitsWarper,
        "top_k": processors.TopKLogitsWarper,
        "top_p": processors.TopPLogitsWarper,
        "min_p": processors.MinPLogitsWarper,
    }
    found = sampling(**how).filtered(jnp.asarray(LOGITS), jnp.asarray(SEEN))
    for row, seen, ours in zip(LOGITS, SEEN, np.asarray(found), strict=True):
        scores = torch.tensor(row)[None]
        for name, processor in theirs.items():
            if name in how:
                scores = processor(how[name])(torch.tensor(np.flatnonzero(seen))[None], scores)
        assert_filtered(ours, scores[0].numpy())


def test_those_as_probable_as_the_kth_stay():
    """Which of equals are drawn would depend on their ids."""
    logits = jnp.asarray([[1.0, 2.0, 2.0, 2.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    kept = np.isfinite(sampling(top_k=2).filtered(logits))
    np.testing.assert_array_equal(kept, [[False, True, True, True, False], [True] * 5])


def test_of_equals_the_nucleus_takes_the_first():
    """The nucleus would be larger than the fewest tokens that reach top_p, or another one each time."""
    kept = np.isfinite(sampling(top_p=0.5).filtered(jnp.zeros((1, 8))))
    np.testing.assert_array_equal(kept, [[True] * 4 + [False] * 4])


def test_a_nucleus_of_one_is_everything():
    """The rounded sum of 4,000 probabilities reaches 1 before the last, which would be left out."""
    logits = normal(4000, 8, 4000, scale=3.0)
    assert np.isfinite(sampling(top_p=1.0).filtered(logits)).all()


def test_what_a_filter_left_out_stays_out():
    """A later filter would bring back what an earlier one left out: min_p of what top_k left."""
    logits = jnp.asarray([[5.0, 4.9, 4.8, 4.7]])
    kept = np.isfinite(sampling(top_k=2, top_p=1.0, min_p=1e-9).filtered(logits))
    np.testing.assert_array_equal(kept, [[True, True, False, False]])


@st.composite
def rows_and_filters(draw):
    """Logits with ties and gaps, and any filters; in quarters, so that thresholds are met exactly."""
    logits = draw(st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=6, max_size=6))
    share = st.one_of(st.none(), st.sampled_from([1e-7, 0.25, 0.5, 0.999, 1.0]))
    how = dict(top_p=draw(share), min_p=draw(share), top_k=draw(st.one_of(st.none(), st.integers(1, 8))))
    return logits, how | dict(temperature=draw(st.sampled_from([1e-3, 0.5, 1.0, 100.0])))


@given(rows_and_filters())
@examples(60)
def test_the_most_probable_token_always_survives(case):
    """There would be nothing to draw from, or the likeliest token could not be drawn."""
    logits, how = case
    found = np.asarray(sampling(**how).filtered(jnp.asarray([logits])))[0]
    assert not np.isnan(found).any()
    assert np.isfinite(found[np.argmax(logits)])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_filters_compute_in_float32(dtype):
    """Cumulative probabilities of half precision would cut the nucleus anywhere."""
    logits = jnp.asarray(LOGITS, dtype)
    found = sampling(top_p=0.9, temperature=0.7).filtered(logits)
    assert found.dtype == jnp.float32
    wanted = [by_definition(row, top_p=0.9, temperature=0.7) for row in np.asarray(logits, np.float64)]
    assert_filtered(found, wanted)


# Drawing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [dict(), dict(temperature=1.7, top_k=6), dict(top_p=0.8, min_p=0.1), dict(repetition_penalty=2.0)],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(how):
    """Tokens would be drawn too often, or at all though they were left out: 20,000 draws against chi-square."""
    draws = 20_000
    logits, seen = LOGITS[0], SEEN[0]
    rows = (jnp.tile(jnp.asarray(x), (draws, 1)) for x in (logits, seen))
    drawn = np.asarray(sampling(**how)(next(rows), jax.random.key(0), next(rows)))
    assert drawn.dtype == np.int32
    wanted = draws * probabilities(by_definition(logits, seen, **how))
    counts = np.bincount(drawn, minlength=V)
    assert counts[wanted == 0].sum() == 0
    there = wanted > 0
    chi_square = ((counts - wanted)[there] ** 2 / wanted[there]).sum()
    freedom = there.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)  # five standard deviations


def test_greedy_is_the_most_probable_and_of_several_the_first():
    """Greedy decoding would depend on anything but the logits."""
    logits = jnp.asarray([[0.0, 3.0, 3.0, 1.0], [-1.0, -2.0, -0.5, -0.5]])
    np.testing.assert_array_equal(greedy()(logits), [1, 2])


def test_a_penalty_makes_greedy_avoid_what_stands_there():
    """The penalty would raise negative logits, which dividing does."""
    logits = jnp.asarray([[3.0, 2.0], [-1.0, -1.5]])
    seen = jnp.asarray([[True, False], [True, False]])
    np.testing.assert_array_equal(greedy(repetition_penalty=2.0)(logits, None, seen), [1, 1])
    np.testing.assert_array_equal(greedy(repetition_penalty=1.0)(logits, None, seen), [0, 0])


def test_hardly_any_temperature_is_greedy():
    """Dividing by a small temperature would overflow."""
    found = sampling(temperature=1e-6)(jnp.asarray(LOGITS), jax.random.key(0))
    np.testing.assert_array_equal(found, LOGITS.argmax(-1))


# A pytree --------------------------------------------------------------------------------------


def test_other_settings_are_other_data_but_for_top_k():
    """Each temperature would compile a program of its own; top_k decides shapes and must."""
    draw = quick_jit(lambda sampler, logits, key, seen: sampler(logits, key, seen))

    def programs(*samplers):
        for sampler in samplers:
            draw(sampler, jnp.asarray(LOGITS), jax.random.key(0), jnp.asarray(SEEN))
        return draw._cache_size()

    fields = ("temperature", "top_p", "min_p", "repetition_penalty")
    assert programs(*(sampling(**dict.fromkeys(fields, value), top_k=3) for value in (0.2, 0.5, 0.9))) == 1
    assert programs(sampling(temperature=0.3), sampling(temperature=0.4)) == 2
    assert programs(greedy()) == 3


def test_a_compiled_sampler_reads_its_settings():
    """The settings of the first call would be compiled in."""
    draw = quick_jit(lambda sampler, logits: sampler.filtered(logits))
    for how in (dict(temperature=0.5, top_p=0.5), dict(temperature=2.0, top_p=0.9)):
        assert_filtered(draw(sampling(**how), jnp.asarray(LOGITS)), [by_definition(row, **how) for row in LOGITS])


# Arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sampling, greedy])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_repetition_penalty_that_cannot_be_is_refused(make, value):
    """Logits would be divided by zero, or turned round."""
    with pytest.raises(ValueError, match=r"repetition_penalty must be in \(0, inf\), got"):
        make(repetition_penalty=value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(temperature=float("inf")), r"temperature must be in \(0, inf\), got inf"),
        (
            dict(temperature=1e39),
            r"temperature must be in \(0, inf\), got 1e\+39; at most 3\.4e\+38, as it is a float32",
        ),
        (dict(repetition_penalty=1e300), "repetition_penalty must be .*, got 1e\\+300; at most"),
        (dict(temperature=0.0), r"temperature must be in \(0, inf\), got 0\.0"),
        (dict(temperature=-1.0), r"temperature must be in \(0, inf\)"),
        (dict(temperature=float("nan")), r"temperature must be in \(0, inf\)"),
        (dict(top_k=0), "top_k must be at least 1, got 0"),
        (dict(top_p=0.0), r"top_p must be in \(0, 1\.0\], got 0\.0"),
        (dict(top_p=1.1), r"top_p must be in \(0, 1\.0\], got 1\.1"),
        (dict(min_p=0.0), r"min_p must be in \(0, 1\.0\], got 0\.0"),
        (dict(min_p=2.0), r"min_p must be in \(0, 1\.0\]"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(how, message):
    """A filter would leave nothing, or everything, in silence."""
    with pytest.raises(ValueError, match=message):
        sampling(**how)


def test_a_sampler_without_temperature_is_greedy():
    """Generation would ask for a key that it does not need, or draw without one."""
    assert greedy().is_greedy and greedy(repetition_penalty=2.0).is_greedy and Sampler().is_greedy
    assert not sampling().is_greedy


@pytest.mark.parametrize("temperature", [1e-6, 2e-38, 1e-45])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_any_small_temperature_takes_the_most_probable(temperature, filters):
    """Logits would overflow to infinity, all large ones alike, and the first of them win."""
    sampler = sampling(temperature=temperature, **filters)
    logits = jnp.array([[1.0, 8.0, 9.0, 2.0], [-2e9, -1e9, -0.9e9, -jnp.inf], [0.0, 1e9, 1e9 + 64, 1.0]])
    np.testing.assert_array_equal(sampler(logits, jax.random.key(0)), [2, 2, 2])


def test_a_sampler_says_what_it_lacks():
    """An error would come from deep inside of the draw."""
    with pytest.raises(ValueError, match="needs a random key"):
        sampling()(jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="logits must have a last axis of at least 1"):
        sampling(top_k=2)(jnp.ones((2, 0)), jax.random.key(0))
    with pytest.raises(ValueError, match="repetition_penalty needs `seen`"):
        greedy(repetition_penalty=1.2)(jnp.ones((1, 3)))


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty"])
def test_a_number_of_any_kind(name):
    """Only a Python number works, or an array that a traced function closes over fails there."""
    seen, held = jnp.asarray(SEEN), jnp.float32(0.5)

    def draw(number):
        return sampling(**{name: number}).filtered(jnp.asarray(LOGITS), seen)

    wanted = draw(0.5)
    outside = [draw(kind) for kind in (np.float32(0.5), np.array(0.5), held)]
    for found in (*outside, jax.jit(lambda: draw(held))(), jax.jit(draw)(0.5)):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for wrong in (-1.0, np.float32(0.0), jnp.float32(jnp.nan)):
        with pytest.raises(ValueError, match=f"^{name} must be in"):
            draw(wrong)


def test_16_bit_logits_are_drawn_from_in_float32():
    """Noise of 16 bits has few values: of 50,000 equal tokens the first few hundred would be all that is drawn."""
    tokens = sampling()(jnp.zeros((64, 50_000), jnp.bfloat16), jax.random.key(0))
    assert 20_000 < np.mean(tokens) < 30_000


def test_top_k_does_not_sort_the_vocabulary():
    """The last of the k best, taken by a slice, compiles to a sort of everything: fifty times the time."""
    program = jax.jit(lambda x: sampling(top_k=5).filtered(x)).lower(jnp.zeros((2, 300))).compile().as_text()
    assert " sort(" not in program


@pytest.mark.parametrize(
    "how", [dict(top_p=0.9), dict(top_k=50, top_p=0.95), dict(top_k=700, top_p=0.99), dict(top_p=1.0)]
)
@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_a_nucleus_of_a_large_vocabulary_is_that_of_the_definition(how, scale):
    """It is looked for among the likeliest few: what goes beyond them is left out, or a row that needs no more gets more."""
    logits = np.asarray(normal(3, 3, 1000, scale=scale))
    found = np.asarray(sampling(**how).filtered(jnp.asarray(logits)))
    for row, wanted in zip(found, (by_definition(row, **how) for row in logits), strict=True):
        np.testing.assert_array_equal(np.isfinite(row), np.isfinite(wanted))


@pytest.mark.parametrize(
    "how", [dict(top_k=50, top_p=0.95), dict(top_k=40), dict(top_p=0.8, min_p=0.05), dict(top_k=50, temperature=2.0)]
)
@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_a_draw_among_the_likeliest_is_that_among_all(how, scale):
    """The token of a row would depend on whether some row of the batch needs more than the likeliest few."""
    logits = normal(4, 64, 1000, scale=scale).at[1::2, 10:14].set(9.0)  # of half of the rows, some are equally likely
    flat = logits.at[-1].set(0.0)  # all of this row's are: they have to be sorted
    draw = lambda logits: np.asarray(sampling(**how)(logits, jax.random.key(0)))[:-1]
    np.testing.assert_array_equal(draw(logits), draw(flat))
    many = logits.at[1::2, 10:90].set(9.0)  # as many as have to be sorted, too
    np.testing.assert_array_equal(draw(logits)[::2], draw(many)[::2])


@pytest.mark.parametrize(
    "how", [dict(top_k=5), dict(top_k=50, top_p=0.9), dict(top_p=0.7), dict(top_p=0.9, min_p=0.05)]
)
def test_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_are_probable(how):
    """A token is drawn too often, or one that was left out is drawn."""
    row = np.asarray(normal(5, 1000, scale=4.0))
    left = by_definition(row, **how)
    drawn = np.asarray(quick_jit(lambda key: sampling(**how)(jnp.tile(row, (4000, 1)), key))(jax.random.key(1)))
    expected, found = 4000 * probabilities(left), np.bincount(drawn, minlength=1000)
    assert not found[expected == 0].any()
    often = expected > 5
    assert (np.square(found - expected)[often] / expected[often]).sum() < often.sum() + 4 * np.sqrt(2 * often.sum())
