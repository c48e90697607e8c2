"""Every transformation of JAX over every pure function, against the same transformation of plain `jax.numpy`.

Attention has a table of its own too, with each of its masks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import plain
import plain_attention
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from plain import KEY, TARGETS
from support import assert_close, block_sizes, normal, quick_jit

import tformer_jax.functional as F

CASES = plain.CASES | plain_attention.CASES
# What is no function of arrays to arrays: names for several of them, what `AttentionMask` is one of, an explanation in
# words, a matrix of integers, which has no derivative.
NO_FUNCTIONS = {"ACTIVATIONS", "AttentionParams", "Int8Matrix", "Mask", "explain_attention", "kernels", "quantize_int8"}


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with block_sizes(2, 2):
        yield


def test_every_public_function_has_a_row():
    """A new function would be differentiated, mapped and spread over devices by users alone."""
    assert {name.split(",")[0] for name in CASES} == set(F.__all__) - NO_FUNCTIONS


def floats(args):
    return tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating))


def total(f):
    """One number of all that f returns, each with another coefficient."""

    def run(*args):
        leaves = jax.tree.leaves(f(*args))
        return sum((x * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)).sum() for x in leaves)

    return run


def turned_around(args):
    """Two of each, the second with another order of rows; whole numbers too."""
    return tuple(jnp.stack([x, x[::-1] if x.ndim else x]) for x in args)


def of_floats(f, args):
    """A function of those arguments that are floats, and these."""
    where = floats(args)

    def of(*xs):
        given = dict(enumerate(args)) | dict(zip(where, xs, strict=True))
        return f(*given.values())

    return of, tuple(args[i] for i in where)


def transformed(f, args, tangents):
    """Every transformation of one function, by name."""
    of, xs = of_floats(f, args)
    g, every = total(of), tuple(range(len(xs)))
    gradient = jax.grad(g, every)
    out, pull = jax.vjp(of, *xs)
    twice = jax.tree.map(lambda x, v: jnp.stack([x, x + 0.1 * v]), xs, tangents)
    both = turned_around(args)

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
        "vmap of everything": jax.vmap(f)(*both),
        "scan of everything": lax.scan(lambda c, x: (c, f(*x)), 0, both)[1],
        "grad of checkpoint": jax.grad(jax.checkpoint(g), every)(*xs),
        "grad of scan": jax.grad(lambda *s: lax.scan(lambda c, x: (c + g(*x), None), 0.0, s)[0], every)(*twice),
    }


DAILY = ("layer_norm", "dropout")

CHEAP = (
    "AttentionMask", "alibi_bias", "alibi_slopes", "apply_rotary", "attention_weights", "causal_mask", "combine_heads",
    "interpolate_positions", "mask_to_bias", "mask_tokens, words", "positions_in_segments",
    "project_heads", "project_qkv", "relative_position_buckets", "rotate", "sinusoidal_positions",
)  # fmt: skip


def daily(names, *by_day):
    """A parametrisation by name; those that are not for every day are slow."""
    cases = [name if name in by_day else pytest.param(name, marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("name", cases)


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


@daily(CASES, *CHEAP)
def test_maps_of_second_derivatives(name):
    """Forward over reverse under `vmap` under `jit`, of all arguments, is refused or has another value."""
    case = CASES[name]
    args = turned_around((*case.batch, *case.shared))

    def product(f, *args):
        of, xs = of_floats(f, args)
        return jax.jvp(jax.grad(total(of), tuple(range(len(xs)))), xs, jax.tree.map(jnp.cos, xs))

    both = [jax.vmap(functools.partial(product, f)) for f in (case.ours, case.plain)]
    found, wanted = quick_jit(lambda *args: [f(*args) for f in both])(*args)
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert_close(a, b, 1e-4, name)


def gradients(f, case):
    return jax.value_and_grad(total(f), floats(case.batch + case.shared))


@daily(CASES, "fused_cross_entropy", "feed_forward")
def test_on_explicit_meshes(name):
    """What lies on several devices, and says so in its type, is refused or has another value."""
    case, mesh = CASES[name], jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    where = [NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ())]
    with jax.set_mesh(mesh):
        args = [jax.device_put(x, w) for xs, w in zip((case.batch, case.shared), where, strict=True) for x in xs]
        found = quick_jit(gradients(case.ours, case))(*args)
    wanted = quick_jit(gradients(case.plain, case))(*case.batch, *case.shared)
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert_close(a, b, 1e-5, name)


@daily(CASES, "fused_cross_entropy", "feed_forward")
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

    wanted = quick_jit(jax.value_and_grad(by_halves, floats(case.batch + case.shared)))(*case.batch, *case.shared)
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert_close(a, b, 1e-5, name)


@daily(CASES, "fused_cross_entropy", "dropout", "random_shift", "patchify", "random_flip")
def test_strict_promotion_and_x64(name):
    """Dtypes are promoted by accident, or 64-bit numbers appear where none was given, or other ones are drawn."""
    case = CASES[name]
    args, run = (*case.batch, *case.shared), jax.value_and_grad(total(case.ours), floats(case.batch + case.shared))
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(run, *args)
    here = quick_jit(case.ours)(*args)
    with jax.enable_x64(True):
        there = quick_jit(case.ours)(*args)
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        assert a.dtype == b.dtype
        assert_close(b, a, 1e-6, name)


def test_mask_tokens_is_mapped_scanned_and_the_same_in_x64():
    """Another way to run it draws other tokens."""

    def mask(tokens, rate=0.5):
        return F.mask_tokens(tokens, KEY, mask_id=4, vocab_size=5, rate=rate)

    tokens, one = jnp.stack([TARGETS, TARGETS[::-1]]), quick_jit(mask)
    wanted = jax.tree.map(lambda *x: jnp.stack(x), one(tokens[0]), one(tokens[1]))
    with jax.enable_x64(True):
        wide = quick_jit(jax.vmap(mask))(tokens)

    def run(tokens, rate):
        return (
            jax.vmap(mask)(tokens),
            lax.scan(lambda c, t: (c, mask(t)), 0, tokens)[1],
            jax.vmap(mask, (0, None))(tokens, rate),
        )

    for found in (wide, *quick_jit(run)(tokens, jnp.float32(0.5))):
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
