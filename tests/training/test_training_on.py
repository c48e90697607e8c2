"""Runs that train on with more steps than they were started with: as if it had been so many from the beginning."""

import copy
import json
import shutil

import numpy as np
import pytest
import tiny_runs
from support import by_day, untimed

from tformer_jax.config import fields_of
from tformer_jax.training.changes import FREE_FIELDS
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.loading import load_run
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.program import TrainingConfig
from tformer_jax.training.run import Run, RunError

FEW, MANY = 6, 12
# What a state may have beside a model and Adam's memory, and how it may lie.
KINDS = {
    "plain": {},
    "average": {"training": {"average_decay": 0.9}},
    "adapter": {"training": {"adapter": "lora", "adapter_rank": 2, "adapter_on": [".*attention.w_[qv]"]}},
    "schedule-free": {"optimizer": {"name": "optax.contrib.schedule_free_adamw"}},
    "best checkpoints": {"checkpoint": {"keep": 1, "keep_best": 1}},
    "eight devices": {"parallel": {"data": 4, "fsdp": 2}},
    "skipped steps": {"training": {"max_skipped": 1}},
}


def with_changes(config, **sections):
    config = copy.deepcopy(config)
    for name, fields in sections.items():
        config[name] |= fields
    return config


def of_steps(config, steps):
    return with_changes(config, training={"steps": steps, "log_every": 2, "evaluate_every": 3}, checkpoint={"every": 3})


def arrays_of(run, step):
    with Checkpoints(run.checkpoints, CheckpointConfig(every=1), read_only=True) as checkpoints:
        return checkpoints.restore_as_saved(step)


def assert_same(one, other, step=MANY):
    """Every bit of the state, and every row of the metrics."""
    found, wanted = (arrays_of(run, step) for run in (one, other))
    assert found.keys() == wanted.keys() and len(found) > 5
    for name, x in wanted.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    assert untimed(read_metrics(one.metrics_file)) == untimed(read_metrics(other.metrics_file))


def trained_on(train, config, directory, few=FEW, many=MANY):
    train(of_steps(config, few), directory)
    return train(of_steps(config, many), directory)


@pytest.mark.parametrize("kind", by_day(KINDS, 0))
def test_more_steps_give_what_so_many_at_once_would(configs, train, tmp_path, kind):
    """A run that trains on is another one than its config says: of another state, or with a hole in its losses."""
    config = with_changes(configs["causal_lm"], **KINDS[kind])
    found = trained_on(train, config, tmp_path / "on")
    assert_same(found.run, train(of_steps(config, MANY), tmp_path / "at once").run)
    assert "training.steps 6 → 12" in found.said
    assert any(line.endswith("the result is that of 12 steps at once") for line in found.said)
    with found.run.locked():  # as a command has it
        assert json.loads(found.run.config_file.read_text("utf-8"))["training"]["steps"] == MANY


@pytest.mark.slow
@pytest.mark.parametrize("task", [name for name in tiny_runs.TASKS if name != "causal_lm"])
def test_every_task_trains_on(configs, train, tmp_path, task):
    """A task's batches, or what is random about them, depend on how many steps there are."""
    found = trained_on(train, configs[task], tmp_path / "on")
    assert_same(found.run, train(of_steps(configs[task], MANY), tmp_path / "at once").run)


def test_a_stopped_run_trains_on_with_more_steps_too(configs, train, tmp_path):
    """Only a run that has reached its end could be made longer; or it must reach the old end first."""
    config = configs["causal_lm"]
    run = train(of_steps(config, MANY), tmp_path / "on").run
    shutil.rmtree(run.checkpoints / "12")  # as if it had been killed before its last checkpoint
    found = train(of_steps(config, 15), tmp_path / "on")
    assert "going on from the checkpoint of step 9" in found.said and "training.steps 12 → 15" in found.said
    assert_same(found.run, train(of_steps(config, 15), tmp_path / "at once").run, 15)


def test_a_schedule_that_depends_on_the_steps_says_how_it_jumps(configs, train, tmp_path):
    """A learning rate that has fallen to 0 would rise again, in silence, and the run pass for one of so many steps."""
    config = with_changes(configs["causal_lm"], optimizer={"schedule": "linear", "warmup_steps": 2})
    found = trained_on(train, config, tmp_path / "on")
    (line,) = (line for line in found.said if "jumps" in line)
    # By hand: 1 - (t - 2) / (total - 2), times 0.01, of t = 6 of 6 and t = 7 of 12.
    wanted = "from 0 at step 6 to 0.005 at step 7, and the result is not that of 12 steps at once"
    assert line == f"the schedule 'linear' depends on training.steps: the learning rate jumps {wanted}"
    rates = {row["step"]: row["learning_rate"] for row in read_metrics(found.run.metrics_file) if "loss" in row}
    assert rates[6] == 0 and rates[8] == pytest.approx(0.01 * (1 - 6 / 10), rel=1e-6)


