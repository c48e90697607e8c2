"""A folder of Hugging Face's as what a run starts from: the config of its model, and its parameters."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import interop
from ..config import RUN, TRAINING, ConfigError, build, fields_of, leaves, merged, nested, to_dict
from ..data.files import DataError, read_json
from ..data.translation import Tokenizers
from ..interop.files import write_json
from ..interop.pretrained import said_by
from ..models import TextEncoder, VisionTransformer
from ..nn import ModelConfig
from ..nn.parameters import named
from ..tasks import TASKS, Task

# What the folder of Hugging Face's said that a run or a sweep starts from, in its directory.
START = "start.json"


def completed(
    config: Mapping[str, Any], changes: Mapping[str, Any], directory: str | Path | None = None
) -> dict[str, Any]:
    """Returns a config whose `model` section is that of the folder that `task.init_from` names, if it names one.

    Of the section that was there, how it runs and what holds of training alone stay: dropout, `remat`, ... Images are scaled
    as the folder says.

    Args:
      config: of an experiment, plain nested dictionaries.
      changes: fields of it that a person has set, by dotted name: they are set in what the folder says too, and what then
        is another function than the folder's is refused when the run starts.
      directory: of the run or sweep that the config is for; what it kept of the folder does for one that has gone.

    Raises:
      ConfigError, DataError: see `interop.read_config`.
    """
    task, start = TASKS.named(config["task"].get("name"), "task.name"), config["task"].get("init_from")
    said = _said_by_folder(start, task) if interop.is_pretrained(start) else _kept(config["task"], directory)
    if said is None:
        return dict(config)
    there = build(task.Model.Config, said["model"], "model")
    planned = task.planned_fields(build(task.DataConfig, config["data"], "data"))
    of_run = [name for name, _, kind in fields_of(task.Model.Config) if kind.part in (RUN, TRAINING)]
    own = {name: x for name in of_run if (x := _within(config["model"], name)) is not None}
    known = {name for name, _, _ in leaves(there)}
    set_here = {name.removeprefix("model."): x for name, x in changes.items() if name.startswith("model.")}
    kept = nested({name: x for name, x in (own | set_here).items() if name in known | set_here.keys()})
    table = merged(type(there), to_dict(there), kept)
    # The data say how many classes there are, how large an image is; tokens may be fewer than the model has room for.
    follows = planned.keys() - {"vocab_size"} | {"precision"}
    scaling = {name: x for name, x in said["task"].items() if f"task.{name}" not in changes}
    return {
        **config,
        "model": {name: x for name, x in table.items() if name not in follows},
        "task": {**config["task"], **scaling},
    }


def keep_start(directory: Path, config: Mapping[str, Any]) -> None:
    """Writes down what the folder of Hugging Face's says that a run or a sweep starts from, if there is one."""
    section = config.get("task", {})
    if interop.is_pretrained(start := section.get("init_from")):
        said = _said_by_folder(start, TASKS.named(section.get("name"), "task.name"))
        write_json(directory / START, {"init_from": start} | said)


def _said_by_folder(folder: str, task: type[Task]) -> dict[str, Any]:
    """Fields of a config that a folder says: the `model` section, and fields of the `task` section."""
    scaling = scaling_of(Path(folder)) if task.Model is VisionTransformer else {}
    return {"model": to_dict(interop.read_config(folder, task.Model.__name__)), "task": scaling}


def _kept(section: Mapping[str, Any], directory: str | Path | None) -> dict[str, Any] | None:
    """The same of a folder that a directory was begun with; None: it was begun without one, or with another."""
    if directory is None or not (file := Path(directory) / START).is_file():
        return None
    said = read_json(file)
    if not all(isinstance(said.get(name), dict) for name in ("model", "task")):
        raise DataError(f"{file} is damaged: it must hold the tables model and task")
    return said if said.get("init_from") == section.get("init_from") else None


def _within(table: Mapping[str, Any], path: str) -> Any:
    """The value of a dotted name within tables; None: there is none."""
    for name in path.split("."):
        table = table.get(name) if isinstance(table, Mapping) else None
    return table


