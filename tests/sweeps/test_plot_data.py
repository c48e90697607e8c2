"""What the pictures of a sweep show, against hand-made tables; what failed is not passed over."""

import math

import numpy as np
import pytest
from sweep_rows import at_rate, curve_rows, result

from tformer_jax.sweeps.plot_data import (
    Scale,
    cells,
    costs,
    curve,
    curve_scale,
    learning_rate_lines,
    metric_scale,
    outcome,
    parallel_positions,
    swept_fields,
    text,
    varying_fields,
)

WIDTH = "model.d_model"


@pytest.mark.parametrize(
    ("status", "final", "kind", "number"),
    [
        ("finished", {"loss": 2.0}, "finished", 2.0),
        ("finished", {"loss": None}, "diverged", math.nan),
        ("diverged", {"loss": 2.0}, "diverged", math.nan),
        ("stopped", {"loss": 3.0}, "stopped early", 3.0),
        ("running", {"loss": 3.0}, "not finished", 3.0),
        ("waiting", {}, "not finished", math.nan),
    ],
)
def test_the_outcome_of_a_member(status, final, kind, number):
    """A diverged member would pass with the number from before, or one that still runs as diverged."""
    found = outcome({"status": status, "final": final}, "loss")
    assert found[0] == kind
    np.testing.assert_equal(found[1], number)


def test_fields_that_vary():
    """A field that does not vary, or a seed, would get an axis; a value of one branch of the space alone be lost."""
    results = [
        result(1.0, a__x=2, b__norm="rms", c__shape=[1, 2], d__same=[1], data__seed=0),
        result(1.0, a__x=1, b__norm="layer", c__shape=None, d__same=[1], data__seed=1),
        result(1.0, a__x=1.0, b__norm="rms", c__shape=[1, 2], d__same=[1], data__seed=0, window=5),
    ]
    fields = {field.label: (field.name, field.values, field.numeric) for field in swept_fields(results)}
    assert fields == {
        "x": ("a.x", (1, 2), True),
        "norm": ("b.norm", ("rms", "layer"), False),
        "shape": ("c.shape", ([1, 2], None), False),
        "window": ("window", (5, "not set"), False),
    }
    assert {field.name for field in varying_fields(results)} == {"a.x", "b.norm", "c.shape", "window", "data.seed"}


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1e-4, 1e-3, 1e-2], True),
        ([16, 32, 64, 128], True),
        ([1, 2, 3, 4, 5, 6], False),
        ([0.0, 0.001, 1.0], False),
        ([1.0, 1.4, 1.96], False),
    ],
)
def test_numbers_that_spread_by_ratios_are_on_a_logarithmic_axis(values, log):
    """Learning rates would lie on top of each other, or layers be spread unevenly."""
    (field,) = swept_fields([result(1.0, x=value) for value in reversed(values)])
    assert field.values == tuple(values)
    assert field.scale() == Scale(values[0], values[-1], log)


def test_a_mean_is_of_all_its_members():
    """Seeds that diverged or were stopped would be left out of a mean, which then is too good."""
    table = {"a": [(1.0, "finished"), (2.0, "finished")], "b": [(1.0, "finished"), (9.0, "diverged")],
             "c": [(1.0, "finished"), (2.0, "stopped")], "d": [(1.0, "running"), (9.0, "diverged")]}  # fmt: skip
    results = [result(loss, status, x=x, seed=i) for x, some in table.items() for i, (loss, status) in enumerate(some)]
    found = cells(results, swept_fields(results), "loss")
    assert list(found) == [(0,), (1,), (2,), (3,)]
    assert [cell.finished for cell in found.values()] == [[1.0, 2.0], [1.0], [1.0], []]
    assert [cell.failure for cell in found.values()] == [None, "diverged", "stopped early", "diverged"]
    assert [cell.stopped for cell in found.values()] == [[], [], [2.0], []]
    np.testing.assert_array_equal([cell.mean for cell in found.values()], [1.5, math.nan, math.nan, math.nan])


