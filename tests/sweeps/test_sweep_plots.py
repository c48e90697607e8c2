"""Pictures of a sweep: the numbers that reach the axes, how failures are marked, and which pictures there are."""

import itertools
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from support import by_day
from sweep_rows import at_rate, curve_rows, grid, result

from tformer_jax.sweeps.drawing import mappable, ticks
from tformer_jax.sweeps.plot_data import Scale
from tformer_jax.sweeps.plots import (
    plot_curves,
    plot_heat_map,
    plot_learning_rates,
    plot_parallel_coordinates,
    plot_scatter,
    plot_sweep,
)


def marks(axes, label):
    """The points of the marks that mean this, as [x, y]."""
    return [line.get_xydata()[0].tolist() for line in axes.get_lines() if line.get_label() == label]


def legend(figure):
    return {text.get_text() for text in figure.legends[0].get_texts()}


def learning_rates(figures, results, tmp_path, **options):
    """The axes of the picture of one panel."""
    plot_learning_rates({"": results}, tmp_path / "picture.png", **options)
    (axes,) = figures[0].axes
    return axes


def test_the_lines_of_a_picture_are_the_means(figures, assert_picture, tmp_path):
    """A picture would show other numbers than the table, or join what lies on both sides of a failure."""
    losses = {1e-4: [3.0, 3.2], 1e-3: [2.0, 2.2], 1e-2: [2.6, None], 1e-1: [2.8, 3.0]}
    results = [at_rate(rate, loss, seed=i) for rate, some in losses.items() for i, loss in enumerate(some)]
    axes = learning_rates(figures, results, tmp_path)
    assert_picture(tmp_path / "picture.png")
    assert axes.get_xscale() == "log"
    means = [[1e-4, 3.1], [1e-3, 2.1], [1e-2, math.nan], [0.1, 2.9]]
    np.testing.assert_allclose(axes.get_lines()[0].get_xydata(), means)
    assert marks(axes, "best") == [[1e-3, pytest.approx(2.1)]]
    assert marks(axes, "a seed that finished") == [[1e-2, 2.6]]
    ((x, y),) = marks(axes, "diverged")
    assert x == 1e-2 and 3.2 < y < axes.get_ylim()[1]
    band = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert {(1e-4, 3.0), (1e-4, 3.2), (1e-3, 2.0), (1e-3, 2.2)} <= set(map(tuple, band))
    assert not (band[:, 0] == 1e-2).any()
    assert legend(figures[0]) == {"best", "a seed that finished", "diverged"}
    assert {line.get_color() for line in figures[0].legends[0].get_lines()} == {"0.3"}


def test_the_bad_edge_is_below_where_more_is_better(figures, tmp_path):
    """Diverged members would stand where the best ones are."""
    results = [at_rate(1e-4, 3.0), at_rate(1e-3, 2.0), at_rate(1e-2, None, "diverged")]
    axes = learning_rates(figures, results, tmp_path, metric="accuracy", lowest=False)
    ((_, y),) = marks(axes, "diverged")
    assert axes.get_ylim()[0] < y < 1 / 3
    assert marks(axes, "best") == [[1e-3, 0.5]]
    assert axes.get_ylabel() == "final accuracy"


def test_what_is_beyond_the_axis_is_marked(figures, tmp_path):
    """A number that exploded would be missing without a word, or flatten the line."""
    results = [at_rate(rate, loss) for rate, loss in ((1e-4, 3.0), (1e-3, 2.0), (1e-2, 2.5), (0.1, 1e5))]
    axes = learning_rates(figures, results, tmp_path)
    assert [x for x, _ in marks(axes, "beyond the axis")] == [0.1]
    assert 3.0 < axes.get_ylim()[1] < 4.0


def test_numbers_over_more_than_a_decade_are_on_a_logarithmic_axis(figures, tmp_path):
    """The differences between the good ones could not be seen."""
    axes = learning_rates(figures, [at_rate(10.0**i, 20.0**-i) for i in range(-3, 0)], tmp_path)
    assert axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["30", "100", "300", "1000", "3000"]