def folder_arrays(folder: str, task: Task, config: ModelConfig) -> dict[str, np.ndarray]:
    """Returns the parameters in a folder of Hugging Face's, by their paths in a state of the task's model.

    Args:
      folder: of a model of the same family, perhaps without a head or with another.
      task: that will train it.
      config: of the model that the task trains; images of another size than the folder's have interpolated positions.
    """
    model = _loaded(folder, task, config.dtypes.params)
    size = getattr(config, "image_size", None)
    if size is not None and size != model.config.image_size:
        model = model.resized(size)
    prefix = "model.encoder." if isinstance(model, TextEncoder) and task.Model is not TextEncoder else "model."
    return {prefix + path: np.asarray(jax.device_get(x)) for path, x in named(model).items()}


def _loaded(folder: str, task: Task, dtype: str) -> Any:
    """The model in a folder: as the task's own, or else without any head, or else as the folder says."""
    for name in (task.Model.__name__, TextEncoder.__name__):
        with contextlib.suppress(ConfigError, DataError):  # a head is missing, or the family has no such model
            return interop.load_pretrained(folder, model=name, dtype=dtype)[0]
    return interop.load_pretrained(folder, dtype=dtype)[0]


def load_folder(folder: str | Path) -> tuple[Task, Any]:
    """Returns the task and the model of a folder of Hugging Face's, to predict with.

    The task is the first one of such a model; its classes have the names that `config.json` gives them.

    Raises:
      ConfigError: no task is of such a model.
      DataError: the folder lacks something.
    """
    model, tokenizer = interop.load_pretrained(folder)
    fitting = [task for task in TASKS.values() if task.Model is type(model)]
    if not fitting:
        raise ConfigError(f"{folder} holds a {type(model).__name__}, with which no task predicts")
    names = json.loads(model.origin.config).get("id2label") or {}
    count = getattr(model.config, "num_classes", None) or 0
    learnt = {"tokenizer": tokenizer, "classes": [names.get(str(i), f"LABEL_{i}") for i in range(count)]}
    learnt["tokenizers"] = tokenizer and Tokenizers.load(Path(folder))
    if missing := [name for name in fitting[0].learnt if not learnt[name]]:
        raise DataError(f"{folder} has no {' and no '.join(missing)}, which the task {fitting[0].name!r} needs")
    scaling = scaling_of(Path(folder)) if isinstance(model, VisionTransformer) else {}
    return fitting[0](fitting[0].Config(**scaling), *(learnt[name] for name in fitting[0].learnt)), model


def scaling_of(folder: Path) -> dict[str, tuple[float, ...]]:
    """Returns the fields of a task on images by which those of a folder are scaled; {}: it does not say."""
    file = folder / "preprocessor_config.json"
    said = read_json(file) if file.is_file() else {}
    if not said.get("do_normalize", True):
        return {"mean": (0.0,), "std": (1.0,)}
    return {name: tuple(said[f"image_{name}"]) for name in ("mean", "std") if said.get(f"image_{name}")}


def save_folder(task: Task, model: Any, folder: Path, family: str | None = None) -> str:
    """Writes a run's model as a folder of Hugging Face's, with the tokenizer, the classes and the scaling of images.

    Returns the architecture that it is written as.

    Raises:
      ConfigError: see `interop.save_pretrained`; or the sides of a translation have a vocabulary each.
    """
    tokenizer, start = getattr(task, "tokenizer", None), None
    if "tokenizers" in task.learnt:  # a model of two vocabularies is one that no family can say
        tokenizer, start = task.tokenizers.target, task.tokenizers.start
    classes = task.classes if "classes" in task.learnt else ()
    _, architecture, _ = said_by(model, family)
    if (size := getattr(model.config, "image_size", None)) is not None:
        each = lambda values: list(values) * (model.config.num_channels if len(values) == 1 else 1)
        scaled = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_resize": True}
        scaled |= {"image_mean": each(task.config.mean), "image_std": each(task.config.std)}
        scaled |= {"size": {"height": size, "width": size}}
        folder.mkdir(parents=True, exist_ok=True)  # the scaling first: a model without it would be believed
        write_json(folder / "preprocessor_config.json", {"image_processor_type": "ViTImageProcessor"} | scaled)
    interop.save_pretrained(model, folder, tokenizer=tokenizer, family=family, classes=classes, start=start)
    return architecture