@pytest.mark.slow
def test_a_schedule_that_has_not_looked_at_the_steps_yet_does_not_jump(configs, train, tmp_path):
    """A run that is stopped in its warm-up would be said to be another one."""
    config = with_changes(configs["causal_lm"], optimizer={"schedule": "cosine", "warmup_steps": 3})
    run = train(of_steps(config, FEW), tmp_path / "on").run
    shutil.rmtree(run.checkpoints / "6")
    found = train(of_steps(config, MANY), tmp_path / "on")
    assert not any("jumps" in line for line in found.said) and "training.steps 6 → 12" in found.said
    assert_same(found.run, train(of_steps(config, MANY), tmp_path / "at once").run)


@pytest.fixture(scope="module")
def longer(configs, train, tmp_path_factory):
    """A run of 6 steps that has trained on to 12, with all its checkpoints."""
    config = with_changes(configs["causal_lm"], checkpoint={"keep": 9})
    found = trained_on(train, config, tmp_path_factory.mktemp("longer") / "run")
    with found.run.locked():  # as a command has it: config.json is the new one
        return found


def test_older_checkpoints_can_still_be_read(longer, train, tmp_path):
    """`evaluate --step=3` would be refused, because the run's config says more steps than that checkpoint's."""
    for step in (3, 6, 9, 12):
        _, _, model = load_run(Run.open(longer.run.directory), step)
        held = {f"model.{name}": x for name, x in tiny_runs.named_arrays(model).items()}
        for name, x in arrays_of(longer.run, step).items():
            if name.startswith("model."):
                np.testing.assert_array_equal(held[name], x, err_msg=name)


def test_a_run_starts_from_one_that_has_trained_on(longer, train, tmp_path):
    """It would start from the state before, or be refused."""
    config = with_changes(longer.run.config, task={"init_from": str(longer.run.directory)})
    config = with_changes(config, optimizer={"learning_rate": 1e-30}, training={"steps": 1})
    found = tiny_runs.named_arrays(train(config, tmp_path / "run").model)
    wanted = arrays_of(longer.run, 12)
    for name, x in found.items():
        np.testing.assert_allclose(x, wanted[f"model.{name}"], 0, 1e-20, err_msg=name)


def test_fewer_steps_than_are_done_are_refused(longer):
    """A run would be said to be finished whose parameters are those of more steps."""
    before = longer.run.config_file.read_bytes()
    wanted = "is trained further than training.steps=5: its newest checkpoint is of step 12. Give training.steps=12 or"
    with pytest.raises(RunError, match=wanted) as error:
        Run.start(longer.run.directory, of_steps(longer.run.config, 5))
    assert "\n" not in str(error.value) and longer.run.config_file.read_bytes() == before


FREE = {
    "training": {"log_every": 1, "evaluate_every": 2, "validation_batches": 1},
    "checkpoint": {"every": 2, "keep": 5, "keep_best": 2, "best_metric": "perplexity"},
}


def test_how_a_run_is_watched_may_change(configs, train, tmp_path):
    """A run could not be validated or kept more often than it was at first; or that would change what it learns."""
    config = configs["causal_lm"]
    train(of_steps(config, FEW), tmp_path / "on")
    found = train(with_changes(of_steps(config, MANY), **FREE), tmp_path / "on")
    wanted = arrays_of(train(of_steps(config, MANY), tmp_path / "at once").run, MANY)
    for name, x in arrays_of(found.run, MANY).items():
        np.testing.assert_array_equal(x, wanted[name], err_msg=name)
    (line,) = (line for line in found.said if line.startswith("training.steps"))
    said = ["training.steps 6 → 12", "training.evaluate_every 3 → 2", "checkpoint.best_metric 'loss' → 'perplexity'"]
    assert all(part in line.split(", ") for part in said)
    steps = [row["step"] for row in read_metrics(found.run.metrics_file) if "validation_loss" in row]
    assert steps == [3, 6, 8, 10, 12]
    assert {int(entry.name) for entry in found.run.checkpoints.iterdir()} >= {8, 10, 12}


def test_all_else_is_refused(longer):
    """A run would go on as another one."""
    names = [name for name, *_ in fields_of(TrainingConfig, "training.")]
    fixed = [name.partition(".")[2] for name in names if name not in FREE_FIELDS]
    assert set(fixed) >= {"seed", "accumulate", "average_decay", "adapter", "max_skipped"}
    for name in fixed:
        config = with_changes(longer.run.config, training={name: "another"})
        with pytest.raises(RunError, match=rf"differs in training.{name} "):
            Run.start(longer.run.directory, config)
    with pytest.raises(RunError, match=r"differs in optimizer.schedule \(\"constant\" there, \"linear\" here\)"):
        Run.start(longer.run.directory, with_changes(longer.run.config, optimizer={"schedule": "linear"}))


def test_a_run_of_an_older_version_trains_on(longer, train, tmp_path):
    """A field that an older version did not have, and that may change, would be a difference."""
    run = Run.open(shutil.copytree(longer.run.directory, tmp_path / "run"))
    old = copy.deepcopy(run.config)
    for name in ("patience", "patience_metric", "validation_batches"):
        old["training"].pop(name, None)
    run.config_file.write_text(json.dumps(old), "utf-8")
    config = with_changes(old, training={"patience": None, "patience_metric": "loss", "validation_batches": None})
    assert not any("→" in line for line in train(config, run.directory).said)
