"""From a config's sections to a trained model and back from its checkpoint."""

import json
import math

import jax
import numpy as np
import pytest

from tformer_jax.config import ConfigError
from tformer_jax.tasks import Translation
from tformer_jax.training.experiment import Experiment, load_run
from tformer_jax.training.run import Run, RunError

# The config ------------------------------------------------------------------------------------


def test_a_whole_config_is_accepted(config):
    """The config of the tests here would not be one."""
    experiment = Experiment.from_config(config)
    assert experiment.model_config(100, None).d_model == 16
    assert experiment.training.steps == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {}}, "no section 'optimiser'; did you mean 'optimizer'"),
        ({"model": {"d_modle": 8}}, "model has no field 'd_modle'; did you mean 'd_model'"),
        ({"data": {"batch_token": 8}}, "data has no field 'batch_token'; did you mean 'batch_tokens'"),
        ({"task": {"beam": 8}}, "task has no field 'beam'; did you mean 'beam_size'"),
        ({"optimizer": {"lr": 8}}, "optimizer has no field 'lr'"),
        ({"training": {"step": 8}}, "training has no field 'step'; did you mean 'steps'"),
        ({"checkpoint": {"kept": 8}}, "checkpoint has no field 'kept'; did you mean 'keep'"),
        ({"model": {"vocab_size": 8}}, "model.vocab_size follows from the data; set data.vocab_size"),
        ({"model": {"source_vocab_size": 8}}, "model.source_vocab_size follows from the data"),
        ({"model": {"num_heads": 3}}, "d_model must be divisible by num_heads"),
        ({"precision": "compute=float8"}, "precision: compute must be one of"),
        ({"data": {"source_vocab_size": 300}}, "share_embeddings"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_there_is_data(changed, changes, message):
    """A misspelt field would be ignored, or be found out after the data has been read."""
    with pytest.raises(ConfigError, match=message):
        Experiment.from_config(changed(**changes))


@pytest.mark.parametrize("section", ["task", "data", "model", "optimizer", "training", "checkpoint", "precision"])
def test_a_missing_section_is_named(config, section):
    """A config without a section would end in a KeyError."""
    with pytest.raises(ConfigError, match=f"lacks the section.*{section}"):
        Experiment.from_config({name: fields for name, fields in config.items() if name != section})


@pytest.mark.parametrize(("section", "field"), [("optimizer", "learning_rate"), ("training", "steps")])
def test_a_missing_field_is_named(config, section, field):
    """A config without a required field would end in a TypeError."""
    fields = {name: value for name, value in config[section].items() if name != field}
    with pytest.raises(ConfigError, match=f"{section} needs {field}"):
        Experiment.from_config(config | {section: fields})


# What is built ---------------------------------------------------------------------------------


def test_the_vocabulary_is_that_of_the_tokenizer(trained):
    """Small data gives fewer tokens than asked for: the embedding would have rows that nothing trains."""
    size = trained.data.tokenizers.target.get_vocab_size()
    assert size < 4000
    assert trained.model.config.vocab_size == size
    assert trained.model.target_embedding.table[...].shape == (size, 16)


def test_separate_vocabularies_have_separate_tables(changed, tmp_path):
    """One side would be embedded with the other's table: only shapes are computed here."""
    fields = changed(data={"source_vocab_size": 280, "vocab_size": 300}, model={"share_embeddings": False})
    experiment = Experiment.from_config(fields)
    task = Translation(experiment.task, experiment.load_data(tmp_path).tokenizers)
    shapes = experiment.trainer(task).layout.shapes
    assert shapes["model.source_embedding.table"].shape == (280, 16)
    assert shapes["model.target_embedding.table"].shape == (300, 16)


# A run -----------------------------------------------------------------------------------------


def test_a_run_says_what_it_trains_on(trained):
    """A user would not see the size of the data and the model."""
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained.model))
    assert trained.said[0].startswith("67 train, 6 validation, 7 test pairs")
    assert "training batches an epoch" in trained.said[1]
    assert trained.said[-1] == f"{count:,} parameters"


def test_training_learns(trained):
    """The loss would not fall below that of a uniform guess: gradients, batches or the optimiser are wrong."""
    rows = [json.loads(line) for line in trained.run.metrics_file.read_text().splitlines()]
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert losses[-1] < losses[0] < math.log(trained.model.config.vocab_size)


def test_the_validation_loss_is_that_of_the_validation_split(trained):
    """The numbers in metrics.jsonl would be of another split or another state."""
    rows = [json.loads(line) for line in trained.run.metrics_file.read_text().splitlines()]
    again = trained.task.evaluation_loss(trained.model, trained.data.evaluation_batches("validation"))
    assert rows[-1] == {"step": 24, "validation_loss": pytest.approx(again, rel=1e-6)}


def test_a_loaded_run_has_the_trained_parameters(trained):
    """Evaluation and prediction would use another model than was trained."""
    experiment, task, model = load_run(Run.open(trained.run.directory))
    assert jax.tree.structure(model) == jax.tree.structure(trained.model)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(trained.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert task.tokenizers.target.to_str() == trained.data.tokenizers.target.to_str()
    assert experiment.data == trained.data.config


def test_an_older_checkpoint_can_be_loaded(trained):
    """`step` would be ignored."""
    _, _, model = load_run(trained.run, step=20)
    assert not np.array_equal(model.target_embedding.table[...], trained.model.target_embedding.table[...])


def test_a_step_without_a_checkpoint_is_refused(trained):
    """A wrong step would end in the checkpoint library's own error."""
    with pytest.raises(RunError, match="7"):
        load_run(trained.run, step=7)


def test_a_run_without_a_checkpoint_is_refused(config, trained, tmp_path):
    """Evaluating a run that was killed early would end in a traceback."""
    run = Run.start(tmp_path / "run", config)
    (run.directory / "tokenizer.json").write_bytes((trained.run.directory / "tokenizer.json").read_bytes())
    with pytest.raises(RunError, match="has no checkpoint yet"):
        load_run(run)
