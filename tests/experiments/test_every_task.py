"""Reporting on and predicting with every task but translation, as a user does; presets of all."""

import contextlib
import functools
import importlib
import inspect
import io
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tiny_runs
from rich.console import Console
from support import by_day, pictures_of, tiny_model

from experiments import cli, trained
from experiments.reporting import report
from tformer_jax.config import ConfigError, to_dict
from tformer_jax.data.files import DataError
from tformer_jax.decoding import greedy, sampling
from tformer_jax.tasks import TASKS, CausalLMTask
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.metrics import read_metrics
from tformer_jax.training.run import Run

NUMBER = r"\d[\d,]*(?:\.\d+)?"
CONFIGS = sorted(f.stem for f in (Path(__file__).parents[2] / "experiments" / "configs").glob("*.py"))
NAMES = {
    "language": "causal_lm",
    "masked": "masked_lm",
    "texts": "text_classification",
    "vision": "image_classification",
}
NAMES_BY_DAY = by_day(NAMES, 0, 3)


def lines_of(result):
    return result.stdout.splitlines()


# The presets -----------------------------------------------------------------------------------


def presets():
    for name in sorted(set(CONFIGS) - {"__init__", "sections"}):
        module = importlib.import_module(f"experiments.configs.{name}")
        yield from ((module, preset) for preset in inspect.getclosurevars(module.get_config).nonlocals["presets"])


@pytest.mark.parametrize(
    ("module", "preset"), list(presets()), ids=lambda x: x if isinstance(x, str) else x.__name__[20:]
)
def test_every_preset_is_a_whole_config(module, preset):
    """A preset would be refused when it is first used, or lack a field that a flag could set."""
    config = module.get_config(preset)
    assert config.is_locked
    plain = config.to_dict()
    experiment = Experiment.from_config(plain)
    for section in ("task", "data", "optimizer", "training", "checkpoint"):
        assert plain[section].keys() == to_dict(getattr(experiment, section)).keys()
    planned = experiment.task_class.planned_fields(experiment.data)
    assert plain["model"].keys() == to_dict(experiment.model_config({})).keys() - planned.keys() - {"precision"}


@pytest.mark.parametrize(
    ("module", "preset"), list(presets()), ids=lambda x: x if isinstance(x, str) else x.__name__[20:]
)
def test_every_preset_has_a_result_or_says_that_it_was_never_run(module, preset):
    """A person would take a recipe that nobody has tried for one that works."""
    listed = module.__doc__.split("\nPresets:\n")[1].split("\n\n")[0]
    entries = {head: said for head, said in re.findall(r"^  (\w[\w, ]*?)  +(.*(?:\n   +.*)*)", listed, re.M)}
    (said,) = [said for head, said in entries.items() if preset in head.split(", ")]
    assert re.search(r"\bNever run\b", said) or re.search(r"\d %|\d bits per byte|BLEU \d", said)


def test_every_task_has_presets():
    """A task could not be trained from the command line."""
    ours = {name for name, task in TASKS.items() if task.__module__.startswith("tformer_jax.")}  # not of a plugin
    assert {module.get_config(preset).task.name for module, preset in presets()} == ours


# Reporting -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where everything of these tests lies."""
    return tmp_path_factory.mktemp("every task")


@pytest.fixture(scope="module")
def copied(folder, tmp_path_factory):
    """`copied(name)`: the copy of a finished run, in the folder, under its name; a run is seen to stand alone."""

    @functools.cache
    def copied(name):
        run = tiny_runs.finished(tmp_path_factory.getbasetemp(), NAMES[name]).run
        return shutil.copytree(run.directory, folder / name)

    return copied


@pytest.fixture(scope="module")
def reported(copied, tmp_path_factory):
    """`reported(name)`: the lines that are printed of a finished run."""

    @functools.cache
    def reported(name):
        found = tiny_runs.finished(tmp_path_factory.getbasetemp(), NAMES[name])
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "_console", Console())
            report(Run.open(copied(name)), found.task, found.data, found.model)
        return out.getvalue().splitlines()

    return reported