def test_crosses_do_not_cover_each_other(figures, tmp_path):
    """Of several widths that diverge at one learning rate, only one would be seen."""
    results = [at_rate(1e-3, 1.0 + width / 64, model__d_model=width) for width in (32, 64, 128)]
    results += [at_rate(1e-2, None, "diverged", model__d_model=width) for width in (32, 64, 128)]
    axes = learning_rates(figures, results, tmp_path)
    heights = [y for _, y in marks(axes, "diverged")]
    assert (np.diff(heights) > 0).all() and len(heights) == 3
    assert 3.0 < heights[0] and heights[-1] < axes.get_ylim()[1]


def test_panels_share_their_axis_and_their_colours(figures, tmp_path):
    """Two parametrizations would be compared on different scales, or a width have two colours."""

    def panel(shift, widths):
        pairs = itertools.product((1e-3, 1e-2), widths)
        return [at_rate(rate, shift + width / 64, model__d_model=width) for rate, width in pairs]

    panels = {"muP": panel(3.0, (128, 64)), "standard": panel(2.0, (32, 64, 128))}
    plot_learning_rates(panels, tmp_path / "picture.png", by="model.d_model")
    both = figures[0].axes
    assert [axes.get_title() for axes in both] == list(panels)
    assert both[0].get_ylim() == both[1].get_ylim()
    assert both[0].get_ylim()[0] < 2.5 and both[0].get_ylim()[1] > 5.0
    left, right = ({line.get_label(): line.get_color() for line in axes.get_lines()} for axes in both)
    widths = [f"d_model={width}" for width in (32, 64, 128)]
    lightness = [sum(to_rgb(right[width])) for width in widths]
    assert lightness[0] < lightness[1] < lightness[2]
    assert [left[width] for width in widths[1:]] == [right[width] for width in widths[1:]]
    assert legend(figures[0]) == {*widths, "best"}


def test_what_was_stopped_is_drawn(figures, tmp_path):
    """The picture of successive halving would be nearly empty, or take numbers of fewer steps for means."""
    results = [at_rate(1e-4, 3.0, "stopped"), at_rate(1e-3, 2.0), at_rate(1e-2, 2.5), at_rate(0.1, 3.5, "stopped")]
    axes = learning_rates(figures, results, tmp_path)
    assert marks(axes, "stopped early") == [[1e-4, 3.0], [0.1, 3.5]]
    assert axes.get_ylim()[1] > 3.5
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [math.nan, 2.0, 2.5, math.nan])


def test_three_points_have_a_star_a_line_and_two_one_in_all(figures, tmp_path):
    """Stars would mark every point of short lines, and so nothing."""
    two = [at_rate(rate, rate * d, model__d_model=d) for rate in (1.0, 2.0) for d in (1, 2)]
    assert marks(learning_rates(figures, two, tmp_path), "best") == [[1.0, 1.0]]
    three = [*two, *(at_rate(3.0, 3.0 * d, model__d_model=d) for d in (1, 2))]
    plot_learning_rates({"": three}, tmp_path / "picture.png")
    assert marks(figures[1].axes[0], "best") == [[1.0, 1.0], [1.0, 2.0]]


def test_of_random_draws_the_best_stands_out(figures, tmp_path):
    """Random draws would fill the legend, and each have a star."""
    results = [at_rate(10 ** (-4 + i / 20), 2 + (i - 7) ** 2 / 100, model__dropout_rate=i / 100) for i in range(9)]
    axes = learning_rates(figures, results, tmp_path)
    assert legend(figures[0]) == {"dropout_rate=0.07", "others", "best"}
    assert marks(axes, "best") == [[pytest.approx(10**-3.65), 2.0]]


