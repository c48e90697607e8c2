"""Every transformation of JAX over the pure functions, against the same transformation of plain `jax.numpy`.

Attention, masks, positions and relative positions have their own table.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import assert_close, normal, quick_jit

import tformer_jax.functional as F

B, T, D, V, H = 4, 3, 3, 5, 4
KEY = jax.random.key(0)
TARGETS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)))
WEIGHTS = jnp.asarray(np.random.default_rng(1).random((B, T)), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A function and what it should be, of arrays with the batch as first axis and of arrays that it shares."""

    ours: Callable
    plain: Callable
    batch: tuple[Any, ...]
    shared: tuple[Any, ...] = ()
    spread: bool = True  # its rows do not depend on each other, nor on their place in the batch


def nats(logits, targets, weights=None, smoothing=0.0, z=0.0, classes=None):
    """Cross-entropy, the mean, as it is written down."""
    log_probs = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
    classes = jnp.ones(logits.shape[-1]) if classes is None else classes
    wanted = (1 - smoothing) * jax.nn.one_hot(targets, logits.shape[-1]) + smoothing / logits.shape[-1]
    of_target = (jax.nn.one_hot(targets, logits.shape[-1]) * classes).sum(-1)
    losses = -(classes * wanted * log_probs).sum(-1) + z * of_target * jnp.log(jnp.exp(logits).sum(-1)) ** 2
    weights = of_target * (jnp.ones(targets.shape) if weights is None else weights)
    return (losses * jnp.where(of_target == 0, 0, weights / of_target)).sum() / weights.sum()


def fused_plain(hidden, targets, weights, w_out, b_out, classes, smoothing, z, cap):
    return nats(cap * jnp.tanh((hidden @ w_out + b_out) / cap), targets, weights, smoothing, z, classes)


def fused(hidden, targets, weights, w_out, b_out, classes, smoothing, z, cap):
    how = dict(label_smoothing=smoothing, z_loss=z, logit_softcap=cap, chunk_size=4)
    return F.fused_cross_entropy(
        hidden, w_out, targets, b_out=b_out, weights=weights, class_weights=classes, **how
    )


def fused_each(hidden, targets, w_out):
    return F.fused_cross_entropy(hidden, w_out, targets, reduction="none", chunk_size=5)


def each_plain(hidden, targets, w_out):
    return -jnp.take_along_axis(jax.nn.log_softmax(hidden @ w_out), targets[..., None], -1)[..., 0]


def affine(x, w, b):
    return x @ w + b


