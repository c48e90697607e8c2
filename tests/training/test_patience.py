"""Early stopping: where a run ends, whatever happens to it on the way, and what it says."""

import copy
import functools
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, strategies as st
from support import by_day, examples, optimizer_config, untimed

from tformer_jax.config import ConfigError
from tformer_jax.data.batches import Batches
from tformer_jax.sweeps.members import make_members
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.interruption import Interrupted
from tformer_jax.training.loop import train
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.patience import Patience
from tformer_jax.training.program import Program, TrainingConfig
from tformer_jax.training.run import Run
from tformer_jax.training.trainer import Trainer

EVERY = 2


class Number(nnx.Module):
    """One parameter."""

    def __init__(self, rngs):
        self.w = nnx.Param(jnp.zeros(3))


class Data(Batches):
    """Batch i from i alone."""

    def __len__(self):
        return 100

    def batch(self, i):
        return {"x": np.full((4, 3), i % 7, np.float32)}


def error(model, batch, key):
    """A loss that depends on the batch."""
    return ((model.w[...] - batch["x"]) ** 2).mean(), jnp.float32(4), {}


@functools.cache
def trainer(steps, patience, metric):
    training = TrainingConfig(steps=steps, evaluate_every=EVERY, patience=patience, patience_metric=metric)
    optimizer = optimizer_config(learning_rate=0.1, schedule="constant")
    return Trainer(Program(Number, error, training, optimizer))


def go(directory, values, steps, patience, metric="loss", stop_after=None):
    """Trains a run whose validations have these values, one after the other; it is interrupted after some of them."""
    training = {"steps": steps, "evaluate_every": EVERY, "patience": patience, "patience_metric": metric}
    run, said = Run.start(directory, {"training": training}), []
    validate = lambda step, arrays: {"loss": 0.0, metric: values[step // EVERY - 1]}
    told = lambda step, numbers: step == stop_after
    try:
        with run.locked():
            made = trainer(steps, patience, metric)
            arrays = train(made, Data(), validate, run, CheckpointConfig(every=EVERY), said.append, validated=told)
    except Interrupted:
        arrays = None
    with Checkpoints(run.checkpoints, CheckpointConfig(every=1), read_only=True) as kept:
        newest = kept.latest
    return types.SimpleNamespace(run=run, said=said, arrays=arrays and jax.device_get(arrays), step=newest)


def ends(values, patience, higher=False):
    """The number of the validation after which the last `patience` ones were not better than the best before them."""
    score = [(x if higher else -x) if math.isfinite(x) else -math.inf for x in values]
    for n in range(patience, len(values) + 1):
        before = max(score[: n - patience], default=-math.inf)
        if all(x <= before for x in score[n - patience : n]):
            return n
    return None


VALUES = st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, math.nan, math.inf]), min_size=1, max_size=9)


@examples(200)
@given(values=VALUES, patience=st.integers(1, 4), higher=st.booleans())
def test_patience_ends_when_it_should(values, patience, higher):
    """A run would stop too early or too late, or take a number that is none for a better one."""
    count = Patience(patience, "loss", "highest" if higher else None)
    over = next((n for n, x in enumerate(values, 1) if count.take(n, x) or count.is_over), None)
    assert over == ends(values, patience, higher)


@examples(100)
@given(values=VALUES, patience=st.integers(1, 3), cut=st.integers(0, 9))
def test_the_count_is_in_the_rows(values, patience, cut):
    """After a kill the count would begin anew, and the run end at another step."""
    rows = [
        json.loads(json.dumps({"step": n, "validation_loss": x if math.isfinite(x) else None}))
        for n, x in enumerate(values, 1)
    ]
    whole, cut_off = Patience(patience, "loss"), Patience(patience, "loss")
    for n, x in enumerate(values, 1):
        whole.take(n, x)
    cut_off.read(rows, cut)
    for n, x in enumerate(values[cut:], cut + 1):
        cut_off.take(n, x)
    assert vars(cut_off) == vars(whole)


FALLING = [5.0, 4.0, 4.0, 4.5, 3.0, 3.5, 3.0, 2.0, 1.0, 0.5]


def test_a_run_ends_early_as_one_that_is_done(tmp_path, capsys):
    """It would go on, or end without a checkpoint of its last step, or not say which step was best."""
    found = go(tmp_path / "run", FALLING, 20, 2)
    assert found.step == 8 and int(found.arrays["step"]) == 8
    said = "stopping early at step 8, after 2 validations without a better loss; the best, 4.0000, is that of step 4"
    assert said in capsys.readouterr().out


def test_the_same_command_says_that_the_run_had_stopped(tmp_path):
    """It would train on, past where patience was over."""
    go(tmp_path / "run", FALLING, 20, 2)
    again = go(tmp_path / "run", FALLING, 20, 2)
    assert again.step == 8 and int(again.arrays["step"]) == 8
    (said,) = again.said
    assert said.startswith("stopped early at step 8, after 2 validations without a better loss; the best, 4.0000, is")


@pytest.mark.parametrize(
    ("steps", "patience", "until"),
    [(20, 3, 20), (20, None, 20), (24, 2, 14), (18, 2, 8), (20, 1, 8)],
)
def test_more_patience_or_more_steps_train_on(tmp_path, steps, patience, until):
    """A run that has stopped early could never be longer; or less of either would make it so."""
    go(tmp_path / "run", FALLING, 20, 2)
    found = go(tmp_path / "run", [*FALLING, 0.4, 0.3], steps, patience)
    assert found.step == until
    assert any(line.startswith("stopped early at step 8") for line in found.said) == (until == 8)


