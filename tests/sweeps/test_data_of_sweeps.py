"""Members and trials are compared with each other: all of one data section must have the same data."""

import copy

import pretended
import pytest
import tiny_runs

from tformer_jax.data.files import DataError
from tformer_jax.sweeps import worker
from tformer_jax.sweeps.directory import SweepDirectory
from tformer_jax.sweeps.groups import MemberData
from tformer_jax.sweeps.members import make_members
from tformer_jax.sweeps.search import SearchConfig, search
from tformer_jax.sweeps.text import parse
from tformer_jax.training.directories import RunError
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.running import load_data


@pytest.fixture
def file(place, tmp_path):
    """Labelled texts of these tests alone."""
    copied = tmp_path / "labelled.tsv"
    copied.write_bytes((tiny_runs.files(place) / "labelled.tsv").read_bytes())
    return copied


@pytest.fixture
def config(place, file):
    config = copy.deepcopy(tiny_runs.configs(place)["text_classification"])
    config["data"]["path"] = str(file)
    return config


def append_line(file):
    file.write_text(file.read_text() + "long\tone text more\n")


def test_members_do_not_go_on_with_other_data(config, file, tmp_path):
    """Half of a sweep's training would be on what the other half held out."""
    (member,) = make_members(config, [{}])
    (tmp_path / "data").mkdir()
    MemberData([member], 0, tmp_path / "data", fresh=True)
    MemberData([member], 0, tmp_path / "data", fresh=False)
    append_line(file)
    with pytest.raises(DataError, match=r"the data are not those of .*data\.json: train has 45 texts, but had 44"):
        MemberData([member], 0, tmp_path / "data", fresh=False)


def test_a_sweep_that_did_not_begin_leaves_nothing_of_its_data(config, file, tmp_path):
    """Other data, asked for after an error or a kill, would be read with the tokenizer of the first, or be refused."""
    for ends in (SweepDirectory.withdraw, lambda sweep: None):  # None: killed
        sweep = SweepDirectory.start(tmp_path, {"config": config, "members": {"0": {}}})
        load_data(Experiment.from_config(config), sweep.data(0), fresh=True)
        ends(sweep)
        append_line(file)
    sweep = SweepDirectory.start(tmp_path, {"config": config, "members": {"0": {}}})
    assert not list(sweep.data(0).iterdir())


def test_a_trial_on_other_data_than_those_before_stops_the_search(config, file, tmp_path, monkeypatch):
    """The best of a search would be the one whose held-out texts were the easiest; or be a failed trial, one by one."""
    pretend = pretended.trainer()

    def trained(run, say, validated):
        load_data(Experiment.from_config(run.config), run.directory, fresh=True)
        return pretend(run, say, validated)

    monkeypatch.setattr(worker, "run_training", trained)
    ask = lambda trials: search(
        tmp_path / "search", config, parse("learning_rate=log(1e-3,1e-1)"), SearchConfig(trials=trials), print
    )
    ask(1)
    append_line(file)
    with pytest.raises(DataError, match=r"the data are not those of .*trials/1/data\.json: train has 45 texts"):
        ask(2)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert [row["status"] for row in ask(2)] == ["finished"] * 2


def test_a_sweep_of_an_older_layout_is_refused_in_one_line(tmp_path):
    """It is told of a config that differs in many fields, which no command can put right."""
    older = {"config": {"model": {"num_heads": 2}}, "members": {"0": {}}}
    SweepDirectory.start(tmp_path, older).keep_groups([{"members": [0], "chunk": 1, "data": 0}])
    for open_it in (lambda: SweepDirectory.open(tmp_path).asked, lambda: SweepDirectory.start(tmp_path, older)):
        with pytest.raises(RunError, match=r"^.*sweep.json is of an older layout, whose models had no components"):
            open_it()
