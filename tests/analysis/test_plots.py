"""The picture of a training run: what was logged, all of it, with names and units; pictures are whole files."""

import warnings

import numpy as np
import pytest

from tformer_jax.analysis.plots import Subject, moving_mean, picture, plot_loss


def lines_of(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def rows_of(steps, rate=0.1):
    return [{"step": s, "loss": 5.0 - s / 10, "learning_rate": rate * s} for s in steps]


def panels(figure):
    return {axes.get_ylabel(): axes for axes in figure.axes}


def test_the_curves_are_the_rows(figures, assert_picture, tmp_path):
    """A curve would show other steps or numbers than metrics.jsonl."""
    rows = rows_of((1, 2, 3)) + [{"step": 3, "validation_loss": 1.5, "validation_accuracy": 0.25}]
    plot_loss(rows, tmp_path / "loss.png", subject=Subject("mine", "a_task"), metric="accuracy")
    assert_picture(tmp_path / "loss.png")
    found = {label: lines_of(axes) for label, axes in panels(figures[0]).items()}
    loss, rate, accuracy = found["loss (nats)"], found["learning rate"], found["accuracy (%)"]
    assert loss["training, as logged"] == [[1, 4.9], [2, 4.8], [3, 4.7]]
    assert loss["validation"] == [[3, 1.5]]
    assert [*rate.values()] == [[[1, 0.1], [2, 0.2], [3, pytest.approx(0.3)]]]
    assert accuracy["validation"] == [[3, 25.0]]
    assert figures[0].axes[-1].get_xlabel() == "step"
    assert figures[0].get_suptitle() == "Training\nrun mine, a_task"


@pytest.mark.parametrize(("metric", "best"), [("loss", 20), ("perplexity", 20), ("accuracy", 10)])
def test_the_best_validation_is_marked(figures, tmp_path, metric, best):
    """The star would stand at the worst one: of accuracy the highest is best, of loss the lowest."""
    rows = [{"step": s, f"validation_{metric}": value} for s, value in ((10, 0.9), (20, 0.2), (30, 0.5))]
    plot_loss(rows, tmp_path / "loss.png", metric=metric)
    (star,) = [line for line in figures[0].axes[-1].get_lines() if line.get_label().startswith("best")]
    assert star.get_xdata().tolist() == [best]
    assert f"at step {best}" in star.get_label()


def test_a_number_of_the_end_alone_has_its_panel(figures, tmp_path):
    """A translation, which has no BLEU before the report, would have no panel of what it is judged by."""
    plot_loss(rows_of((1, 2)), tmp_path / "loss.png", metric="bleu", scores={"test": {"bleu": 12.5, "loss": 1.0}})
    assert lines_of(panels(figures[0])["BLEU (of 100)"]) == {"test, after the last step: 12.5": [[2, 12.5]]}


def test_numbers_that_are_not_finite_are_counted(figures, tmp_path):
    """A run that diverged would look like one that went well, or end in an error."""
    rows = [{"step": s, "loss": None if s == 2 else 1.0} for s in (1, 2, 3)] + [{"step": 3, "validation_loss": None}]
    plot_loss(rows, tmp_path / "loss.png")
    found = lines_of(figures[0].axes[0])
    assert found["training, as logged, 1 not finite left out"] == [[1, 1.0], [3, 1.0]]
    assert found["validation, 1 not finite left out"] == []


@pytest.mark.parametrize("rows", [[{"step": 1, "loss": 2.0}], [{"step": 1, "validation_loss": 2.0}]])
def test_one_row_alone_is_drawn(figures, tmp_path, rows):
    """A short run, without one of the curves, would end in an error, or in a picture without a mark."""
    plot_loss(rows, tmp_path / "loss.png")
    drawn = [line for line in figures[0].axes[0].get_lines() if len(line.get_xdata())]
    assert drawn and all(line.get_marker() not in ("", "None") for line in drawn)


@pytest.mark.parametrize("window", [1, 3, 7])
@pytest.mark.parametrize("count", [1, 4, 20])
def test_the_moving_mean_is_that_of_a_loop(count, window):
    """The smooth curve would be shifted against the raw one, or bend at its ends."""
    values = np.random.default_rng(count).standard_normal(count)
    wanted = []
    for i in range(count):
        reach = min(window // 2, i, count - 1 - i)
        wanted.append(sum(values[i - reach : i + reach + 1]) / (2 * reach + 1))
    np.testing.assert_allclose(moving_mean(values, window), wanted, atol=1e-12)


def test_the_smooth_curve_is_of_all_steps_where_rows_know_them(figures, tmp_path):
    """It would be a mean of one batch in twenty."""
    rows = [{"step": 20 * (i + 1), "loss": 5.0, "mean_loss": 3.0 + i % 2} for i in range(9)]
    plot_loss(rows, tmp_path / "loss.png")
    found = {line.get_label(): line.get_ydata() for line in figures[0].axes[0].get_lines()}
    np.testing.assert_allclose(
        found["training, mean of all steps of 3 rows"], moving_mean([3.0 + i % 2 for i in range(9)], 3)
    )
    assert set(found["training, as logged"]) == {5.0}


def test_a_long_run_has_a_smooth_curve_beside_the_raw_one(figures, tmp_path):
    """Noise would hide the trend, or the mean hide how much noise there was."""
    plot_loss(rows_of(range(1, 101)), tmp_path / "loss.png")
    found = lines_of(figures[0].axes[0])
    assert len(found["training, as logged"]) == len(found["training, mean of 5 rows"]) == 100


def test_a_long_title_stays_within_the_picture(figures, tmp_path):
    """The name of the run would be cut off at the edge."""
    with picture(tmp_path / "a.png", "word " * 60, Subject("r" * 200, "task", "test")) as figure:
        figure.subplots().plot([1, 2])
    assert max(map(len, figures[0].get_suptitle().split("\n"))) <= 82
    box = figures[0]._suptitle.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figures[0].bbox.x1


def test_text_in_a_picture_is_not_a_formula_and_need_not_be_in_the_font(assert_picture, tmp_path):
    """A sentence with dollar signs would be set as mathematics or fail to be drawn; a Chinese one would warn at length."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with picture(tmp_path / "a.png", "$\\$ and 100$ $^$ 漢字") as figure:
            figure.subplots().set_title("$a_b$ 漢")
    assert_picture(tmp_path / "a.png")