@pytest.mark.parametrize("name", NAMES_BY_DAY)
def test_a_validation_has_the_numbers_that_its_task_names(name, copied):
    """A metric to choose by is refused that there is, or taken that there is not."""
    rows = read_metrics(copied(name) / "metrics.jsonl")
    found = {n.removeprefix("validation_") for row in rows for n in row if n.startswith("validation_")}
    assert found == set(TASKS[NAMES[name]].validated)


SCORES = {
    "language": "N bits per byte, perplexity N a token, loss N nats a token, N tokens",
    "masked": "masked accuracy N %, loss N nats a masked token, pseudo-perplexity N a token",
    "texts": "accuracy N %, loss N nats, 8 texts",
    "vision": "accuracy N %, loss N nats, 9 images",
}
NOTES = {
    "language": "",
    "masked": "pseudo-perplexity of 2",
    "texts": "the most frequent class has",
    "vision": "samples:",
}
SAMPLES = {"language": "prompt", "masked": "masked", "texts": "predicted"}


@pytest.mark.parametrize("name", NAMES_BY_DAY)
def test_a_score_is_printed_and_kept(reported, copied, name):
    """A user would not learn what came of the training, or other numbers than are kept."""
    lines = reported(name)
    (line,) = [line for line in lines if line.startswith("test:")]
    assert re.fullmatch("test: " + SCORES[name].replace("N ", NUMBER + " "), line)
    saved = json.loads((copied(name) / "samples" / "test_metrics.json").read_text("utf-8"))
    assert f"loss {saved['loss']:.4f} nats" in line
    assert any(line.startswith(NOTES[name]) for line in lines) and saved["note"].startswith(NOTES[name])


