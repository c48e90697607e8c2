"""From a config's sections to a trained model and back from its checkpoint."""

import copy
import json
import math
import shutil

import jax
import numpy as np
import pytest
from support import looks_pickled, quick_jit, untimed

from tformer_jax.config import ConfigError
from tformer_jax.data import tokenizers
from tformer_jax.data.files import DataError
from tformer_jax.tasks import TASKS, TextClassificationTask, TranslationTask
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.loading import load_run
from tformer_jax.training.run import Run, RunError
from tformer_jax.training.running import run_training
from tformer_jax.training.starts import pretrained_arrays

# The config ------------------------------------------------------------------------------------


def test_a_whole_config_is_accepted(config):
    """The config of the tests here would not be one."""
    experiment = Experiment.from_config(config)
    assert experiment.model_config({"vocab_size": 100}).d_model == 16
    assert experiment.training.steps == 24
    assert experiment.task_class is TranslationTask


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {}}, "no section 'optimiser'; did you mean 'optimizer'"),
        ({"task": {"name": "tranlation"}}, "task.name must be one of .*did you mean 'translation'"),
        ({"task": {"name": None}}, "task.name must be one of .*got None"),
        ({"model": {"d_modle": 8}}, "model has no field 'd_modle'; did you mean 'd_model'"),
        ({"data": {"batch_token": 8}}, "data has no field 'batch_token'; did you mean 'batch_tokens'"),
        ({"task": {"beam": 8}}, "task has no field 'beam'; did you mean 'beam_size'"),
        ({"optimizer": {"lr": 8}}, "optimizer has no field 'lr'"),
        ({"training": {"step": 8}}, "training has no field 'step'; did you mean 'steps'"),
        ({"parallel": {"tensors": 8}}, "parallel has no field 'tensors'; did you mean 'tensor'"),
        ({"checkpoint": {"kept": 8}}, "checkpoint has no field 'kept'; did you mean 'keep'"),
        ({"model": {"vocab_size": 8}}, "model.vocab_size follows from the data; set it in the data section"),
        ({"model": {"source_vocab_size": 8}}, "model.source_vocab_size follows from the data"),
        (
            {"model": {"precision": "compute=bfloat16"}},
            "model.precision is that of the whole experiment; set precision",
        ),
        ({"model": {"num_classes": 8}}, "model.num_classes is not for Transformer but for TextClassifier"),
        ({"model": {"attention": {"num_heads": 3}}}, "d_model must be divisible by attention.num_heads"),
        ({"precision": "compute=float8"}, "precision: compute must be one of"),
        ({"data": {"source_vocab_size": 300}}, "share_embeddings"),
        (
            {"model": {"init": {"mup_base_width": 8}}, "optimizer": {"name": "sgd"}},
            "optimizer.name with model.init.mup_base_width must be one of .*, got 'sgd'",
        ),
        ({"model": {"d_ff": 8}}, "model has no field 'd_ff'"),
        ({"model": {"window": 8}}, "model has no field 'window'; did you mean model.attention.window"),
        (
            {"model": {"attention": {"width": 8}}},
            "model.attention has no field 'width'; did you mean .*model.feed_forward",
        ),
        ({"model": {"positions": {"width": 8}}}, "model.positions has no field 'width', which goes with name='rotary'"),
        ({"model": {"pattern": [{}, {}]}}, "model.pattern has 2 layers, more than num_layers=1"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_there_is_data(changed, changes, message):
    """A misspelt field would be ignored, or be found out after the data has been read."""
    with pytest.raises(ConfigError, match=message):
        Experiment.from_config(changed(**changes))


SECTIONS = ["task", "data", "model", "optimizer", "training", "parallel", "checkpoint", "precision"]


@pytest.mark.parametrize("section", SECTIONS)
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
    task = TranslationTask(experiment.task, experiment.load_data(tmp_path).tokenizers)
    shapes = experiment.trainer(task).layout.shapes
    assert shapes["model.source_embedding.table"].shape == (280, 16)
    assert shapes["model.target_embedding.table"].shape == (300, 16)


@pytest.mark.slow
def test_under_mup_hidden_matrices_learn_by_the_width(changed, tmp_path):
    """The factors of the parametrization would not reach the step: Adam's first is the learning rate, in each entry."""
    mup = {"init": {"mup_base_width": 4}}
    fields = changed(model=mup, optimizer={"schedule": "constant", "warmup_steps": 0})
    experiment = Experiment.from_config(fields)
    batch = experiment.load_data(tmp_path).train_batches(1).batch(0)
    program, key = experiment.program(experiment.restore_task(tmp_path)), jax.random.key(0)

    def one_step(batch):
        start = program.initial(key, {})
        return start, program.step(start, batch, key)[0]

    before, after = quick_jit(one_step)(batch)
    parameters = [n for n in before if n.startswith("model.") and ".b_k" not in n]  # which have no gradient
    for name in parameters:
        hidden = "attention.w_" in name or "feed_forward.w" in name
        wanted = pytest.approx(0.01 / 4 if hidden else 0.01, rel=1e-3)
        assert np.abs(after[name] - before[name]).max() == wanted, name


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
    again = trained.task.validate(trained.model, trained.data.evaluation_batches("validation"))
    assert untimed(rows)[-1] == {"step": 24, "validation_loss": pytest.approx(again["loss"], rel=1e-6)}


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


def test_nothing_in_a_run_directory_is_a_pickle(trained):
    """A run from someone else could run their code, whichever of its files is opened."""
    files = [file for file in trained.run.directory.rglob("*") if file.is_file()]
    parts = {file.relative_to(trained.run.directory).parts[0] for file in files}
    assert parts >= {"config.json", "metrics.jsonl", "tokenizer.json", "checkpoints", "tensorboard"}
    assert [str(file) for file in files if looks_pickled(file.read_bytes())] == []


# Every task --------------------------------------------------------------------------------------

TASKS_BESIDE = {
    "causal_lm": ({"loss", "perplexity"}, "tokens"),
    "masked_lm": ({"loss", "masked_accuracy"}, "masked tokens"),
    "text_classification": ({"loss", "accuracy"}, "texts"),
    "image_classification": ({"loss", "accuracy"}, "images"),
}
EACH = pytest.mark.parametrize("name", TASKS_BESIDE)


def test_every_task_is_trained_here():
    """A task was added that no test trains."""
    ours = {name for name, task in TASKS.items() if task.__module__.startswith("tformer_jax.")}  # not of a plugin
    assert {"translation", *TASKS_BESIDE} == ours


def rows_of(run):
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


@EACH
def test_a_task_learns(finished, name):
    """Gradients, batches or the optimiser would be wrong for this task, or its numbers not be written down."""
    numbers, unit = TASKS_BESIDE[name]
    found = finished(name)
    rows = [row for row in untimed(rows_of(found.run)) if "validation_loss" in row]
    assert [row["step"] for row in rows] == [6, 12]
    assert {key.removeprefix("validation_") for key in rows[0]} == numbers | {"step"}
    assert rows[1]["validation_loss"] < rows[0]["validation_loss"]
    assert found.task.unit == unit


@EACH
def test_a_loaded_task_is_the_trained_one(finished, name):
    """Prediction would use another model, tokenizer or other classes than were trained."""
    found = finished(name)
    _, task, model = load_run(Run.open(found.run.directory))
    assert type(task) is type(found.task)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(found.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert task.model_fields == found.task.model_fields
    assert getattr(task, "classes", None) == getattr(found.data, "classes", None)
    if hasattr(task, "tokenizer"):
        assert task.tokenizer.to_str() == found.data.tokenizer.to_str()


@EACH
def test_the_last_validation_is_of_the_trained_model(finished, name):
    """The numbers in metrics.jsonl would be of another split or another state."""
    found = finished(name)
    numbers = found.task.validate(found.model, found.data.evaluation_batches("validation"))
    wanted = {f"validation_{key}": pytest.approx(value, rel=1e-5) for key, value in numbers.items()}
    assert untimed(rows_of(found.run))[-1] == {"step": 12} | wanted


@EACH
def test_samples_are_kept_where_a_task_makes_them(finished, name):
    """Nobody could see what a model writes while it trains."""
    files = {file.name for file in finished(name).run.samples.glob("step_*.txt")}
    assert files == ({"step_6.txt", "step_12.txt"} if name == "causal_lm" else set())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("causal_lm", {"data": {"row_length": 49}}, "data.row_length=49 exceeds model.max_length=48"),
        ("masked_lm", {"data": {"row_length": 49}}, "data.row_length=49 exceeds model.max_length=48"),
        ("causal_lm", {"model": {"vocab_size": 9}}, "model.vocab_size follows from the data"),
        ("causal_lm", {"model": {"num_decoder_layers": 2}}, "num_decoder_layers is not for CausalLM"),
        ("text_classification", {"model": {"num_classes": 9}}, "model.num_classes follows from the data"),
        ("text_classification", {"model": {"output": {"tie": False}}}, "output is not for TextClassifier"),
        ("image_classification", {"model": {"image_size": 9}}, "model.image_size follows from the data"),
        ("image_classification", {"model": {"num_channels": 3}}, "model.num_channels follows from the data"),
        ("image_classification", {"model": {"num_classes": 9}}, "model.num_classes follows from the data"),
        ("image_classification", {"model": {"patch_size": 3}}, "patch_size=3 must divide image_size=8"),
        ("image_classification", {"task": {"mixip": 1.0}}, "task has no field 'mixip'; did you mean 'mixup'"),
        ("image_classification", {"task": {"name": "text_classification"}}, "task has no field 'max_shift'"),
    ],
)
def test_a_config_that_a_task_cannot_have_is_refused_before_there_is_data(configs, name, changes, message):
    """A field without a meaning would be ignored, or be found out after the data has been read."""
    config = {section: fields | changes.get(section, {}) if isinstance(fields, dict) else fields
              for section, fields in configs[name].items()}  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        Experiment.from_config(config)


