"""Rotary positions against their formulas in float64."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, strategies as st
from support import assert_close, examples, normal, quick_jit, unchecked_annotations

import tformer_jax.functional as F

INT32_MAX = np.iinfo(np.int32).max

rotate = quick_jit(F.apply_rotary, static_argnames=("base", "scaling", "factor", "trained_length", "layout"))
layouts = pytest.mark.parametrize("layout", ["half", "interleaved"])


def positions_of(seed: int, *shape: int, most: int = 1000) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, most, shape), jnp.int32)


@examples(16)
@given(
    st.sampled_from([(1, 1, 1, 2), (2, 5, 3, 8), (2, 4, 1, 6)]),
    st.booleans(),
    st.sampled_from(["half", "interleaved"]),
    st.sampled_from([10_000.0, 500_000.0]),
    st.integers(0, 99),
)
def test_each_pair_is_turned_by_its_angle(shape, by_row, layout, base, seed):
    """A pair, an angle, its direction, or the row that positions belong to is wrong."""
    x, positions = normal(seed, *shape), positions_of(seed, *(shape[:2] if by_row else shape[1:2]))
    assert_close(rotate(x, positions, base=base, layout=layout), oracles.rotary(x, positions, base, layout), 2e-6)


@pytest.mark.parametrize(("most", "tolerance"), [(1_000_000, 2e-6), (INT32_MAX, 5e-6)])
def test_distant_positions_are_exact(most, tolerance):
    """Angles in float32: at position 10^5 a rotation is off by 10^-2. With float64 they are not, nor at 10^6."""
    x, positions = normal(0, 1, 512, 1, 128), positions_of(0, 512, most=most)
    assert_close(rotate(x, positions), oracles.rotary(x, positions), tolerance)


def test_negative_positions_turn_backwards():
    """Whole turns are dropped as if positions had no sign."""
    x, positions = normal(0, 1, 64, 1, 8), -positions_of(0, 64, most=100_000)
    assert_close(rotate(x, positions), oracles.rotary(x, positions), 2e-6)


def test_positions_between_integers_are_refused():
    """0.5 would be turned as 0: scaling="linear" is what divides positions."""
    with unchecked_annotations(), pytest.raises(TypeError, match="positions must be integers.*got float32"):
        F.apply_rotary(jnp.ones((1, 3, 1, 4)), jnp.array([0.0, 0.5, 1.5]))


@layouts
@examples(6)
@given(st.integers(0, 100_000), st.integers(0, 100_000), st.integers(0, 100_000))
def test_products_depend_on_the_distance_alone(layout, m, n, shift):
    """q_m . k_n changes when both positions move together."""
    q, k = normal(0, 1, 1, 1, 64), normal(1, 1, 1, 1, 64)

    def product(m, n):
        return (rotate(q, jnp.array([m]), layout=layout) * rotate(k, jnp.array([n]), layout=layout)).sum()

    np.testing.assert_allclose(product(m, n), product(m + shift, n + shift), atol=1e-4)


@layouts
def test_position_zero_changes_nothing(layout):
    """The first token is turned."""
    x = normal(0, 2, 3, 1, 8)
    np.testing.assert_array_equal(rotate(x, jnp.zeros(3, int), layout=layout), x)


@layouts
def test_norms_are_kept(layout):
    """A rotation stretches."""
    x = normal(0, 2, 5, 3, 8)
    turned = rotate(x, positions_of(0, 2, 5), layout=layout)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)


@layouts
def test_the_gradient_is_turned_back(layout):
    """The gradient is not the transpose of the rotation, which is the rotation the other way."""
    x, d_out, positions = normal(0, 2, 5, 3, 8), normal(1, 2, 5, 3, 8), positions_of(0, 2, 5)
    run = quick_jit(lambda x, d_out: jax.vjp(lambda x: F.apply_rotary(x, positions, layout=layout), x)[1](d_out)[0])
    assert_close(run(x, d_out), oracles.rotary(d_out, -positions, layout=layout), 2e-6)


def test_linear_scaling_squeezes_positions():
    """Position 2p with factor 2 is not where p was in training."""
    x, positions = normal(0, 2, 5, 3, 8), positions_of(0, 5)
    squeezed = rotate(x, 2 * positions, scaling="linear", factor=2.0)
    assert_close(squeezed, rotate(x, positions), 2e-6)
    thirds = rotate(x, positions, scaling="linear", factor=3.0)
    assert_close(thirds, oracles.rotary(x, np.asarray(positions) / 3), 2e-6)


def test_llama3_scaling_divides_low_frequencies_alone():
    """A frequency that turns often within the length of training is divided, a low one is kept, or the way between jumps."""
    x, positions = normal(0, 2, 5, 3, 64), positions_of(0, 5)
    how = dict(scaling="llama3", factor=8.0, trained_length=8192, base=500_000.0)
    change = lambda frequency: oracles.llama3(frequency, 8.0, 8192)
    assert_close(rotate(x, positions, **how), oracles.rotary(x, positions, 500_000.0, change=change), 2e-6)
    distant = positions_of(1, 5, most=1_000_000)
    assert_close(rotate(x, distant, **how), oracles.rotary(x, distant, 500_000.0, change=change), 2e-6)


@pytest.mark.parametrize("turns", [None, (0.5, 4.0)], ids=str)
@pytest.mark.parametrize("whole_pairs", [True, False])
def test_yarn_leads_from_pair_to_pair(turns, whole_pairs):
    """A pair between those that are kept and those that are divided is neither, or lengths of vectors are not YaRN's."""
    x, positions = normal(0, 2, 5, 3, 32), positions_of(0, 5, most=100_000)
    how = dict(scaling="yarn", factor=4.0, trained_length=4096, turns=turns, whole_pairs=whole_pairs)
    turned = F.rotate(x, *F.rotary_tables(positions, 32, base=500_000.0, **how))
    frequencies = oracles.yarn(32, 500_000.0, 4.0, 4096, *(turns or ()), whole_pairs=whole_pairs)
    assert_close(turned, oracles.rotary(x, positions, frequencies=frequencies) * (1 + 0.1 * math.log(4.0)), 2e-6)


