"""Search: what is asked of Optuna, what becomes of a trial, and who may join. Processes: `test_search_workers.py`."""

import contextlib
import copy
import json
import pickle
import shutil
import signal
import sqlite3
import sys
from unittest import mock

import jax
import numpy as np
import optuna
import pretended
import pytest
import sqlalchemy
import tiny_runs
from support import by_day, quick_jit, untimed

from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError
from tformer_jax.sweeps import worker
from tformer_jax.sweeps.search import SearchConfig, check_search, search
from tformer_jax.sweeps.text import parse
from tformer_jax.sweeps.trials import Trials, distribution
from tformer_jax.training.interruption import Interrupted
from tformer_jax.training.loading import load_run
from tformer_jax.training.loop import Diverged
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.run import Run, RunError

TEXT = "learning_rate=log(1e-3,1e-1); model.feed_forward.width=8..32; positions.name=rotary,alibi"
NUMBERS = "learning_rate=log(1e-3,1e-1); model.feed_forward.width=log(8..32)"


@pytest.fixture(scope="module")
def config(place):
    return tiny_runs.configs(place)["causal_lm"]


@pytest.fixture
def pretend(monkeypatch, tables):
    """Trials are not trained, see `pretended.trainer`; and the database does not wait for the disk."""
    monkeypatch.setattr(sqlite3, "connect", pretended.careless(sqlite3.connect, tables))
    monkeypatch.setattr(worker, "run_training", pretended.trainer())
    return lambda train: monkeypatch.setattr(worker, "run_training", train)


@pytest.fixture
def run_search(config, tmp_path):
    """`run_search(text, name, **how)`: the rows, and what was said, of a search in the directory of that name."""

    def run_search(text=TEXT, name="sweep", config=config, **how):
        said = []
        asked = SearchConfig(**{"trials": 2, "sampler": "random"} | how)
        return search(tmp_path / name, config, parse(text), asked, said.append), said

    return run_search


def drawn(rows):
    return [row["overrides"] for row in rows]


# What is asked -----------------------------------------------------------------------------------


def test_ranges_and_values_become_optunas_distributions():
    """A learning rate would be searched on the wrong scale, or an integer field get 3.7."""
    found = parse("a=linear(0,0.5); b=log(1e-4,1e-2); c=2..8; d=log(16..256); e=1,2.5,x,None,True; f=[1,2],[3]")
    assert {name: distribution(domain) for name, domain in found.dimensions().items()} == {
        "a": optuna.distributions.FloatDistribution(0.0, 0.5),
        "b": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "c": optuna.distributions.IntDistribution(2, 8),
        "d": optuna.distributions.IntDistribution(16, 256, log=True),
        "e": optuna.distributions.CategoricalDistribution((1, 2.5, "x", None, True)),
        "f": optuna.distributions.CategoricalDistribution(("[1, 2]", "[3]")),
    }


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        ("learning_rat=log(1e-4,1e-2)", {}, "no field 'learning_rat'; did you mean"),
        ("checkpoint.every=1..3", {}, "checkpoint.every cannot be swept"),
        ("model.feed_forward.width=linear(8,32)", {}, r"model.feed_forward.width takes integers: write 8\.\.32, not linear"),
        ("model.feed_forward.width=log(7.5,32.5)", {}, r"model.feed_forward.width takes integers: write log\(8\.\.32\), not log"),
        ("model.attention.num_heads=1..3", {}, "num_heads=3.* cannot be"),
        ("dropout_rate=linear(0,2)", {}, "dropout_rate=2.* cannot be"),
        ("dropout_rate=linear(0,2); seed=" + ",".join(map(str, range(200))), {}, "dropout_rate=2.* cannot be"),
        ("seed=0..3; training.seed=1,2", {}, "seed and training.seed both set training.seed"),
        ("zip(d_model=16,32; feed_forward.width=8,16)", {}, "ties fields together"),
        ("feed_forward.width=8..16", {"sampler": "cma-es"}, "sampler must be one of .*, got 'cma-es': .* unpickles"),
        ("feed_forward.width=8..16", {"trials": 0}, "trials must be a positive integer, got 0"),
        ("feed_forward.width=8..16", {"sampler": "tpr"}, "sampler must be one of .*; did you mean 'tpe'"),
        ("feed_forward.width=8..16", {"pruner": "median"}, "pruner must be one of"),
        ("feed_forward.width=8..16", {"seed": -1}, "seed must be an integer in"),
        ("feed_forward.width=8..16", {"best": "least"}, "best must be one of"),
        ("feed_forward.width=8..16", {"study": ""}, "study must not be empty"),
        ("feed_forward.width=8..16", {"storage": "mysql://user:secret@host/x"}, "storage must be postgresql://.*'mysql'$"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_before_anything_is_there(config, text, how, message, tmp_path):
    """It would end in a traceback hours later, or in a search of something else."""
    with pytest.raises(ConfigError, match=message) as error:
        how = SearchConfig(**{"trials": 2, "sampler": "random"} | how)
        search(tmp_path / "sweep", config, parse(text), how, print)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "sweep").exists()


