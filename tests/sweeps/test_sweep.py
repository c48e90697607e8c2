"""Whole sweeps, on disk: their results against runs of single members, halving, export, and what is refused."""

import csv
import functools
import io
import json
import multiprocessing
import re
import shutil
import signal
import types
from pathlib import Path

import jax
import numpy as np
import pretended
import pytest
import tiny_runs
from rich.console import Console
from support import quick_jit, unchecked_annotations, untimed

from tformer_jax.config import ConfigError
from tformer_jax.sweeps import calibration
from tformer_jax.sweeps.board import Board
from tformer_jax.sweeps.directory import SweepDirectory
from tformer_jax.sweeps.export import export_member
from tformer_jax.sweeps.loop import Halving, VectorizedConfig, vectorized_sweep
from tformer_jax.sweeps.members import make_members
from tformer_jax.sweeps.results import Ranking, Results, write_results
from tformer_jax.sweeps.text import parse
from tformer_jax.training.checkpoints import CheckpointConfig, Checkpoints
from tformer_jax.training.interruption import Interrupted
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.run import Run, RunError, locked
from tformer_jax.training.running import run_training

SPACE = "learning_rate=1e-3,1e-2; seed=0..1"
STEPS, RUNG = 12, 6


def rungs_of(directory):
    """The members that went on after each rung, as the directory tells people."""
    return json.loads((directory.path / "rungs.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def config(place):
    return tiny_runs.configs(place)["causal_lm"]


def sweep(config, directory, text, ranking=None, **how):
    """A sweep's directory, its rows and what was printed."""
    output = io.StringIO()
    board = Board(ranking or Ranking(), Console(file=output, width=200))
    with pytest.MonkeyPatch.context() as patch, unchecked_annotations(), board:
        patch.setattr(jax, "jit", quick_jit)
        patch.setattr(jax, "local_devices", lambda *_, backend=None: jax.devices(backend)[:1])
        how = VectorizedConfig(**{"chunk": 1} | how)
        rows = vectorized_sweep(directory, config, parse(text), board._ranking, how, board)
    return types.SimpleNamespace(directory=SweepDirectory.open(directory), rows=rows, said=output.getvalue())


@pytest.fixture(scope="module")
def finished(config, place):
    """A finished sweep of four members of one program."""
    return sweep(config, place / "finished", SPACE)


@pytest.fixture(scope="module")
def halved(config, place):
    """The same, the better half of which went on after a rung."""
    return sweep(config, place / "halved", SPACE, halving=Halving(factor=2, first_rung=RUNG))


@pytest.fixture(scope="module")
def alone(config, place):
    """The last member of the sweep, trained by itself."""
    member = make_members(config, parse(SPACE).members())[-1]
    with unchecked_annotations():
        return tiny_runs.run_and_train(member.config, place / "alone")


def metrics_of(directory):
    """The rows of each member."""
    found = {}
    for group in range(len(directory.groups())):
        for row in read_metrics(directory.group(group) / "metrics.jsonl"):
            found.setdefault(row.pop("member"), []).append(row)
    return found


def newest(checkpoints):
    with Checkpoints(checkpoints, CheckpointConfig(every=1), read_only=True) as opened:
        return opened.restore_as_saved(opened.latest)


def test_a_member_has_the_metrics_of_its_run_alone(finished, alone):
    """What is logged, or validated, of a member is another's, or of another step."""
    rows = untimed(metrics_of(finished.directory)[3])
    wanted = untimed(read_metrics(alone.run.metrics_file))
    assert [(row["step"], row.keys()) for row in rows] == [(row["step"], row.keys()) for row in wanted]
    for row, one in zip(rows, wanted, strict=True):
        np.testing.assert_allclose(list(row.values()), list(one.values()), rtol=1e-5, err_msg=str(one))


def test_results_are_a_row_a_member(finished, alone):
    """A number of the table is not that of the member, or the two files differ."""
    rows = [json.loads(line) for line in (finished.directory.path / "results.jsonl").read_text().splitlines()]
    assert rows == json.loads(json.dumps(finished.rows)) and [row["member"] for row in rows] == [0, 1, 2, 3]
    (last,) = (row for row in read_metrics(alone.run.metrics_file) if row["step"] == STEPS and "validation_loss" in row)
    assert (rows[3]["status"], rows[3]["steps"]) == ("finished", STEPS)
    assert rows[3]["overrides"] == {"learning_rate": 0.01, "seed": 1}
    np.testing.assert_allclose(rows[3]["final"]["loss"], last["validation_loss"], rtol=1e-5)
    with open(finished.directory.path / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["final_loss"]) for row in table] == [row["final"]["loss"] for row in rows]
    assert [float(row["learning_rate"]) for row in table] == [1e-3, 1e-3, 1e-2, 1e-2]


def test_the_best_numbers_of_a_member_are_of_one_validation(finished):
    """The best validation is not the best, or mixes numbers of several."""
    for row in finished.rows:
        metrics = metrics_of(finished.directory)[row["member"]]
        validated = {x["step"]: x["validation_loss"] for x in metrics if "validation_loss" in x}
        assert row["best"]["loss"] == min(validated.values()) == validated[row["best_step"]]
        assert row["final"]["loss"] == validated[STEPS]


@pytest.mark.slow
def test_members_of_several_programs_and_groups_are_all_trained(config, place, finished):
    """A group is forgotten, or which members are trained together changes what they compute."""
    found = sweep(config, place / "several", f"{SPACE} | positions.name=alibi", together=2)
    assert [group["members"] for group in found.directory.groups()] == [[0, 1], [2, 3], [4]]
    assert [row["status"] for row in found.rows] == ["finished"] * 5
    assert "5 members, 2 program(s)" in found.said
    for row, other in zip(found.rows, finished.rows, strict=False):
        np.testing.assert_allclose(row["final"]["loss"], other["final"]["loss"], rtol=1e-6)


def test_a_finished_sweep_is_not_trained_again(config, finished):
    """The same command trains once more, or loses results."""
    before = (finished.directory.path / "results.jsonl").read_bytes()
    again = sweep(config, finished.directory.path, SPACE)
    assert (finished.directory.path / "results.jsonl").read_bytes() == before
    assert again.rows == [json.loads(line) for line in before.splitlines()]


def test_halving_keeps_the_better_half(finished, halved):
    """A rung drops others than the worse members, or ranks them by numbers of another step."""
    at_rung = {
        number: next(row["validation_loss"] for row in rows if row["step"] == RUNG and "validation_loss" in row)
        for number, rows in metrics_of(finished.directory).items()
    }
    best = sorted(sorted(at_rung, key=at_rung.get)[:2])
    assert rungs_of(halved.directory) == {str(RUNG): best}
    for row in halved.rows:
        assert (row["status"], row["steps"]) == (("finished", STEPS) if row["member"] in best else ("stopped", RUNG))


def test_who_goes_on_after_a_rung_computes_what_it_would_have(finished, halved):
    """A smaller program trains its members on other batches, keys or states."""
    for number in rungs_of(halved.directory)[str(RUNG)]:
        one, other = (untimed(metrics_of(found.directory)[number]) for found in (halved, finished))
        assert one == other


def test_an_exported_member_is_the_run_alone(finished, alone, place):
    """A member's run directory holds another state, config or tokenizer than training it alone leaves."""
    run = export_member(finished.directory, 3, place / "exported")
    assert run.config == alone.run.config
    assert (run.directory / "tokenizer.json").read_bytes() == (alone.run.directory / "tokenizer.json").read_bytes()
    got, wanted = newest(run.checkpoints), newest(alone.run.checkpoints)
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        # Relative to the array: Adam makes a whole step of a gradient that is little more than rounding (key biases).
        atol = 1e-3 * np.abs(array).max() if np.issubdtype(array.dtype, np.floating) else 0
        np.testing.assert_allclose(got[name], array, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("member, to, wanted", [
    (99, "somewhere", "has no member 99, only 0 to 3"),
    (0, "finished", "exists already"),
])  # fmt: skip
def test_an_export_that_cannot_be_is_refused(finished, place, member, to, wanted):
    """A directory is overwritten, or a member that is not there is looked for in checkpoints."""
    with pytest.raises(RunError, match=wanted):
        export_member(finished.directory, member, place / to)
    assert not (place / "somewhere").exists()


def test_an_export_of_a_member_that_is_left_out_says_so(config, tmp_path):
    """A user would be told that there are fewer members than there are."""
    members = {
        str(member.number): member.overrides for member in make_members(config, [{}, {}, {"learning_rate": 0.5}])
    }
    sweep = SweepDirectory.start(tmp_path, {"config": config, "members": members})
    for number, wanted in ((1, "has no member 1, which equals another"), (3, "has no member 3, only 0 to 2")):
        with pytest.raises(RunError, match=wanted):
            export_member(sweep, number, tmp_path / "to")


def killed_export(directory, to, at):
    """What another process does: it is killed before something is done."""
    pretended._kill_at(*at)
    export_member(SweepDirectory.open(directory), 3, to)


@pytest.mark.parametrize("at", [
    ("tformer_jax.sweeps.export:Checkpoints", "save", 1),
    ("tformer_jax.sweeps.export:Run", "open", 1),
], ids=["half of it", "all of it"])  # fmt: skip
def test_an_export_that_was_killed_is_repaired_by_the_same_command(finished, tmp_path, at):
    """Half a run is left, which no command accepts, in the way of the next export."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tformer_jax.sweeps.export", "pretended"])
    process = context.Process(target=killed_export, args=(finished.directory.path, tmp_path / "member", at))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "member").exists() == (at[1] == "open")
    run = export_member(finished.directory, 3, tmp_path / "member")
    assert [entry.name for entry in tmp_path.iterdir()] == ["member"]
    assert newest(run.checkpoints)["step"] == STEPS
    (run.checkpoints / str(STEPS)).rename(run.checkpoints / str(STEPS + 1))  # it is trained on
    with pytest.raises(RunError, match="exists already"):
        export_member(finished.directory, 3, tmp_path / "member")


def change_json(file, change):
    value = json.loads(file.read_text("utf-8"))
    change(value)
    file.write_text(json.dumps(value), "utf-8")


ODD_SWEEPS = {
    "another config": ("sweep.json", lambda v: v["config"]["model"]["positions"].update(name="alibi"),
                       r'sweep\.json does not fit .*config\.model\.positions\.name \("rotary" there, "alibi" here\)'),
    "another member": ("sweep.json", lambda v: v["members"]["3"].update(learning_rate=0.5),
                       r"sweep\.json does not fit .*members\.3\.learning_rate \(0\.01 there, 0\.5 here\)"),
    "no members": ("sweep.json", lambda v: v.pop("members"), r"sweep\.json is damaged: it must hold a config, and members"),
    "members that are an array": ("sweep.json", lambda v: v.update(members=[]), r"sweep\.json is damaged"),
    "a member that is null": ("sweep.json", lambda v: v["members"].update({"3": None}), r"sweep\.json is damaged"),
    "a config that is null": ("sweep.json", lambda v: v.update(config=None), r"sweep\.json is damaged"),
    "another tokenizer": ("data/0/tokenizer.json", lambda v: v.update(version="2"),
                          r"data/0/tokenizer\.json does not fit .*was trained with another"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_SWEEPS)
def test_a_sweep_that_says_something_else_than_its_checkpoints_is_refused(finished, tmp_path, name):
    """A member is exported as another model than was trained."""
    file, change, wanted = ODD_SWEEPS[name]
    directory = SweepDirectory.open(shutil.copytree(finished.directory.path, tmp_path / "sweep"))
    change_json(directory.path / file, change)
    with pytest.raises(RunError, match=wanted) as error:
        export_member(directory, 3, tmp_path / "member")
    assert "\n" not in str(error.value) and not (tmp_path / "member").exists()


FOLDERS_FOR_FILES = (
    "sweep.json",
    "groups.json",
    "results.jsonl",
    "lock",
    "groups/0/metrics.jsonl",
    "data/0/tokenizer.json",
)
FILES_FOR_FOLDERS = ("groups", "groups/0", "groups/0/checkpoints", "data", "data/0", "plots")


def test_a_folder_for_a_file_of_a_sweep_is_named_in_one_line_and_the_reverse(finished, tmp_path):
    """An export ends in a traceback, or leaves half a run."""
    for name in (*FOLDERS_FOR_FILES, *FILES_FOR_FOLDERS):
        place = Path(shutil.copytree(finished.directory.path, tmp_path / "sweep")) / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.mkdir() if name in FOLDERS_FOR_FILES else place.touch()
        with pytest.raises(
            RunError, match=f"{name} must be a (file, and is a folder|folder, and is a file): move it away"
        ):
            export_member(SweepDirectory.open(tmp_path / "sweep"), 3, tmp_path / "member")
        shutil.rmtree(tmp_path / "sweep")


def test_an_export_that_fails_leaves_nothing(finished, tmp_path, monkeypatch):
    """Half a run is left in a hidden folder."""

    def fail(*_):
        raise OSError

    monkeypatch.setattr("tformer_jax.sweeps.export.environment", fail)
    with pytest.raises(OSError):
        export_member(finished.directory, 3, tmp_path / "member")
    assert not list(tmp_path.iterdir())


OTHER_GROUPS = {
    "[]": ({}, "groups.json is damaged: each of the 4 members"),
    "{}": ({}, "groups.json is damaged: it must hold an array"),
    "null": ({}, "groups.json is damaged: it must hold an array"),
    "[null]": ({}, "groups.json is damaged: a group must have"),
    '[{"members": [0, 1, 2, 2], "chunk": 1, "data": 0}]': ({}, "groups.json is damaged: each of the 4 members"),
    '[{"members": [0, 1, 2, 3], "chunk": 0, "data": 0}]': ({}, "groups.json is damaged: a group must have"),
    '[{"members": [0, 1, 2, 3], "chunk": 1, "data": 7}]': ({}, r"groups.json is damaged: members \[0, 1, 2, 3\]"),
    '[{"members": [0, 1, 2, 3], "chunk": 1, "data": 0}]': ({"chunk": 2}, "leave out --chunk=2"),
    '[{"members": [0, 1, 2, 3], "chunk": 1, "data": 0} ]': ({"together": 2}, "leave out --together=2"),
}


def test_a_finished_sweep_with_other_groups_keeps_its_results(config, finished, tmp_path):
    """Results are written over with "waiting", or a flag is ignored without a word."""
    directory = Path(shutil.copytree(finished.directory.path, tmp_path / "sweep"))
    before = {name: (directory / name).read_bytes() for name in ("results.csv", "results.jsonl")}
    for text, (how, wanted) in OTHER_GROUPS.items():
        (directory / "groups.json").write_text(text)
        with pytest.raises(RunError, match=wanted):
            sweep(config, directory, SPACE, **how)
        assert {name: (directory / name).read_bytes() for name in before} == before


ODD_GROUPS = {
    "gone": (lambda file: file.unlink(), r"groups\.json is gone, and nothing else says how the members in .*/groups/0 were"),
    "another chunk": (lambda file: file.write_text(file.read_text().replace('"chunk": 1', '"chunk": 3')),
                      r"groups\.json does not fit the checkpoint .*/12: group 0 differs in chunk \(1 there, 3 here\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_GROUPS)
def test_members_are_not_put_together_anew(config, finished, tmp_path, name):
    """Members are trained again from the start, or go on with other last bits."""
    directory = Path(shutil.copytree(finished.directory.path, tmp_path / "sweep"))
    damage, wanted = ODD_GROUPS[name]
    damage(directory / "groups.json")
    with pytest.raises(RunError, match=wanted):
        sweep(config, directory, SPACE, chunk=None)
    with pytest.raises(RunError, match=wanted):
        export_member(SweepDirectory.open(directory), 3, tmp_path / "member")
    assert (directory / "results.csv").read_bytes() == (finished.directory.path / "results.csv").read_bytes()


def test_who_goes_on_after_a_rung_does_not_depend_on_a_file(config, halved, tmp_path):
    """A lost or damaged rungs.json ends a sweep in a traceback, or has other members go on after it was stopped."""
    directory = Path(shutil.copytree(halved.directory.path, tmp_path / "sweep"))
    file = directory / "rungs.json"
    for text in (None, "", "[]", "null", '{"x": 3}', '{"6": [0, 1]}', '{"6": "text"}'):
        file.write_text(text) if text is not None else file.unlink()
        again = sweep(config, directory, SPACE, halving=Halving(factor=2, first_rung=RUNG))
        assert [(r["status"], r["final"]) for r in again.rows] == [(r["status"], r["final"]) for r in halved.rows]
        assert rungs_of(again.directory) == rungs_of(halved.directory)


def test_a_sweep_does_not_go_on_as_another_one(config, finished, tmp_path):
    """Members go on as others, because sweep.json was lost or changed together with the command."""
    shutil.copytree(finished.directory.path, tmp_path / "sweep")
    (tmp_path / "sweep" / "sweep.json").unlink()
    before = (tmp_path / "sweep" / "results.csv").read_bytes()
    other = config | {"model": config["model"] | {"positions": {"name": "alibi"}}}
    with pytest.raises(RunError, match=r"does not fit .*config\.model\.positions"):
        sweep(other, tmp_path / "sweep", SPACE)
    assert (tmp_path / "sweep" / "results.csv").read_bytes() == before
    assert sweep(config, tmp_path / "sweep", SPACE).rows == finished.rows


def damage_row(file, find):
    """A flipped bit in the last row with these words."""
    lines = file.read_bytes().splitlines(keepends=True)
    (*_, at) = (i for i, line in enumerate(lines) if all(word in line for word in find))
    lines[at] = bytes([lines[at][0] ^ 128]) + lines[at][1:]
    file.write_bytes(b"".join(lines))


def test_damaged_metrics_of_a_sweep_take_nothing_from_its_results(config, finished, tmp_path):
    """Results are written over with others, without those of a lost file, or a sweep ends where nothing is lost."""
    shutil.copytree(finished.directory.path, tmp_path / "sweep")
    file, results = tmp_path / "sweep" / "groups" / "0" / "metrics.jsonl", tmp_path / "sweep" / "results.csv"
    before, content = results.read_bytes(), file.read_bytes()
    damage_row(file, [b'"member": 1, "step": 4,', b'"loss"'])
    found = sweep(config, tmp_path / "sweep", SPACE)
    assert f"1 of {len(content.splitlines())} lines of {file} are damaged" in " ".join(found.said.split())
    assert found.rows == finished.rows
    for words in ([b'"member": 1, "step": 12,', b"validation"], [b'"member": 2, "step": 12,', b'"loss"'], None):
        file.write_bytes(content)
        damage_row(file, words) if words else file.unlink()
        member, step = (int(words[0].split(b",")[0][10:]), 12) if words else (0, 6)
        with pytest.raises(RunError, match=rf"metrics\.jsonl lacks the row of member {member} at step {step}:"):
            sweep(config, tmp_path / "sweep", SPACE)
        assert results.read_bytes() == before


def test_a_run_is_not_trained_in_the_directory_of_a_sweep(config, finished, tmp_path):
    """It trains there, and the sweep is refused its own directory for good: also before the sweep has trained."""
    for path in (finished.directory.path, tmp_path):
        SweepDirectory.start(path, finished.directory.asked)
        before = sorted(path.iterdir())
        with pytest.raises(RunError, match="holds a sweep of members; choose another --workdir for the run"):
            Run.start(path, config)
        assert sorted(path.iterdir()) == before
    with pytest.raises(RunError, match=r"is not a run directory: it holds a sweep .*\.export --workdir=.* makes a run"):
        Run.open(tmp_path)


def test_a_part_of_a_sweep_is_no_run(config, finished, tmp_path):
    """It goes on from the states of all members, or is refused with a riddle."""
    whole, group = finished.directory.path, finished.directory.group(0)
    moved = shutil.copytree(group, tmp_path / "group")
    export = r"experiments\.export --workdir={} --member=NUMBER --to=DIRECTORY makes a run of a member"
    before = sorted((*whole.rglob("*"), *tmp_path.rglob("*")))
    for part in (whole / "groups", group, group / "checkpoints", whole / "data" / "0", whole / "plots" / "new", moved):
        of = "SWEEP" if part == moved else re.escape(str(whole))
        for use in (functools.partial(Run.start, config=config), Run.open):
            with pytest.raises(RunError, match=rf"(is part of a sweep|states of members) .*{export.format(of)}"):
                use(part)
    assert sorted((*whole.rglob("*"), *tmp_path.rglob("*"))) == before


def test_a_search_alone_makes_its_runs(config, tmp_path):
    """A run that is no trial's stands where a trial will come, and the search stops there."""
    (tmp_path / "search.json").write_text('{"mark": "0"}')
    for part in ("trials", "trials/99", "trials/99/new"):
        with pytest.raises(RunError, match=rf"{part} is part of a search, in .*: it makes its runs"):
            Run.start(tmp_path / part, config)
        with pytest.raises(RunError, match=f"{part} is part of a search"):
            sweep(config, tmp_path / part, SPACE)
    assert [file.name for file in tmp_path.iterdir()] == ["search.json"]
    trial = Run.start(tmp_path / "trials/99", config, trial=True)
    assert Run.start(trial.directory, config).config == trial.config


def test_a_sweep_in_a_part_of_another_leaves_nothing_there(config, tmp_path):
    """A lock stays where no sweep may be."""
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(RunError, match="is part of a sweep"):
        sweep(config, tmp_path / "groups/0", SPACE)
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.json"]


def test_what_is_no_sweep_is_not_exported(alone, tmp_path):
    """The message does not say what it is."""
    with pytest.raises(RunError, match="is not the directory of a sweep: it holds a single run"):
        SweepDirectory.open(alone.run.directory)
    (tmp_path / "search.json").write_text('{"mark": "0"}')
    with pytest.raises(
        RunError, match="is not the directory of a sweep: it holds a search; its runs are in its trials/"
    ):
        SweepDirectory.open(tmp_path)


def test_a_terminal_shows_the_best_members_first(finished):
    """The live table hides the best, or what was tried."""
    output = io.StringIO()
    with Board(Ranking(), Console(file=output, width=200, force_terminal=True)) as board:
        board.update(finished.rows, "after step 12 of 12", news=True)
    shown = re.findall(r"(\d) +([\d.e-]+) +(\d) +finished", output.getvalue())[: len(finished.rows)]
    best = sorted(finished.rows, key=lambda row: row["final"]["loss"])
    assert [int(member) for member, _, _ in shown] == [row["member"] for row in best]
    assert [float(rate) for _, rate, _ in shown] == [row["overrides"]["learning_rate"] for row in best]


@pytest.mark.slow
def test_a_member_that_was_dropped_can_be_trained_to_its_end(halved, finished, place):
    """The state of a dropped member is lost, or training does not go on from it as if it had never stopped."""
    (number, *_) = (row["member"] for row in halved.rows if row["status"] == "stopped")
    run = export_member(halved.directory, number, place / "trained on")
    said = []
    with pytest.MonkeyPatch.context() as patch, unchecked_annotations():
        patch.setattr(jax, "jit", quick_jit)
        run_training(Run.start(run.directory, run.config), said.append)
    assert f"going on from the checkpoint of step {RUNG}" in said
    rows, wanted = read_metrics(run.metrics_file), metrics_of(finished.directory)[number]
    assert rows[-1]["step"] == STEPS
    np.testing.assert_allclose(rows[-1]["validation_loss"], wanted[-1]["validation_loss"], rtol=1e-5)
    means = [[row["mean_loss"] for row in those if "mean_loss" in row] for those in (rows, wanted)]
    np.testing.assert_allclose(*means, rtol=1e-5)  # one is of steps before and after
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_a_swept_number_of_steps_is_beside_the_steps_that_were_taken(config, tmp_path):
    """A column of results.csv tells of a stopped member that it was trained to its end."""
    results = Results(make_members(config, parse("steps=6,12").members()), Ranking())
    for number in (0, 1):
        results.add({"member": number, "step": 6, "validation_loss": 1.0})
    write_results(results.rows(), tmp_path)
    with open(tmp_path / "results.csv", newline="") as file:
        assert [(row["steps"], row["override_steps"]) for row in csv.DictReader(file)] == [("6", "6"), ("6", "12")]


def test_overrides_stand_together_in_the_table(config, tmp_path):
    """A field that the first members do not have is a column behind all numbers."""
    members = make_members(config, parse("learning_rate=0.1 | label_smoothing=0.1").members())
    write_results(Results(members, Ranking()).rows(), tmp_path)
    (header, *_) = (tmp_path / "results.csv").read_text().splitlines()
    assert header == "member,status,steps,seconds,learning_rate,label_smoothing,training_loss,best_step"


@pytest.mark.parametrize("metric, best, wanted", [
    ("accuracy", None, [1, 0]), ("masked_accuracy", None, [1, 0]), ("loss", None, [0, 1]), ("loss", "highest", [1, 0]),
])  # fmt: skip
def test_more_is_better_of_an_accuracy(metric, best, wanted):
    """The worst member is called the best, and the best ones are stopped at a rung."""
    rows = [{"member": i, "status": "finished", "final": {metric: x}} for i, x in enumerate((0.5, 0.9))]
    assert [row["member"] for row in Ranking(metric, best).ranked(rows)] == wanted


def test_a_member_that_diverged_after_a_validation_is_not_the_best():
    """The command that is printed for the best member ends in an error."""
    rows = [{"member": i, "status": s, "final": {"loss": i}} for i, s in enumerate(("diverged", "stopped", "failed"))]
    assert [row["member"] for row in Ranking().ranked(rows)] == [1]


@pytest.mark.slow
def test_a_member_that_diverges_is_reported(config, place):
    """A sweep ends with the member, hides it, or calls it the best."""
    found = sweep(config, place / "diverging", "learning_rate=1e-2,1e30")
    assert [row["status"] for row in found.rows] == ["finished", "diverged"]
    assert found.rows[1]["steps"] < STEPS and "member 1 diverged at step" in found.said
    assert [row["member"] for row in Ranking().ranked(found.rows)][:1] == [0]


@pytest.mark.slow
def test_a_sweep_that_was_stopped_after_a_member_diverged_ends_with_the_same_bits(config, place, monkeypatch):
    """Who has diverged is left out when a sweep goes on, and others stand in other chunks than before."""
    text, whole = "learning_rate=1e30,1e-2,5e-3", place / "diverging whole"
    wanted = newest(sweep(config, whole, text, chunk=2).directory.group(0) / "checkpoints")

    def stop(board, rows, where, **_):
        if where.startswith("after step 4 "):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Board, "update", stop)
        sweep(config, place / "diverging stopped", text, chunk=2)
    found = newest(sweep(config, place / "diverging stopped", text, chunk=2).directory.group(0) / "checkpoints")
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


@pytest.mark.slow
def test_what_does_not_fit_the_memory_is_trained_in_parts(config, place, monkeypatch):
    """More members are trained at a time than the compiler says that fit, or fewer than one."""
    monkeypatch.setattr(calibration, "_bytes", lambda population, batch: 100 * 2**20 * len(population.members))
    monkeypatch.setattr(calibration, "available_bytes", lambda device: 250 * 2**20)
    found = sweep(config, place / "parts", SPACE, chunk=None)
    assert [group["members"] for group in found.directory.groups()] == [[0, 1], [2, 3]]
    assert "4 members would need 400 MiB a device: training 2 at a time" in found.said
    assert "milliseconds per member and step: one after the other" in found.said
    monkeypatch.setattr(calibration, "available_bytes", lambda device: 50 * 2**20)
    with pytest.raises(ConfigError, match="a member of the sweep needs 100 MiB, but the device has 50 MiB left"):
        sweep(config, place / "none", SPACE, chunk=None)


def test_a_directory_of_another_sweep_is_refused(config, finished):
    """Members of two sweeps are mixed, or the message does not say what differs."""
    path = finished.directory.path
    another = {"learning_rate=1e-3,2e-2; seed=0..1": "members.2.learning_rate", SPACE + "; b1=0.5": "members.0.b1"}
    for text, wanted in another.items():
        with pytest.raises(RunError, match=rf"holds another sweep; it differs in {wanted}"):
            sweep(config, path, text)
    with pytest.raises(RunError, match="config.model.feed_forward.width"):
        sweep(config | {"model": config["model"] | {"feed_forward": {"width": 32}}}, path, SPACE)
    with pytest.raises(RunError, match="halving"):
        sweep(config, path, SPACE, halving=Halving(factor=2, first_rung=RUNG))


def test_the_directory_of_a_run_is_refused(config, alone):
    """A sweep writes among the files of a run."""
    with pytest.raises(RunError, match="holds a single run"):
        sweep(config, alone.run.directory, SPACE)


def test_the_directory_of_a_search_is_refused(config, tmp_path):
    """A sweep overwrites the results of a search, which can never go on."""
    (tmp_path / "search.json").write_text('{"mark": "0"}')
    with pytest.raises(RunError, match="holds a search"):
        sweep(config, tmp_path, SPACE)


def test_a_refused_command_leaves_a_sweep_that_is_about_to_begin(config, tmp_path):
    """The first sweep's members would be exported with the values of the second."""
    SweepDirectory.start(tmp_path, asked := {"config": config, "members": {}})
    with locked(tmp_path), pytest.raises(RunError, match="is in use"):
        sweep(config, tmp_path, SPACE)
    assert SweepDirectory.open(tmp_path).asked["members"] == asked["members"]


@pytest.mark.slow
def test_a_run_to_start_from_that_does_not_fit_a_member_is_refused_before_any_is_trained(place, tmp_path):
    """Members of other groups are trained for hours first, and a corrected sweep is refused its directory."""
    config = tiny_runs.configs(place)["text_classification"]
    pretrained = tiny_runs.finished(place, "masked_lm").run.directory
    config |= {"task": config["task"] | {"init_from": str(pretrained)}}
    with pytest.raises(ConfigError, match="does not fit"):
        sweep(config, tmp_path, "model.num_layers=1,2")
    assert not (tmp_path / "groups.json").exists() and not list(tmp_path.glob("groups/*/metrics.jsonl"))


@pytest.mark.slow
def test_a_sweep_that_could_not_begin_leaves_its_directory_free(config, place):
    """A corrected command is refused because of the one before."""
    broken = config | {"data": config["data"] | {"path": str(place / "nowhere")}}
    with pytest.raises(Exception, match="nowhere"):
        sweep(broken, place / "corrected", "learning_rate=1e-2")
    assert sweep(config, place / "corrected", "learning_rate=1e-2").rows[0]["status"] == "finished"


@pytest.mark.parametrize("how, wanted", [
    (dict(factor=1, first_rung=3), "halving must be at least 2"),
    (dict(factor=2, first_rung=0), "first_rung must be at least 1"),
    (dict(factor=2, first_rung=STEPS), "must be below training.steps"),
])  # fmt: skip
def test_halving_that_cannot_be_is_refused(how, wanted):
    """A sweep runs whose rungs drop nobody, or everybody."""
    with pytest.raises(ConfigError, match=wanted):
        Halving(**how).rungs(STEPS)


@pytest.mark.parametrize("steps, wanted", [(100, [10, 30, 90]), (90, [10, 30]), (11, [10])])
def test_rungs_are_a_factor_apart_and_before_the_last_step(steps, wanted):
    """A rung is left out, or is the last step."""
    assert Halving(factor=3, first_rung=10).rungs(steps) == wanted


def test_a_metric_that_is_not_validated_is_refused(config, place):
    """Members are compared by what none of them has."""
    with pytest.raises(ConfigError, match="metric must be one of .*perplexity.*, got 'accuracy'"):
        sweep(config, place / "metric", "learning_rate=1e-2", Ranking("accuracy", "highest"))
    assert not (place / "metric").exists()


@pytest.mark.parametrize("parallel", [dict(mode="pmap"), dict(fsdp=2), dict(tensor=2)])
def test_models_over_several_devices_are_refused(config, place, parallel):
    """A setting of how one model is spread is ignored."""
    with pytest.raises(ConfigError, match="whole models on each device"):
        sweep(config | {"parallel": {"data": 1} | parallel}, place / "spread", "learning_rate=1e-2")


@pytest.mark.parametrize("keep", [dict(keep_best=1), dict(keep_every=6)])
def test_what_is_kept_of_one_member_is_refused(config, place, keep):
    """Checkpoints that a user asked to be kept are gone."""
    checkpoint = config["checkpoint"] | {"every": 6} | keep
    with pytest.raises(ConfigError, match="at their defaults"):
        sweep(config | {"checkpoint": checkpoint}, place / "kept", "learning_rate=1e-2")
