"""A run's directory in Python, for notebooks: its model, its numbers and its batches, each read when it is asked for."""

import functools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .. import interop
from ..config import build, check_choice
from ..data.batches import Batches
from ..tasks import Task
from .directories import RunError, steps_in
from .experiment import Experiment
from .loading import load_run
from .metrics import read_metrics
from .run import Run, changed_plugins
from .running import load_data


def open_run(directory: str | Path, *, step: int | None = None) -> "OpenedRun":
    """Opens a run, whether it trains, has ended or was killed; nothing in its directory is changed.

        run = tformer_jax.open_run("runs/language")
        print(run.predict(text="My fellow citizens,", top_p=0.9))

    Args:
      directory: of the run.
      step: of the checkpoint to use; None: the newest there is now.

    Raises:
      RunError: the directory is not there, is of something else, such as a sweep, or has no checkpoint of `step`.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RunError(f"there is no directory {directory}, seen from {Path.cwd()}")
    if interop.is_pretrained(directory):
        raise RunError(f"{directory} is a folder of Hugging Face's: load it by tformer_jax.interop.load_pretrained")
    run = Run.open(directory)
    steps = steps_in(run.checkpoints)
    if step is not None and step not in steps:
        raise RunError(f"{directory} has no checkpoint of step {step}, only of {steps}")
    if step is None and steps:
        step = steps[-1]
    for line in changed_plugins(directory, run.config):
        warnings.warn(line, stacklevel=2)
    return OpenedRun(run, step)


class OpenedRun:
    """A run that was opened. What it has is read once, when it is first asked for; open it again to see what came since.

    Attributes:
      directory: its path.
      config: the fully resolved config, nested tables.
    """

    def __init__(self, run: Run, step: int | None):
        self.directory, self.config = run.directory, run.config
        self._run, self._step = run, step

    @property
    def step(self) -> int:
        """The step of the checkpoint that `model` is of.

        Raises:
          RunError: there was no checkpoint yet when the run was opened.
        """
        if self._step is None:
            raise RunError(f"{self.directory} has no checkpoint yet: open it again once it has one")
        return self._step

    @property
    def experiment(self) -> Experiment:
        """The sections of the config, each as its dataclass."""
        return self._loaded[0]

    @property
    def task(self) -> Task:
        """The task, with what it has learnt of its data: it scores, evaluates, predicts and plots."""
        return self._loaded[1]

    @property
    def model(self) -> Any:
        """The model as it is evaluated, on the first device: the moving average, if there is one; adapters are merged.

        Raises:
          RunError, CheckpointError: there is no whole checkpoint of the step, or one of something else.
        """
        return self._loaded[2]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; of a translation `data.translation.Tokenizers`, one a side; of images None."""
        return getattr(self.task, "tokenizer", getattr(self.task, "tokenizers", None))

    @functools.cached_property
    def data(self) -> Any:
        """The data: `data.splits` has the examples by split.

        Raises:
          DataError: they cannot be read, or are not those that were trained on.
        """
        return load_data(self.experiment, self.directory, fresh=False)

    def batches(self, split: str) -> Batches:
        """Returns the batches of a split: `len(batches)`, `batches.batch(i)`; of "train" those of training, in its order.

        Of another split they are what `evaluate` scores: `run.task.score(run.model, run.batches("test"))`.

        Raises:
          ConfigError: there is no such split.
          DataError: see `data`.
        """
        check_choice("split", split, self.data.splits)
        if split == "train":
            return self.data.train_batches(self.experiment.training.accumulate)
        return self.data.evaluation_batches(split)

    def predict(self, **asked: Any) -> str:
        """Returns what `python -m experiments.predict` prints for the same flags: `run.predict(text="...", top_p=0.9)`.

        Raises:
          ConfigError, DataError: what is asked cannot be.
        """
        return "".join(self.task.predict(self.model, build(self.task.Prediction, asked, "predict")))

    @functools.cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """The numbers that were logged, columns of one length by name, "step" first, for `pandas.DataFrame(run.metrics)`.

        What a row does not have is NaN, and None in a column of texts.
        """
        return _columns(read_metrics(self._run.metrics_file))

    @functools.cached_property
    def _loaded(self) -> tuple[Experiment, Task, Any]:
        return load_run(self._run, self.step)

    def __repr__(self) -> str:
        at = "no checkpoint yet" if self._step is None else f"step {self._step}"
        return f"<run {self.directory}: {self.config['task']['name']}, {at}>"


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(["step", *(name for row in rows for name in row)])
    return {name: _column([row.get(name) for row in rows]) for name in names}


def _column(values: list[Any]) -> np.ndarray:
    """Numbers as NumPy has them, int64 where all are integers; texts as objects."""
    if any(isinstance(value, str) for value in values):
        return np.asarray(values, object)
    if all(type(value) is int for value in values):
        return np.asarray(values, np.int64)
    return np.asarray([math.nan if value is None else value for value in values], np.float64)
