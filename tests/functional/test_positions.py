"""Sinusoidal positions against the formula, one number at a time (equation 6)."""

import inspect
import math

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import examples

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
