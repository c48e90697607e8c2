"""Workers of a search as real processes that are killed -9, on SQLite and on a real PostgreSQL server."""

import fcntl
import getpass
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pretended
import pytest
import tiny_runs
from optuna.trial import TrialState
from support import by_day

from tformer_jax.config import ConfigError
from tformer_jax.sweeps import worker
from tformer_jax.sweeps.search import SearchConfig, search
from tformer_jax.sweeps.text import parse
from tformer_jax.training.run import RunError

TEXT = "learning_rate=log(1e-3,1e-1); model.feed_forward.width=8..32"


@pytest.fixture(scope="module")
def config(place):
    return tiny_runs.configs(place)["causal_lm"]


@pytest.fixture(scope="module")
def start(config):
    """`start(directory, how, **more)`: a worker; forked from a process that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tformer_jax.sweeps.worker", "alembic.config", "pretended"])

    def start(directory, how, **more):
        directory.mkdir(parents=True, exist_ok=True)
        work = {"target": pretended.work, "args": (directory, config, TEXT, how), "kwargs": more}
        process = context.Process(**work, daemon=True)
        process.start()
        return process

    return start


@pytest.fixture
def finish(config, monkeypatch, tables):
    """`finish(directory, how)`: the rows of a search that this process brings to its end."""
    monkeypatch.setattr(worker, "run_training", pretended.trainer())
    monkeypatch.setattr(sqlite3, "connect", pretended.careless(sqlite3.connect, tables))
    return lambda directory, how: search(directory, config, parse(TEXT), SearchConfig(**how), lambda line: None)


@pytest.fixture(scope="module")
def postgresql():
    """The URL of a server that is there for these tests alone."""
    psycopg = pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    found = shutil.which("initdb") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    programs = Path(found).resolve().parent
    user = "nobody" if os.getuid() == 0 else getpass.getuser()  # the server refuses to be root
    place = Path(tempfile.mkdtemp())
    shutil.chown(place, user)

    def run(name, *arguments):
        command = [programs / name, "-D", place / "data", *arguments]
        subprocess.run(command, user=user, cwd=place, check=True, stdout=subprocess.DEVNULL, timeout=60)

    run("initdb", "--username=tester", "--auth=trust", "--no-sync")
    run("pg_ctl", "start", "-w", "-l", place / "log", "-o", f"-k {place} -c listen_addresses='' -c fsync=off")
    with psycopg.connect(f"host={place} user=tester dbname=postgres", autocommit=True) as connection:
        connection.execute('CREATE DATABASE "{tests}"')  # a name that Optuna would take for a template
    yield f"postgresql://tester@/{{tests}}?host={place}"
    run("pg_ctl", "stop", "-m", "immediate")
    shutil.rmtree(place)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request):
    """Of `SearchConfig`."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgresql")