def test_yarn_is_apply_rotarys_too():
    """The function that turns queries and keys has other tables."""
    x, positions = normal(0, 2, 5, 3, 8), positions_of(0, 5)
    how = dict(scaling="yarn", factor=4.0, trained_length=64)
    assert_close(rotate(x, positions, **how), F.rotate(x, *F.rotary_tables(positions, 8, **how)), 1e-6)


def test_a_traced_base_and_factor_give_yarn_too():
    """What is known on the host is computed there alone."""
    how = dict(scaling="yarn", trained_length=64)
    traced = quick_jit(lambda base, factor: F.rotary_tables(jnp.arange(9), 8, base=base, factor=factor, **how))(
        100.0, 4.0
    )
    for got, wanted in zip(traced, F.rotary_tables(jnp.arange(9), 8, base=100.0, factor=4.0, **how), strict=True):
        assert_close(got, wanted, 1e-5)


def test_each_pair_has_its_divisor():
    """LongRoPE's divisors go to other pairs, or the magnitude to the sines alone."""
    x, positions, divisors = normal(0, 2, 5, 3, 8), positions_of(0, 5), (1.0, 1.5, 4.0, 30.0)
    turned = F.rotate(x, *F.rotary_tables(positions, 8, divisors=divisors, magnitude=1.2))
    assert_close(turned, 1.2 * oracles.rotary(x, positions, frequencies=oracles.longrope(8, 1e4, divisors)), 2e-6)