def test_hyperband_without_validations_on_the_way_is_refused(config):
    """It would have no effect."""
    changed = copy.deepcopy(config)
    changed["training"]["evaluate_every"] = changed["training"]["steps"]
    with pytest.raises(ConfigError, match="training.evaluate_every=12 must be below training.steps=12"):
        check_search(changed, parse("feed_forward.width=8..16"), SearchConfig(trials=1, pruner="hyperband"))


def test_a_missing_package_is_named(run_search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"a search needs optuna: pip install tformer_jax\[sweep\]"):
        run_search()


# What is drawn -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search(run_search, pretend):
    """A search could not be repeated."""
    how = {"sampler": "tpe", "pruner": "hyperband", "trials": 4}
    one, other, another = (run_search(name=name, seed=seed, **how)[0] for name, seed in (("1", 0), ("2", 0), ("3", 1)))
    same = ("member", "status", "steps", "overrides", "training_loss", "final", "best", "best_step")
    assert [[row[name] for name in same] for row in one] == [[row[name] for name in same] for row in other]
    assert len({json.dumps(overrides) for overrides in drawn(one + another)}) == 8
    for overrides in drawn(one):
        assert 1e-3 <= overrides["learning_rate"] <= 1e-1
        assert type(overrides["model.feed_forward.width"]) is int and 8 <= overrides["model.feed_forward.width"] <= 32


def test_a_search_in_pieces_is_the_same(run_search, pretend):
    """A worker that starts anew would draw something else, or the same again."""
    how = {"sampler": "tpe", "pruner": "hyperband"}
    for trials in (2, 11):  # the first ten are drawn at random
        run_search(NUMBERS, "pieces", trials=trials, **how)
    pieces, whole = (run_search(NUMBERS, name, trials=12, **how)[0] for name in ("pieces", "whole"))
    assert drawn(pieces) == drawn(whole)
    assert [row["status"] for row in pieces] == [row["status"] for row in whole]


@pytest.mark.slow
def test_tpe_learns(run_search, pretend):
    """It would draw at random for ever; after ten such draws it is near the best."""
    rows, _ = run_search("learning_rate=log(1e-5,1e-1)", sampler="tpe", trials=16)
    off = [abs(np.log10(row["overrides"]["learning_rate"]) + 2) for row in rows[-5:]]
    assert np.median(off) < 0.5  # of draws at random, 1.17


@pytest.mark.slow
def test_the_highest_may_be_the_best(run_search, pretend):
    """An accuracy would be minimised."""
    rows, _ = run_search("learning_rate=log(1e-5,1e-1)", sampler="tpe", trials=16, best="highest")
    assert np.mean([row["final"]["loss"] for row in rows[-4:]]) > np.mean([row["final"]["loss"] for row in rows[:4]])
    assert all(row["best_step"] == 6 for row in rows)  # the pretended loss falls