def study_of(directory, storage):
    """The study as Optuna sees it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage is None:
        return optuna.load_study(study_name="search", storage=f"sqlite:///{directory}/study.db")
    url = storage.replace("://", "+psycopg://").replace("{", "{{").replace("}", "}}")
    return optuna.load_study(study_name=directory.name, storage=url)


def ends_of(*processes, seconds=120):
    """The exit codes of processes; None of one that does not come to an end."""
    for process in processes:
        process.join(seconds)
    return [process.exitcode for process in processes]


def in_the_middle(directory, process):
    """The number of the trial that a process is training, once it is well begun and far from its end."""
    while process.exitcode is None:
        for trial in directory.glob("trials/*"):
            steps = pretended.steps_of(trial)
            if steps and steps[-1][1] == process.pid and 2 <= len(steps) <= 8:
                return int(trial.name)
        time.sleep(0.005)
    raise AssertionError("the worker has come to an end")


def check_whole(directory, storage, count):
    """Each trial of a study is finished once, and its run has the value; returns the trials by number."""
    trials = study_of(directory, storage).get_trials()
    finished = {trial.number: trial for trial in trials if trial.state == TrialState.COMPLETE}
    assert len(finished) == count
    assert {trial.state for trial in trials if trial.number not in finished} <= {TrialState.FAIL}
    assert {int(path.name) for path in directory.glob("trials/*")} == set(finished)
    for number, trial in finished.items():
        rows = [json.loads(row) for row in (directory / f"trials/{number}/metrics.jsonl").read_text().splitlines()]
        assert trial.value == [row["validation_loss"] for row in rows if "validation_loss" in row][-1]
    return finished


@pytest.mark.slow
def test_killed_workers_lose_nothing(start, storage, tmp_path):
    """Four workers, of which two are killed: a trial would be lost or counted twice, or two would train one run."""
    directory, rng, count = tmp_path / f"of {storage and 'postgresql'}", random.Random(0), 12
    how = {"trials": count, "sampler": "random", "storage": storage}
    victims = [start(directory, how, seconds=0.1) for _ in range(2)]
    for victim in victims:
        in_the_middle(directory, victim)
    others = [start(directory, how, seconds=0.02) for _ in range(2)]
    killed = []
    for victim in victims:
        killed.append(in_the_middle(directory, victim))
        victim.join(rng.uniform(0, 0.2))
        victim.kill()
    assert ends_of(*victims, *others) == [-signal.SIGKILL] * 2 + [0, 0]
    finished = check_whole(directory, storage, count)
    steps = {number: pretended.steps_of(directory / f"trials/{number}") for number in finished}
    for number, made in steps.items():
        assert [step for step, _ in made] == list(range(1, pretended.STEPS + 1)), number
        assert len({process for _, process in made}) == (2 if number in killed else 1), number
    assert len({json.dumps(trial.params) for trial in finished.values()}) == count


# What a worker is about to do when it is killed: the class, the method, and the how-manieth call.
MOMENTS = {
    "drawing": ("optuna.trial:Trial", "_suggest", 2),
    "saying that it lives": ("optuna.storages:RDBStorage", "record_heartbeat", 1),
    "saying that it has the trial": ("optuna.trial:Trial", "set_user_attr", 1),
    "making the run": ("tformer_jax.training.run:Run", "start", 1),
    "training": ("tformer_jax.sweeps.trials:Trials", "prunes", 2),
    "telling": ("tformer_jax.sweeps.trials:Trials", "finish", 1),
    "telling how it ended": ("optuna.trial:Trial", "set_user_attr", 4),
    "telling at last": ("optuna:Study", "tell", 1),
    "telling of the results": ("tformer_jax.sweeps.trials:Trials", "rows", 1),
}


@pytest.fixture(scope="module")
def killed(start, tmp_path_factory):
    """`killed(moment)`: the directory that a worker has left behind."""

    def killed(moment):
        directory = tmp_path_factory.mktemp("killed") / "sweep"
        process = start(directory, {"trials": 2, "sampler": "random"}, seconds=0.0, kill_at=MOMENTS[moment])
        assert ends_of(process) == [-signal.SIGKILL]
        return directory

    return killed


def silence(directory):
    """As if the last words of all workers were an hour old."""
    with sqlite3.connect(directory / "study.db") as connection:
        connection.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
    connection.close()


@pytest.mark.parametrize("moment", by_day(MOMENTS, 0))
def test_a_worker_may_be_killed_at_any_moment(killed, finish, tmp_path, moment):
    """A trial would be lost or counted twice, other parameters drawn, or the next worker wait for ever."""
    how = {"trials": 2, "sampler": "random"}
    directory = killed(moment)
    silence(directory)
    rows, undisturbed = finish(directory, how), finish(tmp_path / "undisturbed", how)
    names = ("status", "overrides", "final", "best", "steps")
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in undisturbed]
    for number in check_whole(directory, None, 2):
        steps = [step for step, _ in pretended.steps_of(directory / f"trials/{number}")]
        assert steps == list(range(1, pretended.STEPS + 1))


@pytest.mark.slow
def test_a_pruned_trial_stays_pruned_if_its_worker_is_killed(start, finish, tmp_path):
    """It would be trained on, because the rung is behind it."""
    how = {"trials": 6, "sampler": "random", "pruner": "hyperband"}
    ended = ("tformer_jax.training.interruption:Interrupted", "__init__", 1)
    process = start(tmp_path / "sweep", how, seconds=0.0, kill_at=ended)
    assert ends_of(process) == [-signal.SIGKILL]
    silence(tmp_path / "sweep")
    rows, undisturbed = finish(tmp_path / "sweep", how), finish(tmp_path / "undisturbed", how)
    assert [(row["status"], row["steps"]) for row in rows] == [(row["status"], row["steps"]) for row in undisturbed]
    assert "pruned" in {row["status"] for row in rows}


def put_to_sleep(process, lock):
    """Stops a process, at a moment when it does not hold a lock."""
    with open(lock) as opened:
        while True:
            os.kill(process.pid, signal.SIGSTOP)
            try:
                return fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(process.pid, signal.SIGCONT)
                time.sleep(0.01)


def test_a_worker_that_only_sleeps_keeps_its_trial(start, tmp_path):
    """A laptop's lid was closed, or a debugger is at work: two processes would train one run."""
    directory, how = tmp_path / "sweep", {"trials": 1, "sampler": "random"}
    sleeping = start(directory, how, seconds=0.1)
    assert in_the_middle(directory, sleeping) == 0
    put_to_sleep(sleeping, directory / "study.lock")
    silence(directory)
    other = start(directory, how, seconds=0.0)
    said = directory.parent / f"{other.pid}.txt"
    while not said.exists() or "waiting" not in said.read_text():
        assert other.exitcode is None
        time.sleep(0.01)
    other.join(0.5)  # it has asked a few times more
    os.kill(sleeping.pid, signal.SIGCONT)
    assert ends_of(sleeping, other) == [0, 0]
    assert pretended.steps_of(directory / "trials/0") == [(step, sleeping.pid) for step in range(1, 13)]


