"""`AttentionMask` and the mask arrays against relations written by loops (equation 8)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import unchecked_annotations

import tformer_jax.functional as F

B, N, T, S = 2, 3, 4, 5

FIELDS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "causal": dict(causal=True),
    "window": dict(window=2),
    "window of one": dict(window=1),
    "causal window": dict(causal=True, window=3),
    "prefix": dict(prefix=np.array([0, 3])),
    "prefix of all rows, causal": dict(prefix=2, causal=True),
    "prefix, keys in a ring": dict(prefix=np.array([4, 6]), key_positions=np.array([5, 6, 7, 3, 4])),
    "lengths": dict(lengths=np.array([3, 0])),
    "segments": dict(segments=(np.array([[0, 0, 1, 2], [3, 3, 3, 3]]), np.array([[0, 1, 1, 2, 2], [3, 0, 3, 0, 3]]))),
    "other segments": dict(
        segments=(np.array([[0, 1, 1, 2], [3, 3, 0, 0]]), np.array([[0, 1, 2, 2, 1], [3, 3, 0, 0, 0]]))
    ),
    "explicit rank 2": dict(explicit=np.random.default_rng(0).random((T, S)) < 0.5),
    "explicit rank 4": dict(explicit=np.random.default_rng(1).random((B, N, T, S)) < 0.5),
    "explicit per key": dict(explicit=np.random.default_rng(2).random((B, 1, 1, S)) < 0.5),
    "causal, decoding at 1": dict(causal=True, query_positions=np.arange(T) + 1),
    "causal, rows apart": dict(causal=True, query_positions=np.array([[0, 1, 2, 3], [1, 2, 3, 4]])),
    "window, decoding at 3": dict(window=2, query_positions=np.arange(T) + 3),
    "causal, keys in a ring": dict(
        causal=True, query_positions=np.arange(T) + 5, key_positions=np.array([5, 6, 7, 3, 4])
    ),
    "everything": dict(
        causal=True, window=3, lengths=np.array([5, 4]), segments=(np.zeros((B, T), int), np.zeros((B, S), int)),
        explicit=np.random.default_rng(3).random((T, S)) < 0.8, query_positions=np.arange(T) + 1,
    ),
}  # fmt: skip


def device(fields):
    return F.AttentionMask(**jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, fields))


def by_loops(fields, shape=(B, N, T, S)):
    names = {"query_positions": "query_pos", "key_positions": "key_pos"}
    return oracles.mask_by_loops(*shape, **{names.get(name, name): x for name, x in fields.items()})


def as_array(mask, shape=(B, N, T, S)):
    return np.broadcast_to(mask.to_array(*shape[2:]), shape)


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_says_who_may_see_whom(name):
    """The field hides or shows a pair that it should not."""
    np.testing.assert_array_equal(as_array(device(FIELDS[name])), by_loops(FIELDS[name]))


def test_one_array_of_segments_serves_queries_and_keys():
    """Packed sequences see each other."""
    segments = np.array([[1, 1, 2, 2], [5, 6, 6, 6]])
    shape = (B, 1, T, T)
    wanted = by_loops(dict(segments=segments), shape)
    np.testing.assert_array_equal(as_array(F.AttentionMask(segments=jnp.asarray(segments)), shape), wanted)


@pytest.mark.parametrize("first", FIELDS)
def test_and_is_elementwise_and(first):
    """`a & b` shows a pair that a or b hides, or hides one that both show. Every field with every other."""
    for second in FIELDS:
        a, b = FIELDS[first], FIELDS[second]
        if "window" in a and "window" in b:
            b = b | dict(window=a["window"] + 1)
        # Positions belong to the queries and keys of a call, not to one of the two masks.
        shared = {name: {**b, **a}[name] for name in ("query_positions", "key_positions") if name in a or name in b}
        a, b = a | shared, b | shared
        held = jax.tree.map(jnp.asarray, shared)
        combined = device(a | held) & device(b | held)
        np.testing.assert_array_equal(as_array(combined), by_loops(a) & by_loops(b), err_msg=second)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_and_takes_a_boolean_array_on_either_side(kind, side):
    """`array & mask` becomes an array operation on the mask object, or an error."""
    array = np.random.default_rng(0).random((T, S)) < 0.5
    mask = F.AttentionMask(causal=True)
    combined = kind(array) & mask if side == "left" else mask & kind(array)
    either = kind(array) | mask if side == "left" else mask | kind(array)
    assert isinstance(combined, F.AttentionMask)
    np.testing.assert_array_equal(as_array(combined), by_loops(dict(causal=True)) & array)
    np.testing.assert_array_equal(as_array(either), by_loops(dict(causal=True)) | array)


def test_and_with_none_changes_nothing():
    """An absent mask hides something."""
    mask = F.AttentionMask(causal=True)
    assert (mask & None) is mask


def test_two_masks_with_different_positions_are_refused():
    """One of two contradicting sets of positions wins silently."""
    a, b = (F.AttentionMask(causal=True, query_positions=jnp.arange(4) + i) for i in (0, 1))
    for combine in (lambda: a & b, lambda: a | ~b, lambda: (~a).placed(query_positions=jnp.arange(4))):
        with pytest.raises(ValueError, match="both masks set query_positions"):
            combine()


EMPTY = np.iinfo(np.int32).max
ALONE = [fields for fields in FIELDS.values() if not {"query_positions", "key_positions"} & set(fields)]
PLACES: list[dict[str, Any]] = [
    {},
    dict(query_positions=np.arange(T) + 4, key_positions=np.array([5, EMPTY, 7, 3, 4])),
    dict(
        query_positions=np.array([[0, 1, 2, 3], [2, 3, 4, 5]]),
        key_positions=np.array([[0, 1, 2, 3, EMPTY], [4, 5, 1, 2, 3]]),
    ),
]


def drawn(rng, places, depth=3):
    """A mask of several, and who sees whom: nobody an empty slot by `~`."""
    if depth == 0 or rng.random() < 0.2:
        fields = ALONE[rng.integers(len(ALONE))]
        return device(fields), by_loops(fields | places)
    (a, sees_a), (b, sees_b) = (drawn(rng, places, depth - 1) for _ in range(2))
    tokens = np.broadcast_to(places.get("key_positions", np.arange(S)), (B, S))[:, None, None] != EMPTY
    return ((a & b, sees_a & sees_b), (a | b, sees_a | sees_b), (~a, ~sees_a & tokens))[rng.integers(3)]


@pytest.mark.parametrize("places", PLACES, ids=["indices", "one cache", "caches"])
def test_masks_are_an_algebra(places):
    """A combination shows another pair, as a whole or by tiles, inside of a program or out, or shows an empty slot."""
    for seed in range(15):
        mask, wanted = drawn(np.random.default_rng(seed), places)
        mask = mask.placed(**jax.tree.map(jnp.asarray, places))
        np.testing.assert_array_equal(as_array(mask), wanted, err_msg=str(seed))
        leaves, kind = jax.tree.flatten(mask)
        assert wanted.all() or not jax.tree.unflatten(kind, leaves).hides_nothing
        tile = jax.tree.unflatten(kind, leaves).tile(1, 2, 2, 3)
        np.testing.assert_array_equal(np.broadcast_to(tile, (B, N, 2, 3)), wanted[:, :, 1:3, 2:5], err_msg=str(seed))


def test_a_part_of_the_queries_sees_what_it_saw_in_the_whole():
    """A device that has some of the queries takes them for the first ones, or another's segments."""
    for seed in range(15):
        mask, wanted = drawn(np.random.default_rng(seed), {})
        whole = mask.cuttable(T)
        part = jax.tree.map(
            lambda x, axis: x if axis < 0 else jnp.take(x, jnp.array([2, 3]), axis), whole, whole.query_axes
        )
        found = np.broadcast_to(part.to_array(2, S), (B, N, 2, S))
        np.testing.assert_array_equal(found, wanted[:, :, 2:], err_msg=str(seed))


