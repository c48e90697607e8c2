"""Tables of positions against their formulas, one number at a time (equation 6, and its grid)."""

import inspect
import math

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, strategies as st
from support import assert_close, examples, normal, unchecked_annotations

import tformer_jax.functional as F


@examples(25)
@given(st.integers(1, 40), st.integers(1, 33), st.sampled_from([10_000.0, 100.0, 2.0]))
def test_the_table_is_the_formula(length, d_model, base):
    """A sine, a cosine, a wavelength, or an odd width is wrong."""
    table = F.sinusoidal_positions(length, d_model, base=base)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, oracles.sinusoids(length, d_model, base), atol=6e-8, rtol=0)


def test_sines_and_cosines_are_interleaved_by_default():
    """The table is laid out as [all sines | all cosines], which is not formula 6."""
    row = np.asarray(F.sinusoidal_positions(2, 4))[1]
    np.testing.assert_allclose(row, np.array([np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)]), atol=1e-7)


@pytest.mark.parametrize("d_model", [4, 7])
def test_the_concatenated_layout_holds_the_same_columns(d_model):
    """The layout of some published checkpoints has other numbers, or the same order, as the formula's."""
    interleaved = oracles.sinusoids(9, d_model)
    wanted = np.concatenate([interleaved[:, 0::2], interleaved[:, 1::2]], axis=1)
    np.testing.assert_allclose(F.sinusoidal_positions(9, d_model, layout="concatenated"), wanted, atol=6e-8)


def test_distant_positions_are_exact():
    """Angles in float32: at position 50,000 the table is off by 10^-3."""
    last = F.sinusoidal_positions(50_001, 2)[50_000]
    np.testing.assert_allclose(last, [math.sin(50_000), math.cos(50_000)], atol=6e-8)


def test_an_unknown_layout_is_refused():
    """A misspelt layout gives one of the two."""
    unchecked = inspect.unwrap(F.sinusoidal_positions)  # without the run-time check of its Literal annotation
    with pytest.raises(ValueError, match="layout must be 'interleaved' or 'concatenated', got 'interleave'"):
        unchecked(3, 4, layout="interleave")


@examples(15)
@given(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=3, max_size=3))
def test_positions_restart_where_the_segment_changes(segments):
    """A packed sequence starts elsewhere than at position 0, or counts on from the one before."""
    wanted = []
    for row in segments:
        counts = []
        for t, segment in enumerate(row):
            counts.append(counts[-1] + 1 if t and row[t - 1] == segment else 0)
        wanted.append(counts)
    np.testing.assert_array_equal(F.positions_in_segments(jnp.asarray(segments)), wanted)


# Grids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "d_model"), [(1, 1, 4), (3, 5, 8), (4, 2, 12)])
def test_a_cell_has_its_row_and_then_its_column(height, width, d_model):
    """Rows and columns are exchanged, cells are not row by row, or a half is not formula 6."""
    table = F.sinusoidal_positions_2d(height, width, d_model, base=50.0)
    rows, columns = (oracles.sinusoids(length, d_model // 2, 50.0) for length in (height, width))
    wanted = [np.concatenate([rows[i], columns[j]]) for i in range(height) for j in range(width)]
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, wanted, atol=1e-7)


def test_a_width_that_four_does_not_divide_is_refused():
    """A half of an odd width, or an odd half, gives vectors of another width than asked for."""
    with pytest.raises(ValueError, match="d_model must be a multiple of 4, got 6"):
        F.sinusoidal_positions_2d(2, 2, 6)


@pytest.mark.parametrize(("grid", "new_grid"), [((3, 4), (6, 8)), ((4, 3), (5, 7)), ((6, 5), (3, 4)), ((1, 2), (3, 2))])
def test_resized_tables_are_the_cubic_convolution(grid, new_grid):
    """Rows and columns are exchanged, or the kernel, its phase, its border or its smoothing is another."""
    table = normal(0, grid[0] * grid[1], 3)
    wanted = oracles.resize_grid(np.asarray(table).reshape(*grid, 3), *new_grid).reshape(-1, 3)
    assert_close(F.interpolate_positions(table, grid, new_grid), wanted, 1e-5)


def test_a_ramp_stays_a_ramp():
    """Inside of the border, resized positions are not where the cells lie: (i + 1/2) / 2 - 1/2 at twice the size."""
    rows, columns = np.indices((6, 8))
    table = jnp.asarray(np.stack([rows, columns], -1).reshape(-1, 2), jnp.float32)
    resized = np.asarray(F.interpolate_positions(table, (6, 8), (12, 16))).reshape(12, 16, 2)
    wanted = np.stack(np.indices((12, 16)), -1) / 2 - 0.25
    np.testing.assert_allclose(resized[4:-4, 4:-4], wanted[4:-4, 4:-4], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_equal_grid_changes_nothing(dtype):
    """A checkpoint used at its own size has other positions than it was trained with."""
    table = normal(0, 12, 5, dtype=dtype)
    np.testing.assert_array_equal(F.interpolate_positions(table, (3, 4), (3, 4)), table)


@pytest.mark.parametrize("grid", [3, None, (3,), (3, 4, 1), (3.0, 4), (3, True)])
def test_a_grid_is_two_integers(grid):
    """A grid of other numbers fails somewhere within the resizing."""
    table = jnp.zeros((12, 2))
    with unchecked_annotations():
        for name, grids in (("grid", (grid, (3, 4))), ("new_grid", ((3, 4), grid))):
            with pytest.raises(TypeError, match=f"^{name} must be (two integers|an integer)[^\n]*$"):
                F.interpolate_positions(table, *grids)


def test_a_table_of_another_grid_is_refused():
    """A class token's vector among the grid's shifts every cell by one."""
    with pytest.raises(ValueError, match="a grid of 3 x 4 has 12 positions, got 13"):
        F.interpolate_positions(jnp.zeros((13, 2)), (3, 4), (6, 8))
