"""Training that takes no time, and workers of a search that do it: real processes, real files, and no model."""

import json
import math
import os
import shutil
import signal
import time

STEPS = 12


def loss_of(config, step=STEPS):
    """Lowest for a learning rate of 0.01, and falling."""
    return (math.log10(config["optimizer"]["learning_rate"]) + 2) ** 2 + 1 / step


def trainer(seconds=0.0, before=lambda run, step: None):
    """In place of `run_training`. A run's `steps.txt` says which process made each step: it goes on from there.

    `seconds`: of a step; `before(run, step)`: is called before each.
    """
    from tformer_jax.training.interruption import Interrupted, Interruption

    def train(run, say, validated):
        file = run.directory / "steps.txt"
        done = len(steps_of(run.directory))
        with Interruption() as interruption, open(file, "a", buffering=1) as steps:
            for step in range(done + 1, STEPS + 1):
                before(run, step)
                time.sleep(seconds)
                stop = False
                if step % run.config["training"]["evaluate_every"] == 0:
                    loss = loss_of(run.config, step)
                    with open(run.metrics_file, "a") as metrics:
                        metrics.write(json.dumps({"step": step, "loss": loss + 1}) + "\n")
                        metrics.write(json.dumps({"step": step, "validation_loss": loss}) + "\n")
                    stop = validated(step, {"loss": loss})
                    assert not (stop and step == STEPS), "what is at its end cannot be ended early"
                steps.write(f"{step} {os.getpid()}\n")
                if (stop or interruption.requested) and step < STEPS:
                    raise Interrupted(f"stopped after step {step} of {STEPS}, whose checkpoint is kept")

    return train


def steps_of(directory):
    """The steps of a run, and the process that made each."""
    file = directory / "steps.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def careless(connect, empty=None):
    """`sqlite3.connect`, of databases that need not survive a power failure; a new one begins as a copy of `empty`."""

    def connect_carelessly(file, *args, **kwargs):
        if empty is not None and not os.path.exists(file):
            shutil.copyfile(empty, file)
        connection = connect(file, *args, **kwargs)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    return connect_carelessly


def work(directory, config, text, how, seconds=None, kill_at=None):
    """What a worker does; `seconds` of a step, None: real training; `kill_at`: see `_kill_at`."""
    from tformer_jax.sweeps import database, worker
    from tformer_jax.sweeps.search import SearchConfig, search
    from tformer_jax.sweeps.text import parse

    database.HEARTBEAT_SECONDS, database.GRACE_SECONDS, worker._POLL_SECONDS = 1, 2, 0.2
    os.dup2(os.open(directory.parent / f"{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT), 1)
    if seconds is not None:
        worker.run_training = trainer(seconds)
    if kill_at is not None:
        _kill_at(*kill_at)
    search(directory, config, parse(text), SearchConfig(**how), lambda line: print(line, flush=True))


def _kill_at(owner, name, call):
    """Ends this process at the call-th call of a method, before it does anything."""
    import importlib

    module, _, cls = owner.partition(":")
    owner = importlib.import_module(module)
    for part in filter(None, cls.split(".")):
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), []

    def killing(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, killing)