@pytest.mark.parametrize("name", NAMES_BY_DAY)
def test_samples_are_printed_and_kept(reported, copied, name):
    """A user would have to search for what the model does."""
    lines = reported(name)
    kept = [json.loads(line) for line in (copied(name) / "samples" / "test.jsonl").read_text("utf-8").splitlines()]
    field = SAMPLES.get(name, "predicted")
    shown = [line for line in lines if re.match(rf"  {field}\b", line)]
    assert len(shown) == min(5, len(kept))
    assert all(sample[field].splitlines()[0].strip() in "\n".join(lines) for sample in kept[:1])
    assert (copied(name) / "plots" / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("name", NAMES_BY_DAY)
def test_a_report_leaves_the_pictures_that_its_page_promises(reported, copied, name):
    """A picture would be looked for in vain, or be there without a word on the page."""
    said = [line for line in reported(name) if line.startswith("no picture")]
    left_out = {"mistakes.png"} if "no picture of mistakes: there are none" in said else set()
    assert len(said) == len(left_out)
    assert {file.name for file in (copied(name) / "plots").iterdir()} == pictures_of(NAMES[name]) - left_out


# Predicting ------------------------------------------------------------------------------------

OF_EVERY_DAY = ("drawn", "seen")
LONG = ("the old green hill " * 20).strip()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A light and a dark image."""
    return [
        tiny_runs.files(tmp_path_factory.getbasetemp()) / "images" / "train" / name / "1.png"
        for name in ("light", "dark")
    ]


@pytest.fixture(scope="module")
def became(folder, copied, request, here, images):
    """`became(name)`: what became of a command; those of every day run in this process."""
    (folder / "beginnings.txt").write_text(f"the red\n\n{LONG}\n", "utf-8")
    (folder / "reviews.txt").write_text("the small cat today\na dog\n", "utf-8")
    drawn = ["--temperature=0.9", "--top_k=50", "--top_p=0.95", "--min_p=0.001", "--repetition_penalty=1.2", "--slide"]
    width = {"model.d_model": 16, "model.attention.num_heads": 2, "model.num_layers": 1}
    vision = width | {"data.source": "folders", "data.path": images[0].parents[2], "data.image_size": 8}
    vision |= {"data.num_channels": 1, "data.validation_size": 8, "data.test_size": 9, "data.batch_size": 16}
    vision |= {"model.patch_size": 4, "training.steps": 2}
    # What the masked model was trained as, beside a head and labelled texts.
    tuned = width | {"model.feed_forward.width": 24, "model.feed_forward.activation": "relu"}
    tuned |= {"model.layer.norm_position": "post"}
    tuned |= {"model.scale_embeddings": True, "model.max_length": 48, "training.steps": 2}
    tuned |= {"data.source": "files", "data.path": images[0].parents[3] / "labelled.tsv", "data.test_size": 8}
    tuned |= {"data.validation_size": 8, "data.batch_tokens": 128, "task.init_from": folder / "masked"}
    of_vision, of_tuned = ([f"--config.{n}={value}" for n, value in fields.items()] for fields in (vision, tuned))
    commands = {
        "drawn": ("predict", "language", f"--input={folder / 'beginnings.txt'}", "--max_new_tokens=6", *drawn),
        "filled": ("predict", "masked", "--text=the [MASK] saw the [MASK]", "--top=3"),
        "ranked": ("predict", "texts", f"--input={folder / 'reviews.txt'}"),
        "seen": ("predict", "vision", *(f"--image={image}" for image in images), "--top=1"),
        "evaluated": ("evaluate", "vision", "--split=validation"),
        "trained": ("train", "trained", "--config=experiments/configs/image_classification.py", *of_vision),
        "tuned": ("train", "tuned", "--config=experiments/configs/text_classification.py", *of_tuned),
    }

    @functools.cache
    def became(name):
        command_name, workdir, *flags = commands[name]
        for needed in {workdir, *(["masked"] if name == "tuned" else [])} & NAMES.keys():
            copied(needed)
        run = here if name in OF_EVERY_DAY else request.getfixturevalue("command")
        return run(command_name, f"--workdir={folder / workdir}", *flags)

    return became


@pytest.mark.parametrize("name", by_day(["drawn", "seen", "filled", "ranked", "evaluated", "trained", "tuned"], 0, 1))
def test_a_command_succeeds_quietly(became, name):
    """A flag would be refused that is documented, or warnings be mixed with the result."""
    assert became(name).returncode == 0, became(name).stderr
    assert "Traceback" not in became(name).stderr


@pytest.mark.slow
def test_a_warm_up_beyond_the_last_step_is_said(became):
    """The learning rate of the config is never reached, and nobody knows."""
    line = "optimizer.warmup_steps=100 exceeds training.steps=2: the learning rate rises to the end and never reaches"
    assert any(said.startswith(line) for said in lines_of(became("trained")))


def test_every_beginning_of_a_file_is_continued(became):
    """An empty line would be skipped, one that is too long end the rest, or the text begin after its beginning."""
    printed = became("drawn").stdout
    assert printed.startswith("the red") and printed.endswith("\n")
    assert LONG in printed
    assert len(printed) > len(f"the red\n\n{LONG}\n")


@pytest.mark.slow
def test_another_split_is_evaluated(became):
    """`--split` would turn nothing."""
    assert re.search(r"(?m)^validation: accuracy .* 8 images$", became("evaluated").stdout)
    assert "test:" not in became("evaluated").stdout


@pytest.mark.slow
def test_a_task_is_trained_from_the_command_line(became, folder):
    """Flags would not reach the config of another task than translation, or its report be another's."""
    lines = lines_of(became("trained"))
    assert any(re.fullmatch(rf"step 2/2  loss {NUMBER}  {NUMBER} images/s  0:00 left", line) for line in lines)
    assert any(re.fullmatch("test: " + SCORES["vision"].replace("N ", NUMBER + " "), line) for line in lines)
    assert json.loads((folder / "trained" / "config.json").read_text("utf-8"))["data"]["image_size"] == 8


@pytest.mark.slow
def test_a_classifier_starts_from_a_run_on_the_command_line(became, folder):
    """The README's command would train from scratch, or be refused."""
    lines = lines_of(became("tuned"))
    said = rf"\d+ arrays are initialised from {re.escape(str(folder / 'masked'))}"
    assert any(re.fullmatch(said, line) for line in lines)
    assert any(re.fullmatch("test: " + SCORES["texts"].replace("N ", NUMBER + " "), line) for line in lines)


@pytest.mark.slow
def test_gaps_are_filled_in_order(became):
    """A user could not tell which guess is for which gap."""
    found = lines_of(became("filled"))
    assert [line.split(":")[0] for line in found] == ["[MASK] 1", "[MASK] 2"]
    for line in found:
        shares = [float(share) for share in re.findall(r" (\d\.\d{3})(?=  |$)", line)]
        assert len(shares) == 3 and shares == sorted(shares, reverse=True) and sum(shares) <= 1


@pytest.mark.slow
def test_texts_are_classified_a_line_each(became):
    """A script could not match classes to texts."""
    first, second = (line.split("\t") for line in lines_of(became("ranked")))
    assert (first[1], second[1]) == ("the small cat today", "a dog")
    for classes, _ in (first, second):
        assert re.fullmatch(r"(long|short) \d\.\d{3}  (long|short) \d\.\d{3}", classes)


def test_images_are_classified_a_line_each(became, images):
    """A script could not match classes to images, or `--top` turn nothing."""
    found = [line.split("\t") for line in lines_of(became("seen"))]
    assert [file for _, file in found] == [str(image) for image in images]
    assert all(re.fullmatch(r"(light|dark) \d\.\d{3}", classes) for classes, _ in found)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    by_day([
        ("language", ["--image=a.png"], "--image has no meaning for causal_lm"),
        ("language", ["--text=a", "--top=3"], "--top has no meaning for causal_lm"),
        ("language", ["--text=a", "--greedy", "--top_p=0.5"], "--top_p has no meaning with --greedy"),
        ("language", ["--text=a", "--greedy", "--seed=0"], "--seed has no meaning with --greedy"),
        ("language", ["--text=a", "--greedy", "--num_samples=2"], "--num_samples has no meaning with --greedy"),
        ("language", ["--interactive"], "--interactive needs a terminal"),
        ("language", ["--text=a", "--temperature=0"], r"temperature must be in \(0, inf\), got 0\.0"),
        ("language", [f"--text={LONG}", "--max_new_tokens=6"], r"the text has \d+ tokens; .*--slide would cut its"),
        ("language", ["--text=a", "--max_new_tokens=50"], "max_new_tokens=50 leaves no room for a prompt"),
        ("language", [], "give --text or --input"),
        ("masked", ["--input=README.md"], r"line 1 of README\.md has no \[MASK\] to fill in"),
        ("masked", ["--text=The value"], r"the text has no \[MASK\] to fill in"),
        ("masked", [f"--text=[MASK] {LONG}"], r"the text has \d+ tokens, but the model reads at most 48"),
        ("masked", ["--text=[MASK]", "--greedy"], "--greedy has no meaning for masked_lm"),
        ("texts", ["--text=a", "--input=b"], "give --text or --input"),
        ("texts", ["--text=a", "--num_samples=2"], "--num_samples has no meaning for text_classification"),
        ("texts", ["--text=a", "--seed=1"], "--seed has no meaning for text_classification"),
        ("texts", [f"--text={LONG}"], r"text 1 has \d+ tokens, but the model reads at most 48"),
        ("vision", [], "give --image"),
        ("vision", ["--image=README.md"], r"README\.md is no image"),
        ("vision", ["--image=nowhere.png"], r"cannot read nowhere\.png"),
        ("vision", ["--text=a"], "--text has no meaning for image_classification"),
    ], 0, 4, 5, 16),
)  # fmt: skip
def test_what_cannot_be_predicted_is_refused(copied, within, capsys, name, flags, message):
    """A flag would be ignored, an input be cut, or half an answer stand before the error.

    What the command line makes of such an error is tested in test_commands.py.
    """
    module = within("predict", f"--workdir={copied(name)}", *flags)
    capsys.readouterr()  # of a training that this has begun
    with pytest.raises((ConfigError, DataError), match=message):
        module.main()
    assert capsys.readouterr().out == ""


