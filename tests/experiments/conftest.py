"""The command lines, as real processes and within this one, on a corpus made from the text of Python's own help."""

import concurrent.futures
import contextlib
import importlib
import io
import os
import re
import subprocess
import sys

import pytest
from absl import flags as absl_flags
from forked import ROOT, CommandServer
from support import unchecked_annotations

from experiments import cli

STEPS, EVERY = 120, 40


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Where everything of these tests lies."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="session")
def environment(place):
    """No network, no data of the user's, and each program compiled once, in a hurry, for all processes."""
    hurry = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    inherited = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    return inherited | {
        "XLA_FLAGS": hurry,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TFORMER_DATA": str(place / "no data"),
        "PIP_NO_INDEX": "1",
    }


@pytest.fixture(scope="session")
def start(environment):
    """`start(name, *flags)`: the process of `python -m experiments.NAME`, see `forked`."""
    server = CommandServer(environment)
    yield server.start
    server.close()


@pytest.fixture(scope="session")
def from_scratch(environment):
    """`from_scratch(name, *flags)`: what became of the very command, with a Python of its own."""

    def from_scratch(name, *flags):
        command = [sys.executable, "-m", f"experiments.{name}", *map(str, flags)]
        how = {"cwd": ROOT, "env": environment, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **how)

    return from_scratch


@pytest.fixture(scope="session")
def command(start):
    """`command(name, *flags)`: what became of it: returncode, stdout, stderr."""

    def command(name, *flags):
        process = start(name, *flags)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return command


REQUIRED = {
    "train": ("config", "workdir"),
    "sweep": ("config", "workdir"),
    "inspect": ("config",),
    "evaluate": ("workdir",),
    "predict": ("workdir",),
    "export": ("workdir", "member", "to"),
    "convert": ("from", "to"),
    "compare_sweeps": ("sweeps", "by", "picture"),
}
OPTIONAL = {
    "train": ("plugin",),
    "sweep": ("plugin",),
    "inspect": ("plugin",),
    "evaluate": ("step",),
    "predict": ("plugin", "step"),
    "convert": ("plugin", "step"),
}


def _forget():
    """The flags of the last command, and those that its config had."""
    for name in [name for name in absl_flags.FLAGS if name.startswith("config.")]:
        delattr(absl_flags.FLAGS, name)
    absl_flags.FLAGS.unparse_flags()


@pytest.fixture(scope="session")
def here():
    """`here(name, *flags)`: what became of the command in this process, from the reading of its flags to its end.

    As `command` has it: an error is what it would end with on stderr. This takes as long as the work alone.
    """

    def here(name, *flags):
        module = importlib.import_module(f"experiments.{name}")
        _forget()
        arguments, output, errors = [name, *map(str, flags)], io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended, contextlib.ExitStack() as held:
            patch.chdir(ROOT)
            patch.setattr(sys, "argv", arguments)
            for redirect in (contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors)):
                held.enter_context(redirect)
            held.enter_context(unchecked_annotations())
            before = {"before": module.of_plugins} if name == "predict" else {}
            cli.run(module.main, *REQUIRED[name], optional=OPTIONAL.get(name, ()), **before)
        _forget()
        code = ended.value.code or 0
        if isinstance(code, str):  # as Python does with what nobody catches
            errors.write(f"{code}\n")
            code = 1
        return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())

    return here


@pytest.fixture
def within():
    """`within(name, *flags)`: experiments.NAME with its flags in this process, which starts sooner; flags are forgotten
    after the test."""

    def within(name, *given):
        module = importlib.import_module(f"experiments.{name}")
        absl_flags.FLAGS.unparse_flags()
        absl_flags.FLAGS([name, *map(str, given)])
        return module

    yield within
    absl_flags.FLAGS.unparse_flags()


@pytest.fixture(scope="session")
def together():
    """`together({name: function})`: calls them two at a time and returns {name: result}."""

    def together(functions):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            futures = {name: pool.submit(function) for name, function in functions.items()}
            return {name: future.result() for name, future in futures.items()}

    return together


def _translate(word):
    return "da" if len(word) < 4 else "demi" if len(word) < 7 else "dolumo"


@pytest.fixture(scope="session")
def corpus(place):
    """200 pairs: some words from Python's help texts, and for each word one of three that tells its length."""
    topics = pytest.importorskip("pydoc_data.topics").topics
    words = [word for name in sorted(topics) for word in re.findall(r"[A-Za-z]+", topics[name])]
    sources = [words[i * 131 % 20_000 :][: 3 + i % 6] for i in range(200)]
    file = place / "corpus.tsv"
    file.write_text("".join(f"{' '.join(s)}\t{' '.join(map(_translate, s))}\n" for s in sources), "utf-8")
    return file


@pytest.fixture(scope="session")
def flags(corpus):
    """`flags(workdir, name=value, ...)`: of the tiny preset on the corpus; names are those of config fields."""
    settings = {
        "data.source": "files",
        "data.tsv_file": corpus,
        "data.split": "sentence",
        "data.validation_size": 8,
        "data.test_size": 12,
        "data.vocab_size": 400,
        "data.row_length": 48,
        "data.batch_tokens": 240,
        "model.d_model": 16,
        "model.attention.num_heads": 2,
        "model.feed_forward.width": 32,
        "model.num_layers": 1,
        "model.max_length": 48,
        "model.dropout_rate": 0.1,
        "optimizer.learning_rate": 0.01,
        "optimizer.warmup_steps": 5,
        "parallel.data": 1,
        "training.steps": STEPS,
        "training.evaluate_every": STEPS // 2,
        "checkpoint.every": EVERY,
        "task.beam_size": 2,
    }

    def flags(workdir, changes=None, preset="tiny"):
        given = {name: value for name, value in (settings | (changes or {})).items() if value is not None}
        config = f"--config=experiments/configs/translation.py:{preset}"
        return [config, f"--workdir={workdir}", *(f"--config.{name}={value}" for name, value in given.items())]

    return flags


@pytest.fixture(scope="session")
def finished(place, here, flags):
    """A finished run and what the command said; the run stays as it is."""
    return place / "finished", here("train", *flags(place / "finished"))


@pytest.fixture(scope="session")
def trained(place, from_scratch, flags):
    """The same of a process, with whose bits those of others are compared."""
    return place / "trained", from_scratch("train", *flags(place / "trained"))