# Starting from a pre-trained run -----------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(configs):
    """`tuned(init_from, section=dict, ...)`: the config of a classifier that starts from a run."""

    def tuned(init_from, **changes):
        config = copy.deepcopy(configs["text_classification"])
        config["task"]["init_from"], config["data"]["vocab_size"] = str(init_from), None
        # Its one step changes nothing: what is saved is what training started from.
        config["optimizer"]["learning_rate"] = 1e-30
        config["training"] = {"steps": 1, "evaluate_every": 1}
        for section, fields in changes.items():
            config[section].update(fields)
        return config

    return tuned


def saved(run, step):
    """The model's arrays in a checkpoint."""
    with Checkpoints(run.checkpoints, CheckpointConfig(every=1)) as checkpoints:
        arrays = checkpoints.restore_as_saved(step)
    return {name: np.asarray(x) for name, x in arrays.items() if name.startswith("model.")}


@pytest.fixture(scope="module")
def pretrained(finished):
    """The run of a masked language model."""
    return finished("masked_lm").run


@pytest.fixture(scope="module")
def started(tuned, train, pretrained, tmp_path_factory):
    """A classifier that starts from a copy of it, `source`."""
    place = tmp_path_factory.mktemp("started")
    shutil.copytree(pretrained.directory, place / "source")
    found = train(tuned(place / "source"), place / "run")
    found.source = place / "source"
    return found


