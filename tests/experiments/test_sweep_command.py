"""The sweep command as real processes: killed on its way, compared with training alone, and used wrongly."""

import importlib
import json
import re
import shlex
import signal
import time

import numpy as np
import pytest

from tformer_jax.config import ConfigError
from tformer_jax.sweeps.members import make_members
from tformer_jax.sweeps.space import Space
from tformer_jax.sweeps.text import parse
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.run import RunError

SPACE = "optimizer.learning_rate=3e-3,1e-2; seed=0..1"
CHANGES = {"training.evaluate_every": 25, "checkpoint.every": 10, "training.log_every": 10}


def sweep_flags(flags, workdir, space=SPACE, *more, steps=50):
    return [*flags(workdir, CHANGES | {"training.steps": steps}), f"--sweep={space}", *more]


def results_of(workdir):
    rows = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    return [{name: x for name, x in row.items() if name != "seconds"} for row in rows]


def printed_command(said):
    return shlex.split(re.search(r"^  python -m experiments\.train (.*)$", said, re.MULTILINE)[1])


def last_states(workdir):
    place = workdir / "groups" / "0" / "checkpoints"
    with Checkpoints(place, CheckpointConfig(every=1), read_only=True) as checkpoints:
        return checkpoints.latest, checkpoints.restore_as_saved(checkpoints.latest)


@pytest.fixture(scope="module")
def whole(place, command, flags):
    """A sweep that nothing disturbed, and what it said."""
    return place / "sweep", command("sweep", *sweep_flags(flags, place / "sweep", SPACE, "--chunk=1"))


@pytest.fixture(scope="module")
def disturbed(place, start, whole, flags):
    """The same sweep, killed once and stopped once on its way, and what its last command, in two words a flag, said."""
    workdir = place / "disturbed sweep"
    for number, after in ((signal.SIGKILL, 15), (signal.SIGTERM, 25)):
        process = start("sweep", *sweep_flags(flags, workdir, SPACE, "--chunk=1"))
        file = workdir / "groups" / "0" / "metrics.jsonl"
        while process.poll() is None and not (file.exists() and any(row["step"] > after for row in read_metrics(file))):
            time.sleep(0.02)
        process.send_signal(number)
        _, error = process.communicate()
        assert process.returncode == (-9 if number == signal.SIGKILL else 75), error
    words = [word for flag in sweep_flags(flags, workdir, SPACE, "--chunk=1") for word in flag.split("=", 1)]
    stdout, stderr = start("sweep", *words).communicate()
    return workdir, stdout + stderr


@pytest.mark.slow
def test_a_sweep_says_what_came_of_it(whole):
    """The command fails, or leaves the table, the pictures or the best command out."""
    workdir, result = whole
    assert result.returncode == 0, result.stderr
    assert [row["status"] for row in results_of(workdir)] == ["finished"] * 4
    assert {"results.csv", "results.jsonl", "plots", "environment.json"} <= {p.name for p in workdir.iterdir()}
    assert {p.name for p in (workdir / "plots").iterdir()} == {"curves.png", "learning_rate.png"}
    best = min(results_of(workdir), key=lambda row: row["final"]["loss"])
    assert f"best: member {best['member']}, optimizer.learning_rate=" in result.stdout
    columns = ["member", "learning_rate", "seed", "status", "steps", "training loss", "validation loss"]
    assert " ".join(columns) in " ".join(result.stdout.split())


@pytest.mark.slow
def test_a_sweep_that_was_killed_ends_as_if_nothing_had_happened(whole, disturbed):
    """A kill costs a sweep more than the steps since its last checkpoint, or changes a bit of it."""
    (one, _), (other, said) = whole, disturbed
    assert results_of(other) == results_of(one), said
    (step, wanted), (last, got) = last_states(one), last_states(other)
    assert (step, wanted.keys()) == (last, got.keys())
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


@pytest.mark.slow
def test_the_printed_command_has_all_that_was_changed(whole, disturbed, flags):
    """What was given in two words, or at all, is left out of the command, which trains something else."""
    (one, result), (_, said) = whole, disturbed
    changed = [flag for flag in sweep_flags(flags, one) if flag.startswith("--config")]
    assert set(changed) < set(printed_command(result.stdout))
    best = [flag for flag in printed_command(said) if not flag.startswith("--workdir")]
    assert best == [flag for flag in printed_command(result.stdout) if not flag.startswith("--workdir")]


@pytest.mark.slow
def test_the_printed_command_trains_the_best_member_alone(whole, command):
    """The command that a sweep ends with trains something else."""
    workdir, result = whole
    words = printed_command(result.stdout)
    alone = command("train", *words)
    assert alone.returncode == 0, alone.stderr
    (to,) = (word.removeprefix("--workdir=") for word in words if word.startswith("--workdir="))
    last = [row for row in read_metrics(type(workdir)(to) / "metrics.jsonl") if "validation_loss" in row][-1]
    best = min(row["final"]["loss"] for row in results_of(workdir))
    np.testing.assert_allclose(last["validation_loss"], best, rtol=1e-4)


@pytest.mark.slow
def test_a_search_is_the_same_command(place, command, flags):
    """The other engine has other results, or none."""
    how = ("--engine=search", "--trials=2", "--sampler=random")
    space = "optimizer.learning_rate=log(1e-3,1e-2)"
    found = command("sweep", *sweep_flags(flags, place / "search", space, *how, steps=20))
    assert found.returncode == 0, found.stderr
    assert [row["status"] for row in results_of(place / "search")] == ["finished"] * 2
    assert "the command that trains it alone" in found.stdout


