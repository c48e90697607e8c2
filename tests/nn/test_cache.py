"""The cache of keys and values against a list of what was written: positions, rings, padding, sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from support import examples, quick_jit, tiny_model

from tformer_jax.functional.masks import EMPTY
from tformer_jax.nn import Cache, KVCache

L, B, K, H = 2, 2, 1, 4


def empty(slots, window=None):
    """A stack's cache of one kind of layers."""
    return Cache((KVCache.empty((L, B, slots, K, H), jnp.float32, window),), (), jnp.zeros(B, jnp.int32))


def keys(numbers):
    """[B T K H] keys that say which token they are of."""
    return jnp.broadcast_to(jnp.asarray(numbers, jnp.float32)[:, :, None, None], (*np.shape(numbers), K, H))


def write(cache, numbers, valid=None):
    """The cache after tokens `numbers` [B T], in every layer, and their positions; values are the negated keys."""
    return _write(cache, np.asarray(numbers), valid)


@quick_jit
def _write(cache, numbers, valid):
    positions, cache = cache.reserve(numbers.shape[1], valid)
    kind, new = cache.layers[0], (keys(numbers), -keys(numbers))
    views = [kind.of_layer(jax.tree.map(lambda x, i=i: x[i], kind.scanned)).write(*new).scanned for i in range(L)]
    held = kind.of_layer(jax.tree.map(lambda *x: jnp.stack(x), *views))
    return positions, dataclasses.replace(cache, layers=(dataclasses.replace(held, reserved=0),))


def contents(cache, row):
    """{position: token} of the slots of a row that are not empty."""
    kind = cache.layers[0]
    positions, k, v = np.asarray(kind.positions)[row], np.asarray(kind.keys), np.asarray(kind.values)
    np.testing.assert_array_equal(k, -v)
    np.testing.assert_array_equal(k, np.broadcast_to(k[:1, :, :, :1, :1], k.shape))
    return {int(p): int(k[0, row, slot, 0, 0]) for slot, p in enumerate(positions) if p != EMPTY}


def test_an_empty_cache_holds_nothing():
    """A slot that nobody wrote looks like a token, or the arrays have another shape or dtype than [L B S K H]."""
    fields = dict(num_heads=4, num_kv_heads=2, head_dim=3, num_layers=5, precision="compute=bfloat16")
    cache = tiny_model("CausalLM", **fields).start_cache(3, 7)
    (kind,) = cache.layers
    assert kind.keys.shape == kind.values.shape == (5, 3, 7, 2, 3)
    assert {str(x.dtype) for x in (kind.keys, kind.values)} == {"bfloat16"}
    assert (kind.positions == EMPTY).all() and kind.positions.shape == (3, 7)
    assert (cache.lengths == 0).all() and kind.written == 0 and kind.slots == 7


@pytest.mark.parametrize("slots", [0, -1, 17])
def test_a_size_that_cannot_be_is_refused(slots):
    """A cache has room for nothing, or for positions that the model does not have."""
    with pytest.raises(ValueError, match=f"between 1 and max_length=16 tokens, got {slots}"):
        tiny_model("CausalLM").start_cache(B, slots)


def test_more_tokens_than_slots_are_refused():
    """Two tokens of one call are written to one slot, in no particular order."""
    with pytest.raises(ValueError, match="^4 tokens at once do not fit a cache of 3"):
        empty(3).reserve(4)


@given(data=st.data())
@examples(20)
def test_the_slots_hold_the_last_tokens_written(data):
    """Going round, in pieces of any length, another token is lost than the oldest, or position and key fall apart."""
    slots = data.draw(st.sampled_from([1, 3, 4]), label="slots")
    pieces = data.draw(st.lists(st.integers(1, min(slots, 3)), min_size=1, max_size=6), label="pieces")
    cache, total = empty(slots), 0
    for T in pieces:
        numbers = 100 * np.arange(1, B + 1)[:, None] + np.arange(total, total + T)
        positions, cache = write(cache, numbers)
        np.testing.assert_array_equal(positions, np.tile(np.arange(total, total + T), (B, 1)))
        total += T
    np.testing.assert_array_equal(cache.lengths, total)
    assert int(cache.layers[0].written) == total
    for row in range(B):
        wanted = {t: 100 * (row + 1) + t for t in range(max(0, total - slots), total)}
        assert contents(cache, row) == wanted