@pytest.mark.parametrize(
    ("scale", "numbers", "texts"),
    [
        (Scale(2.2, 2.22, False), (), ["2.2", "2.205", "2.21", "2.215", "2.22"]),
        (Scale(1e-4, 0.1, True), (), ["1e-4", "1e-3", "0.01", "0.1"]),
        (Scale(3e-4, 0.02, True), (), ["3e-4", "1e-3", "3e-3", "0.01"]),
        (Scale(64, 1024, True), (64, 256, 1024), ["64", "256", "1024"]),
        (Scale(1, 99, False), range(1, 100), ["20", "40", "60", "80"]),
    ],
)
def test_ticks_are_what_they_say(scale, numbers, texts):
    """A tick would be rounded to another number, or stand outside the axis."""
    found = ticks(scale, numbers)
    assert list(found.values()) == texts
    np.testing.assert_allclose(list(found), [float(text) for text in texts])


@pytest.mark.parametrize("lowest", [True, False])
def test_dark_is_good(lowest):
    """The worst numbers would look like the best ones, or an outlier like nothing."""
    numbers = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 9.0])
    light = mappable(Scale(1.0, 3.0, False, lowest)).to_rgba(numbers)[:, :3].sum(-1)
    steps = np.diff(light) * (1 if lowest else -1)
    assert (steps[:-1] > 0).all() and steps[-1] == 0


def test_the_cells_of_a_map_are_the_means(figures, assert_picture, tmp_path):
    """A cell would stand at another pair of values, one that failed have a colour, or the frame be elsewhere."""
    results = grid(
        lambda width, rate, seed: width / 32 + 100 * rate + seed,
        model__d_model=(128, 32),
        optimizer__learning_rate=(0.03, 0.01, 0.02),
        seed=(0, 1),
    )
    results[0] |= {"status": "diverged"}
    results[-1] |= {"status": "running"}
    plot_heat_map(results, tmp_path / "picture.png", metric="loss", lowest=True)
    assert_picture(tmp_path / "picture.png")
    axes = figures[0].axes[0]
    expected = [[1 + 1.5, math.nan, 1 + 3.5], [4 + 1.5, 4 + 2.5, math.nan]]
    np.testing.assert_allclose(np.ma.filled(axes.images[0].get_array(), math.nan), expected)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "0.02", "0.03"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["32", "128"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "d_model")
    squares = {(square.get_x() + 0.5, square.get_y() + 0.5): square.get_label() for square in axes.patches}
    assert squares.keys() == {(2, 1), (1, 0), (0, 0)}
    assert (squares[2, 1], squares[1, 0]) == ("diverged", "not finished")
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "2.500", (1, 0): "1/2", (2, 0): "4.500", (0, 1): "5.500", (1, 1): "6.500", (2, 1): "1/2"}
    assert not axes.yaxis_inverted()
    assert legend(figures[0]) == {"diverged", "not finished"}


def test_a_cell_that_was_stopped_has_its_number(figures, tmp_path):
    """The map of successive halving would be nearly empty; or the best be a cell of fewer steps."""
    results = grid(lambda x, y: 1.0 + x + y, x=(1, 2), y=(1, 2))
    for i, status in enumerate(("stopped", "finished", "stopped", "finished")):
        results[i] |= {"status": status}
    plot_heat_map(results, tmp_path / "picture.png", metric="loss", lowest=True)
    axes = figures[0].axes[0]
    assert {t.get_position(): t.get_text() for t in axes.texts}[0, 0] == "3.000"
    *_, frame = axes.patches
    assert not frame.get_fill() and (frame.get_x(), frame.get_y()) == (-0.5, 0.5)
    assert legend(figures[0]) == {"stopped early"}


def test_a_map_of_failures_has_no_best(figures, tmp_path):
    """A pair of values of which no seed but one was trained to its end would be framed as the best."""
    results = grid(lambda *_: 2.0, x=(1, 2), y=(1, 2), seed=(0, 1))
    results = [row | {"status": "diverged" if row["overrides"]["seed"] else "finished"} for row in results]
    plot_heat_map(results, tmp_path / "picture.png", metric="loss", lowest=True)
    assert [square.get_label() for square in figures[0].axes[0].patches] == ["diverged"] * 4


