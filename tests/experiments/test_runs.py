"""Runs side by side: what a list, a comparison and a page say of them, from files as training leaves them."""

import fcntl
import html.parser
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from experiments.runs import curves, report, summary, tables
from tformer_jax.config import ConfigError
from tformer_jax.sweeps.results import Ranking
from tformer_jax.training.directories import RunError
from tformer_jax.training.run import Run, locked

COMMAND = (
    "python -m experiments.train --config=experiments/configs/causal_lm.py:tiny --workdir=r --config.training.seed=3"
)
LOSSES = {10: 4.0, 20: 3.0, 30: 3.5}


def make_run(directory, *, task="causal_lm", steps=30, losses=LOSSES, done=30, rows=(), **config):
    """The directory of a run with these validations, whose newest checkpoint is of step `done`."""
    (directory / "samples").mkdir(parents=True)
    (directory / "plots").mkdir()
    training = {"steps": steps, "seed": 3}
    (directory / "config.json").write_text(json.dumps({"task": {"name": task}, "training": training} | config))
    (directory / "environment.json").write_text(json.dumps({"python": "3.12", "command": COMMAND.split()}))
    known = [{"step": step, "loss": loss + 0.5, "validation_loss": loss} for step, loss in losses.items()]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*known, *rows]))
    for step in [done] if done else []:
        (directory / "checkpoints" / str(step)).mkdir(parents=True)
    return directory


def summed_up(directory, metric="loss"):
    return summary.summary(directory, Ranking(metric))


# A list ----------------------------------------------------------------------------------------


def test_a_run_is_summed_up(tmp_path):
    """A list would show another task, preset, step or number than the run has."""
    found = summed_up(make_run(tmp_path / "r"))
    assert (found.kind, found.task, found.preset, found.changed) == (
        "run",
        "causal_lm",
        "causal_lm.py:tiny",
        ("training.seed=3",),
    )
    assert (found.done, found.total) == (30, 30)
    assert (found.last, found.best, found.best_at) == (3.5, 3.0, 20)


def test_the_highest_accuracy_is_the_best(tmp_path):
    """The worst validation would be called the best."""
    rows = [{"step": step, "validation_accuracy": x} for step, x in ((10, 0.3), (20, 0.9), (30, 0.7))]
    found = summed_up(make_run(tmp_path / "r", losses={}, rows=rows), "accuracy")
    assert (found.last, found.best, found.best_at) == (0.7, 0.9, 20)


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({}, "done"),
        ({"done": 20}, "stopped"),
        ({"done": 0, "losses": {}}, "stopped"),
        ({"done": 20, "rows": [{"step": 25, "loss": None, "diverged": "loss nan"}]}, "diverged"),
    ],
    ids=str,
)
def test_a_status_is_what_became_of_a_run(tmp_path, how, status):
    """A run that was killed would be taken for finished, or one that diverged for one to go on with."""
    assert summed_up(make_run(tmp_path / "r", **how)).status == status


def test_a_run_that_stopped_early_is_done(tmp_path):
    """A list would ask for a run to go on that ended as it was told to."""
    losses = {10: 3.0, 20: 3.2, 30: 3.1}
    directory = make_run(tmp_path / "r", losses=losses, steps=90)
    assert summed_up(directory).status == "stopped"
    config = json.loads((directory / "config.json").read_text())
    config["training"] |= {"patience": 2, "patience_metric": "loss"}
    (directory / "config.json").write_text(json.dumps(config))
    assert summed_up(directory).status == "done"


def test_a_command_is_read_as_it_was_given():
    """A list would lose fields that were given in another way, or take paths for presets."""
    given = "x --config a/b.py:tiny --config.seed 3 --noconfig.data.flip -config.model.norm.name=rms --workdir=config"
    assert summary.preset_of(given.split()) == ("b.py:tiny", ("seed=3", "data.flip=False", "model.norm.name=rms"))
    assert summary.preset_of([]) == ("", ())


def test_a_run_trains_while_its_lock_is_held(tmp_path):
    """A run would be called stopped while it trains, or training for ever once it was killed."""
    directory = make_run(tmp_path / "r", done=20)
    with locked(directory):
        assert summed_up(directory).status == "training"
    assert (directory / "lock").exists() and summed_up(directory).status == "stopped"