def drawn_texts(here, copied, *flags):
    """The first lines of what the language model writes after "the red", one for each time that it was asked."""
    said = here("predict", f"--workdir={copied('language')}", "--text=the red", "--max_new_tokens=12", *flags).stdout
    return said.split("the red")[1:]


@pytest.mark.slow
def test_samples_of_one_text_differ_and_follow_the_seed(here, copied):
    """`--num_samples` would write one text several times, or other ones with the same seed."""
    (one,) = drawn_texts(here, copied, "--seed=3")
    three, again, others = (drawn_texts(here, copied, "--num_samples=3", f"--seed={n}") for n in (3, 3, 4))
    assert len(set(three)) == 3 and three == again and three[0] == one
    assert not set(three) & set(others)


@contextlib.contextmanager
def typing_at(environment, name, *flags):
    """A command on a terminal of its own: `say(text)` types, `read(until)` waits for what is written."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", f"experiments.{name}", *flags]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = ""

    def read(until):
        nonlocal seen
        while until not in seen:
            assert select.select([ours], [], [], 120)[0], seen
            seen += os.read(ours, 4096).decode("utf-8", "replace")
        found, seen = seen.split(until, 1)
        return found

    try:
        yield lambda text: os.write(ours, text.encode()), read, process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.slow
def test_a_person_types_and_is_answered(environment, copied):
    """An error would end the conversation, an answer be that of another line, or the end not be heard."""
    flags = (f"--workdir={copied('masked')}", "--interactive", "--top=2")
    with typing_at(environment, "predict", *flags) as (say, read, process):
        read("text> ")
        say("the [MASK] cat\n")
        assert re.search(r"\[MASK\] 1: '.*' \d\.\d{3}  '.*' \d\.\d{3}", read("text> "))
        say("no gap\n")
        assert "error: the text has no [MASK] to fill in" in read("text> ")
        say("a [MASK] and [MASK]\n")
        assert "[MASK] 2: " in read("text> ")
        say("\x04")
        assert process.wait() == 0


def test_every_flag_reaches_the_sampler(within):
    """A flag would turn nothing."""
    flags = ["--temperature=0.9", "--top_k=50", "--top_p=0.95", "--min_p=0.001", "--repetition_penalty=1.2"]
    settings = dict(temperature=0.9, top_k=50, top_p=0.95, min_p=0.001, repetition_penalty=1.2)
    assert within("predict", "--workdir=none", *flags).asked_of(CausalLMTask).sampler() == sampling(**settings)
    flags = ["--greedy", "--repetition_penalty=2"]
    asked = within("predict", "--workdir=none", *flags).asked_of(CausalLMTask)
    assert asked.sampler() == greedy(repetition_penalty=2.0)


def test_a_continuation_is_printed_as_it_comes(within, capsys, monkeypatch):
    """A user would look at nothing until the last token; length, key and slide would turn nothing."""
    seen, asked = [], {}

    class Slow(CausalLMTask):
        """What was printed is looked at between the pieces."""

        def __init__(self):
            pass

        def first_unknown(self, text):
            return None

        def continue_text(self, model, text, **how):
            asked.update(how, text=text)
            for piece in (" one", " two", ""):
                seen.append(capsys.readouterr().out)
                yield piece

    flags = ["--text=zero", "--max_new_tokens=7", "--seed=4", "--slide"]
    monkeypatch.setattr(trained, "load", lambda progress: (None, None, Slow(), tiny_model("CausalLM")))
    within("predict", "--workdir=none", *flags).main()
    assert seen == ["", "zero one", " two"]
    assert capsys.readouterr().out == "\n"
    assert (asked["text"], asked["max_new_tokens"], asked["slide"]) == ("zero", 7, True)
    assert asked["key"] == jax.random.fold_in(jax.random.key(4), 0)  # of the first draw
