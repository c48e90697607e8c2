"""The configs of presets, as contenders change them."""

import importlib
from collections.abc import Mapping
from typing import Any


def config_of(preset: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a preset as plain tables, with changes by "section.field".

    `preset`: such as "causal_lm:tiny".
    """
    from tformer_jax.config import merged, nested
    from tformer_jax.tasks import TASKS
    from tformer_jax.training.experiment import section_classes

    name, _, preset = preset.partition(":")
    config = importlib.import_module(f"experiments.configs.{name}").get_config(preset).to_dict()
    classes = section_classes(TASKS[config["task"]["name"]])
    changed = {
        section: merged(classes[section], config[section], value) if section in classes else value
        for section, value in nested(changes).items()
    }
    return config | changed
