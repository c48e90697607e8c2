"""Data that are not those that a run began with: refused in one line that says what differs; the same ones pass."""

import contextlib
import copy
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image
from support import by_day, quick_jit

from tformer_jax.data.files import DataError
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.loading import load_run
from tformer_jax.training.run import Run
from tformer_jax.training.running import load_data, run_training


def lines_of(file, change):
    lines = file.read_text("utf-8").splitlines()
    change(lines)
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def swap(lines):
    lines[3], lines[40] = lines[40], lines[3]


def correct(lines):
    lines[3] += "!"


def relabel(lines):
    label, _, text = lines[3].partition("\t")
    lines[3] = f"{'long' if label == 'short' else 'short'}\t{text}"


def change_pixel(file):
    pixels = np.array(Image.open(file))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(file)


def put_back_elsewhere(file):
    """The same content in another file, which the path leads to."""
    file.symlink_to(file.rename(file.with_name("elsewhere")))


TEXTS, LABELLED, CORPUS, IMAGES = "texts", "labelled.tsv", "corpus.tsv", "images/train"
# The task, what happens to its files, and what the refusal says; None: it goes on.
CASES = {
    "translation, lines appended": (
        "translation", CORPUS, lambda f: lines_of(f, lambda x: x.append("new\tneu")), "train has 68 pairs, but had 67"),
    "translation, a line corrected": (
        "translation", CORPUS, lambda f: lines_of(f, correct), "has the same number of pairs, but other ones"),
    "translation, two lines swapped": (
        "translation", CORPUS, lambda f: lines_of(f, swap), "train has the same pairs in another order"),
    "translation, moved": ("translation", CORPUS, put_back_elsewhere, None),
    "translation, other line ends": (
        "translation", CORPUS, lambda f: f.write_bytes(f.read_bytes().replace(b"\n", b"\r\n")), None),
}  # fmt: skip
for task in ("causal_lm", "masked_lm"):
    CASES |= {
        f"{task}, lines appended": (
            task, f"{TEXTS}/07.txt", lambda f: f.write_text(f.read_text() + "new\n"), r"[\d,]+ characters, but had"),
        f"{task}, a line corrected": (
            task, f"{TEXTS}/07.txt", lambda f: f.write_text(f.read_text().replace("e", "a", 1)),
            "has the same number of documents, but other ones"),
        f"{task}, a document more": (
            task, f"{TEXTS}/60.txt", lambda f: f.write_text("quite new\n"), r"has \d+ documents, but had \d+"),
        f"{task}, two documents swapped": (task, TEXTS, lambda f: swap_files(f / "07.txt", f / "08.txt"), "documents"),
        f"{task}, moved": (task, TEXTS, put_back_elsewhere, None),
        f"{task}, a hidden file more": (task, f"{TEXTS}/.hidden.txt", lambda f: f.write_text("not read"), None),
    }  # fmt: skip
CASES |= {
    "text classification, lines appended": (
        "text_classification", LABELLED, lambda f: lines_of(f, lambda x: x.append("long\tone more")), "but had"),
    "text classification, a line corrected": (
        "text_classification", LABELLED, lambda f: lines_of(f, correct), r"train has [\d,]+ characters, but had"),
    "text classification, a label changed": (
        "text_classification", LABELLED, lambda f: lines_of(f, relabel), "texts"),
    "text classification, two lines swapped": (
        "text_classification", LABELLED, lambda f: lines_of(f, swap), "train has the same texts in another order"),
    "text classification, moved": ("text_classification", LABELLED, put_back_elsewhere, None),
    "images, a pixel changed": (
        "image_classification", f"{IMAGES}/dark/7.png", change_pixel, "has the same number of images, but other ones"),
    "images, one more": (
        "image_classification", f"{IMAGES}/dark", lambda f: shutil.copy(f / "7.png", f / "99.png"), "images, but had"),
    "images, of another class": (
        "image_classification", IMAGES, lambda f: swap_files(f / "dark/7.png", f / "light/7.png"), "but other ones"),
    "images, renamed in their order": (
        "image_classification", f"{IMAGES}/light", lambda f: (f / "9.png").rename(f / "90.png"), None),
    "images, moved": ("image_classification", IMAGES, put_back_elsewhere, None),
}  # fmt: skip


def swap_files(one, other):
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def own_config(place, task, folder):
    """A task's tiny config on a copy of its files in `folder`."""
    config = copy.deepcopy(tiny_runs.translation(place) if task == "translation" else tiny_runs.configs(place)[task])
    shutil.copytree(tiny_runs.files(place), folder)
    for field in ("path", "tsv_file"):
        if field in config["data"]:
            config["data"][field] = str(folder / os.path.relpath(config["data"][field], tiny_runs.files(place)))
    return config


