"""`vmap` as a loop, for functions whose own rules for it are not to be relied on."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.custom_batching import sequential_vmap


def one_by_one(function: Callable[[Any, Any], Array]) -> Callable[[Any, Any], Array]:
    """The function of floats, and of a pytree of others, that `jax.vmap` calls once for each example, in a loop.

    JAX has no reverse derivative of a function with a rule for `vmap`: forward and backward each are one, and what the
    backward one needs goes between them as arrays. Forward is traced first, and says what they are the leaves of.
    """
    structures = []

    @jax.custom_vjp
    def call(floats, others):
        return sequential_vmap(function)(floats, others)

    @sequential_vmap
    def forward(floats, others):
        out, pull = jax.vjp(lambda floats: function(floats, others), floats)
        leaves, structure = jax.tree.flatten(pull)
        structures.append(structure)
        return out, leaves

    @sequential_vmap
    def backward(leaves, d_out):
        (d_floats,) = jax.tree.unflatten(structures[-1], leaves)(d_out)
        return d_floats

    call.defvjp(forward, lambda leaves, d_out: (backward(leaves, d_out), None))
    return call
