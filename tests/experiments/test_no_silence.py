"""What a terminal shows of a run, with the time of each piece: who looks at it never wonders whether it still runs."""

import os
import pty
import re
import sys
import time

import pytest
import tiny_runs
from forked import ROOT

LONGEST = 3.0
SMALL = {
    "model.d_model": 16, "model.num_layers": 1, "model.attention.num_heads": 2, "model.feed_forward.width": 24,
    "training.steps": 60, "training.evaluate_every": 30, "checkpoint.every": 20, "parallel.data": 1,
}  # fmt: skip
TEXT = SMALL | {"data.source": "files", "data.vocab_size": 300, "model.max_length": 48}
DOCUMENTS = TEXT | {
    "data.validation_share": 0.1,
    "data.test_share": 0.1,
    "data.row_length": 16,
    "data.batch_tokens": 64,
}
HELD_OUT = {"data.validation_size": 8, "data.test_size": 8}


@pytest.fixture(scope="module")
def asked(tmp_path_factory, corpus):
    """`asked(name)`: the fields of a tiny preset on small data."""
    folder = tiny_runs.files(tmp_path_factory.getbasetemp())
    images = SMALL | HELD_OUT | {"data.source": "folders", "data.path": folder / "images", "data.image_size": 8}
    fields = {
        "causal_lm": DOCUMENTS | {"data.path": folder / "texts", "task.sample_tokens": 8},
        "masked_lm": DOCUMENTS | {"data.path": folder / "texts"},
        "text_classification": TEXT | HELD_OUT | {"data.path": folder / "labelled.tsv", "data.batch_tokens": 128},
        "image_classification": images | {"model.patch_size": 4, "data.batch_size": 16},
        "translation": TEXT | HELD_OUT | {"data.tsv_file": corpus, "data.split": "sentence", "data.batch_tokens": 240},
    }
    return fields.__getitem__


def waited(process):
    """Seconds that a process was ready to run and others had the processor, which is no silence of its own."""
    try:
        with open(f"/proc/{process}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def silences(command, environment):
    """The longest silences on a terminal, longest first: (seconds, when, what was said before); and all that was said."""
    process, screen = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execvpe(command[0], command, environment)
    began = last = time.monotonic()
    before, found, said = 0.0, [], b""
    while True:
        try:
            piece = os.read(screen, 65536)
        except OSError:  # of a terminal that nobody has open any more
            piece = b""
        now, waiting = time.monotonic(), waited(process)
        found.append((now - last - max(0.0, waiting - before), round(now - began, 1), plain(said[-400:])[-120:]))
        if not piece:
            break
        last, before, said = now, waiting, said + piece
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, plain(said)[-2000:]
    return sorted(found, reverse=True), plain(said)


def plain(said):
    """Text without what moves the cursor and colours it."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode("utf-8", "replace"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["causal_lm", "masked_lm", "text_classification", "image_classification", "translation"]
)
def test_a_terminal_is_never_silent_for_long(name, asked, from_scratch, environment, tmp_path):
    """A person would take a run for dead, and end it. Programs are compiled before."""
    preset = "folders" if name == "image_classification" else "tiny"
    fields = [f"--config.{field}={value}" for field, value in asked(name).items()]
    given = [f"--config=experiments/configs/{name}.py:{preset}", *fields]
    first = from_scratch("train", *given, f"--workdir={tmp_path}/first")
    assert first.returncode == 0, first.stderr
    command = [sys.executable, "-m", "experiments.train", *given, f"--workdir={tmp_path}/second"]
    found, said = silences(command, environment | {"TERM": "xterm", "COLUMNS": "120"})
    assert found[0][0] <= LONGEST, "\n".join(map(str, found[:5]))
    for phase in ("loading JAX", "step 60/60", "validating", "plots and checkpoints are in"):
        assert phase in said