def test_what_a_mask_describes_is_mapped_over():
    """An expression is no pytree whose arrays have rows."""
    mask = F.AttentionMask(causal=True) | ~F.AttentionMask(prefix=jnp.array([1, 3]))
    rows = jax.jit(jax.vmap(lambda mask: mask.to_array(T, S)[0, 0]))(mask)
    np.testing.assert_array_equal(rows, as_array(mask)[:, 0])


def test_a_prefix_is_seen_by_all_and_an_empty_slot_by_none():
    """A prompt is causal within itself, a step of decoding sees less of it, or a prefix beyond all reaches empty slots."""
    prefix_lm = F.AttentionMask(causal=True) | F.AttentionMask(prefix=jnp.array([2, 0]))
    whole = as_array(prefix_lm, (2, 1, 5, 5))
    assert whole[0, 0, 0].tolist() == [True, True, False, False, False]
    for step in range(5):
        slots = jnp.where(jnp.arange(5) <= max(step, 1), jnp.arange(5), EMPTY)
        one = prefix_lm.placed(query_positions=jnp.array([step]), key_positions=slots)
        np.testing.assert_array_equal(as_array(one, (2, 1, 1, 5))[:, :, 0], whole[:, :, step])
    for prefix in (10**30, jnp.int32(EMPTY)):
        mask = F.AttentionMask(prefix=prefix, key_positions=jnp.array([0, EMPTY]))
        assert mask.to_array(1, 2).tolist() == [[[[True, False]]]]


