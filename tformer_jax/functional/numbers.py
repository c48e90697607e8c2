"""Numbers that may be known only when the program runs: one program can then serve many values of them."""

import jax
from jax import Array
from jaxtyping import Float

Number = float | Float[Array, ""]


def is_known(number: Number) -> bool:
    """Whether a number has its value already, rather than being an argument of the program that is traced."""
    return not isinstance(number, jax.core.Tracer)


def is_off(number: Number) -> bool:
    """Whether what a number turns on is left out of the program: it is known to be 0."""
    return is_known(number) and number == 0


def check_share(name: str, number: Number) -> None:
    """Refuses what is outside [0, 1), as far as it is known.

    Raises:
      ValueError: by the argument's name.
    """
    if is_known(number) and not 0.0 <= number < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {number}")