@given(data=st.data())
@examples(20)
def test_padding_takes_a_slot_and_is_neither_held_nor_counted(data):
    """A padded token has a position, or the row's next one is not where its last valid one ended."""
    slots = data.draw(st.sampled_from([3, 7]), label="slots")
    cache, held = empty(slots), [[] for _ in range(B)]
    lengths = [0] * B
    for step in range(data.draw(st.integers(1, 4), label="pieces")):
        T = data.draw(st.integers(1, 3), label="T")
        valid = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=B, max_size=B)))
        numbers = 1000 * np.arange(1, B + 1)[:, None] + 10 * step + np.arange(T)
        positions, cache = write(cache, numbers, valid)
        for row in range(B):
            for t in range(T):
                wanted = lengths[row] if valid[row, t] else None
                held[row].append(None if wanted is None else (wanted, int(numbers[row, t])))
                lengths[row] += int(valid[row, t])
                assert int(positions[row, t]) == (0 if wanted is None else wanted)
    np.testing.assert_array_equal(cache.lengths, lengths)
    for row in range(B):
        assert contents(cache, row) == dict(slot for slot in held[row][-slots:] if slot is not None)


NUMBERS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize("slots", [4, 5, 9])
def test_a_larger_cache_has_the_same_tokens_and_goes_on(slots):
    """Making room loses or moves a token, or the next one is not written behind the last."""
    cache = write(empty(4), NUMBERS)[1].resized(slots)
    kind = cache.layers[0]
    assert kind.slots == slots and [x.shape[2] for x in (kind.keys, kind.values)] == [slots] * 2
    assert contents(cache, 0) == {0: 1, 1: 2, 2: 3, 3: 4}
    kept = {0: 1} if slots > 4 else {}
    _, cache = write(cache, [[11], [12]])
    assert contents(cache, 0) == kept | {1: 2, 2: 3, 3: 4, 4: 11}
    assert contents(cache, 1)[4] == 12


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_smaller_cache_has_the_last_tokens_and_forgets_the_oldest_next(slots):
    """A ring made of a prompt keeps other tokens than the last, or overwrites one of the window."""
    cache = write(empty(4, window=slots), NUMBERS)[1].resized(9)
    assert contents(cache, 1) == {t: 5 + t for t in range(4 - slots, 4)}
    for step in range(1, 6):
        positions, cache = write(cache, [[20 + step], [20 + step]])
        assert int(positions[0, 0]) == 3 + step
        assert sorted(contents(cache, 1)) == list(range(4 + step - slots, 4 + step))


def test_a_cache_with_room_left_keeps_its_tokens_at_its_own_size():
    """`resized` to the size that it has already writes the next token over the first."""
    cache = write(empty(6), NUMBERS)[1].resized(6)
    assert contents(write(cache, [[11], [12]])[1], 0) == {0: 1, 1: 2, 2: 3, 3: 4, 4: 11}


def test_rows_change_together():
    """Reordering rows, as a beam does, leaves keys, positions or lengths behind."""
    _, cache = write(empty(4), NUMBERS, np.array([[False, True, True, True], [True] * 4]))
    swapped = cache.map_rows(lambda x, axis: jnp.take(x, jnp.array([1, 0, 1]), axis))
    assert [contents(swapped, row) for row in range(3)] == [contents(cache, row) for row in (1, 0, 1)]
    np.testing.assert_array_equal(swapped.lengths, [4, 3, 4])
    assert swapped.layers[0].keys.shape == (L, 3, 4, K, H)


def test_one_program_serves_a_cache_at_any_fill():
    """How far a cache is filled is part of the program: each token would be compiled anew."""
    step = quick_jit(lambda cache, numbers: _write.__wrapped__(cache, numbers, None)[1])
    cache = empty(3)
    for _ in range(7):
        cache = step(cache, jnp.zeros((B, 1)))
    assert step._cache_size() == 1
    np.testing.assert_array_equal(np.sort(cache.layers[0].positions, axis=1), [[4, 5, 6]] * B)
