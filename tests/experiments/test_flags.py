"""The fields of a config on the command line: components are chosen by name, and their fields set."""

import re
import sys
from types import NoneType
from typing import get_args

import pytest
from absl import flags as absl_flags
from support import unchecked_annotations

from experiments import cli
from tformer_jax.config import fields_of, nested
from tformer_jax.sweeps.members import Fields
from tformer_jax.tasks import TASKS
from tformer_jax.training.experiment import Experiment, section_classes

NOT_SWEPT = (
    "checkpoint.best",
    "checkpoint.keep_every",
    "training.validation_batches",
    "model.scan_unroll",
    "task.fused_loss",
)


@pytest.fixture
def parsed(monkeypatch, request):
    """`parsed(preset, *flags)`: the config that a command has with these flags."""
    monkeypatch.chdir(request.config.rootpath)

    def forget():
        for name in [name for name in absl_flags.FLAGS if name.startswith("config.")]:
            delattr(absl_flags.FLAGS, name)
        absl_flags.FLAGS.unparse_flags()

    def parsed(preset, *flags):
        forget()
        arguments = ["train", f"--config=experiments/configs/{preset}.py:tiny", *flags]
        monkeypatch.setattr(sys, "argv", arguments)
        absl_flags.FLAGS(arguments)
        return cli.config()

    yield parsed
    forget()


def at(config, name):
    """A field of a config by its dotted name; an ellipsis if it is not there."""
    for part in name.split("."):
        config = config.get(part, ...) if isinstance(config, dict) else ...
    return config


@pytest.mark.parametrize("preset", sorted(TASKS))
def test_every_field_that_may_be_none_can_be_set_to_it(preset, parsed):
    """What a preset sets could not be switched off again, by a flag or in a sweep."""
    config = parsed(preset)
    found = {}
    for section, cls in section_classes(TASKS[preset]).items():
        found |= {name: hint for name, hint, _ in fields_of(cls, f"{section}.") if at(config, name) is not ...}
    names = [name for name, hint in found.items() if NoneType in get_args(hint)]
    wanted = {"optimizer.clip_norm", "training.average_decay", "data.order_seed", "checkpoint.keep_every"}
    assert wanted | {"model.attention.window", "model.init.std"} <= set(names)
    set_to_none, fields = parsed(preset, *(f"--config.{name}=None" for name in names)), Fields(config)
    for name in names:
        assert at(set_to_none, name) is None
        assert name in NOT_SWEPT or fields.value(name, None) is None


M = "--config.model."
WINDOWED = [{"attention": {"window": 64}}, {}]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([f"{M}positions.name=alibi"], {"model.positions": {"name": "alibi"}}),
        ([f"{M}positions.base=5e5"], {"model.positions.name": "rotary", "model.positions.base": 5e5}),
        # A choice is made before fields are set, wherever it stands; of several, the last.
        ([f"{M}positions.num_buckets=16", f"{M}positions.name=relative"], {"model.positions.num_buckets": 16}),
        ([f"{M}positions.name", "relative", f"{M}positions.num_buckets", "16"], {"model.positions.num_buckets": 16}),
        (
            [f"{M}positions.name=alibi", f"{M}positions.name=learned"],
            {"model.positions": {"name": "learned", "first": 0, "scaled": True}},
        ),
        # What the old component and the new one both have stays.
        (
            [f"{M}feed_forward.name=gated"],
            {"model.feed_forward.width": 512, "model.feed_forward.activation": "gelu_tanh"},
        ),
        ([f"{M}norm.name=rms"], {"model.norm": {"name": "rms", "eps": 1e-5, "unit_offset": False}}),
        ([f"{M}attention.qk_norm"], {"model.attention.qk_norm": True}),
        (["--noconfig.model.attention.qkv_bias"], {"model.attention.qkv_bias": False, "model.attention.num_heads": 4}),
        ([f"{M}attention.window=64", f"{M}init.std=0.02"], {"model.attention.window": 64, "model.init.std": 0.02}),
        ([M + "pattern=({'attention':{'window':64}},{})"], {"model.pattern": WINDOWED}),
        ([M + "pattern=[{'attention':{'window':64}},{}]"], {"model.pattern": WINDOWED}),
        ([M + "pattern=({'norm':{'name':'rms'}},)", f"{M}positions.name=alibi"], {"model.positions.name": "alibi"}),
    ],
)
def test_components_are_chosen_and_their_fields_set(parsed, flags, wanted):
    """A flag sets a field of the component that was there before, or forgets what it was."""
    config = parsed("causal_lm", *flags)
    Experiment.from_config(config)
    for name, value in wanted.items():
        found = at(config, name)
        assert (list(found) if isinstance(found, tuple) else found) == value


