"""Random changes to images: each result is one that the formula allows, at the rates it promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_close, by_day, normal, quick_jit

import tformer_jax.functional as F

B, Y, X, C = 128, 5, 6, 2
IMAGES = normal(0, B, Y, X, C)


@jax.jit
def mixup(images, key, alpha):
    """Mixes the images, with targets that are one-hot in the example's number."""
    return F.mixup(images, jnp.eye(images.shape[0]), key, alpha)


PROGRAMS = {
    "flip": quick_jit(F.random_flip),
    "shift": quick_jit(functools.partial(F.random_shift, max_shift=2)),
    "mixup": lambda images, key: mixup(images, key, 1.0),
}


def shifted(image, dy, dx):
    """out[y, x] = image[y - dy, x - dx], 0 outside, one pixel at a time."""
    out = np.zeros_like(image)
    for y, x in np.ndindex(Y, X):
        if 0 <= y - dy < Y and 0 <= x - dx < X:
            out[y, x] = image[y - dy, x - dx]
    return out


def test_random_flip_turns_half_of_the_images():
    """Images are turned upside down, in part, all together, or another share than half."""
    out, images = np.asarray(F.random_flip(IMAGES, jax.random.key(0))), np.asarray(IMAGES)
    turned = [np.array_equal(a, b[:, ::-1]) for a, b in zip(out, images, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(out, images, strict=True)]
    np.testing.assert_array_equal(turned, np.logical_not(kept))
    assert abs(sum(turned) - B / 2) <= 5 * np.sqrt(B / 4)


def test_random_shift_moves_each_image_by_up_to_max_shift():
    """An image moves too far, never to some places, with others, or what moves in is not zero."""
    out, images = np.asarray(F.random_shift(IMAGES, jax.random.key(0), 1)), np.asarray(IMAGES)
    moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    counts = dict.fromkeys(moves, 0)
    for a, b in zip(out, images, strict=True):
        found = [move for move in moves if np.array_equal(a, shifted(b, *move))]
        assert len(found) == 1
        counts[found[0]] += 1
    assert all(abs(count - B / 9) <= 5 * np.sqrt(B * 8 / 81) for count in counts.values())


def test_a_shift_of_zero_is_the_identity():
    """Images move although they must not."""
    np.testing.assert_array_equal(F.random_shift(IMAGES, jax.random.key(0), 0), IMAGES)


def shares_and_partners(seed: int, alpha: float):
    """Mixed images, and what was drawn, read from the targets: l, j (l = 1 where j = i), and the rest of each row."""
    mixed, targets = mixup(IMAGES, jax.random.key(seed), alpha)
    targets = np.asarray(targets, np.float64)
    shares = targets.diagonal()
    others = targets - np.diag(shares)
    return mixed, shares, np.where(others.max(1) > 0, others.argmax(1), np.arange(B)), others


def test_mixup_mixes_images_as_it_mixes_targets():
    """Image and target have other shares or partners, or a target is no distribution any more."""
    mixed, shares, partners, others = shares_and_partners(0, 1.0)
    images = np.asarray(IMAGES, np.float64)
    weight = shares[:, None, None, None]
    assert_close(mixed, weight * images + (1 - weight) * images[partners], 1e-6)
    assert (np.count_nonzero(others, axis=1) <= 1).all()
    np.testing.assert_allclose(shares + others.sum(1), 1.0, atol=1e-6)


def test_every_example_has_one_partner_and_its_own_share():
    """Partners are not a permutation, or the whole batch has one share."""
    _, shares, partners, _ = shares_and_partners(0, 1.0)
    np.testing.assert_array_equal(np.sort(partners), np.arange(B))
    assert np.unique(shares).size > B / 2


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha):
    """The mean is not 1/2, or the variance not that of Beta(alpha, alpha), 1 / (4 (2 alpha + 1))."""
    drawn = [shares_and_partners(seed, alpha)[1:3] for seed in range(4)]
    shares = np.concatenate([s[partners != np.arange(B)] for s, partners in drawn])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 5 * np.sqrt(variance / shares.size)
    np.testing.assert_allclose(((shares - 0.5) ** 2).mean(), variance, rtol=0.3)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_key_decides(name):
    """The same key changes images otherwise, or other keys alike."""
    a, b, c = (jax.tree.leaves(PROGRAMS[name](IMAGES, jax.random.key(seed)))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_dtype_is_kept(name):
    """16-bit images come back as float32."""
    out = jax.eval_shape(PROGRAMS[name], IMAGES.astype(jnp.bfloat16), jax.random.key(0))
    assert jax.tree.leaves(out)[0].dtype == jnp.bfloat16


def test_arguments_that_cannot_be_are_refused():
    """A negative shift crops, an alpha of 0 gives NaN."""
    with pytest.raises(ValueError, match="max_shift must not be negative, got -1"):
        F.random_shift(IMAGES, jax.random.key(0), -1)
    with pytest.raises(ValueError, match="alpha must be positive, got 0.0"):
        F.mixup(IMAGES, jnp.ones((B, 1)), jax.random.key(0), 0.0)


KEY = jax.random.key(0)
DRAWING = {  # what draws for each row or token of a batch, and batches for it
    "mixup": (lambda x, y: F.mixup(x, y, KEY, 0.7), (normal(0, 4, 2, 2, 1), normal(1, 4, 3))),
    "mixup of real rows": (
        lambda x, y, real: F.mixup(x, y, KEY, 0.7, real=real),
        (normal(0, 4, 2, 2, 1), normal(1, 4, 3), jnp.array([True, True, True, False])),
    ),
    "random_flip": (lambda x: F.random_flip(x, KEY), (normal(0, 4, 2, 2, 1),)),
    "random_shift": (lambda x: F.random_shift(x, KEY, 1), (normal(0, 4, 3, 3, 1),)),
    "dropout": (lambda x: F.dropout(x, 0.5, KEY), (normal(0, 4, 3),)),
    "mask_tokens": (
        lambda x: F.mask_tokens(x, KEY, mask_id=0, vocab_size=9, rate=0.5),
        (jnp.arange(24).reshape(4, 6) % 8 + 1,),
    ),
    "mask_tokens, words": (
        lambda x, words: F.mask_tokens(x, KEY, mask_id=0, vocab_size=9, rate=0.5, word_ids=words),
        (jnp.arange(24).reshape(4, 6) % 8 + 1, jnp.tile(jnp.arange(6) // 2, (4, 1))),
    ),
}


@pytest.mark.parametrize("name", by_day(DRAWING, 1, 2, 3, 4, 6))
def test_a_batch_on_several_devices_is_drawn_for_as_on_one(name):
    """A batch that an explicit mesh spreads is refused, or gets other draws or partners than on one device."""
    f, batch = DRAWING[name]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.set_mesh(mesh):
        found = quick_jit(f)(*(jax.device_put(x, place) for x in batch))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(quick_jit(f)(*batch)), strict=True):
        assert_close(a, b, 1e-6)
