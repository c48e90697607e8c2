"""From the shell to the first step: real commands that train a small language model on a text file.

    cold    with a new cache of compiled programs at each turn
    warm    with a cache that the start before has filled
    off     without a cache
    short   warm, and to the end: two steps, a validation, a checkpoint, and the report `--report=short`

A turn of the first three ends when the numbers of the first step are written; what is left of the command is killed.
`tformer_jax@FIELD=VALUE` changes the config; the command of `tformer_jax@FOLDER` is that folder's own.
"""

import importlib.util
import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import Row, Work, scratch

ROWS = [
    Row("cold", dict(cache="new")),
    Row("warm", dict(cache="kept")),
    Row("off", dict(cache="off")),
    Row("short", dict(cache="kept", whole=True)),
]
_FIELDS = {
    "data.source": "files", "data.split": "tail", "data.vocab_size": 1000, "model.num_layers": 2, "training.log_every": 1,
}  # fmt: skip
_EVERY = 0.01  # seconds between looks at what is written


def rows(names: Sequence[str]) -> list[Row]:
    return [row for row in ROWS if row.name in names or not names]


def prepare(settings: Mapping[str, Any], contender: str, changes: Mapping[str, Any]) -> Work:
    from ..data import sentences

    place, numbers = scratch(), itertools.count()
    text = place / "text.txt"
    text.write_text("\n".join(sentences(2000, seed=5)) + "\n")

    def turn() -> None:
        folder = place / f"turn {next(numbers)}"
        caches = {"new": folder / "cache", "kept": place / "cache", "off": "off"}
        whole = settings.get("whole", False)
        fields = _FIELDS | {"data.path": text, "training.steps": 1 + whole} | changes
        run(folder, fields, caches[settings["cache"]], "short" if whole else "none", until_first_step=not whole)

    return Work(turn, peak=_most_memory)


def run(folder: Path, fields: Mapping[str, Any], cache: Path | str, report: str, *, until_first_step: bool) -> None:
    """Trains in a folder by the command; ends with it, or when the first step is written.

    Raises:
      RuntimeError: the command failed; with the last line that it said.
    """
    command = [
        sys.executable, "-m", "experiments.train", "--config=experiments/configs/causal_lm.py:tiny",
        f"--workdir={folder / 'run'}", f"--compilation_cache={cache}", f"--report={report}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]  # fmt: skip
    where = Path(importlib.util.find_spec("tformer_jax").origin).parents[1]  # of a version in another folder, there
    folder.mkdir()
    with open(folder / "said", "w+") as said:
        process = subprocess.Popen(command, cwd=where, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        if until_first_step and _has_written(folder / "run" / "metrics.jsonl", process):
            process.kill()
            process.wait()
        elif process.wait():
            said.seek(0)
            raise RuntimeError(said.read().strip().rpartition("\n")[2])


def _has_written(file: Path, process: subprocess.Popen) -> bool:
    """Waits until there is something in a file; False if the process ended before."""
    while process.poll() is None:
        if file.exists() and file.stat().st_size:
            return True
        time.sleep(_EVERY)
    return False


def _most_memory() -> int:
    """Bytes of the command that took the most."""
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
