"""An idea in a file of one's own: every command knows it, and says when it is not what it was."""

import json
import re
import shutil

import pytest
import tiny_runs

# Registered once in a process, for all tests here.
IDEA = '''
"""An activation and a position scheme."""

import jax
import jax.numpy as jnp

from tformer_jax import nn
from tformer_jax.config import POSITIVE, field
from tformer_jax.functional.activations import ACTIVATIONS


@ACTIVATIONS.register("mish")
def mish(x):
    return x * jnp.tanh(jax.nn.softplus(x))


@nn.POSITIONS.register("fading")
class Fading(nn.PositionScheme):
    rate: float = field(0.5, POSITIVE, traced=True)

    def in_scores(self, model, *, bidirectional, rngs):
        return lambda queries, keys: -self.rate * jnp.abs(queries[:, None, :, None] - keys[:, None, None, :])
'''
OURS = {"model.positions.name": "fading", "model.positions.rate": 0.25, "model.feed_forward.activation": "mish"}


@pytest.fixture(scope="module")
def idea(tmp_path_factory):
    file = tmp_path_factory.mktemp("ideas") / "idea.py"
    file.write_text(IDEA)
    return file


@pytest.fixture(scope="module")
def asked(tmp_path_factory, idea):
    """`asked(workdir)`: the flags of a run that uses it, the choice after what is chosen."""
    texts = tiny_runs.files(tmp_path_factory.getbasetemp()) / "texts"
    settings = {
        "data.source": "files", "data.path": texts, "data.validation_share": 0.1, "data.test_share": 0.1,
        "data.vocab_size": 300, "data.row_length": 16, "data.batch_tokens": 64, "model.d_model": 16, "model.num_layers": 1,
        "model.attention.num_heads": 2, "model.feed_forward.width": 24, "model.max_length": 48, "parallel.data": 1,
        "training.steps": 4, "training.evaluate_every": 4, "checkpoint.every": 2, "optimizer.warmup_steps": 0,
        "task.sample_tokens": 2,
    }  # fmt: skip

    def asked(workdir, changes=OURS):
        flags = [f"--config.{name}={value}" for name, value in reversed((settings | changes).items())]
        config = "--config=experiments/configs/causal_lm.py:tiny"
        return [config, f"--plugin={idea}", f"--workdir={workdir}", *flags]

    return asked


@pytest.fixture(scope="module")
def run(tmp_path_factory, here, asked):
    """A finished run, and what the command said."""
    workdir = tmp_path_factory.mktemp("plugins") / "run"
    return workdir, here("train", *asked(workdir))


def test_a_run_knows_its_plugins(run, idea, here):
    """The commands that come after would have to be told what the run is made of."""
    workdir, trained = run
    assert trained.returncode == 0, trained.stderr
    config = json.loads((workdir / "config.json").read_text("utf-8"))
    assert config["plugins"] == [str(idea)]
    assert config["model"]["positions"] == {"name": "fading", "rate": 0.25}
    assert list(json.loads((workdir / "plugins.json").read_text("utf-8"))) == [str(idea)]
    for name, *flags in (("evaluate",), ("predict", "--text=the red", "--max_new_tokens=2")):
        result = here(name, f"--workdir={workdir}", *flags)
        assert result.returncode == 0, result.stderr
        assert "has changed" not in result.stdout + result.stderr


def test_a_process_of_its_own_knows_them_too(run, command):
    """They would be known only where they were imported before."""
    result = command("predict", f"--workdir={run[0]}", "--text=the red", "--max_new_tokens=2")
    assert result.returncode == 0, result.stderr


def test_a_plugin_that_changed_is_said_and_one_that_is_gone_is_named(run, idea, here, asked, tmp_path):
    """A run goes on with another idea than it began with, without a word."""
    workdir = shutil.copytree(run[0], tmp_path / "run")
    text = idea.read_text()
    try:
        idea.write_text(f"{text}\n# Another idea.\n")
        changed = f"the plugin {idea} has changed since {workdir} began: its sha256 is "
        for name, *flags in (("train", *asked(workdir)), ("evaluate", f"--workdir={workdir}")):
            result = here(name, *flags)
            assert result.returncode == 0, result.stderr
            assert changed in result.stdout
        idea.unlink()
        for name, *flags in (("train", *asked(workdir)), ("evaluate", f"--workdir={workdir}")):
            result = here(name, *flags)
            assert result.returncode == 1
            assert result.stderr.startswith(f"error: the plugin {idea} is not there: put it back")
            assert result.stderr.count("\n") == 1
    finally:
        idea.write_text(text)