@pytest.fixture
def place(tmp_path_factory):
    return tmp_path_factory.getbasetemp()


@pytest.mark.parametrize("case", CASES)
def test_other_data_are_refused_and_the_same_pass(place, tmp_path, case):
    """Held-out examples would be trained on and nothing be said; or a run could not go on though nothing changed."""
    task, name, change, refusal = CASES[case]
    config, run = own_config(place, task, tmp_path / "files"), tmp_path / "run"
    run.mkdir()
    experiment = Experiment.from_config(config)
    load_data(experiment, run, fresh=True)
    before = {file: file.read_bytes() for file in run.iterdir()}
    change(tmp_path / "files" / name)
    with pytest.raises(DataError, match=refusal) if refusal else contextlib.nullcontext() as error:
        load_data(experiment, run, fresh=False)
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    if refusal:
        said = str(error.value)
        assert said.startswith(f"the data are not those of {run / 'data.json'}: ")
        assert said.endswith("Put them back as they were, or choose another --workdir")
        assert "\n" not in said


@contextlib.contextmanager
def one_line_more(config):
    """Within the context, the data of a finished tiny run has an example more."""
    path = next(Path(config["data"][name]) for name in ("path", "tsv_file") if name in config["data"])
    if path.is_file():
        before = path.read_bytes()
        path.write_bytes(before + before.splitlines(keepends=True)[0].replace(b"the", b"one"))
        try:
            yield
        finally:
            path.write_bytes(before)
        return
    texts = path.name == "texts"
    file = path / ("more.txt" if texts else "train/dark/more.png")
    shutil.copy(path / ("07.txt" if texts else "train/dark/7.png"), file)
    if texts:
        file.write_text("quite another text\n")
    try:
        yield
    finally:
        file.unlink()


@pytest.mark.parametrize("task", by_day(tiny_runs.TASKS, 2))
def test_a_run_with_checkpoints_goes_on_with_its_own_data_only(place, tmp_path, task):
    """A run would train on what was held out, or be scored on it; predicting needs no data."""
    finished = tiny_runs.finished(place, task)
    run = Run.start(shutil.copytree(finished.run.directory, tmp_path / "run"), finished.run.config)
    kept = {file: file.read_bytes() for file in run.directory.rglob("*") if file.is_file()}
    with one_line_more(run.config):
        with pytest.raises(DataError, match=r"the data are not those of .*data\.json: .*train has .*, but had"):
            run_training(run, print)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "jit", quick_jit)
            experiment, _, _ = load_run(run)
        with pytest.raises(DataError, match="the data are not those of"):
            load_data(experiment, run.directory, fresh=False)
    load_data(experiment, run.directory, fresh=False)
    assert {file: file.read_bytes() for file in run.directory.rglob("*") if file.is_file()} == kept


DAMAGES = {
    "gone": (None, "is missing"),
    "empty": ("", "is damaged"),
    "null": ("null", "is damaged"),
    "an array": ("[]", "is damaged"),
    "no split": ("{}", "is damaged"),
    "a number for a split": ('{"train": 3}', "is damaged"),
    "no sums": ('{"train": {"texts": 3}}', "is damaged"),
    "brackets": ("[" * 100_000, "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_knowing_its_data_a_run_does_not_go_on(place, tmp_path, damage):
    """Nothing would say whether the held-out texts are those of before; or a command would end in a traceback."""
    content, message = DAMAGES[damage]
    experiment = Experiment.from_config(tiny_runs.configs(place)["text_classification"])
    load_data(experiment, tmp_path, fresh=True)
    file = tmp_path / "data.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(DataError, match=f"^{re.escape(str(file))} {message}.*put it back") as error:
        load_data(experiment, tmp_path, fresh=False)
    assert "\n" not in str(error.value)


def test_a_run_that_was_killed_before_its_tokenizer_goes_on(place, tmp_path):
    """A kill in the second before the tokenizer is there would cost the directory."""
    experiment = Experiment.from_config(tiny_runs.configs(place)["text_classification"])
    load_data(experiment, tmp_path, fresh=True)
    wanted = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "tokenizer.json").unlink()
    load_data(experiment, tmp_path, fresh=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == wanted


def test_a_run_that_could_not_begin_forgets_its_data(place, tmp_path):
    """The corrected command would be refused because of data that nothing was trained on."""
    config = copy.deepcopy(tiny_runs.configs(place)["text_classification"])
    config["model"]["max_length"] = 2  # no text fits
    with pytest.raises(DataError, match="fits into 2 tokens"):
        run_training(Run.start(tmp_path / "run", config), print)
    assert not (tmp_path / "run" / "data.json").exists()