def test_who_looks_does_not_keep_a_run_from_starting(tmp_path):
    """A list that is made at the wrong moment would end another command."""
    directory = make_run(tmp_path / "r", done=20)
    with locked(directory):
        pass
    looking = os.open(directory / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    looks = subprocess.Popen(["sleep", "0.05"], pass_fds=[looking])
    os.close(looking)  # it holds it alone now
    with locked(directory):
        assert summed_up(directory).status == "training" and looks.wait() == 0


def test_what_lies_within_a_search_is_no_run_of_its_own(tmp_path):
    """Each trial would stand beside its search; folders with nothing in them would be errors."""
    make_run(tmp_path / "deep" / "a")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search.json").write_text(json.dumps({"asked": {"config": {"task": {"name": "masked_lm"}}}}))
    make_run(tmp_path / "search" / "trials" / "0")
    (tmp_path / "empty").mkdir()
    assert [*summary.found_in([tmp_path])] == [tmp_path / "deep" / "a", tmp_path / "search"]


def test_members_of_a_sweep_are_counted(tmp_path):
    """A sweep would have another best member than its table, or be done while members wait."""
    asked = {"config": {"task": {"name": "causal_lm"}}, "members": {}}
    (tmp_path / "sweep.json").write_text(json.dumps(asked))
    members = [("finished", 2.0), ("finished", 1.5), ("diverged", None), ("waiting", None)]
    rows = [
        {"member": i, "status": status, "overrides": {}, "final": {} if x is None else {"loss": x}}
        for i, (status, x) in enumerate(members)
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = summed_up(tmp_path)
    assert (found.kind, found.done, found.total, found.best, found.best_at, found.status) == (
        "sweep",
        3,
        4,
        1.5,
        1,
        "stopped",
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (3599, "59 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_an_age_is_said_in_its_largest_unit(seconds, text):
    """A person would have to count."""
    assert tables.age(seconds) == text


def test_the_list_is_printed(tmp_path, here):
    """The command would need to be told what nobody knows, or hide a run for another one's damage."""
    make_run(tmp_path / "good")
    (make_run(tmp_path / "bad") / "config.json").write_text("{")
    said = here("runs", tmp_path)
    assert said.returncode == 0, said.stderr
    assert re.search(
        r"good +causal_lm +causal_lm\.py:tiny training\.seed=3 +30 +30 +3\.5000 +3\.0000 +step 20 +done", said.stdout
    )
    assert "left out: " in said.stdout and "bad/config.json is damaged" in said.stdout


# A comparison ----------------------------------------------------------------------------------


def test_fields_that_differ_are_shown_and_no_others(tmp_path):
    """A person would search two configs for a difference, or miss a field that one of them lacks."""
    a = Run.open(make_run(tmp_path / "a", model={"d_model": 8, "layer": {"bias": True}}, precision="x"))
    b = Run.open(make_run(tmp_path / "b", model={"d_model": 16, "layer": {}}, precision="x", steps=40))
    wanted = {
        "training.steps": ["30", "40"],
        "model.d_model": ["8", "16"],
        "model.layer.bias": ["True", "-"],
        "model.layer": ["-", "{}"],
    }
    assert tables.differing([a, b]) == wanted


def test_a_picture_has_the_validations_of_each_run(tmp_path):
    """A line would be another run's, or a run that diverged look as if it went well."""
    a = make_run(tmp_path / "a")
    b = make_run(tmp_path / "b", losses={10: 5.0}, rows=[{"step": 15, "loss": None, "diverged": "loss nan"}])
    (axes,) = curves.of([Run.open(a), Run.open(b)], "loss").axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines["a"] == [[step, loss] for step, loss in LOSSES.items()]
    assert lines["b, diverged at step 15"] == [[10, 5.0]]
    assert axes.get_xlabel() == "step" and axes.get_ylabel() == "loss (nats)"


def test_runs_are_compared_on_the_command_line(tmp_path, here, assert_picture):
    """The commands of the README would not do what it says."""
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", losses={10: 2.0}, steps=40)
    said = here("runs", "compare", tmp_path / "a", tmp_path / "b", f"--curves={tmp_path / 'c.png'}")
    assert said.returncode == 0, said.stderr
    assert re.search(r"best validation loss +3\.0000 +2\.0000", said.stdout) and re.search(
        r"training\.steps +30 +40", said.stdout
    )
    assert_picture(tmp_path / "c.png")


def test_runs_of_one_name_are_told_apart(tmp_path):
    """Two lines of a picture would have one name."""
    runs = [Run.open(make_run(tmp_path / folder / "r")) for folder in "ab"]
    assert tables.names(runs) == [str(tmp_path / folder / "r") for folder in "ab"]


# Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no directory nowhere"),
        (["comapre", "a"], "there is no directory comapre; did you mean 'compare'?"),
        (["empty"], "there is no run in empty"),
        (["compare", "a"], "compare needs two runs or more"),
        (["compare", "a", "other"], "runs of different tasks cannot be compared: a of causal_lm, other of masked_lm"),
        (["compare", "a", "a"], "a is given twice"),
        (["compare", "a", "empty"], "empty is no run"),
        (["compare", "a", "sweep"], "sweep is a sweep, whose members"),
        (["compare", "a", "b", "--metric=accuracy"], "--metric must be one of loss, got 'accuracy'"),
        (["report"], "report needs a run or more"),
        (["report", "nowhere"], "there is no directory nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_refused(tmp_path, monkeypatch, arguments, message):
    """A typing mistake would end in a traceback, or in a picture of numbers that mean different things."""
    from absl import flags

    from experiments.runs import __main__ as command

    monkeypatch.chdir(tmp_path)
    for name, task in (("a", "causal_lm"), ("b", "causal_lm"), ("other", "masked_lm")):
        make_run(tmp_path / name, task=task)
    for name in ("empty", "sweep"):
        (tmp_path / name).mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    flags.FLAGS.unparse_flags()
    rest = flags.FLAGS(["runs", *arguments])
    with pytest.raises((ConfigError, RunError), match=re.escape(message)):
        command.main(rest[1:])
    assert not (tmp_path / "comparison.png").exists()


# A page ----------------------------------------------------------------------------------------

ODD = "<script>alert('&')</script> \x07 größer 日本"


@pytest.fixture
def two(tmp_path):
    """Two runs, the first with all that a report shows."""
    a, b = make_run(tmp_path / "a", note=ODD), make_run(tmp_path / "b", losses={})
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(a / "plots" / "attention.png")
    (a / "samples" / "test.jsonl").write_text(json.dumps({"prompt": ODD, "continuation": "x"}) + "\n", "utf-8")
    (a / "samples" / "test_metrics.json").write_text(json.dumps({"loss": 2.5, "note": ""}))
    (a / "samples" / "step_20.txt").write_text("written on the way", "utf-8")
    return [Run.open(directory) for directory in (a, b)]


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def page_of(runs):
    return report.page([summed_up(run.directory) for run in runs], runs, Ranking())


def test_a_page_shows_what_a_run_left(two):
    """A colleague would have to ask for what is missing."""
    text = Page(page_of(two)).text
    for wanted in (
        COMMAND,
        "training.steps",
        "written on the way",
        "loss 2.5",
        "3.12",
        "3.0000 at best (step 20)",
        "Side by side",
    ):
        assert wanted in text, wanted


def test_a_page_needs_nothing_beside_itself(two):
    """A page that is sent would have holes, or call somewhere."""
    found = Page(page_of(two))
    links = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert sum(tag == "img" for tag, _ in found.tags) == 4  # of all, of each, and the plot
    assert all(attributes["alt"] for tag, attributes in found.tags if tag == "img")


def test_texts_of_a_run_are_no_html(two):
    """What a model writes would be run by a browser, or break the page."""
    page = page_of(two)
    found = Page(page)
    assert not any(tag == "script" for tag, _ in found.tags)
    assert ODD.replace("\x07", "\ufffd") in found.text and "\x07" not in page


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("chromium", "chromedriver"))), reason="needs chromium and chromedriver")
def test_a_browser_shows_the_page(two, tmp_path):
    """A picture would be missing, a part out of reach of the keyboard, or a phone's screen too narrow."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    file = tmp_path / "report.html"
    file.write_text(page_of(two), "utf-8")
    options = selenium.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    try:
        phone = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        browser.get(file.as_uri())
        assert browser.get_log("browser") == []
        sizes = browser.execute_script(
            "return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])"
        )
        assert len(sizes) == 4 and all(complete and natural and 0 < shown <= 360 for complete, natural, shown in sizes)
        assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
        body = browser.find_element("css selector", "body")
        reached = []
        for _ in range(60):
            browser.switch_to.active_element.send_keys("\ue004")  # the tabulator
            focus = browser.switch_to.active_element
            if focus == body:
                break
            reached.append(focus.tag_name)
            if focus.tag_name == "summary":
                focus.send_keys("\ue007")  # enter
        folded = browser.execute_script("return [...document.querySelectorAll('details')].map(d => d.open)")
        assert reached.count("summary") == len(folded) > 0 and all(folded)
        assert {"a", "div", "pre"} <= set(reached)
    finally:
        browser.quit()