def test_llama3s_turns_may_be_others():
    """The ends of the way between are Llama 3.1's whatever is asked for."""
    x, positions = normal(0, 2, 5, 3, 16), positions_of(0, 5)
    tables = F.rotary_tables(positions, 16, scaling="llama3", factor=8.0, trained_length=64, turns=(0.5, 2.0))
    change = lambda frequency: oracles.llama3(frequency, 8.0, 64, 0.5, 2.0)
    assert_close(F.rotate(x, *tables), oracles.rotary(x, positions, change=change), 2e-6)


def test_ntk_scaling_changes_the_base():
    """The base is not base * factor^(H / (H - 2)), with which the lowest frequency falls by exactly the factor."""
    H, factor = 8, 4.0
    x, positions = normal(0, 2, 5, 3, H), positions_of(0, 5)
    turned = rotate(x, positions, scaling="ntk", factor=factor)
    assert_close(turned, oracles.rotary(x, positions, 10_000.0 * factor ** (H / (H - 2))), 2e-6)
    lowest, highest = turned[..., [3, 7]], turned[..., [0, 4]]
    assert_close(highest, rotate(x, positions)[..., [0, 4]], 2e-6)
    assert_close(lowest, oracles.rotary(x, np.asarray(positions) / factor)[..., [3, 7]], 2e-6)


@pytest.mark.parametrize("base", [1e-12, 0.5, 1e30])
def test_any_base_is_the_formulas(base):
    """A pair that turns more than 2^32 times a position overflows the integer that drops whole turns."""
    x, positions = normal(0, 1, 2, 1, 4), np.array([0, 1])
    turned = F.apply_rotary(x, jnp.asarray(positions), base=base)
    assert_close(turned, oracles.rotary(x, positions, base), 1e-4)
    largest = F.apply_rotary(x, jnp.asarray(positions), base=1e300, scaling="ntk", factor=1e200)
    assert_close(largest, oracles.rotary(x, positions, 1e300), 2e-6)


@layouts
def test_part_of_a_head_is_turned(layout):
    """The rest is turned too, or the angles are those of the whole width."""
    x, positions = normal(0, 2, 5, 3, 10), positions_of(0, 2, 5)
    turned = quick_jit(functools.partial(F.apply_rotary, width=6, layout=layout))(x, positions)
    assert_close(turned[..., :6], oracles.rotary(x[..., :6], positions, layout=layout), 2e-6)
    np.testing.assert_array_equal(turned[..., 6:], x[..., 6:])


@layouts
@pytest.mark.parametrize("by_row", [False, True])
def test_given_cosines_and_sines_turn(layout, by_row):
    """A table's angle belongs to another pair or token, or what is beyond it is turned."""
    x, positions = normal(0, 2, 5, 3, 8), positions_of(0, *((2, 5) if by_row else (5,)))
    angles = np.asarray(positions)[..., None] * 100.0 ** (-np.arange(0, 6, 2) / 6)
    turned = F.rotate(x, jnp.float32(np.cos(angles)), jnp.float32(np.sin(angles)), layout=layout)
    assert_close(turned[..., :6], oracles.rotary(x[..., :6], positions, 100.0, layout), 2e-6)
    np.testing.assert_array_equal(turned[..., 6:], x[..., 6:])