@pytest.mark.parametrize("sampler", by_day(["tpe", "random"], 0))
def test_nothing_in_a_database_is_a_pickle(run_search, pretend, sampler, tmp_path, monkeypatch):
    """Whoever can write there could run code in every worker."""

    def refused(*_, **__):
        raise AssertionError("something is pickled or unpickled")

    for name in ("dumps", "loads", "dump", "load", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    run_search(sampler=sampler, pruner="hyperband", trials=11)
    with contextlib.closing(sqlite3.connect(tmp_path / "sweep" / "study.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        values = [value for table in tables for row in database.execute(f"SELECT * FROM {table}") for value in row]
        kept = [row for table in tables if "attributes" in table
                for row in database.execute(f"SELECT value_json FROM {table}")]  # fmt: skip
    assert kept and all(type(text) is str and json.loads(text) != text for (text,) in kept)
    assert not any(isinstance(value, bytes) for value in values)


def test_values_that_optuna_cannot_keep_come_back_as_they_are(run_search, pretend):
    """A list would become text, and a text no config."""
    rows, _ = run_search("optimizer.freeze=[],['embedding.*']; seed=0..1000", trials=4, seed=2)
    assert {json.dumps(overrides["optimizer.freeze"]) for overrides in drawn(rows)} == {"[]", '["embedding.*"]'}


# What becomes of a trial -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(config, place):
    """A search with real training; its second trial is pruned after half of its steps."""
    said, results = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick_jit)
        prunes = Trials.prunes
        ends = lambda *told, last: prunes(*told, last=last) or (told[1].number, told[2]) == (1, 6)
        patch.setattr(Trials, "prunes", ends)
        how = SearchConfig(trials=2, sampler="random")
        # With most of a program in common.
        text = "learning_rate=log(1e-3,1e-1); model.feed_forward.width=20; positions.name=alibi"
        rows = search(place / "trained", config, parse(text), how, said.append, results.append)
    return place / "trained", rows, said, results


@pytest.mark.slow
def test_a_trial_is_what_its_config_gives_alone(trained, config, tmp_path):
    """The search would compare something else than what `train` gives with the values that it found."""
    directory, rows, said, _ = trained
    changed = copy.deepcopy(config)
    changed["optimizer"]["learning_rate"] = rows[0]["overrides"]["learning_rate"]
    changed["model"] |= {"feed_forward": {"width": 20}, "positions": {"name": "alibi"}}
    alone = tiny_runs.run_and_train(changed, tmp_path / "alone").run
    assert untimed(read_metrics(directory / "trials/0/metrics.jsonl")) == untimed(read_metrics(alone.metrics_file))
    numbers = [json.loads(line) for line in alone.metrics_file.read_text().splitlines()]
    validations = {row["step"]: row["validation_loss"] for row in numbers if "validation_loss" in row}
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{directory}/study.db")
    assert study.trials[0].value == rows[0]["final"]["loss"] == validations[12]
    assert study.trials[0].intermediate_values == validations
    assert rows[0]["status"] == "finished" and rows[0]["steps"] == 12 and rows[0]["seconds"] > 0
    assert rows[0]["training_loss"] == [row["loss"] for row in numbers if "loss" in row][-1]
    assert rows[0]["best"]["loss"] == min(validations.values()) == validations[rows[0]["best_step"]]
    assert f"trial 0 finished: loss {validations[12]:.4f}" in said


@pytest.mark.slow
def test_a_pruned_trial_is_a_run_like_any_other(trained):
    """It could not be looked into, and its last validation would be lost."""
    directory, rows, said, _ = trained
    assert (rows[1]["status"], rows[1]["steps"], rows[1]["best_step"]) == ("pruned", 6, 6)
    assert rows[1]["final"] == rows[1]["best"] != {}
    _, _, model = load_run(Run.open(directory / "trials/1"), step=6)
    assert model.config.feed_forward.width == rows[1]["overrides"]["model.feed_forward.width"]
    assert "trial 1 pruned" in said


@pytest.mark.slow
def test_results_are_told_after_each_trial(trained):
    """A table would stand empty until the end."""
    _, rows, _, results = trained
    assert [[row["status"] for row in one] for one in results] == [["finished"], *[["finished", "pruned"]] * 2]
    assert results[-1] == rows


@pytest.mark.slow
def test_hyperband_ends_bad_trials_early(run_search, pretend, config):
    """The pruner would not hear of validations, or prune the good ones, or what is trained to its end already."""
    often = config | {"training": config["training"] | {"evaluate_every": 4}}  # rungs at 4 and, at the end, at 12
    rows, _ = run_search("learning_rate=log(1e-5,1e-1)", config=often, pruner="hyperband", trials=16)
    ended = {kind: [row for row in rows if row["status"] == kind] for kind in ("finished", "pruned")}
    assert len(ended["finished"]) + len(ended["pruned"]) == 16 and min(map(len, ended.values())) > 1
    assert {row["steps"] for row in ended["pruned"]} == {4} and {row["steps"] for row in ended["finished"]} == {12}
    mean = {kind: np.mean([row["best"]["loss"] for row in some]) for kind, some in ended.items()}
    assert mean["finished"] < mean["pruned"]


def test_hopeless_trials_do_not_stop_the_worker(run_search, pretend, tmp_path):
    """One config of many would end the search."""
    train = pretended.trainer()

    def diverging(run, say, validated):
        if run.directory.name == "1":
            validated(6, {"loss": 0.1})
            raise Diverged("training stopped at step 7")
        if run.directory.name == "2":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")
        if run.directory.name == "3":
            raise DataError("no document fits")
        if run.directory.name == "4":
            raise ConfigError("optimizer.freeze: no parameter has such a path")
        train(run, say, validated)

    pretend(diverging)
    rows, said = run_search("model.attention.num_heads=1..2", trials=6)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/sweep/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", *["PRUNED"] * 4, "COMPLETE"]
    assert study.trials[1].user_attrs["status"] == "diverged"
    assert study.trials[1].user_attrs["message"] == "training stopped at step 7"
    assert study.trials[1].value == np.inf  # what samplers learn from it; 0.1 would be the best of all
    assert [row["status"] for row in rows] == ["finished", "diverged", *["failed"] * 3, "finished"]
    assert "trial 1 diverged: training stopped at step 7" in said
    assert "trial 2 failed: RESOURCE_EXHAUSTED: out of memory" in said


def test_a_config_that_cannot_be_is_told_as_failed(run_search, pretend):
    """The corners of a space can be and a point between them not: 3 heads of a width of 16."""
    rows, said = run_search("model.attention.num_heads=2..4", trials=6, seed=1)
    by_heads = {row["overrides"]["model.attention.num_heads"]: row["status"] for row in rows}
    assert by_heads == {2: "finished", 3: "failed", 4: "finished"}
    assert any("failed: " in line and "num_heads=3" in line for line in said)


def test_data_that_is_never_there_stops_the_worker(run_search, pretend):
    """A disk that is not mounted would use up all trials in a second."""

    def fails(run, say, validated):
        raise DataError("cannot read texts")

    pretend(fails)
    with pytest.raises(DataError):
        run_search(trials=10)
    pretend(pretended.trainer())
    rows, said = run_search(trials=10)
    assert [row["status"] for row in rows] == ["failed"] * 2 + ["finished"] * 8
    assert "resumed" in said[0]


def test_a_result_that_is_no_number_has_diverged(run_search, pretend):
    """Optuna takes no NaN, and the trial would be tried again for ever."""

    def train(run, say, validated):
        validated(12, {"loss": float("nan")})
        run.metrics_file.write_text('{"step": 12, "validation_loss": null}\n')

    pretend(train)
    rows, said = run_search(trials=1)
    assert rows[0]["status"] == "diverged" and rows[0]["final"] == {"loss": None}
    assert "trial 0 diverged: the loss of its last validation is not finite" in said


def test_a_run_that_has_lost_its_last_validation_has_failed(run_search, pretend):
    """After a power failure a checkpoint may be there and a row not: an older number would be taken for the last."""
    pretend(lambda run, say, validated: run.metrics_file.write_text('{"step": 6, "validation_loss": 0.1}\n'))
    rows, said = run_search(trials=1)
    assert rows[0]["status"] == "failed" and said[-1].endswith("metrics.jsonl has no validation of step 12")


def test_a_metric_that_is_not_validated_is_refused_before_anything_is_trained(run_search):
    """A search would train its first trial, and have nothing to compare it by."""
    with pytest.raises(ConfigError, match="metric must be one of .*'perplexity'.*, got 'acuracy'"):
        run_search(metric="acuracy")


def test_an_error_leaves_the_trial_to_the_next_worker(run_search, pretend):
    """Its place in the budget would be lost, or its parameters."""

    def broken(run, step):
        if step == 7:
            raise RuntimeError("broken")

    pretend(pretended.trainer(before=broken))
    with pytest.raises(RuntimeError, match="broken"):
        run_search()
    pretend(pretended.trainer())
    rows, said = run_search()
    undisturbed, _ = run_search(name="undisturbed")
    assert drawn(rows) == drawn(undisturbed) and [row["status"] for row in rows] == ["finished"] * 2
    assert said[0].startswith("trial 0: ") and said[0].endswith("; resumed")


@pytest.mark.parametrize("number", by_day([signal.SIGTERM, signal.SIGINT], 0), ids=lambda number: number.name)
def test_an_interrupted_trial_is_the_first_to_go_on(run_search, pretend, tmp_path, number):
    """A preempted worker would begin something else, or begin anew."""

    def signalled(run, step):
        if (run.directory.name, step) == ("1", 5):
            signal.raise_signal(number)

    pretend(pretended.trainer(before=signalled))
    with pytest.raises(Interrupted, match="trial 1 stopped after step 5 of 12"):
        run_search()
    assert [step for step, _ in pretended.steps_of(tmp_path / "sweep/trials/1")] == [1, 2, 3, 4, 5]
    pretend(pretended.trainer())
    rows, said = run_search()
    undisturbed, _ = run_search(name="undisturbed")
    assert drawn(rows) == drawn(undisturbed)
    assert said[0].startswith("trial 1: ") and said[0].endswith("; resumed")
    assert [step for step, _ in pretended.steps_of(tmp_path / "sweep/trials/1")] == list(range(1, 13))


def test_a_signal_at_the_end_of_a_trial_stops_the_worker(run_search, pretend):
    """The trial's last step is nothing to stop after, and the signal would be forgotten."""
    pretend(pretended.trainer(before=lambda run, step: step == 12 and signal.raise_signal(signal.SIGTERM)))
    with pytest.raises(Interrupted, match="between two trials"):
        run_search()
    pretend(pretended.trainer())
    assert len(run_search()[0]) == 2


# Who may join ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def began(config, place):
    """The directory of a search at random of one trial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "run_training", pretended.trainer())
        search(place / "began", config, parse(TEXT), SearchConfig(trials=1, sampler="random"), print)
    return place / "began"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"text": TEXT.replace("32", "31")},
            r"differs in space.model.feed_forward.width \(\"8..32\" there, \"8..31\" here\)",
        ),
        ({"text": TEXT.replace("rotary,", "")}, "differs in space.positions"),
        ({"training": {"steps": 18}}, r"differs in config.training.steps \(12 there, 18 here\)"),
        ({"metric": "perplexity"}, "differs in metric"),
        ({"best": "highest"}, "differs in best"),
        ({"sampler": "tpe"}, "differs in sampler"),
        ({"pruner": "hyperband"}, "differs in pruner"),
        ({"seed": 1}, "differs in seed"),
    ],
)
def test_another_search_in_the_same_directory_is_refused(began, config, change, message):
    """Results of two searches would stand in one table."""
    changed = copy.deepcopy(config)
    changed["training"] |= change.pop("training", {})
    space = parse(change.pop("text", TEXT))
    with pytest.raises(RunError, match=message):
        search(began, changed, space, SearchConfig(**{"trials": 2, "sampler": "random"} | change), print)


def test_a_search_may_run_elsewhere_and_longer(run_search, pretend, config):
    """Five more trials, on another machine, would be another search."""
    first, _ = run_search(trials=2)
    rows, said = run_search(config=config | {"parallel": {"data": -1}}, trials=3)
    assert rows[:2] == first and len(rows) == 3 and len(said) == 2
    assert run_search(trials=1)[0] == rows


def test_trials_without_their_study_are_refused(run_search, pretend, tmp_path):
    """The search would begin anew on top of other runs."""
    run_search(trials=1)
    (tmp_path / "sweep/study.db").unlink()
    with pytest.raises(RunError, match="holds trials, but the database has no study 'search'"):
        run_search(trials=1)


def test_a_study_of_another_directory_is_refused(run_search, pretend, tmp_path):
    """Two sweeps whose directories have one name would share a study, and each miss the other's runs."""
    run_search(trials=1)
    (tmp_path / "other").mkdir()
    shutil.copyfile(tmp_path / "sweep/study.db", tmp_path / "other/study.db")
    with pytest.raises(RunError, match=f"belongs to the search in {tmp_path}/sweep; choose another --study"):
        run_search(name="other")


def test_a_study_of_something_else_is_refused(run_search, pretend, tmp_path):
    (tmp_path / "sweep").mkdir()
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/sweep/study.db", study_name="mine")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(RunError, match="the study 'mine' in this database is not by tformer_jax"):
        run_search(study="mine")


def test_a_database_that_fails_on_the_way_ends_no_trial(run_search, pretend):
    """A full disk would make all trials of a night failed ones, of which the search would learn."""
    full = sqlalchemy.exc.OperationalError("", {}, Exception("database or disk is full"))

    def trains(run, say, validated):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trials, "prunes", mock.Mock(side_effect=full))
            validated(1, {"loss": 0.5})

    pretend(trains)
    with pytest.raises(RunError, match="cannot use the database .*study.db: database or disk is full"):
        run_search()
    pretend(pretended.trainer())
    rows, said = run_search()
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert any("trial 0: " in line and "resumed" in line for line in said)


@pytest.mark.parametrize("file", ["config.json", "groups.json"])
def test_another_kind_of_directory_is_refused(run_search, pretend, tmp_path, file):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / file).write_text("{}")
    with pytest.raises(RunError, match="choose another --workdir for the search"):
        run_search()


