"""kill -9 at random moments, in real processes: the parameters must be those of a run that nothing disturbed."""

import multiprocessing
import os
import random
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from event_files import events, numbers
from support import untimed

from tformer_jax.training.metrics import read_metrics

KILLS, STEPS, EVERY = 20, 160, 4
# One kill in four comes so long after the start, wherever that is; the others after the life's first checkpoint.
AFTER_START, AFTER_CHECKPOINT = (0.1, 1.0), (0.0, 0.2)


def live(directory, config, cache):
    """What the process does: the whole command, but for its flags."""
    import jax

    from tformer_jax.training.run import Run
    from tformer_jax.training.running import run_training

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    run = Run.start(directory, config)
    with run.locked():
        run_training(run, lambda _: None)


@pytest.fixture(scope="module")
def start(config, tmp_path_factory):
    """`start(directory, steps)`: a process that trains there; forked from one that has imported everything already."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tformer_jax.training.running"])

    def start(directory, steps):
        training = {"steps": steps, "seed": 5, "log_every": 10, "evaluate_every": 50, "average_decay": 0.9}
        changed = config | {"training": training, "checkpoint": {"every": EVERY, "keep": 2}}
        process = context.Process(target=live, args=(directory, changed, cache))
        process.start()
        return process

    return start


def arrays_of(directory, steps):
    """The last state, read without this package."""
    saved = ocp.StandardCheckpointer().restore((directory / "checkpoints" / str(steps) / "arrays").absolute())
    return {name: np.asarray(x) for name, x in saved.items()}


def checkpoints_of(directory):
    """The names of what is there, finished or not."""
    place = directory / "checkpoints"
    return {entry.name for entry in place.iterdir()} if place.exists() else set()


def wait(process, directory, rng):
    """Until the moment of a kill, or the process's own end."""
    if rng.random() < 0.25:
        return process.join(rng.uniform(*AFTER_START))
    before = checkpoints_of(directory)
    while process.exitcode is None and not any(name.isdigit() for name in checkpoints_of(directory) - before):
        time.sleep(0.005)
    return process.join(rng.uniform(*AFTER_CHECKPOINT))


def moment(directory):
    """What a process was doing that is no more."""
    entries = checkpoints_of(directory)
    if any(not name.isdigit() for name in entries):
        return "while a checkpoint was written"
    return "between checkpoints" if entries else "before the first checkpoint"


@pytest.mark.slow
def test_random_kills_do_not_change_the_result(start, tmp_path, record_property):
    """A crash would cost more than the time since the last checkpoint: other parameters, other metrics, or the run."""
    whole = start(tmp_path / "whole", STEPS)
    whole.join()
    assert whole.exitcode == 0
    wanted, rng, kills, runs = arrays_of(tmp_path / "whole", STEPS), random.Random(0), [], 0
    while len(kills) < KILLS or runs == 0:
        directory = tmp_path / f"run {runs}"
        while True:
            process = start(directory, STEPS)
            if len(kills) < KILLS:
                wait(process, directory, rng)
            else:
                process.join()
            if process.exitcode is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills.append(moment(directory))
        assert process.exitcode == 0, f"after {len(kills)} kills, the last {kills[-1]}"
        found = arrays_of(directory, STEPS)
        assert found.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=f"{name}, after {len(kills)} kills")
        rows, whole = (read_metrics(run / "metrics.jsonl") for run in (directory, tmp_path / "whole"))
        assert untimed(rows) == untimed(whole)
        assert not (directory / "damaged").exists()
        in_rows = sorted((row["step"], name) for row in rows for name in row if name != "step")
        assert [(step, tag) for step, tag, _ in numbers(events(directory / "tensorboard"))] == in_rows
        runs += 1
    parts = ", ".join(f"{kills.count(kind)} {kind}" for kind in sorted(set(kills)))
    record_property("summary", f"{len(kills)} random kills ({parts}), {runs} run(s): parameters bit-identical")
