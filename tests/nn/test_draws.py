"""Draws of initial values against those of `jax.random`, which they are to be bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import tiny_config

from tformer_jax import models
from tformer_jax.nn import parameters
from tformer_jax.nn.draws import normal, uniform

SHAPES = [(), (1,), (7,), (33, 5), (3, 4, 8), (257, 129)]
OURS = {
    "normal": (normal, jax.random.normal),
    "uniform": (
        lambda key, shape: uniform(key, shape, 0.3),
        lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -0.3, 0.3),
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("which", OURS)
def test_draws_are_those_of_jax(which, shape):
    """A model of a seed would start elsewhere than it did, and than who draws by `jax.random` says."""
    ours, theirs = OURS[which]
    for seed in (0, 7, 2**32 - 1):
        key = jax.random.key(seed)
        np.testing.assert_array_equal(ours(key, shape), theirs(key, shape))


@pytest.mark.parametrize("which", OURS)
def test_each_layer_draws_with_its_own_key(which):
    """Stacked layers would start alike, or otherwise than one by one."""
    ours, theirs = OURS[which]
    keys = jax.random.split(jax.random.key(1), 3)
    found = jax.vmap(lambda key: ours(key, (16, 5)))(keys)
    np.testing.assert_array_equal(found, np.stack([theirs(key, (16, 5)) for key in keys]))


@pytest.mark.parametrize("which", OURS)
def test_keys_of_another_generator_draw_as_jax_does(which):
    """A key of another generator would be read as one of Threefry."""
    ours, theirs = OURS[which]
    key = jax.random.key(3, impl="rbg")
    np.testing.assert_array_equal(ours(key, (16, 5)), theirs(key, (16, 5)))


def test_what_has_more_values_than_a_word_counts_is_left_to_jax():
    """The values of a table of 2³² and more would repeat."""
    program = jax.make_jaxpr(lambda key: normal(key, (2**16, 2**16)))(jax.random.key(0))
    assert "random_bits" in str(program)
    assert "random_bits" not in str(jax.make_jaxpr(lambda key: normal(key, (2**16, 2**15)))(jax.random.key(0)))


@pytest.mark.parametrize("made", [lambda make: make(), lambda make: jax.jit(make)()], ids=["by itself", "in a program"])
@pytest.mark.parametrize("std", [None, 0.02])
def test_a_model_starts_where_jax_would_start_it(std, made, monkeypatch):
    """The model of a seed would be another one in a program than by itself."""
    config = tiny_config("MaskedLM", num_layers=3, init_std=std, positions="learned", d_model=64, d_ff=96)
    make = lambda: models.MaskedLM(config, rngs=nnx.Rngs(5))
    ours = made(make)
    by_jax = lambda key, shape, std: std * jax.random.normal(key, shape, jnp.float32)
    monkeypatch.setattr(parameters, "normal", by_jax)
    between = lambda key, shape, limit: jax.random.uniform(key, shape, jnp.float32, -limit, limit)
    monkeypatch.setattr(parameters, "uniform", between)
    jax.tree.map(np.testing.assert_array_equal, ours, make())
