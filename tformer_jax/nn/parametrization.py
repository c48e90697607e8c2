"""Maximal update parametrization (μP): a learning rate found on a narrow model serves a wide one.

With m = d_model / base_width:

                      initial size    products times   learning rate times
    hidden matrices   falls as 1/√m   1                1/m
    output matrices   as at m = 1     1/m              1
    all others        as at m = 1     1                1

Hidden are the matrices whose sides both grow with the width, as a parameter's role says (see `parameters`). init_std is
divided by √m for them; Glorot's limit falls by itself. Output matrices project to the vocabulary or to classes; a tied
one is a table. √base_width takes the place of the √d_model that scales embeddings.

d_ff and the heads must grow along with d_model. With head_dim given there are more heads, else they get wider; then
scores are divided by H, as fast as q kᵀ grows once training has correlated q and k, instead of √H.

At m = 1, and so under "standard", nothing is changed.

Source: Yang et al., 2022, table 8 and definition 4.1.
"""

import math

from jax import Array

from ..config import Component, TransformerConfig, check_choice



def reference_width(config: TransformerConfig) -> int:
    """The d_model at which m = 1."""
    return config.base_width if config.parametrization == "mup" else config.d_model


def growth(config: TransformerConfig) -> float:
    """Returns m, the width over the width at which nothing changes."""
    return config.d_model / reference_width(config)


def head_growth(config: TransformerConfig) -> float:
    """Returns how many times more heads there are than at m = 1."""
    return 1.0 if config.head_dim is None else growth(config)


def axis_growth(config: TransformerConfig, name: str) -> float:
    """Returns how many times longer an axis of this name is than at m = 1."""
    m, heads = growth(config), head_growth(config)
    return {"model": m, "ff": m, "heads": heads, "kv_heads": heads, "head": m / heads}.get(name, 1.0)


def attention_scale(config: TransformerConfig) -> float:
    """Returns the scale of q kᵀ: 1 / √H where heads are added, √H₀ / H where they get wider, from H₀ at m = 1."""
    return 1 / math.sqrt(config.head_width * (growth(config) / head_growth(config)))


def divided_by_growth(config: TransformerConfig, x: Array) -> Array:
    """x / m: the products with an output matrix, or the matrix."""
    m = growth(config)
    return x if m == 1 else x / m


def learning_rate_factors(config: TransformerConfig) -> dict[str, float]:
    """Returns the factors of learning rates, by the roles of parameters; of others it is 1."""
    return {"hidden": 1 / growth(config)}


def check_optimizer(config: TransformerConfig, optimizer: Component) -> None:
    """Refuses "mup" with an optimiser that `learning_rate_factors` are not for: one without `unit_updates`.

    Raises:
      ConfigError: names those that they are for.
    """
    if config.parametrization == "mup":
        fitting = sorted(name for name, other in optimizer.registry.items() if other.unit_updates)
        check_choice("optimizer.name with model.parametrization='mup'", optimizer.name, fitting)
