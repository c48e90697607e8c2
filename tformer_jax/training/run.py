"""A run directory: what was asked for, what it ran on, and everything that came of it.

config.json  start.json  environment.json  plugins.json  metrics.jsonl  data.json  tokenizer.json or classes.json
checkpoints/  tensorboard/  samples/  plots/  damaged/  profile/  wandb/
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from .. import interop
from ..config import ConfigError
from ..data import digest, tokenizers
from ..data.files import DataError, write_whole, writing
from ..registry import plugin_sum
from .changes import FREE_FIELDS
from .directories import RUN_FOLDERS, RunError, check_free, check_holds, check_layout, check_not_older, steps_in
from .json_files import read_json, shortened
from .paths import some
from .pretrained import START, keep_start

# What was learnt from the data before training, and decides what tokens and classes mean; and what the data were.
LEARNT = (
    tokenizers.FILE,
    "source_tokenizer.json",
    tokenizers.TOKENS_FILE,
    tokenizers.IDS_FILE,
    "classes.json",
    digest.FILE,
)
# What the files of its plugins were when it began.
PLUGINS = "plugins.json"
# What a run writes before it trains.
_MADE = ("config.json", START, PLUGINS, *LEARNT)
_FILES = (*_MADE, "environment.json", "metrics.jsonl", "wandb.json", "lock")
# Where a run, a sweep or a search runs, and where its plugins are, may change from start to start.
_FREE = ("parallel", "plugins")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "sacrebleu")


# So long, at most, does who looks for a lock hold it.
_LOOKING_SECONDS = 0.1


class Run:
    """The directory of one experiment, opened for one config.

    Attributes:
      directory: its path.
      config: the fully resolved config, plain JSON values.
      config_file, metrics_file, checkpoints, tensorboard, samples, plots, profile: what lies in it.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]):
        self.directory, self.config = directory, json.loads(json.dumps(dict(config)))  # as it will be read again
        self.config_file = directory / "config.json"
        self.metrics_file = directory / "metrics.jsonl"
        self.checkpoints = directory / "checkpoints"
        self.tensorboard = directory / "tensorboard"
        self.samples = directory / "samples"
        self.plots = directory / "plots"
        self.profile = directory / "profile"
        self._not_ours: frozenset[str] = frozenset(_MADE)

    @classmethod
    def start(cls, directory: str | Path, config: Mapping[str, Any], *, trial: bool = False) -> "Run":
        """Creates the directory, or reopens that of the same config; what may differ, `changes` says.

        `trial`: a search has it for one of its trials.

        Raises:
          RunError: it cannot be written, its config is damaged, it belongs to another one (names the fields), it is
            trained further than the config says, or it is the directory of something else, or a part of one.
        """
        run = cls(Path(directory), config)
        run.check(trial=trial)
        check_writable(run.directory)
        for folder in (run.samples, run.plots):
            with writing(folder):
                folder.mkdir(exist_ok=True)
        if not run.config_file.exists():
            run._not_ours = frozenset(name for name in _MADE if (run.directory / name).exists())
            with _folder_locked(run.directory):  # nobody is about to make it something else
                write_json(run.config_file, run.config)
        run._check_config()
        return run

    def check(self, *, trial: bool = False) -> None:
        """Refuses what `start` refuses of a directory, and changes nothing in it."""
        check_free(self.directory, "run", "config.json", makes_run=trial)
        _check_no_folder(self.directory)
        check_layout(self.directory, _FILES, RUN_FOLDERS)
        if self.config_file.exists():
            self._check_config()

    def _check_config(self) -> None:
        """Compares config.json, and how far the run is trained, with the config."""
        there = read_json(self.config_file)
        check_not_older(self.config_file, there)
        if differing := differences(fixed(there), fixed(self.config), free=FREE_FIELDS):
            raise RunError(
                f"{self.directory} holds a run of another config; it differs in {some(differing)}. "
                f"Choose another --workdir, or the same config to go on with this one"
            )
        steps, done = self.config.get("training", {}).get("steps"), steps_in(self.checkpoints)[-1:]
        if steps is not None and done and steps < done[0]:
            raise RunError(
                f"{self.directory} is trained further than training.steps={steps}: its newest checkpoint is of step "
                f"{done[0]}. Give training.steps={done[0]} or more, or choose another --workdir"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in this directory; records what this one runs on, and where.

        Raises:
          RunError: see `locked`.
          ConfigError, DataError, WriteError: the folder that it starts from cannot be read, a plugin not be loaded, or a
            file not be written; a run that did not begin before is withdrawn.
        """
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.directory))
                write_json(self.config_file, self.config)
                write_json(self.directory / "environment.json", environment())
                if not self.has_checkpoint:
                    keep_start(self.directory, self.config)
                    keep_plugins(self.directory, self.config)
            except (ConfigError, DataError, OSError):
                self.withdraw()
                raise
            yield

    @property
    def has_checkpoint(self) -> bool:
        """Returns whether a checkpoint exists, so that training would go on rather than begin."""
        return bool(steps_in(self.checkpoints))

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what the run computes, as its directory has it now: a checkpoint keeps it."""
        return self.config | {"files": sums_of_learnt(self.directory)}

    def check_identity(self, of_checkpoint: Mapping[str, Any], step: int) -> None:
        """Compares what the directory says of the run with what the checkpoint of a step says.

        Raises:
          RunError: they differ (names the file, or the field and both values).
        """
        checkpoint = self.checkpoints / str(step)
        check_identity(self.config_file, self.directory, self.identity, of_checkpoint, checkpoint)

    def withdraw(self) -> None:
        """Forgets what a run that could not begin wrote down, so that a corrected command may use its directory."""
        for name in set(_MADE) - self._not_ours:
            (self.directory / name).unlink(missing_ok=True)

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """Opens a run that exists.

        Raises:
          RunError: there is none.
        """
        check_holds(Path(directory), "config.json", "a run directory")
        _check_no_folder(Path(directory))
        check_layout(Path(directory), _FILES, RUN_FOLDERS)
        config = read_json(Path(directory) / "config.json")
        check_not_older(Path(directory) / "config.json", config)
        return cls(Path(directory), config)


def _check_no_folder(directory: Path) -> None:
    """Raises a RunError if a directory is a folder of Hugging Face's, which has a config.json too."""
    if interop.is_pretrained(directory):
        raise RunError(
            f"{directory} is a folder of Hugging Face's, and no run: experiments.convert --from={directory} --to=runs/NAME "
            f"makes one of it, --config.task.init_from={directory} trains from it"
        )


def keep_plugins(directory: Path, config: Mapping[str, Any]) -> None:
    """Writes down the SHA-256 of each plugin of a config, of a run, a sweep or a search that begins.

    Raises:
      ConfigError: see `registry.load_plugin`.
    """
    if sums := {plugin: plugin_sum(plugin) for plugin in config.get("plugins", ())}:
        write_json(directory / PLUGINS, sums)


def changed_plugins(directory: Path, config: Mapping[str, Any]) -> list[str]:
    """Returns a line for each plugin of a config that is not as it was when a run, a sweep or a search began.

    Raises:
      RunError: the file that says it is damaged.
      ConfigError: see `registry.load_plugin`.
    """
    file = directory / PLUGINS
    kept = read_json(file).values() if file.exists() else None
    sums = {plugin: plugin_sum(plugin) for plugin in config.get("plugins", ())}
    return [
        f"the plugin {plugin} has changed since {directory} began: its sha256 is {found}, and was another in {file.name}"
        for plugin, found in sums.items()
        if kept is not None and found not in kept  # wherever it is now
    ]


def check_identity(
    asked: Path, learnt: Path, here: Mapping[str, Any], of_checkpoint: Mapping[str, Any], checkpoint: Path
) -> None:
    """Compares what a directory says of itself with what a checkpoint in it was saved of.

    Args:
      asked: the file that says what was asked for.
      learnt: the folder of tokenizers, classes and what the data were; who reads no data does without the last.
      here: what decides what is computed, and "files" with their sums.
      of_checkpoint: the same, as it was when the checkpoint was saved.
      checkpoint: where it is.

    Raises:
      RunError: they differ (names the file, or the field and both values).
    """
    there, here = fixed(of_checkpoint), fixed(here)
    saved, found = there.pop("files", {}), here.pop("files")
    if differing := differences(there, here, free=FREE_FIELDS):
        raise RunError(
            f"{asked} does not fit the checkpoint {checkpoint}: it differs in {some(differing)}. "
            f"Put it back as it was (the checkpoint's own config is in its config/metadata)"
        )
    compared = (saved.keys() | found.keys()) - ({digest.FILE} - found.keys())
    for name in sorted(n for n in compared if saved.get(n) != found.get(n)):
        sums = f"sha256 {saved.get(name, 'none')} there, {found.get(name, 'none')} here"
        if name not in saved:
            wanted = "was trained without it: remove it"
        else:
            wanted = "was trained with another: put that one back" if name in found else "needs it: put it back"
        raise RunError(f"{learnt / name} does not fit the checkpoint {checkpoint}, which {wanted} ({sums})")


def sums_of_learnt(directory: Path) -> dict[str, str]:
    """The SHA-256 of what the data left in a directory, such as tokenizers, by the file's name."""
    files = (directory / name for name in LEARNT)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes from training in a directory.

    The lock is the operating system's: whatever ends the process, it is gone. It is on the file `lock`, and on the
    directory itself where the file system can do that: who deletes the file does not let a second process in. Who looks
    whether it is held, see `in_use`, holds it for a moment.

    Raises:
      RunError: another process holds it (says which, and on what machine), or no process can.
      WriteError: the file `lock` cannot be written.
    """
    file = directory / "lock"
    check_layout(directory, ("lock",), ())
    with _folder_locked(directory), contextlib.ExitStack() as held:
        with writing(file):  # without a buffer, which closing would have to write
            lock = held.enter_context(open(file, "ab", buffering=0))
        try:
            _lock(lock.fileno(), fcntl.LOCK_EX)
        except BlockingIOError:
            raise _in_use(directory) from None
        except OSError as error:  # of a file system without locks
            raise RunError(f"cannot lock {file}: {error.strerror}") from None
        with writing(file):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def in_use(directory: Path) -> bool:
    """Returns whether a process is training in a directory; False where the file system cannot tell."""
    try:
        with open(directory / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody ever trained there, or there are no locks
        return False
    return False


def _lock(file: int, how: int) -> None:
    """Locks an open file, or raises a BlockingIOError if another process holds it longer than to look at it."""
    for last in (False, True):
        try:
            return fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if last:
                raise
            time.sleep(_LOOKING_SECONDS)


@contextlib.contextmanager
def _folder_locked(directory: Path) -> Iterator[None]:
    opened = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise _in_use(directory) from None
    except OSError:
        pass  # as on NFS, which locks files alone
    try:
        yield
    finally:
        os.close(opened)


def _in_use(directory: Path) -> RunError:
    try:
        holder = (directory / "lock").read_text("utf-8", "replace").strip()
    except OSError:
        holder = ""
    return RunError(f"{directory} is in use: {holder or 'another process'} is training there")


def environment() -> dict[str, Any]:
    """Versions, devices and the code's commit: what a result depends on beside its config; and the command."""
    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "command": ["python", *sys.orig_argv[1:]],
        "commit": git.stdout.strip() if git.returncode == 0 else None,
    }


def holds(value: Any, **kinds: type) -> bool:
    """Returns whether a value of JSON is an object in which these names have values of these kinds."""
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def write_json(file: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_whole(file, json.dumps(value, indent=2, ensure_ascii=False))


def fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config without the sections that may change from start to start."""
    return {name: section for name, section in config.items() if name not in _FREE}


def check_writable(directory: Path) -> None:
    """Makes a directory, if it is not there.

    Raises:
      RunError: it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):  # which has no name that a kill would leave
            pass
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error.strerror}") from None


def differences(old: Mapping, new: Mapping, prefix: str = "", *, free: Container[str] = ()) -> list[str]:
    """The dotted names of the fields that differ, with both values; those of `free` may."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if f"{prefix}{name}" in free:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.", free=free)
        elif a != b or isinstance(a, bool) != isinstance(b, bool):  # true is 1 in Python
            found.append(f"{prefix}{name} ({shortened(a)} there, {shortened(b)} here)")
    return found