BAD = {
    "optimizer.learning_rate=0.1,-1": (),
    "seed=0..1": ("--halving=2",),
    "seed=0..2": ("--trials=2",),
}


def test_what_cannot_be_is_an_error_of_one_line_before_anything_is_written(place, here, flags):
    """A mistake costs hours, or a traceback, or leaves a directory behind."""

    for space, more in BAD.items():
        result = here("sweep", *sweep_flags(flags, place / "wrong", space, *more))
        assert result.returncode == 1, space
        assert re.fullmatch(r"error: [^\n]*\n", result.stderr), result.stderr
    assert not (place / "wrong").exists()


@pytest.fixture
def compare(tmp_path, within):
    """`compare(picture, *flags)`: a finished sweep, in a picture; its directory is "here"."""
    rows = [
        {"member": i, "status": "finished", "steps": 9, "overrides": {"learning_rate": rate}, "final": {"loss": loss}}
        for i, (rate, loss) in enumerate({0.1: 3.0, 0.2: 2.0}.items())
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.jsonl").write_text('{"member": 0, "sta', "utf-8")

    def compare(picture, *flags):
        flags = [flag.replace("here", str(tmp_path)) for flag in ("--sweeps=a=here", *flags)]
        within("compare_sweeps", f"--picture={tmp_path / picture}", *flags).main()
        return tmp_path / picture

    return compare


def test_sweeps_are_compared_in_a_picture(compare):
    """The command fails."""
    assert compare("picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("picture", "flags", "message"),
    [
        ("a.picture", (), "Format 'picture' is not supported"),
        ("no/a.png", (), "cannot write the picture: .*No such file"),
        ("a.png", ("--metric=acuracy",), "metric must be one of loss, got 'acuracy'"),
        ("a.png", ("--by=learning_rat",), "by must be a field of the overrides, .*did you mean 'learning_rate'"),
        ("a.png", ("--sweeps=a=here,b=none",), "none has no results.jsonl"),
        ("a.png", ("--sweeps=",), "--sweeps must be NAME=DIRECTORY,OTHER=DIRECTORY..., got nothing"),
        ("a.png", ("--sweeps=a=here/damaged",), "results.jsonl is damaged"),
        ("a.png", ("--sweeps=a=here,a=here",), "--sweeps must be NAME=DIRECTORY,OTHER=DIRECTORY.*, got 'a' twice"),
        ("a.pgf", (), "Format 'pgf' is not supported: give a.pgf one of the suffixes png, pdf"),
    ],
)
def test_what_cannot_be_compared_is_refused(compare, tmp_path, picture, flags, message):
    """A mistake is told by a traceback, or by a picture of something else."""
    with pytest.raises((ConfigError, RunError), match=message):
        compare(picture, *flags)
    assert not (tmp_path / picture).exists()


ODD_RESULTS = {
    "": "results.jsonl is empty",
    "[]": "damaged in line 1: it is no result",
    "null": "damaged in line 1: it is no result",
    "[" * 100_000: "damaged in line 1: maximum recursion",
    '{"status": "finished", "final": {}}': "damaged in line 1: it is no result",
    '{"status": "finished", "overrides": null, "final": {}}': "damaged in line 1: it is no result",
    '{"status": "finished", "overrides": [1], "final": {}}': "damaged in line 1: it is no result",
    '{"status": "finished", "overrides": {}, "final": {"loss": "x"}}': "damaged in line 1: it is no result",
    '{"status": "finished", "overrides": {"learning_rate": "x"}, "final": {"loss": 1.0}}': "positive numbers .* 'x'",
    '{"status": "finished", "overrides": {"learning_rate": 0}, "final": {"loss": 1.0}}': "positive numbers .* 0",
    '{"status": "finished", "overrides": {"learning_rate": [1]}, "final": {"loss": 1.0}}': r"positive numbers .* \[1\]",
}


def test_results_that_are_none_are_refused(compare, tmp_path):
    """A damaged results.jsonl ends in a traceback, or in a picture of something else."""
    for content, message in ODD_RESULTS.items():
        (tmp_path / "damaged" / "results.jsonl").write_text(content)
        with pytest.raises((ConfigError, RunError), match=message):
            compare("a.png", "--sweeps=a=here/damaged")
    assert not (tmp_path / "a.png").exists()


def test_a_dollar_in_a_name_is_no_formula(compare, recwarn):
    """The command fails on a name, or complains about a sweep of one learning rate."""
    assert compare("picture.png", "--sweeps=$\\frac$=here").read_bytes().startswith(b"\x89PNG")
    assert not recwarn.list


@pytest.mark.parametrize("found", [None, 3, ["seed"]])
def test_a_sweep_of_a_config_file_that_is_none_is_refused(tmp_path, within, found):
    """A mistake in a config file is told by a traceback."""
    file = tmp_path / "config.py"
    file.write_text(f"import ml_collections\nget_config = ml_collections.ConfigDict\ndef get_sweep(): return {found}\n")
    with pytest.raises(ConfigError, match="must return a text or a Space"):
        within("sweep", f"--config={file}", f"--workdir={tmp_path}")._space()


@pytest.mark.parametrize(
    "name", ["translation", "causal_lm", "masked_lm", "text_classification", "image_classification"]
)
def test_the_sweep_of_a_config_file_goes_with_its_config(name):
    """A config file's own sweep would be refused when it is first used."""
    module = importlib.import_module(f"experiments.configs.{name}")
    found = module.get_sweep()
    space = found if isinstance(found, Space) else parse(found)
    assert len(make_members(module.get_config().to_dict(), space.members())) > 3