@pytest.mark.parametrize("name", FIELDS)
def test_tiles_are_slices_of_the_whole(name):
    """A kernel that asks for a tile gets another one than the dense mask has there."""
    mask, whole = device(FIELDS[name]), by_loops(FIELDS[name])
    for q_start, k_start in ((0, 0), (1, 2), (2, 3)):
        tile = np.broadcast_to(mask.tile(q_start, 2, k_start, 2), (B, N, 2, 2))
        np.testing.assert_array_equal(tile, whole[:, :, q_start : q_start + 2, k_start : k_start + 2])


@pytest.mark.parametrize("name", FIELDS)
def test_hides_nothing_is_never_wrong(name):
    """A kernel would skip a mask that hides something."""
    if device(FIELDS[name]).hides_nothing:
        assert by_loops(FIELDS[name]).all()


def test_a_mask_is_a_pytree_that_keeps_its_static_fields():
    """A mask loses its causality or its window on the way into `jax.jit`, or they become tracers."""
    mask = F.AttentionMask(causal=True, window=2, lengths=jnp.array([3, 5]))
    assert [leaf.shape for leaf in jax.tree.leaves(mask)] == [(2,)]
    inside = jax.jit(lambda m: m.to_array(T, S))(mask)
    np.testing.assert_array_equal(inside, mask.to_array(T, S))
    np.testing.assert_array_equal(
        np.broadcast_to(inside, (B, N, T, S)), by_loops(dict(causal=True, window=2, lengths=[3, 5]))
    )


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_that_sees_nothing_is_refused(window):
    """A window of 0 or less hides everything without a word."""
    with pytest.raises(ValueError, match=f"window must be at least 1, got {window}"):
        F.AttentionMask(window=window)


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        ((-1, 2), ValueError, r"the sides of a window must be at least 0, got \(-1, 2\)"),
        (2.5, TypeError, "window must be an integer, got 2.5"),
        ((1, 2, 3), TypeError, "window must be an integer"),
        ((1, 2.5), TypeError, "window must be an integer, got 2.5"),
        (True, TypeError, "window must be an integer, got True"),
    ],
)
def test_windows_that_cannot_be_are_refused(window, error, message):
    """A window is rounded, or a side of it is another's."""
    with pytest.raises(error, match=message):
        F.AttentionMask(window=window)


@pytest.mark.parametrize(("a", "b"), [((2, 0), 2), (3, (1, 4)), ((0, 5), (5, 1))])
def test_windows_together_are_the_least_of_each_side(a, b):
    """One window wins over the other."""
    alone = [as_array(F.AttentionMask(window=window)) for window in (a, b)]
    np.testing.assert_array_equal(as_array(F.AttentionMask(window=a) & F.AttentionMask(window=b)), alone[0] & alone[1])


def test_an_empty_slot_is_outside_of_every_window():
    """The distance of a position before 0 to the largest one overflows and is small."""
    places = dict(query_positions=jnp.array([-1, 0, 7]), key_positions=jnp.array([7, np.iinfo(np.int32).max]))
    assert not np.asarray(F.AttentionMask(window=3, **places).to_array(3, 2))[..., 1].any()


