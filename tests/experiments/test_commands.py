"""Train, evaluate and predict as a user runs them, on a real corpus; processes that are killed; what is refused."""

import functools
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from support import by_day, pictures_of, untimed

LAST, EVERY = 120, 40  # as in conftest.py


def rows_of(run):
    return untimed([json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()])


def lines_of(result):
    return result.stdout.splitlines()


def scores_in(result):
    """BLEU, loss and the number of sentences, as printed for the test split."""
    (line,) = [line for line in lines_of(result) if line.startswith("test:")]
    return re.findall(r"\d+(?:\.\d+)?", line)


def checkpoint_arrays(run, step):
    """All arrays of a checkpoint, read without this package."""
    restored = ocp.StandardCheckpointer().restore((run / "checkpoints" / str(step) / "arrays").absolute())
    return {name: np.asarray(x) for name, x in restored.items()}


# Training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", by_day(["finished", "trained"], 0))
def test_training_succeeds_quietly(request, how):
    """The first command of a new user would fail, or bury its result under warnings."""
    _, result = request.getfixturevalue(how)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "WARNING" not in result.stderr


def test_training_leaves_every_promised_file(finished):
    """Something that a user was promised of a run would not be there."""
    run, _ = finished
    found = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and file.stat().st_size}
    promised = {"config.json", "environment.json", "metrics.jsonl", "tokenizer.json", "samples/test.jsonl"}
    assert promised <= found
    assert any(file.startswith("tensorboard/") for file in found)
    assert any(file.startswith(f"checkpoints/{LAST}/") for file in found)
    assert found >= {f"plots/{picture}" for picture in pictures_of("translation")}
    for picture in (run / "plots").iterdir():
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_flags_of_the_command_line_are_in_the_config(finished, corpus):
    """Overrides would not reach the run: config.json holds every field, those given and those not."""
    config = json.loads((finished[0] / "config.json").read_text("utf-8"))
    assert config["data"]["tsv_file"] == str(corpus)
    assert config["model"]["d_model"] == 16
    assert config["optimizer"]["learning_rate"] == 0.01
    assert config["optimizer"]["b2"] == 0.98
    assert config["training"]["seed"] == 0