def test_a_classifier_starts_from_the_pretrained_encoder(started, pretrained):
    """Fine-tuning would start from scratch, or from another checkpoint than the newest."""
    here, there = saved(started.run, 1), saved(pretrained, 12)
    encoder = {name for name in here if name.startswith("model.encoder.")}
    assert encoder == {name for name in there if name.startswith("model.encoder.") and ".pooler." not in name}
    for name in encoder:
        np.testing.assert_array_equal(here[name], there[name], err_msg=name)
    assert here.keys() - encoder == {"model.classifier.w", "model.classifier.b"}
    assert f"{len(encoder)} arrays are initialised from {started.source}" in started.said


def test_a_classifier_has_a_head_of_its_own(started):
    """The head would be left at zero, or come from somewhere."""
    trainer = Experiment.from_config(started.run.config).trainer(started.task)
    np.testing.assert_array_equal(saved(started.run, 1)["model.classifier.w"], trainer.initial()["model.classifier.w"])


def test_a_classifier_has_the_tokenizer_of_the_pretrained_run(started, pretrained):
    """The embedding table would be read with the numbers of another tokenizer."""
    here, there = ((run.directory / "tokenizer.json").read_bytes() for run in (started.run, pretrained))
    assert here == there
    assert started.task.tokenizer.get_vocab_size() == started.model.config.vocab_size


