"""Dry runs: they find what a run would, and say it."""

import copy
import re
import tempfile

import jax
import pytest
from support import by_day, quick_jit

from tformer_jax.training.dry_run import dry_run
from tformer_jax.training.loop import Diverged
from tformer_jax.training.metrics import read_metrics


@pytest.fixture
def tried(tmp_path, monkeypatch):
    """`tried(config, section=dict, ...)`: what a dry run says; it leaves nothing, whatever becomes of it."""

    def tried(config, **sections):
        config, said = copy.deepcopy(config), []
        for name, fields in sections.items():
            config[name] |= fields
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(jax, "jit", quick_jit)
        try:
            dry_run(config, said.append)
        finally:
            assert not [*tmp_path.iterdir()]
        return said

    return tried


@pytest.mark.parametrize("task", by_day(["causal_lm", "masked_lm", "text_classification", "image_classification"], 0))
def test_its_first_step_is_that_of_the_run(configs, tried, train, tmp_path_factory, task):
    """It would try another model, other data or another start than the run has."""
    said = tried(configs[task])
    (first, second) = next(re.search(r"^losses (\S+) and (\S+);", line) for line in said if "losses" in line).groups()
    config = copy.deepcopy(configs[task])
    config["training"] |= {"steps": 1, "log_every": 1, "evaluate_every": 1}
    rows = read_metrics(train(config, tmp_path_factory.mktemp("run") / "run").run.metrics_file)
    assert first == f"{rows[0]['loss']:.4f}" and second != first
    assert any(line.startswith("1 of ") and "loss" in line for line in said)
    assert any(
        re.fullmatch(r"memory of a device: [\d.]+ MiB for the state, [\d.]+ MiB more for a step", x) for x in said
    )


@pytest.mark.slow
def test_a_translation_is_tried(config, tried):
    """The task with two sides would not be."""
    assert any(line.startswith("losses ") for line in tried(config))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [{"data": 4, "fsdp": 2}, {"data": 8, "mode": "pmap"}])
def test_a_mesh_is_tried(configs, tried, parallel):
    """What has no place on many devices would be found out by the run alone."""
    said = tried(configs["causal_lm"], parallel=parallel)
    assert any(line.startswith("8 devices: ") for line in said) and any(line.startswith("losses ") for line in said)


def test_a_loss_that_is_not_finite_is_said(configs, tried):
    """A run that cannot be trained would be said to be sound."""
    with pytest.raises(Diverged, match="the dry run stopped at step 2: it has loss "):
        tried(configs["causal_lm"], optimizer={"learning_rate": 1e38})


def test_a_start_is_read(configs, finished, tried):
    """A model that does not fit would be found out by the run alone."""
    there = finished("causal_lm").run.directory
    said = tried(configs["causal_lm"], task={"init_from": str(there)})
    assert any(f"are initialised from {there}" in line for line in said)