def test_metrics_reach_the_last_step(finished):
    """The loss curve would have holes or end early."""
    rows = rows_of(finished[0])
    assert [row["step"] for row in rows if "loss" in row] == list(range(20, LAST + 1, 20))
    assert [row["step"] for row in rows if "validation_loss" in row] == [LAST // 2, LAST]


def test_training_says_where_it_stands(finished):
    """A user would wait without knowing for how long, or not see the size of data and model."""
    _, result = finished
    assert any("180 train, 8 validation, 12 test pairs" in line for line in lines_of(result))
    assert any(re.fullmatch(r"[\d,]+ parameters", line) for line in lines_of(result))
    last = rf"step {LAST}/{LAST}  loss \d+\.\d+  [\d,]+ tokens/s  0:00 left"
    assert any(re.fullmatch(last, line) for line in lines_of(result))


def test_training_prints_its_score_with_signature(finished):
    """BLEU without a signature means nothing; it must be that of the samples that are kept."""
    run, result = finished
    saved = json.loads((run / "samples" / "test_metrics.json").read_text("utf-8"))
    bleu, loss, sentences = scores_in(result)
    assert (bleu, loss, sentences) == (f"{saved['bleu']:.2f}", f"{saved['loss']:.4f}", "12")
    assert saved["bleu"] > 0
    assert any(re.match(r"signature nrefs:1\|.*\|version:\d", line) for line in lines_of(result))


def test_training_shows_five_samples(finished):
    """A user would have to search for what the model writes; each is a test sentence with its reference."""
    run, result = finished
    kept = [json.loads(line) for line in (run / "samples" / "test.jsonl").read_text("utf-8").splitlines()]
    shown = {name: re.findall(rf"(?m)^ *{name} +(.*?) *$", result.stdout) for name in ("source", "reference")}
    assert len(kept) == 12
    assert len(shown["source"]) == len(shown["reference"]) == 5
    assert len(re.findall(r"(?m)^ *translation\b", result.stdout)) == 5
    assert set(zip(shown["source"], shown["reference"], strict=True)) <= {(s["source"], s["reference"]) for s in kept}


# Afterwards ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sentences(place):
    """An input file with an empty line and no end of line at its end."""
    file = place / "sentences.txt"
    file.write_text("The value of the expression\n\nis an object\nNote that", "utf-8")
    return file


@pytest.fixture(scope="session")
def afterwards(place, finished, here, flags, sentences):
    """What became of the commands that follow a training: on copies, so that a run is seen to stand alone."""
    run, _ = finished
    for name in ("again", "moved"):
        shutil.copytree(run, place / name)
    return {
        "again": here("train", *flags(place / "again")),
        "evaluate": here("evaluate", f"--workdir={place / 'moved'}"),
        "text": here("predict", f"--workdir={run}", "--text=The value of the expression"),
        "input": here("predict", f"--workdir={run}", f"--input={sentences}"),
    }


def test_the_same_command_again_says_that_it_is_finished(afterwards):
    """A finished run would be trained again, or fail."""
    result = afterwards["again"]
    assert result.returncode == 0, result.stderr
    assert any(f"step {LAST}" in line and "already" in line for line in lines_of(result))
    assert not any("tokens/s" in line for line in lines_of(result))


def test_the_same_command_again_reports_the_same_numbers(afterwards, finished, place):
    """A reported result could not be reproduced from its own run."""
    assert scores_in(afterwards["again"]) == scores_in(finished[1])
    assert rows_of(place / "again") == rows_of(finished[0])


@pytest.mark.parametrize("how", ["short", "none"])
def test_a_report_may_be_short(finished, here, flags, tmp_path, how):
    """Whole test splits are scored and translated, or a part that is said to be the whole."""
    shutil.copytree(finished[0], tmp_path / "run")
    result = here("train", *flags(tmp_path / "run"), f"--report={how}")
    assert result.returncode == 0, result.stderr
    said = [line for line in lines_of(result) if line.startswith("test")]
    assert [re.match(r"test, (\d) of \1 batches: loss \d+\.\d{4}$", line) is not None for line in said] == [True] * (
        how == "short"
    )


def test_evaluating_gives_the_same_score(afterwards, finished):
    """Evaluation would use another model, split or search than training did."""
    result = afterwards["evaluate"]
    assert result.returncode == 0, result.stderr
    assert scores_in(result) == scores_in(finished[1])


def test_weights_may_be_kept_in_eight_bits(finished, here, tmp_path):
    """Scored with other weights than those it says, or with a matrix of the wrong scale, which a loss would show."""
    shutil.copytree(finished[0], tmp_path / "run")
    result = here("evaluate", f"--workdir={tmp_path / 'run'}", "--weights=int8")
    assert result.returncode == 0, result.stderr
    assert "weights are kept in int8" in result.stdout
    loss, wanted = (float(scores_in(x)[1]) for x in (result, finished[1]))
    assert abs(loss - wanted) < 5e-3


@pytest.mark.parametrize("how", by_day(["here", "from_scratch"], 0))
def test_a_text_has_one_line(request, afterwards, finished, how):
    """Scripts could not use the output: nothing but the translation may be on stdout."""
    flags = f"--workdir={finished[0]}", "--text=The value of the expression"
    result = afterwards["text"] if how == "here" else request.getfixturevalue(how)("predict", *flags)
    assert result.returncode == 0, result.stderr
    assert len(lines_of(result)) == 1
    assert set(lines_of(result)[0].split()) & {"da", "demi", "dolumo"}


def test_a_file_has_a_line_for_each_line(afterwards):
    """Translations could not be matched to their sentences, empty ones among them."""
    result = afterwards["input"]
    assert result.returncode == 0, result.stderr
    assert len(lines_of(result)) == 4
    assert lines_of(result)[1] == ""


def test_a_sentence_is_translated_alike_alone_and_in_a_file(afterwards):
    """A translation would depend on its neighbours."""
    assert lines_of(afterwards["input"])[0] == lines_of(afterwards["text"])[0]


@pytest.fixture(scope="session")
def killed(place, flags, start, command):
    """The same training, killed at its first checkpoint and then run again: exit code, checkpoints, what it said."""
    process = start("train", *flags(place / "killed"))
    try:
        while not (place / "killed" / "checkpoints" / str(EVERY)).exists() and process.poll() is None:
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    left = [entry.name for entry in (place / "killed" / "checkpoints").iterdir()]
    return process.returncode, left, command("train", *flags(place / "killed"))


@pytest.mark.slow
def test_the_kill_came_in_the_middle(killed):
    """The next tests would say nothing: the process was killed after its first checkpoint and before its last."""
    returncode, left, _ = killed
    assert returncode == -signal.SIGKILL
    assert str(EVERY) in left
    assert str(LAST) not in left


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(killed):
    """A killed run would start again, or could not be resumed at all."""
    _, _, result = killed
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in lines_of(result) if "going on from the checkpoint of step" in line]
    assert int(line.split()[-1]) in range(EVERY, LAST, EVERY)


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_where_an_undisturbed_one_does(killed, trained, place):
    """A crash would change the result."""
    _, _, result = killed
    assert result.returncode == 0, result.stderr
    wanted, found = checkpoint_arrays(trained[0], LAST), checkpoint_arrays(place / "killed", LAST)
    assert wanted.keys() == found.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert rows_of(place / "killed") == rows_of(trained[0])
    assert scores_in(result) == scores_in(trained[1])