def test_numbers_of_rotations_may_be_of_any_kind():
    """A NumPy or JAX scalar is refused inside of jit, and a traced one has no derivative."""
    x, positions = normal(0, 1, 5, 1, 8), jnp.arange(5)
    turn = lambda base, factor: F.apply_rotary(x, positions, base=base, scaling="ntk", factor=factor)
    wanted = turn(100.0, 2.0)
    kinds = (np.float32, np.float64, jnp.float32)
    for got in quick_jit(lambda: [turn(kind(100), kind(2)) for kind in kinds])():
        assert_close(got, wanted, 1e-6)
    with jax.numpy_dtype_promotion("strict"):
        assert_close(quick_jit(turn)(100.0, 2.0), wanted, 1e-5)
        slope = quick_jit(jax.jacfwd(turn))(100.0, 2.0)
    # Of float32 values: a difference over 2 is off by their rounding and its own curvature.
    assert_close(slope, (turn(101.0, 2.0) - turn(99.0, 2.0)) / 2, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_heads_are_turned_in_float32(dtype):
    """Angles or products are rounded to 16 bits, or another dtype comes back."""
    x, positions = normal(0, 2, 5, 3, 8, dtype=dtype), positions_of(0, 5)
    turned = rotate(x, positions)
    assert turned.dtype == dtype
    wanted = jnp.asarray(oracles.rotary(x, positions), jnp.float32).astype(dtype)
    assert float((turned == wanted).mean()) > 0.97  # the rest lies next to a rounding boundary


@pytest.mark.parametrize(
    ("width", "message", "options"),
    [
        (3, "rotary positions need an even head width, got 3", dict()),
        (4, "scaling must be 'none', 'linear', 'ntk', 'llama3' or 'yarn', got 'su'", dict(scaling="su", factor=2.0)),
        (4, "layout must be 'half' or 'interleaved', got 'halves'", dict(layout="halves")),
        (4, "factor must be at least 1.*got 0.5", dict(scaling="linear", factor=0.5)),
        (4, "and 1 with scaling='none'; got 2.0 with 'none'", dict(factor=2.0)),
        (4, "width must be at most the head width H=4, got 6", dict(width=6)),
        (4, "base must be positive, got 0.0", dict(base=0)),
        (2, "'ntk' needs a head width of at least 4", dict(scaling="ntk", factor=2.0)),
        (4, "trained_length goes with scaling='llama3'.*got None", dict(scaling="llama3", factor=2.0)),
        (4, "trained_length goes with .*got 8 with 'linear'", dict(scaling="linear", factor=2.0, trained_length=8)),
        (4, "trained_length must be at least 1, got 0", dict(scaling="llama3", factor=2.0, trained_length=0)),
    ],
)
def test_rotations_that_cannot_be_are_refused(width, message, options):
    """A wrong argument is ignored, or gives the rotation of another one."""
    unchecked = inspect.unwrap(F.apply_rotary)  # without the run-time check of its Literal annotations
    with unchecked_annotations(), pytest.raises(ValueError, match=message):
        unchecked(jnp.ones((1, 2, 1, width)), jnp.arange(2), **options)


def test_tables_that_are_not_of_the_tokens_are_refused():
    """One row of a table, or one of another length, is taken for all tokens."""
    x, table = jnp.ones((2, 3, 1, 4)), jnp.ones((3, 2))
    for cos, sin, message in (
        (table[:1], table, r"cos must be \[T P\] .*got \(1, 2\)"),
        (table, jnp.ones((3, 3)), r"sin must be .*got \(3, 3\) at H=4"),
        (table, table[:, :1], "as many angles, got 2 and 1"),
    ):
        with unchecked_annotations(), pytest.raises(ValueError, match=message):
            F.rotate(x, cos, sin)
    with unchecked_annotations(), pytest.raises(ValueError, match=r"positions must be .*T=3, got the shape \(1,\)"):
        F.apply_rotary(x, jnp.arange(1))


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("turns are two positive numbers, the lower one first", dict(turns=(1.0, 4.0))),
        ("turns are two", dict(scaling="yarn", factor=2.0, trained_length=8, turns=(4.0, 1.0))),
        ("divisors must be 2 positive numbers, one for each pair", dict(divisors=(1.0, 2.0, 3.0))),
        ("divisors must be 2 positive numbers", dict(divisors=(1.0, 0.0))),
        ("divisors must be .*with scaling='none'.*'linear'", dict(divisors=(1.0, 2.0), scaling="linear", factor=2.0)),
    ],
)
def test_tables_that_cannot_be_are_refused(message, options):
    """A number that the scaling does not take is ignored."""
    with unchecked_annotations(), pytest.raises(ValueError, match=message):
        F.rotary_tables(jnp.arange(3), 4, **options)
