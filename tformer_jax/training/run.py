"""A run directory: what was asked for, what it ran on, and everything that came of it.

config.json  environment.json  metrics.jsonl  tokenizer.json or classes.json
checkpoints/  tensorboard/  samples/  plots/  damaged/
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from ..data.files import write_whole

# What a run writes before it trains.
_MADE = ("config.json", "tokenizer.json", "source_tokenizer.json", "classes.json")
# Where a run runs may change from start to start: what it computes does not.
_FREE = ("parallel",)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "sacrebleu")

# As the JSON standard calls what Python reads as these.
_JSON_NAMES = {dict: "an object", list: "an array", str: "a string"}
_Kind = TypeVar("_Kind")


class RunError(ValueError):
    """The run directory cannot be used as asked."""


class Run:
    """The directory of one experiment, opened for one config.

    Attributes:
      directory: its path.
      config: the fully resolved config, plain JSON values.
      config_file, metrics_file, checkpoints, tensorboard, samples, plots: what lies in it.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]):
        self.directory, self.config = directory, json.loads(json.dumps(dict(config)))  # as it will be read again
        self.config_file = directory / "config.json"
        self.metrics_file = directory / "metrics.jsonl"
        self.checkpoints = directory / "checkpoints"
        self.tensorboard = directory / "tensorboard"
        self.samples = directory / "samples"
        self.plots = directory / "plots"
        self._not_ours: frozenset[str] = frozenset(_MADE)

    @classmethod
    def start(cls, directory: str | Path, config: Mapping[str, Any]) -> "Run":
        """Creates the directory, or reopens that of the same config; the `parallel` section may differ.

        Raises:
          RunError: it cannot be written, its config is damaged, or it belongs to another one (names the fields).
        """
        run = cls(Path(directory), config)
        check_writable(run.directory)
        if run.config_file.exists():
            old, new = (_fixed(config) for config in (read_json(run.config_file), run.config))
            differing = differences(old, new)
            if differing:
                raise RunError(
                    f"{run.directory} holds a run of another config; it differs in {', '.join(differing)}. "
                    f"Choose another --workdir, or the same config to go on with this one"
                )
        else:
            run._not_ours = frozenset(name for name in _MADE if (run.directory / name).exists())
            write_json(run.config_file, run.config)
        for folder in (run.samples, run.plots):
            folder.mkdir(exist_ok=True)
        return run

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in this directory; records what this one runs on, and where.

        Raises:
          RunError: see `locked`.
        """
        with locked(self.directory):
            write_json(self.config_file, self.config)
            write_json(self.directory / "environment.json", environment())
            yield

    @property
    def has_checkpoint(self) -> bool:
        """Whether training would go on rather than begin."""
        return self.checkpoints.is_dir() and any(entry.name.isdigit() for entry in self.checkpoints.iterdir())

    def withdraw(self) -> None:
        """Forgets what a run that could not begin wrote down, so that a corrected command may use its directory."""
        for name in set(_MADE) - self._not_ours:
            (self.directory / name).unlink(missing_ok=True)

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """A run that exists.

        Raises:
          RunError: there is none.
        """
        file = Path(directory) / "config.json"
        if not file.is_file():
            raise RunError(f"{directory} is not a run directory: it has no config.json")
        return cls(Path(directory), read_json(file))


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes from training in a directory.

    The lock is the operating system's: whatever ends the process, it is gone.

    Raises:
      RunError: another process holds it (says which, and on what machine).
    """
    file = directory / "lock"
    with open(file, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read_text("utf-8").strip() or "another process"
            raise RunError(f"{directory} is in use: {holder} is training there") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


def environment() -> dict[str, Any]:
    """Versions, devices and the code's commit: what a result depends on beside its config."""
    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": git.stdout.strip() if git.returncode == 0 else None,
    }


def read_json(file: Path, kind: type[_Kind] = dict) -> _Kind:
    """The value in a JSON file, an object unless `kind` says otherwise.

    Raises:
      RunError: the file cannot be read, holds no JSON, or a value of another kind.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of UTF-8 too; of brackets within brackets
        raise RunError(f"{file} is damaged: {error}") from None
    if not isinstance(value, kind):
        raise RunError(f"{file} is damaged: it must hold {_JSON_NAMES[kind]}, and holds {_shortened(value)}")
    return value


def _shortened(value: Any, most: int = 40) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}..."


def write_json(file: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_whole(file, json.dumps(value, indent=2, ensure_ascii=False))


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change from start to start."""
    return {name: section for name, section in config.items() if name not in _FREE}


def check_writable(directory: Path) -> None:
    """Makes a directory, if it is not there.

    Raises:
      RunError: it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error.strerror}") from None


def differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """The dotted names of the fields that differ, with both values."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name} ({json.dumps(a)} there, {json.dumps(b)} here)")
    return found
