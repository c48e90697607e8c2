"""Adapters in training: they alone change, by the gradients of the formula, with the memory of an optimiser of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from flax import nnx
from support import optimizer_config, tiny_model, unchecked_annotations

from tformer_jax.config import ConfigError, build
from tformer_jax.data.batches import Batches
from tformer_jax.nn import init_adapter, with_adapter
from tformer_jax.nn.parameters import named
from tformer_jax.training.directories import RunError
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.interruption import Interrupted
from tformer_jax.training.loading import load_adapter, load_run
from tformer_jax.training.parallel import ParallelConfig
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.run import Run
from tformer_jax.training.running import run_training
from tformer_jax.training.trainer import Trainer

ROWS, INPUTS, OUTPUTS, RANK, ALPHA = 8, 5, 3, 2, 3.0
ON = (".*attention.w_[qv]",)
LORA = {"adapter": "lora", "adapter_rank": RANK, "adapter_on": list(ON)}
DESCENT = dict(name="sgd", momentum=0.0, learning_rate=0.1, schedule="constant")
DECAYED = dict(name="adamw", learning_rate=0.1, schedule="constant", weight_decay=0.5)


class Linear(nnx.Module):
    """y = x W + b."""

    def __init__(self):
        self.w = nnx.Param(jnp.asarray(np.random.default_rng(0).standard_normal((INPUTS, OUTPUTS)), jnp.float32))
        self.b = nnx.Param(jnp.zeros(OUTPUTS))


def error(model, batch, key):
    difference = batch["x"] @ model.w[...] + model.b[...] - batch["y"]
    return (difference**2).sum(-1).mean(), jnp.float32(len(batch["x"])), {}


def batch():
    draw = np.random.default_rng(1)
    return {name: draw.standard_normal((ROWS, n), np.float32) for name, n in (("x", INPUTS), ("y", OUTPUTS))}


def trainer_of(optimizer=DESCENT, parallel=ParallelConfig(data=1), loss=error, **fields):
    """A trainer of the line above with an adapter."""
    given = dict(adapter="lora", adapter_rank=RANK, adapter_on=("w",), adapter_alpha=ALPHA, steps=9, evaluate_every=9)
    with unchecked_annotations():
        training = TrainingConfig(**given | fields)
        return Trainer(Program(lambda rngs: Linear(), loss, training, optimizer_config(**optimizer)), parallel)


def states(trainer, steps=3):
    """The states before the first step and after some, on the host, and the last metrics."""
    with unchecked_annotations():
        arrays = trainer.initial()
        start = {name: np.array(x) for name, x in arrays.items()}
        for _ in range(steps):
            arrays, metrics = trainer.step(arrays, batch())
    return start, {name: np.array(x) for name, x in arrays.items()}, metrics


# What is computed ------------------------------------------------------------------------------


def test_gradients_are_those_of_the_formula():
    """The scale is left out of one, or a gradient is another side's: x W + b + s (x A) B, by hand in float64."""
    trainer = trainer_of()
    start = {name: np.asarray(x, np.float64) for name, x in trainer.initial().items()}
    start["adapter.w.b"] += 0.5  # at zero, A has no gradient
    x, y = (batch()[name].astype(np.float64) for name in "xy")
    w, a, b, scale = start["model.w"], start["adapter.w.a"], start["adapter.w.b"], ALPHA / RANK
    difference = x @ w + scale * (x @ a) @ b - y
    d = 2 * difference / ROWS
    given = {name: jnp.asarray(x, trainer.layout.shapes[name].dtype) for name, x in start.items()}
    found, metrics = trainer.step(given, batch())
    np.testing.assert_allclose(found["adapter.w.a"], a - 0.1 * scale * x.T @ d @ b.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["adapter.w.b"], b - 0.1 * scale * (x @ a).T @ d, rtol=1e-5, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx((difference**2).sum(-1).mean(), rel=1e-5)
    assert metrics["finite_gradients"].shape == (2,) and list(trainer.layout.trained) == ["w.a", "w.b"]


@pytest.mark.parametrize("name", ["CausalLM", "VisionTransformer"])
def test_merged_is_unmerged(name):
    """A matrix of several axes gets another's change, or a layer that of the one beside it: each by itself, in float64."""
    model, draw = tiny_model(name), np.random.default_rng(0)
    adapter = init_adapter(model, (".*attention.w_[qo]", ".*w1"), RANK, jax.random.key(0))
    adapter = jax.tree.map(lambda x: jnp.asarray(draw.standard_normal(x.shape), jnp.float32), adapter)
    before, merged = (named(x) for x in (model, with_adapter(model, adapter, 0.5)))
    assert {path.rpartition(".")[2] for path in adapter} == {"w_q", "w_o", "w1"}
    for path, w in before.items():
        change = np.zeros(w.shape)
        if path in adapter:
            a, b = (np.asarray(adapter[path][n][...], np.float64) for n in "ab")
            for layer in np.ndindex(a.shape[:-2]):
                change[layer] = 0.5 * (a[layer] @ b[layer]).reshape(w.shape[a.ndim - 2 :])
        np.testing.assert_allclose(merged[path], w + change, rtol=1e-5, atol=1e-6, err_msg=path)


def test_an_adapter_changes_nothing_at_first():
    """A fine-tuned model would start from another function than it was trained to; or A is drawn wider than PEFT's."""
    model = tiny_model("CausalLM", **{"output.tie": False})
    adapter = init_adapter(model, (*ON, "embedding.table", "output.w"), 300, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, with_adapter(model, adapter, 7.0), model)
    a = np.asarray(adapter["decoder.layers.0.attention.w_q"]["a"][...])
    assert np.abs(a).max() <= 8**-0.5 and a.std() == pytest.approx((8 * 3) ** -0.5, rel=0.05)
    assert not np.asarray(adapter["embedding.table"]["a"][...]).any()


# What changes ----------------------------------------------------------------------------------


def test_the_base_keeps_its_bits():
    """Decay, an average or a step in parts would touch what is not trained."""
    start, found, _ = states(trainer_of(DECAYED, average_decay=0.5, max_skipped=2, accumulate=2))
    assert {name for name in start if np.array_equal(start[name], found[name])} == {"model.w", "model.b", "skipped"}
    assert {name for name in start if name.startswith("average.")} == {"average.w.a", "average.w.b"}


def test_the_optimizer_remembers_the_adapter_alone():
    """The memory that an adapter is to save would be there all the same."""
    shapes = trainer_of(DECAYED).layout.shapes
    moments = {name: x.shape for name, x in shapes.items() if name.startswith("optimizer.") and x.shape}
    assert sorted(moments.values()) == [(RANK, OUTPUTS), (RANK, OUTPUTS), (INPUTS, RANK), (INPUTS, RANK)]
    assert trainer_of().trained_count == RANK * (INPUTS + OUTPUTS) < trainer_of().parameter_count


def test_a_step_that_is_not_finite_is_skipped():
    """A loss of NaN would end up in the adapter."""
    broken = lambda model, batch, key: (jnp.nan * error(model, batch, key)[0], jnp.float32(1.0), {})
    start, found, _ = states(trainer_of(loss=broken, max_skipped=5))
    changed = {name for name in start if not np.array_equal(start[name], found[name])}
    assert changed == {"step", "skipped"} and found["skipped"] == 3


@pytest.mark.parametrize(
    "fields",
    [
        dict(accumulate=2),
        dict(parallel=ParallelConfig(mode="pmap", data=4)),
        dict(parallel=ParallelConfig(data=2, fsdp=2, tensor=2)),
    ],
    ids=str,
)
def test_parts_and_devices_give_the_same_adapter(fields):
    """A gradient would be one part's, or a device's own."""
    trainer, (_, wanted, _) = trainer_of(**fields), states(trainer_of())
    placed = trainer.placed(Again())
    with unchecked_annotations():
        arrays = trainer.initial()
        for i in range(3):
            arrays, _ = trainer.step(arrays, placed.batch(i))
    for name, x in arrays.items():
        np.testing.assert_allclose(x, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


class Again(Batches):
    """The batch above, again and again."""

    def __len__(self):
        return 3

    def row_count(self, i):
        return ROWS

    def batch(self, i, rows=slice(None)):
        return {name: x[rows] for name, x in batch().items()}


@pytest.mark.parametrize("name", ["muon", "adafactor", "lion", "optax.contrib.schedule_free_adamw"])
def test_any_optimizer_trains_an_adapter(name):
    """One that asks what a parameter is would not know A and B."""
    trainer = trainer_of(dict(name=name, learning_rate=0.01, schedule="constant"))
    start, found, metrics = states(trainer, 6)
    first = states(trainer, 1)[2]
    assert float(metrics["loss"]) < float(first["loss"])
    np.testing.assert_array_equal(start["model.w"], found["model.w"])
    with unchecked_annotations():
        model = trainer.model({name: jnp.asarray(x) for name, x in found.items()})
    assert not np.array_equal(model.w[...], start["model.w"])


def test_tables_are_of_the_adapters_paths():
    """A row for A would be said to decide nothing, or decide for B too."""
    table = {"learning_rate_table": ((r"w\.a", 0.0), (r".*", 1.0)), "weight_decay_table": ((r"w\.b", 0.0),)}
    start, found, _ = states(trainer_of(DECAYED | table))
    np.testing.assert_array_equal(found["adapter.w.a"], start["adapter.w.a"])
    assert not np.array_equal(found["adapter.w.b"], start["adapter.w.b"])
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate_table: no parameter is left for 'w'"):
        trainer_of(DECAYED | {"learning_rate_table": (("w", 0.5),)})


# Runs ------------------------------------------------------------------------------------------


def adapted(config, **training):
    return config | {"training": config["training"] | LORA | training}


def final(run):
    with unchecked_annotations():
        return [named(x) if i < 2 else x for i, x in enumerate(load_adapter(run))]


@pytest.fixture(scope="module")
def tuned(configs, finished, tmp_path_factory):
    """A run of an adapter that starts from a finished run of the same task, and what was said."""
    config = adapted(configs["text_classification"], average_decay=0.5, adapter_alpha=4.0)
    config = config | {"task": config["task"] | {"init_from": str(finished("text_classification").run.directory)}}
    return tiny_runs.run_and_train(config, tmp_path_factory.mktemp("tuned") / "run")


def test_a_run_says_what_it_trains(tuned):
    """Nobody would see that all of the model is trained after all."""
    (line,) = [line for line in tuned.said if "parameters" in line]
    assert line.endswith(f" parameters, and {2 * RANK * (16 + 16)} of an adapter, which alone are trained")


def test_a_run_is_evaluated_with_its_adapter_merged(tuned, finished):
    """An evaluation would be of the model that training started from, or of the adapter without its average."""
    base, adapter, scale = final(tuned.run)
    assert scale == 4.0 / RANK
    with unchecked_annotations():
        loaded = named(load_run(tuned.run)[2])
        start = named(load_run(finished("text_classification").run)[2])
        merged = named(with_adapter(load_adapter(tuned.run)[0], *load_adapter(tuned.run)[1:]))
    for path, x in named(tuned.model).items():
        np.testing.assert_array_equal(base[path], start[path])
        np.testing.assert_array_equal(loaded[path], x)
        np.testing.assert_array_equal(merged[path], x)
        assert np.array_equal(x, base[path]) != (f"{path}.a" in adapter), path


def test_a_run_goes_on_bit_for_bit(configs, tmp_path):
    """The adapter, its average or its optimiser would start anew."""
    config = adapted(configs["causal_lm"], average_decay=0.9)
    whole = tiny_runs.run_and_train(config, tmp_path / "whole")
    cut = Run.start(tmp_path / "cut", config)
    with unchecked_annotations(), pytest.raises(Interrupted):
        run_training(cut, lambda line: None, validated=lambda step, numbers: step == 6)
    tiny_runs.run_and_train(config, tmp_path / "cut")
    for wanted, found in zip(final(whole.run), final(cut), strict=True):
        jax.tree.map(np.testing.assert_array_equal, wanted, found)


def test_another_run_starts_from_the_merged_model(tuned, configs, tmp_path):
    """What an adapter learnt would be lost to a run that starts from its run."""
    config = configs["text_classification"]
    config = config | {
        "task": config["task"] | {"init_from": str(tuned.run.directory)},
        "optimizer": config["optimizer"] | {"learning_rate": 1e-30},
    }
    started = tiny_runs.run_and_train(config, tmp_path / "next")
    jax.tree.map(np.testing.assert_array_equal, named(started.model), named(tuned.model))
    with pytest.raises(RunError, match="has no adapter: all of its model was trained"):
        load_adapter(started.run)


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapter": "lra"}, r"adapter must be one of .*'none', 'lora'.*, got 'lra'; did you mean 'lora'"),
        ({"adapter_rank": 0}, r"adapter_rank must be a positive integer, got 0"),
        ({"adapter_rank": None}, r"adapter_rank must be set with adapter='lora', got None"),
        ({"adapter_on": ()}, r"adapter_on must be set with adapter='lora', got \(\)"),
        ({"adapter_on": "w"}, r"adapter_on must be a tuple of regular expressions, got 'w'"),
        ({"adapter_on": ("(",)}, r"adapter_on: '\(' is no regular expression"),
        ({"adapter_alpha": 0.0}, r"adapter_alpha must be positive and finite, got 0"),
        ({"adapter": "none"}, r"adapter_rank has no meaning with adapter='none', got 2; set adapter='lora'"),
        ({"adapter": "none", "adapter_rank": None}, r"adapter_on has no meaning with adapter='none'"),
        ({"adapter": "none", "adapter_rank": None, "adapter_on": (), "adapter_alpha": 1.0}, "adapter_alpha has no mean"),
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """A field would be ignored, or an adapter be of nothing."""
    with unchecked_annotations(), pytest.raises(ConfigError, match=rf"^training\.{message}"):
        build(TrainingConfig, {"steps": 1, "evaluate_every": 1} | LORA | fields, "training")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"adapter_on": [*ON, ".*atention.*"]}}, r"training.adapter_on: no matrix .* matches '.\*atention.\*'"),
        ({"training": {"adapter_on": [".*gamma"]}}, r"training.adapter_on: no matrix .* matches '.\*gamma'; there are \w+\."),
        ({"training": {"adapter_on": [".*table"]}}, r"training.adapter_on: embedding.table is .* tied: .* untie them first"),
        ({"optimizer": {"freeze": [".*w_k"]}}, r"optimizer.freeze must be empty with training.adapter='lora'"),
    ],
    ids=str,
)  # fmt: skip
def test_an_adapter_that_cannot_be_is_refused(configs, tmp_path, changes, message):
    """A misspelt path would train less than was asked for; a tied table would change in two places."""
    config = adapted(configs["causal_lm"])
    config = config | {section: config[section] | fields for section, fields in changes.items()}
    with unchecked_annotations(), pytest.raises(ConfigError, match=message):
        Experiment.from_config(config)
        run_training(Run.start(tmp_path / "run", config), lambda line: None)


def test_another_models_adapter_is_refused():
    """It would be passed over in silence."""
    adapter = init_adapter(tiny_model("CausalLM"), ON, RANK, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"no parameter decoder.layers.0.attention.w_q, decoder.layers.0.attention.w_v"
    ):
        with_adapter(Linear(), adapter)