def test_a_file_that_is_no_database_is_named(run_search, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/study.db").write_text("not a database, but some text that is long enough" * 100)
    with pytest.raises(ConfigError, match="cannot use the database .*study.db: file is not a database"):
        run_search()


DAMAGED = {
    "UPDATE study_user_attributes SET value_json = '[]'": r"its study 'search' has the search \[\]",
    "UPDATE study_user_attributes SET value_json = '{\"mark\": 1}'": "has the search {'mark': 1}",
    "UPDATE study_user_attributes SET value_json = 'x'": "Expecting value",
    "UPDATE trial_user_attributes SET value_json = '1' WHERE key = 'status'": "trial 0 has the status 1",
    "UPDATE trial_user_attributes SET value_json = 'null' WHERE key = 'status'": "trial 0 has the status None",
    "UPDATE trial_user_attributes SET value_json = '[]' WHERE key = 'value'": r"trial 0 has the value \[\]",
    "UPDATE trial_user_attributes SET value_json = '\"x\"' WHERE key = 'seconds'": "trial 0 has the seconds 'x'",
    "UPDATE trial_params SET distribution_json = '{}'": "'type'",
    "UPDATE trial_params SET param_value = 99": "is not in|tuple index",
    "UPDATE trial_params SET param_value = NULL": "NoneType|None is not in",
    "DELETE FROM trial_params": "trial 0 lacks its ",
    "UPDATE trials SET state = 'X'": "'X' is not among",
}


def test_a_database_that_says_what_no_search_writes_is_named(run_search, pretend, tmp_path):
    """A search goes on with other numbers, or ends in a traceback."""
    run_search(trials=1)
    file = tmp_path / "sweep" / "study.db"
    sound = file.read_bytes()
    for statement, wanted in DAMAGED.items():
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute(statement)
            connection.commit()
        with pytest.raises(RunError, match=f"the database {file} is damaged: .*({wanted}).*; put it back") as error:
            run_search(trials=1)
        assert "\n" not in str(error.value)
        file.write_bytes(sound)
    assert len(run_search(trials=1)[0]) == 1


def test_any_directory_may_hold_a_search(run_search, pretend):
    """Its path would be read as a URL, or as a template."""
    assert len(run_search(name="50% {x}? #1", trials=1)[0]) == 1