def test_a_classifier_stands_alone_once_it_has_a_checkpoint(train, started):
    """Going on would fail because the pre-trained run has moved, or begin again from its newer checkpoint."""
    moved = started.source.rename(started.source.with_name("moved"))
    again = train(started.run.config, started.run.directory)
    moved.rename(started.source)
    for a, b in zip(jax.tree.leaves(again.model), jax.tree.leaves(started.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any("initialised from" in line for line in again.said)


def test_a_classifier_may_start_from_a_classifier(configs, tuned, finished):
    """What was fine-tuned could not be tuned further: with the same classes, the head comes along."""
    source = finished("text_classification").run
    experiment = Experiment.from_config(tuned(source.directory))
    task = experiment.restore_task(source.directory)
    shapes = experiment.trainer(task).layout.shapes
    arrays = pretrained_arrays(source, shapes, task)
    assert arrays.keys() == {name for name in shapes if name.startswith("model.")}
    np.testing.assert_array_equal(arrays["model.classifier.w"], saved(source, 12)["model.classifier.w"])


THREE = "long\ta {0} b\nshort\tc {0} d\nother\te {0} f\n"


def test_a_head_of_other_classes_is_new(tuned, train, finished, tmp_path):
    """A classifier could not be tuned on data of other classes, or would name them by those of the old ones."""
    source = finished("text_classification").run
    (tmp_path / "three.tsv").write_text("".join(THREE.format(i) for i in range(20)))
    found = train(tuned(source.directory, data={"path": str(tmp_path / "three.tsv")}), tmp_path / "run")
    here, there = saved(found.run, 1), saved(source, 12)
    assert here["model.classifier.w"].shape[1] == 3 and there["model.classifier.w"].shape[1] == 2
    np.testing.assert_array_equal(here["model.encoder.embedding.table"], there["model.encoder.embedding.table"])


def with_pooler(tuned, source):
    """The names of the arrays that a classifier with a pooler starts from."""
    experiment = Experiment.from_config(tuned(source.directory, model={"pooler": True}))
    task = TextClassificationTask(experiment.task, tokenizers.load(source.directory / "tokenizer.json"), ["a", "b"])
    return pretrained_arrays(source, experiment.trainer(task).layout.shapes, task).keys()


def test_a_pretrained_pooler_comes_along(tuned, pretrained):
    """A BERT's pooler would be thrown away."""
    assert {"model.encoder.pooler.w", "model.encoder.pooler.b"} <= with_pooler(tuned, pretrained)


def test_a_pooler_may_be_new(tuned, finished):
    """A classifier with a pooler could not start from a model without one."""
    names = with_pooler(tuned, finished("text_classification").run)
    assert "model.encoder.embedding.table" in names and "model.encoder.pooler.w" not in names


@pytest.fixture(scope="module")
def sources(finished, trained, pretrained, tmp_path_factory):
    """Runs that a classifier cannot start from, by name."""
    place = tmp_path_factory.mktemp("sources")
    for name, without in (("no tokenizer", "tokenizer.json"), ("no checkpoint", "checkpoints")):
        shutil.copytree(pretrained.directory, place / name, ignore=shutil.ignore_patterns(without))
    return {
        "causal": finished("causal_lm").run.directory,
        "images": finished("image_classification").run.directory,
        "classes": finished("text_classification").run.directory,
        "no run": place / "missing",
        "no tokenizer": place / "no tokenizer",
        "no checkpoint": place / "no checkpoint",
        "masked": pretrained.directory,
    }


def test_what_is_of_training_alone_may_differ_by_layer(tuned, pretrained, tmp_path):
    """A dropout rate of a layer is no other function of the parameters: a start would be refused for nothing."""
    config = tuned(pretrained.directory, model={"pattern": ({"dropout_rate": 0.3},)}, training={"steps": 1})
    said = []
    run_training(Run.start(tmp_path / "run", config), said.append)
    assert any("arrays are initialised from" in line for line in said)


@pytest.mark.parametrize(
    ("source", "changes", "error", "message"),
    [
        ("masked", {"model": {"d_model": 32}}, ConfigError,
         r"does not fit this one: .*model\.encoder\.embedding\.table \(float32 \(300, 16\) there, "
         r"float32 \(300, 32\) here\).* and \d+ more"),
        ("masked", {"model": {"num_layers": 2}}, ConfigError, r"does not fit this one: .*\(1, 16\) there"),
        ("masked", {"model": {"positions": {"name": "learned"}}}, ConfigError,
         r"lacks model\.encoder\.positions\.scheme\.table of this one"),
        ("masked", {"model": {"feed_forward": {"width": 24, "activation": "silu"}, "scale_embeddings": False}}, ConfigError,
         r"holds another model: model\.feed_forward\.activation \('relu' there, 'silu' here\), model\.scale_embeddings \("),
        ("masked", {"model": {"num_layers": 2, "pattern": ({}, {"attention": {"window": 4}})}}, ConfigError,
         r"holds another model: model\.pattern \(\({},\) there, \({}, {'attention': {'window': 4}}\) here\)"),
        ("causal", {}, ConfigError, r"lacks model\.encoder\.\S+, .* and \d+ more of this one"),
        ("images", {}, DataError, "has no tokenizer.json: a task on text starts"),
        ("no tokenizer", {}, DataError, "has no tokenizer.json"),
        ("no run", {}, RunError, "missing is not a run directory"),
        ("no checkpoint", {}, RunError, "has no checkpoint yet"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)  # fmt: skip
def test_a_run_that_a_classifier_cannot_start_from_is_refused(
    sources, tuned, tmp_path, source, changes, error, message
):
    """It would start from scratch in silence or in part; the directory must stay free for a corrected command."""
    config = tuned(sources[source], **changes)
    with pytest.raises(error, match=message):
        run_training(Run.start(tmp_path / "run", config), lambda _: None)
    left = {file.name for file in (tmp_path / "run").iterdir() if file.is_file()}
    assert left == set()