def normed(x, gamma, beta, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gamma + beta


def kept(x, rate):
    dropped = jnp.round(rate * 2**16)
    keep = jax.random.bits(KEY, x.shape, jnp.uint16) >= lax.stop_gradient(dropped).astype(jnp.uint16)
    return x * keep / lax.stop_gradient(1 - dropped / 2**16)


def mixed(images, targets):
    share_key, partner_key = jax.random.split(KEY)
    l, j = jax.random.beta(share_key, 0.7, 0.7, (B,)), jax.random.permutation(partner_key, B)
    return tuple(jnp.einsum("b,b...->b...", l, x) + jnp.einsum("b,b...->b...", 1 - l, x[j]) for x in (images, targets))


def cut(images):
    return jnp.stack([images[:, y : y + 2, x : x + 2].reshape(len(images), -1) for y in (0, 2) for x in (0, 2)], 1)


def joined(patches):
    tiles = patches.reshape(-1, 2, 2, 2, 2, 1)
    rows = [jnp.concatenate([tiles[:, y, x] for x in range(2)], axis=2) for y in range(2)]
    return jnp.concatenate(rows, axis=1)


def shifted(images):
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    starts = jax.random.randint(KEY, (B, 2), 0, 3)
    windows = jnp.stack([jnp.stack([padded[:, y : y + 4, x : x + 4] for x in range(3)]) for y in range(3)])
    return windows[starts[:, 0], starts[:, 1], jnp.arange(B)]


X, LOGITS, IMAGES = normal(0, B, T, D), normal(1, B, T, V), normal(2, B, 4, 4, 1)
W1, B1, W2, B2 = normal(3, D, H), normal(4, H), normal(5, H, D), normal(6, D)
NUMBERS = jnp.float32(0.1), jnp.float32(0.02), jnp.float32(3.0)
CLASSES = jnp.asarray([1.0, 0.5, 2.0, 1.0, 0.2])

CASES = {
    "cross_entropy": Case(
        lambda x, y, w, c, s, z: F.cross_entropy(
            x, y, weights=w, class_weights=c, label_smoothing=s, z_loss=z
        ),
        lambda x, y, w, c, s, z: nats(x, y, w, s, z, c),
        (LOGITS, TARGETS, WEIGHTS),
        (CLASSES, *NUMBERS[:2]),
    ),
    "fused_cross_entropy": Case(
        fused, fused_plain, (X, TARGETS, WEIGHTS), (normal(7, D, V), CLASSES, CLASSES, *NUMBERS)
    ),
    "fused_cross_entropy, none": Case(fused_each, each_plain, (X, TARGETS), (normal(7, D, V),)),
    "causal_lm_loss": Case(F.causal_lm_loss, lambda x, y: nats(x[:, :-1], y[:, 1:]), (LOGITS, TARGETS)),
    "masked_lm_loss": Case(F.masked_lm_loss, nats, (LOGITS, TARGETS, WEIGHTS)),
    "output_log_probs": Case(F.output_log_probs, lambda x, w: jnp.log(jax.nn.softmax(x @ w)), (X,), (normal(7, D, V),)),
    "weighted_mean": Case(F.weighted_mean, lambda x, w: (x * w).sum() / w.sum(), (LOGITS[..., 0], WEIGHTS)),
    "layer_norm": Case(lambda x, g, b, e: F.layer_norm(x, g, b, eps=e), normed, (X,), (W1[:, 0], B2, NUMBERS[0])),
    "rms_norm": Case(
        lambda x, g, e: F.rms_norm(x, g, eps=e),
        lambda x, g, e: x / jnp.sqrt((x**2).mean(-1, keepdims=True) + e) * g,
        (X,),
        (B2, NUMBERS[0]),
    ),
    "feed_forward": Case(
        lambda x, *p: F.feed_forward(x, *p, activation=jnp.tanh),
        lambda x, w1, b1, w2, b2: affine(jnp.tanh(affine(x, w1, b1)), w2, b2),
        (X,),
        (W1, B1, W2, B2),
    ),
    "gated_feed_forward": Case(
        lambda x, g, u, d: F.gated_feed_forward(x, g, u, d, activation=jnp.tanh),
        lambda x, g, u, d: (jnp.tanh(x @ g) * (x @ u)) @ d,
        (X,),
        (W1, 2 * W1, W2),
    ),
    "dropout": Case(lambda x, rate: F.dropout(x, rate, KEY), kept, (X,), (jnp.float32(0.4),), spread=False),
    "mixup": Case(lambda x, y: F.mixup(x, y, KEY, 0.7), mixed, (IMAGES, LOGITS[:, 0]), spread=False),
    "random_flip": Case(
        lambda x: F.random_flip(x, KEY),
        lambda x: jnp.where(jax.random.bernoulli(KEY, 0.5, (B, 1, 1, 1)), x[:, :, ::-1], x),
        (IMAGES,),
        spread=False,
    ),
    "random_shift": Case(lambda x: F.random_shift(x, KEY, 1), shifted, (IMAGES,), spread=False),
    "patchify": Case(lambda x: F.patchify(x, 2), cut, (IMAGES,)),
    "unpatchify": Case(lambda x: F.unpatchify(x, 2, 4, 4), joined, (cut(IMAGES),)),
}
OTHERS = {"mask_tokens"}  # whole numbers: below
ATTENTION = {
    "AttentionMask", "AttentionParams", "alibi_bias", "alibi_slopes", "apply_rotary", "attention_scores",
    "attention_weights", "causal_mask", "combine_heads", "interpolate_positions", "mask_to_bias",
    "multi_head_attention", "padding_mask", "positions_in_segments", "project_heads", "project_qkv",
    "relative_position_buckets", "rotate",
    "scaled_dot_product_attention", "sinusoidal_positions", "sinusoidal_positions_2d",
}  # fmt: skip


def test_every_public_function_is_in_a_table():
    """A new function would be differentiated, mapped and spread over devices by users alone."""
    ours = {name.split(",")[0] for name in CASES} | OTHERS
    assert not ours & ATTENTION
    assert set(F.__all__) - ours - ATTENTION == set()


def floats(args):
    return tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating))


def total(f):
    """One number of all that f returns, each with another coefficient."""

    def run(*args):
        leaves = jax.tree.leaves(f(*args))
        return sum((x * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)).sum() for x in leaves)

    return run


def transformed(f, args, tangents):
    """Every transformation of one function, by name."""
    where = floats(args)

    def of(*xs):
        given = list(args)
        for i, x in zip(where, xs, strict=True):
            given[i] = x
        return f(*given)

    xs, g, every = tuple(args[i] for i in where), total(of), tuple(range(len(where)))
    gradient = jax.grad(g, every)
    out, pull = jax.vjp(of, *xs)
    twice = jax.tree.map(lambda x, v: jnp.stack([x, x + 0.1 * v]), xs, tangents)

    def along(*xs):
        return jax.jvp(g, xs, tangents)[1]

    def dot(*xs):
        return sum(jnp.vdot(a, v) for a, v in zip(gradient(*xs), tangents, strict=True))

    return {
        "vjp": pull(jax.tree.map(jnp.ones_like, out)),
        "jvp": jax.jvp(of, xs, tangents),
        "linearize": jax.linearize(of, *xs)[1](*tangents),
        "jacfwd": jax.jacfwd(g, every)(*xs),
        "jacrev": jax.jacrev(of, 0)(*xs),
        "hessian": jax.hessian(g, 0)(*xs),
        "forward over reverse": jax.jvp(gradient, xs, tangents)[1],
        "reverse over forward": jax.grad(along, every)(*xs),
        "reverse over reverse": jax.grad(dot, every)(*xs),
        "forward over forward": jax.jvp(along, xs, tangents)[1],
        "vmap of grad": jax.vmap(gradient)(*twice),
        "vmap of vmap": jax.vmap(jax.vmap(of))(*jax.tree.map(lambda x: x[None], twice)),
        "grad of checkpoint": jax.grad(jax.checkpoint(g), every)(*xs),
        "grad of scan": jax.grad(lambda *s: lax.scan(lambda c, x: (c + g(*x), None), 0.0, s)[0], every)(*twice),
    }