@pytest.mark.parametrize("dtypes", [(jnp.uint8, jnp.int32), (jnp.int8, jnp.uint16)], ids=str)
def test_positions_of_any_integers_compare(dtypes):
    """A difference of small or unsigned integers wraps around."""
    places = dict(query_positions=jnp.arange(T, dtype=dtypes[0]), key_positions=jnp.arange(S, dtype=dtypes[1]))
    with jax.numpy_dtype_promotion("strict"):
        got = as_array(F.AttentionMask(causal=True, window=2, **places))
    np.testing.assert_array_equal(got, by_loops(dict(causal=True, window=2)))


def test_one_step_against_a_cache_sees_what_the_whole_sequence_sees():
    """A mask for one query and a cache is built from its own array's shape, not from positions."""
    whole = np.asarray(F.AttentionMask(causal=True, window=3).to_array(8, 8))
    for step in range(8):
        one = F.AttentionMask(causal=True, window=3, query_positions=jnp.array([step])).to_array(1, 8)
        np.testing.assert_array_equal(one[:, :, 0], whole[:, :, step])


@pytest.mark.parametrize(("rows", "columns"), [(4, None), (3, 5), (5, 3), (1, 1)])
def test_causal_mask_is_key_at_most_query(rows, columns):
    """Equation 8: a token sees the future, or not itself."""
    wanted = [[j <= i for j in range(columns or rows)] for i in range(rows)]
    np.testing.assert_array_equal(F.causal_mask(rows, columns), wanted)
    places = jnp.array([np.arange(rows), np.arange(rows) + 1])
    np.testing.assert_array_equal(F.causal_mask(places, columns or rows)[0], wanted)
    np.testing.assert_array_equal(F.causal_mask(places - 1, jnp.arange(columns or rows))[1], wanted)


def test_mask_to_bias_is_zero_and_minus_infinity():
    """Equation 8: a large finite number stands for -inf, or True and False are swapped."""
    bias = F.mask_to_bias(jnp.array([[True, False]]))
    assert bias.dtype == jnp.float32
    np.testing.assert_array_equal(bias, [[0.0, -np.inf]])
    scores = jnp.array([2.0, jnp.nan], jnp.bfloat16)
    found = F.mask_to_bias(jnp.array([[True, False]]), scores)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, [[2.0, -np.inf]])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("causal must be True or False, got 'yes'", lambda: F.AttentionMask(causal="yes")),
        (
            "causal must be True or False, known when the program is traced",
            lambda: jax.eval_shape(lambda causal: F.AttentionMask(causal=causal), True),
        ),
        ("explicit mask must be boolean", lambda: F.AttentionMask(explicit=np.ones((2, 3))).to_array(2, 3)),
        ("explicit mask must broadcast to", lambda: F.AttentionMask(explicit=np.ones((2, 4), bool)).to_array(2, 3)),
        ("query_positions must have one of", lambda: F.AttentionMask(query_positions=np.arange(3)).to_array(2, 3)),
        ("prefix must be an array, got a float", lambda: F.AttentionMask(prefix=2.5).to_array(2, 3)),
        (
            r"prefix must have one of the shapes \[\(\), \(1,\), \(2,\)\], got \(2, 2\)",
            lambda: (F.AttentionMask(prefix=np.ones((2, 2), int)) | np.ones((2, 3), bool)).to_array(2, 3),
        ),
        ("query_length must be an integer, got 2.0", lambda: F.AttentionMask().to_array(2.0, 3)),
        ("T must be an integer, got 3.0", lambda: F.causal_mask(3.0)),
        ("T and S must be at least 0, got 2 and -1", lambda: F.causal_mask(2, -1)),
    ],
)
def test_masks_that_cannot_be_are_refused_by_name(message, call):
    """Any text is a causal mask, or an array of another length is cut or clamped."""
    with unchecked_annotations(), pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()


@pytest.mark.parametrize("window", [2**31 - 1, 10**30, (0, 2**31 - 1), (2**31 - 1, 0)])
def test_a_window_beyond_all_positions_hides_nothing(window):
    """Its end overflows, so that queries see no key at all: such a number is how one says that there is no window."""
    places = jnp.array([0, 5, 2**31 - 2])
    left, right = window if isinstance(window, tuple) else (window - 1, window - 1)
    apart = np.array([[int(k) - int(q) for k in places] for q in places], object)
    mask = F.AttentionMask(window=window, query_positions=places, key_positions=places)
    np.testing.assert_array_equal(mask.to_array(3, 3)[0, 0], (apart >= -left) & (apart <= right))