def test_the_best_has_a_mean():
    """What failed would be the best, or the worst be taken for it where more is better."""
    means = np.array([0.2, math.nan, 0.1, 0.3])
    assert costs(means, lowest=True).argmin() == 2
    assert costs(means, lowest=False).argmin() == 3


def test_learning_rates_against_numpy():
    """The means would be of other members, or at other learning rates."""
    rates = np.geomspace(1e-4, 1e-1, 7)
    losses = 2 + np.random.default_rng(0).random((7, 4))
    results = [at_rate(rates[i], losses[i, s], seed=s) for i in range(7) for s in range(4)]
    np.random.default_rng(1).shuffle(results)
    (line,) = learning_rate_lines(results, "loss")
    assert list(line.cells) == rates.tolist()
    np.testing.assert_allclose(line.means, losses.mean(1))
    assert line.label == ""


def test_a_line_for_each_combination_of_the_other_fields():
    """Different models would be averaged, or a line get learning rates that it was not tried with."""
    results = [
        at_rate(1e-3, 1.0, a__x=1, b__y="p"),
        at_rate(1e-2, 2.0, a__x=1, b__y="p"),
        at_rate(1e-3, 3.0, a__x=2, b__y="p"),
        at_rate(3e-4, 4.0, a__x=1, b__y="q"),
        at_rate(1e-3, 5.0, "running", a__x=2, b__y="q"),
        result(7.0, a__x=1, b__y="q"),
    ]
    found = learning_rate_lines(results, "loss")
    assert {line.label: dict(zip(line.cells, line.means, strict=True)) for line in found} == {
        "x=1, y=p": {1e-3: 1.0, 1e-2: 2.0},
        "x=1, y=q": {3e-4: 4.0},
        "x=2, y=p": {1e-3: 3.0},
    }