def test_another_task_has_its_own_fields_in_every_section(parsed):
    """A task of one's own could not be chosen by a flag where it reads other data, or trains another model."""
    flags = ["--config.data.boundaries=stream", "--config.task.name=causal_lm", f"{M}positions.base=5e5"]
    config = parsed("masked_lm", *flags)
    Experiment.from_config(config)
    kept = {"data.source": "speeches", "model.d_model": 128, "model.positions.base": 5e5, "data.boundaries": "stream"}
    assert {name: at(config, name) for name in kept} == kept
    gone = ("data.whole_words", "model.pooler", "model.transform_activation", "model.vocab_size", "task.mask_rate")
    assert {at(config, name) for name in gone} == {...}
    with unchecked_annotations():
        translation = parsed("masked_lm", "--config.task.name=translation", f"{M}num_decoder_layers=2")
    assert at(translation, "model.num_decoder_layers") == 2 and at(translation, "data.tokenizer") is ...


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            f"{M}positions.num_buckets=4",
            "config.model.positions has no field 'num_buckets', which goes with name='relative'",
        ),
        (
            f"{M}positions.name=rotarry",
            "config.model.positions.name must be one of .*, got 'rotarry'; did you mean 'rotary'",
        ),
        (f"{M}positions.name=None", "config.model.positions.name must be one of .*, got 'None'"),
        (f"{M}positions.name=", "config.model.positions.name must be one of .*, got ''"),
        (f"{M}positions=alibi", "flag --config.model.positions=alibi: this is a section: set a field of it, as in"),
        (f"{M}attention={{'window':3}}", "flag --config.model.attention=.*: this is a section: set a field of it"),
        (f"{M}attention.windw=3", "config.model.attention has no field 'windw'; did you mean 'window'"),
        (f"{M}attention.window=0", "model.attention.window must be a positive integer, got 0"),
        (f"{M}attention.window=1.5", "flag --config.model.attention.window=1.5: expected an integer"),
        (
            f"{M}attention.width=3",
            "config.model.attention has no field 'width'; did you mean .*config.model.feed_forward.wi",
        ),
        (f"{M}attention.implementation=flash", "model.attention.implementation must be one of "),
        (f"{M}window=3", "config.model has no field 'window'; did you mean config.model.attention.window"),
        (
            f"{M}num_classes=3",
            "config.model has no field 'num_classes', which is for TextClassifier, VisionTransformer",
        ),
        (f"{M}foo.name=rotary", "config.model has no field 'foo'"),
        (f"{M}d_model.name=3", "config.model.d_model is no section: it has no field 'name'"),
        ("--config.positions.name=rotary", "config has no field 'positions'; did you mean config.model.positions"),
        ("--noconfig.model.attention.qk_nrm", "config.model.attention has no field 'qk_nrm'; did you mean 'qk_norm'"),
        (f"{M}layer.norm_position=pree", "model.layer.norm_position must be one of .*, got 'pree'; did you mean 'pre'"),
        (
            f"{M}norm.name=rms --config.model.norm.bias=True",
            "config.model.norm has no field 'bias', which goes with name='la",
        ),
        (f"{M}pattern=()", r"model.pattern must be a tuple of tables, one for each layer of a period, got \(\)"),
        (f"{M}pattern=3", "model.pattern must be a tuple of tables"),
        (f"{M}pattern=foo(", "model.pattern must be a tuple of tables"),
        (M + "pattern=({},{},{},{},{})", "model.pattern has 5 layers, more than num_layers=4"),
        (
            M + "pattern=({'attention':{'windo':64}},)",
            r"model.pattern\[0\].attention has no field 'windo'; did you mean 'win",
        ),
        (
            M + "pattern=({'positions':{'name':'learned'}},)",
            r"model.pattern\[0\].positions must be those of the model, 'rota",
        ),
    ],
)
def test_a_flag_that_cannot_be_is_refused_in_one_line(here, tmp_path, flag, message):
    """A traceback, or a component that is not the one that was asked for."""
    config = ["--config=experiments/configs/causal_lm.py:tiny", f"--workdir={tmp_path / 'run'}"]
    result = here("train", *config, *flag.split(" "))
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert re.match(f"error: {message}", result.stderr), result.stderr
    assert not (tmp_path / "run").exists()


def test_dotted_names_become_tables():
    """A field is set beside its component."""
    assert nested({"a.b.c": 1, "a.b.d": 2, "e": 3}) == {"a": {"b": {"c": 1, "d": 2}}, "e": 3}


def test_a_folder_for_compiled_programs_that_cannot_be_is_said(command, tmp_path):
    """Programs would be kept nowhere, without a word."""
    (tmp_path / "file").write_text("")
    flags = "--config=experiments/configs/causal_lm.py:tiny", f"--compilation_cache={tmp_path / 'file' / 'folder'}"
    result = command("inspect", *flags)
    assert (
        result.returncode == 1
        and result.stderr.startswith("error: --compilation_cache=")
        and result.stderr.count("\n") == 1
    )