def test_members_of_a_sweep_have_them(here, asked, idea, tmp_path):
    """A sweep cannot try an idea beside what is there, or an exported member cannot be used."""
    workdir, member = tmp_path / "sweep", tmp_path / "member"
    swept = "model.positions.name=fading; model.positions.rate=0.25,0.5; model.feed_forward.activation=mish"
    result = here("sweep", *asked(workdir, {}), f"--sweep={swept}")
    assert result.returncode == 0, result.stderr
    exported = here("export", f"--workdir={workdir}", "--member=0", f"--to={member}")
    assert exported.returncode == 0, exported.stderr
    assert json.loads((member / "config.json").read_text("utf-8"))["model"]["positions"] == {
        "name": "fading",
        "rate": 0.25,
    }
    assert (member / "plugins.json").read_bytes() == (workdir / "plugins.json").read_bytes()
    assert here("evaluate", f"--workdir={member}").returncode == 0


@pytest.mark.slow
def test_the_workers_of_a_search_have_them(here, asked, tmp_path):
    """A trial would fail, of a component that only the first process knows."""
    pytest.importorskip("optuna")
    swept = ["--engine=search", "--trials=2", "--sampler=random", "--sweep=model.positions.rate=0.25,0.5"]
    result = here("sweep", *asked(tmp_path / "search"), *swept)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "search" / "plugins.json").exists()
    assert here("evaluate", f"--workdir={tmp_path / 'search' / 'trials' / '0'}").returncode == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plugin=no_such_file.py"], "the plugin no_such_file.py is not there"),
        (
            ["--plugin=no.such.module"],
            "cannot import the plugin no.such.module: ModuleNotFoundError: No module named 'no'",
        ),
        (["--plugin="], "flag --plugin=: expected a text, got an empty one"),
        (
            ["--config.model.positions.name=fadin"],
            "config.model.positions.name must be one of .*; did you mean 'fading'",
        ),
        (
            ["--config.model.positions.name=alibi"],
            "config.model.positions has no field 'rate', which goes with name='fa",
        ),
        (["--config.model.positions.rate=0"], "model.positions.rate must be positive and finite, got 0.0"),
    ],
)
def test_what_is_wrong_with_a_plugin_or_its_fields_is_said_in_one_line(run, here, asked, tmp_path, flags, message):
    """A traceback, or a component that is not the one that was asked for."""
    result = here("train", *asked(tmp_path / "run"), *flags)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert re.match(f"error: {message}", result.stderr), result.stderr


@pytest.mark.parametrize("name", ["train", "predict", "convert"])
def test_help_has_the_flags_that_a_command_takes_and_no_other(command, name):
    """A flag of the pages is not in the list of a command's flags, or one is that the command passes over."""
    said = command(name, "--help").stdout
    listed = set(re.findall(r"^  --(?:\[no\])?(\w+)", said, re.M))
    assert {"plugin", "compilation_cache"} <= listed
    assert ("step" in listed) == (name != "train") and ("weights" in listed) == (name == "predict")


def test_a_command_that_opens_a_run_has_no_plugins_of_its_own(run, here, idea):
    """They would be ignored: the run says which there are."""
    for name, flags in (("predict", [f"--workdir={run[0]}"]), ("convert", [f"--from={run[0]}", f"--to={run[0]}/to"])):
        result = here(name, *flags, f"--plugin={idea}")
        assert result.stderr.startswith(f"error: --plugin has no meaning for {run[0]}, a run, which knows its plugins")
    result = here("evaluate", f"--workdir={run[0]}", f"--plugin={idea}")
    assert result.stderr.startswith("error: --plugin has no meaning for this command: the run knows its plugins")


KEPT = """
import jax.numpy as jnp

from tformer_jax import nn


@nn.POSITIONS.register("kept")
class Kept(nn.PositionScheme):
    def in_scores(self, model, *, bidirectional, rngs):
        slopes = jnp.ones(model.attention.num_heads)
        return lambda queries, keys: -slopes[:, None, None] * (queries[:, None, :, None] - keys[:, None, None, :])
"""


def test_an_array_that_a_component_keeps_is_named(here, asked, tmp_path):
    """Fifty lines of JAX say that a tracer is unexpected, and what to do about it is not among them."""
    plugin = tmp_path / "kept.py"
    plugin.write_text(KEPT)
    changes = {"model.positions.name": "kept"}
    result = here("train", *asked(tmp_path / "run", changes), f"--plugin={plugin}")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: an array that Kept.in_scores makes ({plugin}:10) is used after it; keep ")
    assert result.stderr.count("\n") == 1