# PostgreSQL --------------------------------------------------------------------------------------


def test_two_directories_do_not_share_a_study(postgresql, finish, tmp_path):
    """Each would miss the runs of the other."""
    how = {"trials": 1, "sampler": "random", "storage": postgresql}
    finish(tmp_path / "one/sweep", how)
    with pytest.raises(
        RunError, match="the study 'sweep' belongs to the search in .*one/sweep; choose another --study"
    ):
        finish(tmp_path / "two/sweep", how)
    assert len(finish(tmp_path / "two/sweep", how | {"study": "two"})) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://user:secret@127.0.0.1:1/base", r"postgresql://user:\*\*\*@127.0.0.1:1/base: .*refused"),
        ("postgresql+psycopg://user:secret@/base?host=/nowhere&password=secret", r"user:\*\*\*@/base: .*/nowhere"),
        ("postgresql://user:secret@host:port/base", r"such as postgresql://user@host/database, got .*\*\*\*@host:port"),
        ("postgresql://user:se@cret@host/base", r"write an @ of a password as %40; got postgresql://user:\*\*\*@host"),
    ],
)
def test_a_database_that_cannot_be_reached_is_named_without_its_password(finish, tmp_path, url, message):
    """It would hang for minutes, end in a traceback, or write the password into a log."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message) as error:
        finish(tmp_path / "sweep", {"trials": 1, "storage": url})
    assert not any(part in str(error.value) for part in ("secret", "cret", "\n"))
    assert time.monotonic() - began < 15


def test_a_missing_driver_is_named(finish, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"PostgreSQL needs psycopg: pip install tformer_jax\[postgresql\]"):
        finish(tmp_path / "sweep", {"trials": 1, "storage": "postgresql://user@host/base"})


# At full length ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_forty_trials_of_four_workers_of_which_two_are_killed(start, storage, tmp_path, record_property):
    """The same as above, with models that are trained."""
    directory, rng, count = tmp_path / f"forty of {storage and 'postgresql'}", random.Random(0), 40
    how = {"trials": count, "sampler": "tpe", "storage": storage}
    began = time.monotonic()
    processes = [start(directory, how) for _ in range(4)]
    killed = []
    for process in processes[:2]:
        said = directory.parent / f"{process.pid}.txt"
        while not said.exists() or said.read_text().count("trial ") < 3:  # in its second trial
            assert process.exitcode is None
            time.sleep(0.1)
        process.join(rng.uniform(0, 4))
        process.kill()
        process.join()
        lines = [line for line in said.read_text().splitlines() if line.startswith("trial ")]
        if "finished" not in lines[-1]:
            killed.append(int(lines[-1].split()[1].rstrip(":")))
    assert ends_of(*processes, seconds=3600) == [-signal.SIGKILL] * 2 + [0, 0]
    finished = check_whole(directory, storage, count)
    assert len({json.dumps(trial.params) for trial in finished.values()}) == count
    said = "".join((directory.parent / f"{process.pid}.txt").read_text() for process in processes)
    for number in finished:
        assert said.count(f"trial {number} finished") == 1
        assert said.count(f"trial {number}: ") == 1 + killed.count(number)  # twice, if who resumed it was killed too
    seconds = time.monotonic() - began
    record_property("summary", f"{count} trials, {len(killed)} of them killed and resumed, {seconds:.0f} s")


def test_a_damaged_row_takes_no_trial_its_result(tmp_path, finish):
    """The best trial would be another one, because an older validation is taken for its last."""
    how = {"trials": 3, "sampler": "random"}
    rows, file = finish(tmp_path, how), tmp_path / "trials" / "1" / "metrics.jsonl"
    *lines, last = file.read_bytes().splitlines(keepends=True)
    for content in (b"".join([*lines, bytes([last[0] ^ 128]), last[1:]]), b"", None):
        file.unlink() if content is None else file.write_bytes(content)
        again = finish(tmp_path, how)
        assert [(row["status"], row["final"]) for row in again] == [(row["status"], row["final"]) for row in rows]


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"mark": 3}', ""])
def test_a_damaged_mark_of_a_search_is_named(tmp_path, finish, content):
    """The search would end in a traceback, or join another one."""
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(RunError, match=r"search\.json is damaged"):
        finish(tmp_path, {"trials": 1})
