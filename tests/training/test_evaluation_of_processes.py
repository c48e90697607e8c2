"""Evaluations of several real processes on loopback: each reads its rows, and all have what one process has."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny_runs
from support import unchecked_annotations

# Of each task: the numbers, the samples, and what was asked of its batches while it was scored.
EVALUATES = """
import json, sys, jax
coordinator, count, number, devices, asked, file = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(devices))
jax.distributed.initialize(coordinator, int(count), int(number))
from pathlib import Path
from tformer_jax.nn.placement import on_mesh_of
from tformer_jax.training.loading import load_run
from tformer_jax.training.running import load_data
from tformer_jax.training.run import Run

class Spied:
    def __init__(self, batches, seen):
        self.batches, self.seen = batches, seen
    def __getattr__(self, name):
        return getattr(self.batches, name)
    def __len__(self):
        return len(self.batches)
    def batch(self, i, rows=slice(None)):
        self.seen.append([i, *rows.indices(self.batches.row_count(i))[:2], self.batches.row_count(i)])
        return self.batches.batch(i, rows)

found = {}
for name, (directory, parallel) in json.loads(asked).items():
    run = Run.open(Path(directory))
    experiment, task, model = load_run(Run(run.directory, run.config | {"parallel": parallel}), spread=True)
    data, seen = load_data(experiment, run.directory, fresh=False), []
    plain = data.evaluation_batches
    data.evaluation_batches = lambda split: Spied(plain(split), seen)
    with on_mesh_of(model):
        evaluation = task.evaluate(model, data, ["test"])["test"]
        sample = task.sample(model) if task.samples else ""
    held = {len(x.sharding.device_set) for x in jax.tree.leaves(model)}
    outcomes = [] if evaluation.outcomes is None else [x.tolist() for x in evaluation.outcomes]
    found[name] = [evaluation.metrics, [list(x) for x in evaluation.samples], sample, seen, [*held], outcomes]
Path(file).write_text(json.dumps(found), 'utf-8')
"""
TASKS = ("translation", *tiny_runs.TASKS)


@pytest.fixture(scope="module")
def runs(config, finished, tmp_path_factory):
    """A finished run of each task."""
    longer = config | {"training": {"steps": 150, "log_every": 50, "evaluate_every": 150}}
    translation = tiny_runs.run_and_train(longer, tmp_path_factory.mktemp("translation") / "run")
    return {"translation": translation} | {name: finished(name) for name in tiny_runs.TASKS}


@pytest.fixture(scope="module", params=[(2, {"data": 2, "fsdp": 2}), (4, {"data": 1, "fsdp": 2, "tensor": 2})], ids=str)
def processes(request, runs, tmp_path_factory):
    """What each of some processes found, which share four devices."""
    count, parallel = request.param
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        where = f"localhost:{probe.getsockname()[1]}"
    asked = json.dumps({name: (str(made.run.directory), parallel) for name, made in runs.items()})
    # Compiled in a hurry: who waits for another one's compiler for 30 seconds, gives up.
    hurry = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    environment = os.environ | {"XLA_FLAGS": f"{hurry} --xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    started, files = [], [tmp_path_factory.mktemp("found") / f"{number}.json" for number in range(count)]
    try:
        for number, file in enumerate(files):
            given = where, str(count), str(number), str(4 // count), asked, str(file)
            command = [sys.executable, "-c", EVALUATES, *given]
            how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
            started.append(subprocess.Popen(command, **how))
        said = [process.communicate()[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * count, said
    return [json.loads(file.read_text("utf-8")) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_all_processes_have_what_one_device_gives(processes, runs, task):
    """A process would know its own rows alone, and write numbers and samples of these."""
    made = runs[task]
    with unchecked_annotations():
        wanted = made.task.evaluate(made.model, made.data, ["test"])["test"]
        text = made.task.sample(made.model) if made.task.samples else ""
    first = processes[0][task]
    for found in processes:
        assert found[task][:3] == first[:3] and found[task][5] == first[5]
    metrics, samples, sample, _, devices, outcomes = first
    assert (metrics.keys(), sample, devices) == (wanted.metrics.keys(), text, [4])
    for name, value in wanted.metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    if task != "masked_lm":  # which shows probabilities
        assert samples == [list(x) for x in wanted.samples]
    assert len(samples) == len(wanted.samples)
    for x, y in zip(outcomes, wanted.outcomes or [], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_each_process_asks_for_its_own_rows_alone(processes, task):
    """Every process would read and decode the whole split."""
    asked = [found[task][3] for found in processes]
    # The rows that a masked model's pseudo-perplexity and samples are of, every process reads: one at a time.
    parts = [
        {(i, *part) for i, start, stop, rows in seen if (part := (start, stop)) and stop - start > 1} for seen in asked
    ]
    counts = {i: rows for seen in asked for i, _, _, rows in seen}
    assert counts
    for i, rows in counts.items():
        shares = [sorted({(start, stop) for number, start, stop in of if number == i}) for of in parts]
        covered = {row for share in shares for start, stop in share for row in range(start, stop)}
        assert covered == {*range(rows)}
        if rows % 2 == 0:  # two groups of processes: each reads half
            assert all(sum(stop - start for start, stop in share) <= rows // 2 for share in shares), (i, shares)