def test_the_curves_are_the_rows(figures, assert_picture, tmp_path):
    """A curve would have another member's numbers, one that was stopped look finished, one that diverged vanish."""
    results = [at_rate(1e-4, 2.0), at_rate(1e-3, 3.0, "stopped"), at_rate(1e-2, None, "diverged", steps=27)]
    results = [row | {"member": 5 + i} for i, row in enumerate(results)]
    rows = {5: curve_rows([5.0, 3.0, 2.0], [2.5]), 6: curve_rows([5.0, None, 3.0]), 7: curve_rows([5.0, 1e7])}
    plot_curves(results, rows, tmp_path / "picture.png")
    assert_picture(tmp_path / "picture.png")
    axes, bar = figures[0].axes
    assert bar.get_ylabel() == "learning_rate" and bar.get_yscale() == "log"
    drawn = [line for line in axes.get_lines() if line.get_label() != "diverged" and len(line.get_xdata())]
    expected = [[[10, 5], [20, 3], [30, 2]], [[30, 2.5]], [[10, 5], [20, math.nan], [30, 3]], [[10, 5], [20, 1e7]]]
    for line, points in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), points)
    finished, _, stopped, diverged = drawn
    assert stopped.get_alpha() < finished.get_alpha() == diverged.get_alpha()
    assert len({tuple(line.get_color()) for line in (finished, stopped, diverged)}) == 3
    assert [x for x, _ in marks(axes, "diverged")] == [27]
    assert axes.get_ylim()[1] < 6
    assert legend(figures[0]) == {"training", "validation", "diverged", "stopped early"}
    assert {t.get_text().strip() for t in axes.texts} == {"5", "6", "7"}  # the numbers of the table


def test_curves_that_end_outside_are_marked(figures, tmp_path):
    """A finished member that ended far above would vanish without a word."""
    rows = {m: curve_rows([5.0, 4.0], [end]) for m, end in enumerate((2.0, 2.1, 2.2, 2.3, 1e6))}
    plot_curves([result(rows[m][-1]["validation_loss"], member=m) for m in rows], rows, tmp_path / "picture.png")
    axes = figures[0].axes[0]
    assert [x for x, _ in marks(axes, "beyond the axis")] == [30]
    assert axes.get_ylim()[1] < 6
    assert "4: 1e6" in {t.get_text() for t in axes.texts}


def test_curves_without_an_end_are_marked_too(figures, tmp_path):
    """Two of six members would be cut off unsaid, because nothing but their curves says how bad they are."""
    ends = (2.0, 2.1, 2.2, 2.3, 40.0, 50.0)
    rows = {m: curve_rows([5.0, 4.0, end], [end]) for m, end in enumerate(ends)}
    results = [result(end if end < 3 else None, "finished" if end < 3 else "running", m) for m, end in enumerate(ends)]
    for row in results[4:]:
        row["final"] = {}
    plot_curves(results, rows, tmp_path / "picture.png")
    axes = figures[0].axes[0]
    assert len(marks(axes, "beyond the axis")) == 2
    assert {"4: 40", "5: 50"} <= {t.get_text() for t in axes.texts}
    assert {str(m) for m in range(4)} <= {t.get_text().strip() for t in axes.texts}


def test_of_very_many_curves_the_title_says_which_have_numbers(figures, tmp_path):
    """A picture would be black with numbers, or hide some unsaid."""
    rows = {m: curve_rows([5.0], [2 + m / 100]) for m in range(40)}
    plot_curves([result(2 + m / 100, member=m) for m in rows], rows, tmp_path / "picture.png", title="wide")
    axes = figures[0].axes[0]
    assert {int(t.get_text()) for t in axes.texts} == set(range(24))
    assert axes.get_title() == "wide: loss of 40 members; numbers: the 24 best of 40 members"
    heights = sorted(t.get_position()[1] for t in axes.texts)
    assert np.diff(heights).min() > 0.03


