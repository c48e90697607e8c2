"""Damaged and odd files of a run, one after the other: the commands go on, or say in one line which file it is."""

import functools
import shutil

import pytest
import tiny_runs
from support import by_day

from experiments import evaluate, predict
from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError
from tformer_jax.tasks import TextClassificationTask
from tformer_jax.training.checkpoints import CheckpointError
from tformer_jax.training.experiment import Experiment
from tformer_jax.training.run import Run, RunError
from tformer_jax.training.running import run_training

SAID = (ConfigError, DataError, RunError, CheckpointError, OSError)  # which a command ends with in one line


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished classifier of texts, which every command leaves as it is."""
    return tiny_runs.finished(tmp_path_factory.getbasetemp(), "text_classification")


@pytest.fixture(scope="module")
def evaluation(finished):
    """Of it: what `evaluate` is given here, for it is not what is looked at."""
    return finished.task.evaluate(finished.model, finished.data, ["test"])


@pytest.fixture(scope="module")
def trainers():
    """By where they run; they are the same for every copy of the run."""
    return {}


@pytest.fixture
def call(finished, evaluation, trainers, within, monkeypatch, tmp_path):
    """`call(command)`: with a copy of the run; nothing is compiled."""
    original = Experiment.trainer

    def trainer(self, task, parallel=None):
        if parallel not in trainers:
            trainers[parallel] = original(self, task, parallel)
        return trainers[parallel]

    monkeypatch.setattr(Experiment, "trainer", trainer)
    monkeypatch.setattr(TextClassificationTask, "evaluate", lambda *_: evaluation)
    monkeypatch.setattr(TextClassificationTask, "validate", lambda *_: {"loss": 1.0, "accuracy": 0.5})
    monkeypatch.setattr(TextClassificationTask, "classify", lambda self, model, texts, progress: [[]] * len(texts))
    workdir = tmp_path / "run"

    def train():
        run = Run.start(workdir, finished.run.config)
        with run.locked():
            run_training(run, print)

    def called(module, *given):
        within(module.__name__.removeprefix("experiments."), f"--workdir={workdir}", *given)
        module.main()

    return {
        "train": train,
        "evaluate": functools.partial(called, evaluate),
        "predict": functools.partial(called, predict, "--text=the red cat"),
    }


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 128
    file.write_bytes(content)


def replace_by_folder(file):
    file.unlink() if file.is_file() else shutil.rmtree(file, ignore_errors=True)
    (file / "inside").mkdir(parents=True)


def replace_by_file(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("")


DAMAGES = {
    "one flipped bit": flip,
    "nothing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "null": lambda file: file.write_text("null"),
    "a number": lambda file: file.write_text("3"),
    "a text": lambda file: file.write_text('"text"'),
    "an array": lambda file: file.write_text("[]"),
    "an object": lambda file: file.write_text("{}"),
    "no UTF-8": lambda file: file.write_bytes(b'{"a": "\xff"}'),
    "brackets": lambda file: file.write_bytes(b"[" * 100_000),
    "a folder": replace_by_folder,
}
EVERY = ("train", "evaluate", "predict")
FEW = ("one flipped bit", "nothing", "an array", "a folder")
SOME = (*FEW, "null", "an object", "no UTF-8")
BY_DAY = ("an array", "one flipped bit")
# Who goes on, of each file and damage; the others say which file it is. Training goes on without what it makes again.
GOES_ON = {
    "config.json": {"nothing": ("train",)},
    "metrics.jsonl": dict.fromkeys(DAMAGES, EVERY) | {"a folder": ()},
    "tokenizer.json": {"nothing": ("train",)},
    "classes.json": {"nothing": ("train",)},
    "data.json": {"nothing": ("predict",)},
    "environment.json": dict.fromkeys(FEW, EVERY) | {"a folder": ()},
    "lock": dict.fromkeys(FEW, EVERY) | {"a folder": ()},
    "checkpoints/12/SHA256SUMS": dict.fromkeys(FEW, ("train",)),
    "checkpoints/12/config/metadata": dict.fromkeys(FEW, ("train",)),
    "checkpoints/12/arrays/manifest.ocdbt": dict.fromkeys(FEW, ("train",)),
    "checkpoints/12/_CHECKPOINT_METADATA": dict.fromkeys(SOME, ("train",)) | {"an object": EVERY},
}
CASES = [
    pytest.param(
        name,
        damage,
        marks=()
        if damage in BY_DAY[: 1 if "/" in name or name in ("environment.json", "lock") else 2]
        else pytest.mark.slow,
    )
    for name in GOES_ON
    for damage in (
        DAMAGES if name in ("config.json", "metrics.jsonl", "classes.json") else SOME if "_" in name else FEW
    )
]


def outcome(call, command, capsys):
    """Whether a command goes on, and what it says."""
    try:
        call[command]()
    except SAID as error:
        return False, str(error)
    captured = capsys.readouterr()
    return True, captured.out + captured.err


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_damaged_file_is_named_in_one_line_or_in_nobody_s_way(finished, call, name, damage, tmp_path, capsys):
    """A command would end in a traceback, or where it could go on."""
    for command in EVERY:
        shutil.copytree(finished.run.directory, tmp_path / "run")
        for other in ("lock", "environment.json"):
            (tmp_path / "run" / other).write_text("{}")
        DAMAGES[damage](tmp_path / "run" / name)
        goes_on, said = outcome(call, command, capsys)
        assert goes_on is (command in GOES_ON[name].get(damage, ())), f"{command}: {said}"
        if not goes_on:
            assert "\n" not in said and str(tmp_path / "run" / name).split("/config")[0] in said, f"{command}: {said}"
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("name", ["checkpoints", "samples", "plots", "tensorboard", "damaged"])
def test_a_file_in_place_of_a_folder_is_named_in_one_line(finished, call, name, tmp_path, capsys):
    """A command would end in a traceback, after it has trained or evaluated."""
    for command in EVERY:
        shutil.copytree(finished.run.directory, tmp_path / "run")
        replace_by_file(tmp_path / "run" / name)
        assert outcome(call, command, capsys) == (
            False, f"{tmp_path / 'run' / name} must be a folder, and is a file: move it away"
        )  # fmt: skip
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(
    "name", by_day(["samples/step_12.txt", "samples/test.jsonl", "samples/test_metrics.json", "plots/loss.png"], 0)
)
def test_a_folder_in_place_of_what_is_written_is_named_in_one_line(finished, call, name, tmp_path, capsys):
    """A command would end in a traceback; one that does not write it would not go on."""
    for command in EVERY:
        shutil.copytree(finished.run.directory, tmp_path / "run")
        replace_by_folder(tmp_path / "run" / name)
        goes_on, said = outcome(call, command, capsys)
        assert goes_on is not (command == "evaluate" and "step" not in name), f"{command}: {said}"
        if not goes_on:
            assert "\n" not in said and str(tmp_path / "run" / name) in said
        shutil.rmtree(tmp_path / "run")


def test_damaged_rows_of_metrics_are_counted(finished, call, tmp_path, capsys):
    """Rows would be lost, and nothing said."""
    shutil.copytree(finished.run.directory, tmp_path / "run")
    flip(file := tmp_path / "run" / "metrics.jsonl")
    count = len(file.read_bytes().splitlines())
    for command, times in (("evaluate", 1), ("train", 1), ("evaluate", 0)):  # once training has dropped it
        _, said = outcome(call, command, capsys)
        assert said.count(f"1 of {count} lines of {file} are damaged, and left out") == times
