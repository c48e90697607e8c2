"""Activations by name: functions of each element."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ..registry import Registry

ACTIVATIONS: Registry[Callable[[Array], Array]] = Registry("activation", takes=("x",))

for _name, _function in {"relu": jax.nn.relu, "silu": jax.nn.silu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}.items():
    ACTIVATIONS.register(_name)(_function)


@ACTIVATIONS.register("gelu")
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Φ(x), with the normal distribution itself.

    Source: Hendrycks & Gimpel, 2016.
    """
    return jax.nn.gelu(x, approximate=False)


@ACTIVATIONS.register("gelu_tanh")
def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Φ(x), approximated by a tanh: that of BERT's and GPT-2's code.

    Source: Hendrycks & Gimpel, 2016, section 2.
    """
    return jax.nn.gelu(x, approximate=True)


@ACTIVATIONS.register("relu_squared")
def relu_squared(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0)².

    Source: So et al., 2021.
    """
    return jnp.square(jax.nn.relu(x))


@ACTIVATIONS.register("quick_gelu")
def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x σ(1.702 x), another approximation of x Φ(x): that of CLIP's code.

    Source: Hendrycks & Gimpel, 2016, section 2.
    """
    return x * jax.nn.sigmoid(1.702 * x)