# What a user can put right ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def refused(place, finished, flags, here):
    """`refused(name)`: what became of a command that cannot work."""
    (place / "three.txt").write_text("one\ntwo\nthree\n")
    (place / "two.txt").write_text("eins\nzwei\n")
    (place / "file").write_text("")
    new = place / "refused"
    uneven = {"data.tsv_file": None, "data.source_file": place / "three.txt", "data.target_file": place / "two.txt"}
    commands = {
        "field": ("train", *flags(new), "--config.optimizer.lerning_rate=1"),
        "preset": ("train", *flags(new, preset="tyni")),
        "config file": ("train", f"--workdir={new}", "--config=experiments/configs/translations.py:tiny"),
        "field of another model": ("train", *flags(new), "--config.model.window=4"),
        "section": ("train", *flags(new), "--config.optimiser.b1=0.8"),
        "no config": ("train", f"--workdir={new}", "--config.model.d_model=4"),
        "no config file": ("train", f"--workdir={new}", "--config=README.md"),
        "stray": ("train", *flags(new), "stray"),
        "vocabulary": ("train", *flags(place / "refused vocabulary", {"data.vocab_size": 200})),
        "other config": ("train", *flags(finished[0], {"model.d_model": 32})),
        "line counts": ("train", *flags(place / "refused lines", uneven)),
        "workdir": ("train", *flags(place / "file" / "run")),
        "no run": ("predict", f"--workdir={new}", "--text=a"),
    }
    return functools.cache(lambda name: here(*commands[name]))


REFUSALS = {
    "field": r"lerning_rate.*did you mean 'learning_rate'",
    "preset": r"got 'tyni'; did you mean 'tiny'",
    "config file": r"experiments/configs/translations\.py",
    "field of another model": r"config\.model has no field 'window'; did you mean config\.model\.attention\.window\?",
    "section": r"config has no field 'optimiser'; did you mean 'optimizer'",
    "no config": r"Unknown command line flag 'config\.model\.d_model'; put --config=FILE before it",
    "no config file": r"cannot load the config: .*README\.md",
    "stray": r"unexpected arguments: stray",
    "vocabulary": r"vocab_size must exceed 259.*got 200",
    "other config": r"another config; it differs in model\.d_model \(16 there, 32 here\)",
    "line counts": r"three\.txt has 3 lines but .*two\.txt has 2",
    "workdir": r"cannot write to .*file/run: Not a directory",
    "no run": r"refused is not a run directory",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_ends_in_one_line_that_says_what_is_wrong(refused, name):
    """A user would have to read a traceback, or a script would take the failure for a success."""
    result = refused(name)
    assert result.returncode != 0
    assert "Traceback" not in result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert re.search(REFUSALS[name], line)


def test_a_refused_command_leaves_nothing_behind(refused, place):
    """A misspelt flag would leave a run directory that then belongs to another config."""
    assert refused("field").returncode != 0
    assert not (place / "refused").exists()