@pytest.mark.parametrize(
    ("overrides", "bar", "entries"),
    [
        ({"seed": (0, 1), "norm": ("p", "q"), "optimizer__learning_rate": (1e-4, 1e-2)}, ["learning_rate"], set()),
        ({"seed": (0, 1), "positions": ("rotary", "alibi")}, [], {"positions=rotary", "positions=alibi"}),
        ({"seed": (0, 1)}, ["seed"], set()),
        ({}, [], set()),
    ],
)
def test_curves_say_which_is_which(figures, tmp_path, overrides, bar, entries):
    """Nobody would know which curve is which; or the seeds would be told apart, and not what is tried."""
    results = grid(lambda *_: 2.0, **overrides)
    plot_curves(results, {row["member"]: curve_rows([5.0, 3.0], [2.0]) for row in results}, tmp_path / "picture.png")
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["loss (nats)", *bar]
    assert legend(figures[0]) == {"training", "validation", *entries}


def test_the_best_line_is_on_top(figures, assert_picture, tmp_path):
    """Bad members would cover the best one, or one that diverged or was stopped be the best."""
    losses = [(2.5, "finished"), (1.5, "stopped"), (2.0, "finished"), (1.0, "diverged"), (3.0, "finished")]
    losses.append((None, "running"))
    results = [result(loss, status, x=i, y=-i, z=i % 2) for i, (loss, status) in enumerate(losses)]
    plot_parallel_coordinates(results, tmp_path / "picture.png", metric="loss", lowest=True)
    assert_picture(tmp_path / "picture.png")
    axes = figures[0].axes[0]
    drawn = [line for line in axes.get_lines() if len(line.get_xdata()) == 4]
    assert [round(5 * line.get_ydata()[0]) for line in drawn] == [3, 5, 1, 4, 0, 2]
    assert drawn[-1].get_linewidth() > 2 * drawn[-2].get_linewidth()
    assert drawn[2].get_alpha() < drawn[-1].get_alpha()
    assert len(marks(axes, "diverged")) == 1
    assert {"x", "y", "z", "final loss (nats)"} <= {text.get_text() for text in axes.texts}
    assert legend(figures[0]) == {"best", "diverged", "stopped early", "not finished"}


def test_parallel_axes_have_round_numbers(figures, tmp_path):
    """Random draws would be labelled 3.16e-4, 4.87e-3, ..., and members have no numbers."""
    drawn = zip((3.1623e-4, 1.2345e-3, 4.8765e-3), (0.1234, 0.2345, 0.0123), (1, 2, 3), strict=True)
    results = [result(2.0 + i, member=7 + i, rate=r, dropout=d, depth=n) for i, (r, d, n) in enumerate(drawn)]
    plot_parallel_coordinates(results, tmp_path / "picture.png", metric="loss", lowest=True)
    texts = [text.get_text().strip(" –") for text in figures[0].axes[0].texts]
    assert {"1e-3", "1", "2", "3", "7", "8", "9"} <= set(texts)
    assert not any("." in x and len(x) > 4 for x in texts)


def test_what_is_beyond_parallel_axes_is_said(figures, tmp_path):
    """A number that exploded would be a mark that means any number."""
    results = [result(x, member=i, a=i, b=-i, c=i % 3) for i, x in enumerate((2.0, 2.1, 2.2, 2.3, 1e6))]
    plot_parallel_coordinates(results, tmp_path / "picture.png", metric="loss", lowest=True)
    assert "beyond the axis: 4: 1e6" in figures[0].axes[0].get_title()


