"""Configs of experiments from tables: every field is there, with its default, and can be set by a flag."""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from tformer_jax.config import (
    ConfigError,
    build,
    check_choice,
    chosen,
    component_of,
    fields_of,
    hints_of,
    merged,
    nested,
    options,
    plain_kinds,
    to_dict,
)
from tformer_jax.presets import PRESETS
from tformer_jax.tasks import TASKS, Task
from tformer_jax.training.experiment import section_classes

# What the tiny models of running text share; a classifier starts from the masked one, and so must have its shapes.
TINY_TEXT_MODEL = dict(
    d_model=128, num_layers=4, attention=dict(num_heads=4), feed_forward=dict(width=512, activation="gelu_tanh"),
    layer=dict(norm_position="pre"), positions=dict(name="rotary"), scale_embeddings=False, dropout_rate=0.0,
)  # fmt: skip
# AdamW with the weight decay and clipping of most recipes.
ADAMW = dict(name="adamw", eps=1e-8, weight_decay=0.1, clip_norm=1.0)

FLOAT32 = "params=float32,compute=float32,output=float32"
BFLOAT16 = "params=float32,compute=bfloat16,output=float32"


def locked(presets: Mapping[str, Callable[[], dict]]) -> Callable[..., ConfigDict]:
    """The `get_config` of a config file: from the name of a preset, "tiny" unless given, to its config."""

    def get_config(preset: str = "tiny") -> ConfigDict:
        check_choice("preset", preset, presets)
        return ConfigDict(presets[preset]()).lock()

    get_config.presets = presets  # which `--help` lists
    return get_config


def experiment(
    task: str, /, *, model: Mapping[str, Any], preset: str | None = None, precision: str = FLOAT32,
    **sections: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Makes the config of an experiment; what its tables leave out has its default.

    Args:
      task: its name; "task" among the sections may say more of it.
      model: without what follows from the data.
      preset: a published model, which `model` changes.
      precision: dtypes, see `config.Precision`.
      sections: "data", "optimizer", "training", "checkpoint", and if need be "task" and "parallel".

    Raises:
      ConfigError, TypeError: see `section`.
    """
    classes = section_classes(TASKS.named(task, "task.name"))
    sections["task"] = {"name": task, **sections.get("task", {})}
    config = {n: section(cls, sections.get(n, {})) for n, cls in classes.items() if n != "model"}
    planned = TASKS[task].planned_fields(build(classes["data"], config["data"].to_dict(), "data"))
    if preset is not None:
        published = {name: value for name, value in PRESETS.named(preset, "preset")().items() if name not in planned}
        model = merged(classes["model"], published, model)
    return config | {"model": section(classes["model"], model, (*planned, "precision")), "precision": precision}


def section(cls: type, values: Mapping[str, Any], without: typing.Collection[str] = (), where: str = "") -> ConfigDict:
    """The fields of a dataclass as a ConfigDict, those of its components too: `values`, else the defaults.

    Args:
      cls: a section's or a component's dataclass, or a family of components.
      values: by the field's name; tables for components.
      without: fields that the section does not have.
      where: what the user calls it, for messages.

    Raises:
      ConfigError: no component of the family has such a name.
      TypeError: a value for a field that is not there.
    """
    where = where or cls.__name__
    cls, values = chosen(cls, dict(values), where)
    result = ConfigDict({} if getattr(cls, "registry", None) is None else {"name": cls.name})
    for field in dataclasses.fields(cls):
        if field.name not in without:
            result[field.name] = _value(cls, field, values.pop(field.name, ...), f"{where}.{field.name}")
    if values:
        raise TypeError(f"{where} has no field {', '.join(values)}")
    return result


def _value(cls: type, field: dataclasses.Field, value: Any, where: str) -> Any:
    """A field as a ConfigDict holds it; None where it has no value yet."""
    hint, has_factory = hints_of(cls)[field.name], field.default_factory is not dataclasses.MISSING
    if (inner := component_of(hint)) is not None and value is not None:
        default = to_dict(field.default_factory()) if has_factory else {}
        return section(inner, merged(inner, default, {} if value is ... else value), where=where)
    if value is ...:
        value = field.default_factory() if has_factory else field.default
    if value is None or value is dataclasses.MISSING:  # a flag for it must know what it may become
        kinds = plain_kinds(hint) or options(hint)
        return config_dict.placeholder(next(kind for kind in kinds if kind is not types.NoneType))
    return value


def with_choices(tables: Mapping[str, Any], choices: Mapping[str, str]) -> ConfigDict:
    """Returns a config in which components are chosen anew, each with its own fields, by "section.....name".

    Of another task, sections have the fields of its own, and keep the values of those that they had before.

    Raises:
      ConfigError: no component has such a name.
    """
    tables, before = dict(tables), tables["task"]["name"]
    task = TASKS.named(choices.get("task.name", before), "task.name")
    for name, classes in section_classes(task).items():
        known = {path for path, _, _ in fields_of(classes, f"{name}.")}
        mine = {path.partition(".")[2]: x for path, x in choices.items() if path in known}
        old, _ = chosen(classes, tables[name], name)
        fields = {field.name for field in dataclasses.fields(old)}
        table, without = tables[name], fields - tables[name].keys()
        if task.name != before and getattr(classes, "registry", None) is None:
            table = {field: x for field, x in table.items() if field in fields}
            without = _following(task, tables["data"], without) if name == "model" else ()
        tables[name] = section(classes, merged(classes, table, nested(mine)), without, f"config.{name}")
    return ConfigDict(tables)


def _following(task: type[Task], data: ConfigDict, without: typing.Collection[str]) -> typing.Collection[str]:
    """The fields of a model that follow from a task's data; `without`: what is taken for these if nobody can tell.

    Before flags are read, the data's config may not be whole yet: then its values are looked at as they are.
    """
    for whole in (True, False):
        with contextlib.suppress(ConfigError, AttributeError):
            return *task.planned_fields(build(task.DataConfig, data.to_dict(), "data") if whole else data), "precision"
    return without