@pytest.mark.parametrize("stop_after", [2, 4, 6, 8, 10])
def test_a_run_that_was_stopped_ends_where_it_would_have(tmp_path, stop_after):
    """Each kill would give a run its whole patience back."""
    values = [5.0, 4.0, 4.0, 4.5, math.nan, 1.0, 1.0]
    whole = go(tmp_path / "whole", values, 14, 3)
    go(tmp_path / "run", values, 14, 3, stop_after=stop_after)
    found = go(tmp_path / "run", values, 14, 3)
    assert found.step == whole.step == 10
    for name, x in whole.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], x)
    assert untimed(read_metrics(found.run.metrics_file)) == untimed(read_metrics(whole.run.metrics_file))


def test_a_run_that_trains_on_after_an_early_stop_may_be_stopped_too(tmp_path):
    """Resumed, it would take itself for one that has stopped early, or stop with its next validation."""
    values = [5.0, 4.0, 4.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0]
    go(tmp_path / "run", values, 16, 2)
    go(tmp_path / "run", values, 20, 2, stop_after=10)
    assert go(tmp_path / "run", values, 20, 2).step == 12
    whole = go(tmp_path / "whole", values, 16, 2), go(tmp_path / "whole", values, 20, 2)
    assert [found.step for found in whole] == [8, 12]


def test_more_of_an_accuracy_is_better(tmp_path):
    """A classifier would stop as soon as it learns."""
    assert go(tmp_path / "up", [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], 12, 1, "accuracy").step == 10
    assert go(tmp_path / "down", [0.4, 0.3, 0.2, 0.1, 0.1, 0.1], 12, 1, "accuracy").step == 4


def test_a_last_step_is_no_early_stop(tmp_path, capsys):
    """A run that has reached its end would be said to have stopped early."""
    assert go(tmp_path / "run", [1.0, 2.0, 2.0], 6, 2).step == 6
    assert "stopping early" not in capsys.readouterr().out
    assert go(tmp_path / "run", [1.0, 2.0, 2.0], 6, 2).said == ["already trained to step 6"]


# In an experiment ------------------------------------------------------------------------------


def changed(config, **training):
    config = copy.deepcopy(config)
    config["training"] |= training
    return config


@pytest.mark.parametrize(
    ("task", "metrics"),
    by_day(
        [
            ("masked_lm", {"loss": False, "masked_accuracy": True}),
            ("causal_lm", {"loss": False, "perplexity": False}),
            ("text_classification", {"loss": False, "accuracy": True}),
            ("image_classification", {"loss": False, "accuracy": True}),
        ],
        0,
    ),
)
def test_every_metric_of_a_validation_can_be_waited_for(configs, finished, task, metrics):
    """A metric could not be named, or its better values would be taken for worse ones."""
    found = finished(task)
    rows = [row for row in read_metrics(found.run.metrics_file) if "validation_loss" in row]
    assert {name.removeprefix("validation_") for name in rows[-1]} - {"step", "seconds"} == metrics.keys()
    for metric, higher in metrics.items():
        Experiment.from_config(changed(configs[task], patience=2, patience_metric=metric))
        count = Patience(1, metric)
        for step, value in enumerate((0.5, 0.6)):
            count.take(step, value)
        assert (count.best == 0.6) == higher


def test_an_experiment_stops_early(configs, train, tmp_path):
    """The loop would not be told of the task's metric."""
    config = changed(configs["causal_lm"], steps=12, evaluate_every=2, patience=2)
    config["optimizer"]["learning_rate"] = 1e-30  # which changes nothing: no validation is better than the first
    found = train(config, tmp_path / "run")
    assert max(int(entry.name) for entry in found.run.checkpoints.iterdir()) == 6
    assert any("stopped early at step 6" in line for line in train(config, tmp_path / "run").said)


WRONG = {
    "a metric that the task lacks": (
        {"patience": 2, "patience_metric": "accuracy"},
        r"training.patience_metric must be one of \['loss', 'perplexity'\], got 'accuracy'",
    ),
    "none at all": ({"patience": 0}, "training.patience must be a positive integer, got 0"),
    "no such best": (
        {"patience": 1, "patience_best": "max"},
        r"training.patience_best must be one of \['lowest', 'highest'\], got 'max'",
    ),
    "a best without patience": ({"patience_best": "highest"}, "patience_best goes with patience, which is None"),
    "a metric without patience": ({"patience_metric": "perplexity"}, "patience_metric goes with patience, which is N"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(configs, name):
    """A run would train for hours, and fail or never stop at its first validation."""
    fields, wanted = WRONG[name]
    with pytest.raises(ConfigError, match=wanted) as refused:
        Experiment.from_config(changed(configs["causal_lm"], **fields))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("overrides", [{"optimizer.learning_rate": 0.1}, {"training.patience": 3}])
def test_a_sweep_refuses_patience(configs, overrides):
    """Members would be compared as if they had trained equally long, or patience be ignored."""
    patience = 2 if "training.patience" not in overrides else None
    with pytest.raises(ConfigError, match="training.patience must be None in a sweep"):
        make_members(changed(configs["causal_lm"], patience=patience), [overrides])
