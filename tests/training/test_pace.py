"""What rows have beside the numbers of a step: the mean loss between rows, time, speed, share of the peak, memory."""

import json
import math
import resource
import types

import jax
import numpy as np
import pytest
from test_loop import STEPS, TRAINING, Data, make_trainer, validation

from tformer_jax.analysis.flops import causal_lm_flops
from tformer_jax.analysis.peaks import PEAKS, peak_flops
from tformer_jax.training import pace
from tformer_jax.training.checkpoints import CheckpointConfig
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.loop import train
from tformer_jax.training.pace import IntervalMean, Pace
from tformer_jax.training.run import Run


def uneven(model, batch, key):
    """A loss whose weight differs from batch to batch."""
    error = batch["x"] @ model.w[...] - batch["y"]
    return (error**2).mean(), 1.0 + abs(batch["x"][0, 0]), {}


@pytest.fixture(scope="module")
def trainer():
    """Keeps the loss and the weight of every step in `seen`."""
    trainer, seen = make_trainer(uneven), []
    step = trainer.step

    def watched(arrays, batch):
        arrays, metrics = step(arrays, batch)
        seen.append((float(metrics["loss"]), float(metrics["weight"])))
        return arrays, metrics

    trainer.step, trainer.seen = watched, seen
    return trainer


def go(trainer, run, data=None, **how):
    return train(trainer, data or Data(), validation, run, CheckpointConfig(every=3), lambda line: None, **how)


def rows_of(run):
    return [json.loads(line) for line in run.metrics_file.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(trainer, tmp_path_factory):
    run = Run.start(tmp_path_factory.mktemp("pace") / "run", {"name": "test"})
    go(trainer, run, unit="masked tokens")
    return run


def test_a_row_has_the_mean_loss_since_the_row_before(run, trainer):
    """The curve would be of one batch in twenty, or the mean not be over targets."""
    loss, weight = np.asarray(trainer.seen[:STEPS], np.float64).T
    every = TRAINING.log_every
    wanted = [np.average(loss[i : i + every], weights=weight[i : i + every]) for i in range(0, STEPS, every)]
    found = [row["mean_loss"] for row in rows_of(run) if "loss" in row]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_every_row_says_when(run):
    """A curve over time could not be drawn; time would run backwards."""
    seconds = [row["seconds"] for row in rows_of(run)]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_training_rows_have_speed_and_memory_by_the_names_of_all_tasks(run):
    """A plot would have to know the task; on a CPU, whose peak nobody knows, there is no share of it."""
    rows = [row for row in rows_of(run) if "loss" in row]
    assert all(row["masked_tokens_per_second"] > 0 and "mfu" not in row for row in rows)
    now = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert all(0 < row["peak_memory_bytes"] <= now for row in rows)


@pytest.mark.parametrize("stop_at", [4, 10])
def test_a_run_that_goes_on_counts_on(trainer, tmp_path, stop_at, monkeypatch):
    """Seconds would begin anew, or those of a dead process be lost. The checkpoint lies between two rows."""
    now = [100.0]
    monkeypatch.setattr(pace, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def slow(step, arrays):
        now[0] += 50.0
        return validation(step, arrays)

    class Slow(Data):
        def batch(self, i):
            now[0] += 1.0
            return super().batch(i)

    run = Run.start(tmp_path / "run", {"name": "test"})
    how = CheckpointConfig(every=3), lambda line: None
    with pytest.raises(InterruptedError):
        train(trainer, Slow(stop_at=stop_at), slow, run, *how)
    kept = next(row["seconds"] for row in reversed(rows_of(run)) if row["step"] <= stop_at - stop_at % 3)
    now[0] += 1e6  # until somebody starts it again
    train(trainer, Slow(), slow, run, *how)
    seconds = [row["seconds"] for row in rows_of(run)]
    assert seconds == sorted(seconds)
    assert kept < seconds[-1] <= STEPS + 3 + 3 * 50


def test_a_mean_is_of_what_is_finite_and_begins_anew():
    """A step that was skipped would make the rows after it be no numbers."""
    mean = IntervalMean()
    for loss, weight in ((1.0, 1.0), (math.nan, 5.0), (4.0, 2.0)):
        mean.add(loss, weight)
    assert mean.take() == 3.0
    assert math.isnan(mean.take())
    mean.add(2.0, 3.0)
    assert mean.take() == 2.0


# The share of the peak -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"),
        ("TPU v4", "v4"), ("TPU v5 lite", "v5e"), ("TPU v5e", "v5e"), ("TPU v5", "v5p"), ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"), ("TPU v6e", "v6e"),
        ("NVIDIA H100 PCIe", None), ("NVIDIA H100 NVL", None), ("NVIDIA GeForce RTX 4090", None), ("cpu", None),
    ],
)  # fmt: skip
def test_a_peak_is_known_by_what_jax_calls_the_device(kind, name):
    """The share would be of another device's peak: as JAX's `device_kind` has them."""
    assert peak_flops(kind) == (None if name is None else 1e12 * PEAKS[name])


def device(stats=None):
    return types.SimpleNamespace(device_kind="NVIDIA H200", memory_stats=lambda: stats, process_index=0)


def test_the_share_of_the_peak_is_what_was_computed_in_busy_time():
    """It would count the seconds of a validation, batches of another shape, or one device of two."""
    flops = lambda batch: 1e12 * batch["x"].shape[0]
    found = Pace("tokens", [device(), device()], flops, {})
    rows = []
    for shapes, busy in (((1, 1), 2.0), ((3, 1, 2), 5.0)):
        for rows_of_batch in shapes:
            found.begin({"x": np.zeros((rows_of_batch, 2))})
            found.end(1.0, 10.0)
        rows.append(found.row(busy))
    peak = 2 * 989e12
    assert [row["mfu"] for row in rows] == pytest.approx([2e12 / 2 / peak, 6e12 / 3 / peak], abs=1e-6)
    assert [row["tokens_per_second"] for row in rows] == pytest.approx([10.0, 10.0])


def test_where_nobody_counts_there_is_no_share():
    """A task without a formula would have a share of 0, or rows end in an error."""
    for flops in (None, lambda batch: None):
        found = Pace("tokens", [device()], flops, {})
        found.begin({"x": np.zeros((1, 2))})
        found.end(1.0, 10.0)
        assert "mfu" not in found.row(1.0)


def test_memory_is_the_devices_where_they_say_it():
    """A GPU's memory would be said to be that of the process beside it."""
    full, empty = device({"peak_bytes_in_use": 7}), device({"peak_bytes_in_use": 3})
    assert Pace("tokens", [empty, full], None, {}).row(1.0)["peak_memory_bytes"] == 7
    assert Pace("tokens", [device()], None, {}).row(1.0)["peak_memory_bytes"] > 10 * 2**20


def test_the_flops_of_a_step_are_three_forward_passes(configs):
    """The share would leave the backward pass out, or be of another batch."""
    experiment = Experiment.from_config(configs["causal_lm"])
    task = experiment.planned_task()
    count = experiment.step_flops(task)
    batch = {"tokens": jax.ShapeDtypeStruct((3, 17), np.int32)}
    assert count(batch) == 3 * causal_lm_flops(experiment.model_config(task.model_fields), 3, 16)
    adapter = {"adapter": "lora", "adapter_rank": 2, "adapter_on": [".*attention.w_[qv]"]}
    adapted = configs["causal_lm"] | {"training": configs["causal_lm"]["training"] | adapter}
    assert Experiment.from_config(adapted).step_flops(task) is None
