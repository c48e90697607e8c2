"""The fields of a config on the command line."""

import dataclasses
import sys
import typing
from types import NoneType

import pytest
from absl import flags as absl_flags
from ml_collections import config_flags

import experiments.parsers  # noqa: F401  how values are read
from tformer_jax.config import TransformerConfig
from tformer_jax.sweeps.members import Fields
from tformer_jax.tasks import TASKS
from tformer_jax.training.checkpoints import CheckpointConfig
from tformer_jax.training.optimizers import OptimizerConfig
from tformer_jax.training.parallel import ParallelConfig
from tformer_jax.training.program import TrainingConfig

NOT_SWEPT = ("checkpoint.keep_every", "training.validation_batches")


def parsed(monkeypatch, preset, overrides=()):
    arguments = ["train", f"--config=experiments/configs/{preset}.py:tiny", *overrides]
    monkeypatch.setattr(sys, "argv", arguments)
    values = absl_flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(arguments)
    return values.config.to_dict()


def fields_that_may_be_none(config):
    task = TASKS[config["task"]["name"]]
    classes = {"task": task.Config, "data": task.DataConfig, "model": TransformerConfig, "optimizer": OptimizerConfig,
               "training": TrainingConfig, "checkpoint": CheckpointConfig, "parallel": ParallelConfig}  # fmt: skip
    for section, cls in classes.items():
        hints = typing.get_type_hints(cls)
        may = [f.name for f in dataclasses.fields(cls) if NoneType in typing.get_args(hints[f.name])]
        yield from (f"{section}.{name}" for name in may if name in config[section])


@pytest.mark.parametrize("preset", ["translation", "causal_lm", "masked_lm", "text_classification", "image_classification"])
def test_every_field_that_may_be_none_can_be_set_to_it(preset, monkeypatch, request):
    """What a preset sets could not be switched off again, by a flag or in a sweep."""
    monkeypatch.chdir(request.config.rootpath)
    config = parsed(monkeypatch, preset)
    names = list(fields_that_may_be_none(config))
    assert {"optimizer.clip_norm", "training.average_decay", "data.order_seed", "checkpoint.keep_every"} <= set(names)
    found = parsed(monkeypatch, preset, [f"--config.{name}=None" for name in names])
    fields = Fields(config)
    for name in names:
        section, field = name.split(".")
        assert found[section][field] is None
        assert name in NOT_SWEPT or fields.value(name, None) is None
