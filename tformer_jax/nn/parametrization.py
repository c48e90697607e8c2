"""Maximal update parametrization (μP): a learning rate found on a narrow model serves a wide one.

With m = d_model / init.mup_base_width:

                      initial size    products times   learning rate times
    hidden matrices   falls as 1/√m   1                1/m
    output matrices   as at m = 1     1/m              1
    all others        as at m = 1     1                1

Hidden are the matrices whose sides both grow with the width, as a parameter's role says (see `parameters`). init.std is
divided by √m for them; Glorot's limit falls by itself. Output matrices project to the vocabulary or to classes; a tied
one is a table. √mup_base_width takes the place of the √d_model that scales embeddings.

The feed-forward width and the heads must grow along with d_model. With head_dim given there are more heads, else they
get wider; then scores are divided by H, as fast as q kᵀ grows once training has correlated q and k, instead of √H.
An embedding_width stays the same: the map from it to d_model is no hidden matrix, the one back is an output matrix, the
projection to the vocabulary after that is not divided, and √embedding_width scales embeddings.

At m = 1, and so without mup_base_width, nothing is changed.

Source: Yang et al., 2022, table 8 and definition 4.1.
"""

import math

from ..config import Component, check_choice
from ..functional.quantization import Weight
from .config import ModelConfig


def reference_width(model: ModelConfig) -> int:
    """The d_model at which m = 1."""
    return model.init.mup_base_width or model.d_model


def growth(model: ModelConfig) -> float:
    """Returns m, the width over the width at which nothing changes."""
    return model.d_model / reference_width(model)


def head_growth(model: ModelConfig) -> float:
    """Returns how many times more heads there are than at m = 1."""
    return 1.0 if getattr(model.attention, "head_dim", None) is None else growth(model)


def axis_growth(model: ModelConfig, name: str) -> float:
    """Returns how many times longer an axis of this name is than at m = 1."""
    m, heads = growth(model), head_growth(model)
    return {"model": m, "ff": m, "heads": heads, "kv_heads": heads, "head": m / heads}.get(name, 1.0)


def reference_size(model: ModelConfig, name: str, size: int) -> int | float:
    """Returns the size of an axis of this name at m = 1."""
    return reference_width(model) if name == "model" else size / axis_growth(model, name)


def attention_scale(model: ModelConfig) -> float:
    """Returns the scale of q kᵀ: the config's, or 1 / √H where heads are added, √H₀ / H where they get wider.

    H₀ is the width of a head at m = 1; the config's scale falls as fast from there.
    """
    wider = growth(model) / head_growth(model)
    scale = model.attention.scale
    return 1 / math.sqrt(model.attention.head_width(model.d_model) * wider) if scale is None else scale / wider


def divided_by_growth(model: ModelConfig, x: Weight, name: str) -> Weight:
    """x / m: the products with an output matrix, or the matrix; that m is how much its contracted axis, `name`, grew."""
    m = axis_growth(model, name)
    return x if m == 1 else x / m


def learning_rate_factors(model: ModelConfig) -> dict[str, float]:
    """Returns the factors of learning rates, by the roles of parameters; of others it is 1."""
    return {"hidden": 1 / growth(model)}


def check_optimizer(model: ModelConfig, optimizer: Component) -> None:
    """Refuses mup_base_width with an optimiser that `learning_rate_factors` are not for: one without `unit_updates`.

    Raises:
      ConfigError: names those that they are for.
    """
    if model.init.mup_base_width is not None:
        fitting = sorted(name for name, other in optimizer.registry.items() if other.unit_updates)
        check_choice("optimizer.name with model.init.mup_base_width", optimizer.name, fitting)