def test_lines_by_one_field():
    """A comparison would give a width another line in each panel, or mix members that differ in more than the seed."""
    tied = [at_rate(rate, 1.0, model__d_model=d, model__num_heads=d // 16) for rate in (1e-3, 1e-2) for d in (64, 32)]
    assert [line.label for line in learning_rate_lines(tied, "loss", WIDTH)] == ["d_model=32", "d_model=64"]
    assert [line.label for line in learning_rate_lines(tied[1::2], "loss", WIDTH)] == ["d_model=32"]
    mixed = [*tied, at_rate(1e-3, 1.0, model__d_model=64, model__num_heads=1)]
    with pytest.raises(ValueError, match=r"mix members.*model\.num_heads"):
        learning_rate_lines(mixed, "loss", WIDTH)


def test_what_cannot_be_told_apart_is_refused():
    """A misspelt field, or a sweep of something else, would give an empty picture."""
    with pytest.raises(ValueError, match=r"'model\.d_modl'.*model\.d_model"):
        learning_rate_lines([at_rate(1e-3, 1.0, model__d_model=64)], "loss", "model.d_modl")
    with pytest.raises(ValueError, match="learning_rate"):
        learning_rate_lines([result(1.0, x=1)], "loss")


@pytest.mark.parametrize(
    ("numbers", "lowest", "expected"),
    [
        ([2.0, 2.1, 2.3, 2.8, 3.5, 5.0], True, (2.0, 5.0, False)),
        ([2.0, 2.1, 2.3, 2.8, math.nan, 1e6, 1e9], True, (2.0, 2.8, False)),
        ([0.01, 0.03, 0.1, 0.5, 2.0], True, (0.01, 2.0, True)),
        ([0.1, 0.4, 0.7, 0.8, 0.9], False, (0.1, 0.9, False)),
        ([0.1, 0.86, 0.87, 0.88, 0.89, 0.9], False, (0.86, 0.9, False)),
        ([2.0, 2.0, 2.0, 3.0], True, (2.0, 3.0, False)),
        ([2.0, 2.001, 2.03], True, (2.0, 2.03, False)),
        ([0.7, 0.97, 0.97, 0.97, 0.98], False, (0.7, 0.98, False)),
        ([7.0], True, (6.9, 7.1, False)),
        ([], True, (0.0, 1.0, False)),
    ],
)
def test_far_outliers_are_beyond_the_scale(numbers, lowest, expected):
    """One number that exploded would press all others flat, or ordinary bad ones be cut off."""
    scale = metric_scale(numbers, lowest)
    assert (scale.low, scale.high, scale.log) == expected
    assert [scale.beyond(x) for x in numbers] == [x > scale.high if lowest else x < scale.low for x in numbers]


@pytest.mark.parametrize("log", [False, True])
def test_a_scale_says_where_numbers_lie(log):
    """Margins and positions of a logarithmic axis would be those of another one."""
    scale = Scale(2.0, 32.0, log)
    np.testing.assert_allclose(scale.position([2.0, 8.0, 32.0]), [0, 0.5 if log else 0.2, 1])
    np.testing.assert_allclose([scale.at(float(p)) for p in scale.position([1.0, 8.0, 50.0])], [1.0, 8.0, 50.0])


def test_what_is_missing_in_a_curve_is_not_drawn_over():
    """A step whose loss was not finite would look like one between its neighbours."""
    rows = [*curve_rows([3.0, None, 2.0], [4.0]), {"step": 31, "diverged": "its loss is nan"}]
    np.testing.assert_array_equal(curve(rows, "loss"), [[10, 20, 30], [3.0, math.nan, 2.0]])
    np.testing.assert_array_equal(curve(rows, "validation_loss"), [[30], [4.0]])
    assert curve([], "loss").shape == (2, 0)


def test_a_diverging_member_does_not_flatten_the_curves():
    """The other curves would be one line at the bottom."""
    rows = {0: curve_rows([5.0, 3.0, 2.0], [2.5]), 1: curve_rows([5.2, 3.0, 2.2]), 2: curve_rows([6.0, 1e9, None])}
    results = [result(2.0, member=0), result(2.2, member=1), result(None, "diverged", member=2)]
    assert curve_scale(results, rows) == Scale(2.0, 5.0, log=False)
    assert curve_scale(results[2:], rows).low == 6.0
    high_end = {m: curve_rows([5.0, 4.0, end]) for m, end in enumerate((2.0, 2.1, 3.0, 5.5, 1e6))}
    assert curve_scale([result(1.0, member=m) for m in high_end], high_end).high == 5.5


def test_parallel_positions_by_hand():
    """A member would cross an axis at another member's value, or one that failed have a number."""
    results = [
        result(2.0, rate=1e-4, depth=1, kind="p"),
        result(3.0, rate=1e-3, depth=2, kind="q"),
        result(2.5, "stopped", rate=1e-2, depth=3, kind="p"),
        result(None, "diverged", rate=1e-2, depth=2, kind="q"),
        result(None, "running", rate=1e-2, depth=2, kind="q"),
        result(1e5, rate=1e-2, depth=2, kind="q"),
    ]
    positions, scale = parallel_positions(results, "loss", lowest=True)
    assert (scale.low, scale.high) == (2.0, 3.0)
    np.testing.assert_allclose(positions[:, 0], [0, 0.5, 1, 1, 1, 1], atol=1e-12)
    np.testing.assert_allclose(positions[:, 1], [0, 0.5, 1, 0.5, 0.5, 0.5])
    first, second = positions[[0, 2], 2], positions[[1, 5, 3, 4], 2]
    assert 0 < first[0] < first[1] < 0.5 < second.min() and second.max() < 1
    assert len(set(second)) == 4
    assert positions[:3, -1].tolist() == [0, 1, 0.5]
    assert positions[3, -1] > positions[5, -1] > 1 and math.isnan(positions[4, -1])
    upside_down, _ = parallel_positions(results[:4], "accuracy", lowest=False)
    assert upside_down[3, -1] < 0 == upside_down[1, -1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3e-4, "3e-4"), (3.1623e-4, "3.16e-4"), (0.031623, "0.0316"), (0.99995, "0.99995"), (0.0, "0"), (64, "64")],
)
def test_numbers_on_paper_are_short(value, expected):
    """A value would be rounded to another one, or be too long for its cell."""
    assert text(value) == expected