def test_points_are_members(figures, assert_picture, tmp_path):
    """Random draws of two numbers would be a grid of as many columns as draws; or a point be another member's."""
    values = [(1e-4, 0.1, 3.0), (3e-3, 0.2, 2.0), (2e-2, 0.05, 2.5)]
    results = [at_rate(rate, loss, dropout=x) | {"member": 4 + i} for i, (rate, x, loss) in enumerate(values)]
    results += [at_rate(0.1, None, "diverged", dropout=0.3) | {"member": 7}]
    plot_scatter(results, tmp_path / "picture.png", metric="loss", lowest=True)
    assert_picture(tmp_path / "picture.png")
    axes = figures[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("learning_rate", "dropout", "log")
    assert marks(axes, "best") == [[3e-3, 0.2]] and marks(axes, "diverged") == [[0.1, 0.3]]
    places = {t.get_text(): t.xy for t in axes.texts}
    assert places == {str(4 + i): (rate, x) for i, (rate, x, _) in enumerate([*values, (0.1, 0.3, None)])}


SWEEPS = {
    "learning rate and width": (
        grid(lambda rate, d: rate * d, learning_rate=(0.1, 0.2), model__d_model=(32, 64)),
        {"learning_rate", "heat_map"},
    ),
    "three fields": (
        grid(lambda x, y, z: x + 2.0, x=(1, 2), y=(True, False), z=([1], [1, 2])),
        {"parallel_coordinates"},
    ),
    "two fields, drawn": ([result(2.0 + i, x=i, y=i * i, member=i) for i in range(9)], {"scatter"}),
    "a continuous rate, and a choice": (
        [at_rate(10**-x, 2 + x, kind="pq"[i % 2]) for i, x in enumerate((1, 1.3, 1.7, 2.1))],
        {"learning_rate", "parallel_coordinates"},
    ),
    "seeds": (grid(lambda seed: 2.0 + seed, seed=(0, 1)), set()),
    "equal numbers, and one that has none": (
        [at_rate(0.1, 2.0, x=None), at_rate(0.2, 2.0, "finished", x=(1, 2)), at_rate(0.2, None, "diverged", x=None)],
        {"learning_rate", "heat_map"},
    ),
    "the rates were stopped": (
        [at_rate(0.1, 2.0, "stopped", x=1), at_rate(0.2, 2.0, "stopped", x=1), result(1.0, x=2)],
        {"learning_rate", "parallel_coordinates"},
    ),
    "all diverged": ([at_rate(rate, None, "diverged", x=1) for rate in (0.1, 0.2)], set()),
}


@pytest.mark.parametrize("name", by_day(SWEEPS, 0, 1, 2, 5, 7))
def test_a_sweep_has_the_pictures_that_make_sense(figures, assert_picture, tmp_path, name):
    """A picture would be missing, be empty, or end the sweep with an error."""
    results, expected = SWEEPS[name]
    curves = {row["member"]: curve_rows([5.0, 3.0, row["final"]["loss"]]) for row in results}
    files = plot_sweep(results, curves, tmp_path / "plots")
    assert {file.stem for file in files} == expected | {"curves"}
    assert sorted(files) == sorted((tmp_path / "plots").iterdir())
    for file in files:
        assert_picture(file)


def test_a_sweep_that_has_not_begun_has_no_pictures(tmp_path):
    """It would end with an error."""
    begun = [row | {"status": "waiting", "final": {}} for row in grid(lambda *_: 2.0, learning_rate=(0.1, 0.2))]
    assert plot_sweep(begun, {}, tmp_path) == plot_sweep([], {}, tmp_path) == []


def test_a_metric_that_no_member_has_is_refused(tmp_path):
    """A misspelt metric would give a sweep without pictures, or an empty one."""
    results, metric = [at_rate(0.1, 2.0)], "acuracy"
    with pytest.raises(ValueError, match=r"accuracy, loss, got 'acuracy'.*accuracy"):
        plot_sweep(results, {}, tmp_path, metric=metric)
    with pytest.raises(ValueError, match=r"accuracy, loss, got 'acuracy'.*accuracy"):
        plot_learning_rates({"": results}, tmp_path / "picture.png", metric=metric)


def test_a_panel_without_lines_is_refused(tmp_path):
    """An empty panel, or an error of an index, would be what is said of a sweep that is not over."""
    panels = {"old": [at_rate(0.1, 2.0)], "new": [at_rate(0.1, 2.0, "running")]}
    with pytest.raises(ValueError, match="has finished or diverged in new"):
        plot_learning_rates(panels, tmp_path / "picture.png")