SPREAD = [name for name, case in CASES.items() if case.spread]
DAILY = ("layer_norm", "feed_forward", "dropout", "weighted_mean", "random_flip")


def daily(names, *by_day):
    """A parametrisation by name; those that are not for every day are slow."""
    return pytest.mark.parametrize("name", [n if n in by_day else pytest.param(n, marks=pytest.mark.slow) for n in names])


@daily(CASES, *DAILY)
def test_every_transformation_is_that_of_plain_code(name):
    """A derivative of some order or direction, or a map of it, is refused or has another value."""
    case = CASES[name]
    args = case.batch + case.shared
    tangents = tuple(normal(50 + i, *args[i].shape) * 0.1 for i in floats(args))
    ours, plain = (quick_jit(lambda a, v, f=f: transformed(f, a, v))(args, tangents) for f in (case.ours, case.plain))
    for what, wanted in plain.items():
        for a, b in zip(jax.tree.leaves(ours[what]), jax.tree.leaves(wanted), strict=True):
            assert_close(a, b, 2e-4, f"{name}: {what}")
    assert jax.tree.map(jnp.shape, case.ours(*args)) == jax.tree.map(jnp.shape, case.plain(*args))  # eagerly


def gradients(f, case):
    return jax.value_and_grad(total(f), floats(case.batch + case.shared))


@daily(SPREAD, "fused_cross_entropy", "feed_forward", "unpatchify")
def test_on_explicit_meshes(name):
    """What lies on several devices, and says so in its type, is refused or has another value."""
    case, mesh = CASES[name], jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    where = [NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ())]
    with jax.set_mesh(mesh):
        args = [jax.device_put(x, w) for xs, w in zip((case.batch, case.shared), where, strict=True) for x in xs]
        found = quick_jit(gradients(case.ours, case))(*args)
    wanted = gradients(case.plain, case)(*case.batch, *case.shared)
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert_close(a, b, 1e-5, name)


@daily(SPREAD, "fused_cross_entropy", "feed_forward", "unpatchify")
def test_inside_of_shard_map(name):
    """The gradient of what all devices share is not the sum over them, or the default checks refuse it."""
    case, mesh = CASES[name], jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    where = [PartitionSpec("data")] * len(case.batch) + [PartitionSpec()] * len(case.shared)

    def summed(*args):
        return lax.psum(total(case.ours)(*args), "data")

    program = jax.shard_map(summed, mesh=mesh, in_specs=tuple(where), out_specs=PartitionSpec())
    found = quick_jit(jax.value_and_grad(program, floats(case.batch + case.shared)))(*case.batch, *case.shared)

    def by_halves(*args):
        batch, shared = args[: len(case.batch)], args[len(case.batch) :]
        return sum(total(case.plain)(*(x[half] for x in batch), *shared) for half in (slice(0, 2), slice(2, 4)))

    wanted = jax.value_and_grad(by_halves, floats(case.batch + case.shared))(*case.batch, *case.shared)
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert_close(a, b, 1e-5, name)


@daily(CASES, "fused_cross_entropy", "dropout", "random_shift", "patchify", "random_flip")
def test_strict_promotion_and_x64(name):
    """Dtypes are promoted by accident, or 64-bit numbers appear where none was given, or other ones are drawn."""
    case = CASES[name]
    args, run = (*case.batch, *case.shared), jax.value_and_grad(total(case.ours), floats(case.batch + case.shared))
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(run, *args)
    here = case.ours(*args)
    with jax.enable_x64(True):
        there = case.ours(*args)
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        assert a.dtype == b.dtype
        assert_close(b, a, 1e-6, name)


def test_mask_tokens_is_mapped_scanned_and_the_same_in_x64():
    """Another way to run it draws other tokens."""

    def mask(tokens, rate=0.5):
        return F.mask_tokens(tokens, KEY, mask_id=4, vocab_size=5, rate=rate)

    tokens, wanted = jnp.stack([TARGETS, TARGETS[::-1]]), [mask(TARGETS), mask(TARGETS[::-1])]
    wanted = jax.tree.map(lambda *x: jnp.stack(x), *wanted)
    with jax.enable_x64(True):
        wide = jax.vmap(mask)(tokens)
    ways = jax.vmap(mask)(tokens), lax.scan(lambda c, t: (c, mask(t)), 0, tokens)[1], wide
    traced = jax.jit(jax.vmap(mask, (0, None)))(tokens, jnp.float32(0.5))
    for found in (*ways, traced):
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
