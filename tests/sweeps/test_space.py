"""What a sweep tries: counts, orders and values against itertools, NumPy and SciPy; every bad text is refused."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import kstest, qmc
from support import examples

from tformer_jax.config import ConfigError
from tformer_jax.sweeps.space import chain, integers, linear, log, over, product, quasi_random, random, zipped
from tformer_jax.sweeps.text import parse

VALUES = st.lists(st.integers(-5, 5), min_size=1, max_size=4, unique=True)


@examples(30)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_product_is_that_of_itertools(domains):
    """A combination is missing, comes twice, or the last field does not change fastest."""
    space = product(*(over(f"f{i}", domain) for i, domain in enumerate(domains)))
    assert [tuple(member.values()) for member in space.members()] == list(itertools.product(*domains))
    assert all(list(member) == [f"f{i}" for i in range(len(domains))] for member in space.members())


@examples(30)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_chain_is_one_space_after_the_other(domains):
    """Members of a chain are lost or out of order."""
    space = chain(*(over("f", domain) for domain in domains))
    assert [member["f"] for member in space.members()] == list(itertools.chain(*domains))


def test_a_zip_takes_first_with_first():
    """A zip mixes members of different places."""
    space = zipped(over("a", [1, 2, 3]), over("b", ["x", "y", "z"]))
    assert space.members() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]


def test_combinations_nest():
    """A space within a space is taken apart."""
    space = product(zipped(over("a", [1, 2]), over("b", [3, 4])), chain(over("c", [5]), over("d", [6, 7])))
    got = [tuple(member.items()) for member in space.members()]
    pairs, ends = [(("a", 1), ("b", 3)), (("a", 2), ("b", 4))], [(("c", 5),), (("d", 6),), (("d", 7),)]
    assert got == [pair + end for pair in pairs for end in ends]


@examples(50)
@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e4), st.integers(2, 9))
def test_a_log_grid_has_even_ratios_and_both_ends(low, ratio, count):
    """A grid misses an end, or is not even in the logarithm."""
    grid = log(low, low * ratio, count)
    assert (grid[0], grid[-1]) == (low, low * ratio)
    np.testing.assert_allclose(np.diff(np.log(grid)), math.log(ratio) / (count - 1), rtol=1e-6, atol=1e-9)


def test_a_linear_grid_has_even_distances():
    """A linear grid is not linear."""
    assert linear(0, 1, 5) == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_a_grid_of_integers_has_each_once():
    """A grid of integers has fractions, or the same value twice."""
    assert log(integers(1, 8), 4) == log(integers(1, 8), count=4) == (1, 2, 4, 8)
    assert integers(1, 3).grid(9) == (1, 2, 3)


@pytest.mark.parametrize("domain, cdf", [
    (linear(2, 5), lambda x: (x - 2) / 3),
    (log(1e-4, 1e-1), lambda x: (np.log10(x) + 4) / 3),
])  # fmt: skip
def test_draws_have_the_distribution_of_their_range(domain, cdf):
    """Draws from a range are not uniform, in itself or in its logarithm."""
    drawn = [member["x"] for member in random(2000, over("x", domain), seed=3).members()]
    assert kstest(drawn, lambda x: np.asarray(cdf(np.asarray(x)))).pvalue > 0.01


def test_draws_of_integers_and_values_reach_all_of_them_evenly():
    """An integer at an end, or a value, is drawn more rarely than the others."""
    space = product(over("n", integers(3, 6)), over("name", ["a", "b"]))
    members = random(4000, space, seed=1).members()
    for name, wanted in (("n", [3, 4, 5, 6]), ("name", ["a", "b"])):
        values, counts = np.unique([member[name] for member in members], return_counts=True)
        assert values.tolist() == wanted
        np.testing.assert_allclose(counts, 4000 / len(wanted), rtol=0.1)


@examples(30)
@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_no_draw_is_outside_of_its_range(low, width, share):
    """Rounding takes a draw over an end of its range."""
    for domain in (linear(low, low + width), log(low, low + width), integers(low, low + width)):
        assert low <= domain.at(share) <= low + width
    assert isinstance(log(integers(low, low + width)).at(share), int)


def test_draws_follow_their_seed():
    """The same seed gives other members, or another seed the same."""
    space = product(over("x", linear(0, 1)), over("y", log(1, 2)))
    for draw in (random, quasi_random):
        assert draw(5, space, seed=1).members() == draw(5, space, seed=1).members()
        assert draw(5, space, seed=1).members() != draw(5, space, seed=2).members()


@pytest.mark.parametrize("draw", [random, quasi_random])
def test_draws_of_several_fields_are_independent(draw):
    """Fields that are drawn beside each other, each in draws of its own or not, go up and down together."""
    separate = zipped(draw(200, over("x", linear(0, 1))), draw(200, over("y", linear(0, 1))))
    together = draw(200, product(over("x", linear(0, 1)), over("y", linear(0, 1))))
    for space in (separate, together):
        x, y = np.array([(member["x"], member["y"]) for member in space.members()]).T
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.25


def test_quasi_random_draws_cover_more_evenly():
    """What is called quasi-random is no more even than chance."""
    space = product(over("x", linear(0, 1)), over("y", linear(0, 1)))

    def unevenness(draw):
        return [qmc.discrepancy([list(m.values()) for m in draw(64, space, seed=s).members()]) for s in range(5)]

    assert max(unevenness(quasi_random)) < 0.5 * min(unevenness(random))


PYTHON = {
    "optimizer.learning_rate=log(1e-4,1e-2,7);seed=0..3": product(
        over("optimizer.learning_rate", log(1e-4, 1e-2, 7)), over("seed", range(4))
    ),
    "zip(a=1,2; b=x,'y z')": zipped(over("a", [1, 2]), over("b", ["x", "y z"])),
    "a=1,2|b=True,None": chain(over("a", [1, 2]), over("b", [True, None])),
    "chain(a=1|a=2);c=-2..0": product(chain(over("a", [1]), over("a", [2])), over("c", [-2, -1, 0])),
    "random(3,seed=5;x=linear(0,1);n=log(16..64))": random(
        3, product(over("x", linear(0, 1)), over("n", log(integers(16, 64)))), seed=5
    ),
    " quasi_random( 4 ; x = log( 1 , 2 ) ) ; ": quasi_random(4, over("x", log(1, 2))),
    "product(a=1;b=2)": product(over("a", [1]), over("b", [2])),
    "n=log(16..256,5)": over("n", [16, 32, 64, 128, 256]),
    "a=0,log(1,100,3),5..6": over("a", [0, 1.0, 10.0, 100.0, 5, 6]),
    "a=[1,2],(3,),[('.*',1.0)]": over("a", [[1, 2], (3,), [(".*", 1.0)]]),
    "a='None',True,b": over("a", ["None", True, "b"]),
    "path=runs/a-b.c": over("path", ["runs/a-b.c"]),
    "a=linear(1..10,4)": over("a", [1, 4, 7, 10]),
    "a=linear(1..3)": over("a", [1, 2, 3]),
    "a=log(1,\n 4,\n 3);\nb=2": product(over("a", [1.0, 2.0, 4.0]), over("b", [2])),
    r"a='it\'s; x|y','z\\',1": over("a", ["it's; x|y", "z\\", 1]),
}


@pytest.mark.parametrize("text", PYTHON)
def test_a_text_means_the_same_as_python(text):
    """The text of a command line is read as another space than it says."""
    assert parse(text).members() == PYTHON[text].members()


@pytest.mark.parametrize("text", [text for text in PYTHON if not text.startswith("a=[")])
def test_a_space_prints_as_text_that_means_it(text):
    """What a message calls a space is another one."""
    assert parse(str(PYTHON[text])).members() == PYTHON[text].members()


BAD = {
    "": "empty",
    " ; ": "empty",
    "a=": "empty",
    "a=1,,2": "comma",
    "a=log(1,2": "do not close",
    "a='x": "do not close",
    "a=1)": "do not close",
    "a": "cannot read 'a'",
    "a=1;a=2": "a is twice",
    "zip(a=1,2;b=1,2,3)": "one size, got 2, 3",
    "zip(a=1,2;a=1,2)": "a is twice",
    "zpi(a=1,2;b=1,2)": "did you mean 'zip'",
    "a=log(1e-4,1e-2)": "say how many values",
    "a=log(1,2),3": "cannot stand beside values",
    "a=3..1": "must not end below its start",
    "a=log(0,1,3)": "positive",
    "a=linear(1,2,1)": "at least 2 values",
    "a=linear(x,2)": "two numbers",
    "a=linear(0,inf,3)": "two numbers",
    "a=log(1)": "two numbers",
    "a=log(1,2,3,4)": "log(low, high",
    "a=log(1..8,4,2)": "one more number",
    "a=1,1.0": "a has the value 1.0 twice",
    "random(0;a=1,2)": "positive integer",
    "random(a=1,2)": "number of draws first",
    "random(3;zip(a=1,2;b=1,2))": "ties fields",
    "random(3;)": "empty",
    "a=b c": "cannot read the value",
    "a={[1]}": "cannot read the value",
    "a='it\\'": "do not close",
    "chain(a=1;b=2)": "'|' between them",
    "zip(a=1|a=2;b=1,2)": "write chain",
    "random(3;a=1|a=2)": "write chain",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_text_is_refused_by_what_is_wrong_with_it(text):
    """A mistake in a sweep is read as something else, or its message does not say what it is."""
    with pytest.raises(ConfigError, match=BAD[text].replace("(", r"\(")):
        parse(text).members()


def test_values_of_numpy_are_plain_numbers():
    """A field refuses a number because of its type, or results.jsonl cannot be written."""
    values = [member["x"] for member in over("x", np.logspace(-2, 0, 3)).members()]
    assert [type(value) for value in values] == [float] * 3


@pytest.mark.parametrize("make, message", [
    (lambda: over("seed", 5), "a list of values or a range, got 5"),
    (lambda: over("learning_rate", "1e-3"), "a list of values or a range, got '1e-3'"),
    (lambda: product([over("seed", [1])]), "needs spaces, such as"),
    (lambda: random(3, {"seed": 1}), "needs spaces, such as"),
])  # fmt: skip
def test_what_is_no_space_is_refused(make, message):
    """A text is read as its characters, or the mistake is told far from where it was made."""
    with pytest.raises(ConfigError, match=message):
        make()
