"""Config sections from their dataclasses: every field is there, with its default, and can be set by a flag."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from tformer_jax.config import TransformerConfig, build, check_choice
from tformer_jax.presets import PRESETS
from tformer_jax.tasks import Task
from tformer_jax.training.optimizers import OPTIMIZERS

# What the tiny models of running text share; a classifier starts from the masked one, and so must have its shapes.
TINY_TEXT_MODEL = dict(
    d_model=128, num_heads=4, d_ff=512, num_layers=4, activation="gelu_tanh", norm_position="pre",
    positions="rotary", scale_embeddings=False, dropout_rate=0.0, scan_unroll=4,
)  # fmt: skip

FLOAT32 = "params=float32,compute=float32,output=float32"
BFLOAT16 = "params=float32,compute=bfloat16,output=float32"


def locked(presets: Mapping[str, Callable[[], dict]]) -> Callable[..., ConfigDict]:
    """The `get_config` of a config file: from the name of a preset, "tiny" unless given, to its config."""

    def get_config(preset: str = "tiny") -> ConfigDict:
        check_choice("preset", preset, presets)
        return ConfigDict(presets[preset]()).lock()

    return get_config


def section(cls: type, *, without: tuple[str, ...] = (), **values: Any) -> ConfigDict:
    """The fields of a dataclass as a ConfigDict: `values`, else the defaults.

    Args:
      cls: a section's dataclass.
      without: fields that the section does not have.
      values: by field name.

    Raises:
      TypeError: a value for a field that is not there, or none for one without a default.
    """
    result, hints = ConfigDict(), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        value = values.pop(field.name, default)
        if value is dataclasses.MISSING:
            raise TypeError(f"{cls.__name__}.{field.name} needs a value")
        result[field.name] = config_dict.placeholder(_type_of(hints[field.name])) if value is None else value
    if values:
        raise TypeError(f"{cls.__name__} has no field {', '.join(values)}")
    return result


def model_section(task: type[Task], data: ConfigDict, preset: str | None = None, **changes: Any) -> ConfigDict:
    """The `model` section of a task: every field of its model that does not follow from the data.

    Args:
      task: whose model.
      data: the experiment's `data` section.
      preset: of `TransformerConfig`, to start from.
      changes: other values than the preset's (or the defaults).
    """
    planned = task.planned_fields(build(task.DataConfig, data.to_dict(), "data"))
    wanted = [n for n in TransformerConfig.fields_of(task.Model.__name__) if n not in (*planned, "precision")]
    published = {} if preset is None else PRESETS[preset]
    values = {name: value for name, value in published.items() if name in wanted} | changes
    unwanted = tuple(f.name for f in dataclasses.fields(TransformerConfig) if f.name not in wanted)
    return section(TransformerConfig, without=unwanted, **values)


def adamw(**values: Any) -> ConfigDict:
    """The `optimizer` section: AdamW with the weight decay and clipping of most recipes, unless `values` differ."""
    return optimizer("adamw", **{"eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0} | values)


def optimizer(name: str, **values: Any) -> ConfigDict:
    """The `optimizer` section of a registered optimiser."""
    return ConfigDict({"name": name, **section(OPTIMIZERS[name], **values)})


def _type_of(hint: Any) -> type:
    """X of `X | None`: a flag for a field that is None must know what it may become."""
    if isinstance(hint, types.UnionType):
        return next(option for option in typing.get_args(hint) if option is not types.NoneType)
    return hint
