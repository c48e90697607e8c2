"""The base of all data: the fields of their section, splits, a report, and batches in an order."""

import copy
import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..config import ORDER, SEED, Component, ConfigError, Wanted, field
from ..config.documentation import summary
from ..progress import SILENT, Progress
from . import digest
from .batches import Batches, BatchShapes
from .classes import keep_classes
from .sources.registered import Say, Sources
from .sources.streams import Stream

# As many as the largest vocabulary in use has (Liang et al., 2023); memory for all is taken before anything is learnt.
VOCABULARY = Wanted("be from 1 to 1,000,000", lambda x: 1 <= x <= 1_000_000)


class DataConfig(Component):
    """The fields that every `data` section has.

    Attributes:
      sources: what `source` names one of.
      inputs: fields that are for the source alone.
      held_out: the fields that say how much is held out, by split; None exactly where the source has the split itself.
      source: where the data come from; "files" or "folders" are the user's own.
      source_options: more that the source asks for, as text: "count=500,easy=True"; see `Sources`.
      seed: random seed of what is held out, and of the order of training batches.
      order_seed: random seed of the order of training batches alone; None: `seed`.
    """

    sources: ClassVar[Sources]
    inputs: ClassVar[tuple[str, ...]] = ()
    held_out: ClassVar[Mapping[str, str]] = {"validation": "validation_size", "test": "test_size"}

    source: str = field()
    source_options: str | None = field(None)
    seed: int = field(0, SEED)
    order_seed: int | None = field(None, SEED, part=ORDER)

    def check(self) -> None:
        self.sources.check(self, self.inputs)
        if (splits := getattr(self.sources[self.source], "splits", None)) is not None:  # else known when it is read
            self.check_held_out(splits)

    def check_held_out(self, splits: Collection[str]) -> None:
        """Raises a ConfigError unless sizes are given of exactly those splits that the source does not have itself."""
        for split, name in self._sizes():
            size = getattr(self, name)
            if split in splits and size is not None:
                raise ConfigError(f"{name} must be None, as the source has its own {split} split; got {size}")
            if split not in splits and size is None:
                raise ConfigError(f"{name} is needed, as the source has no {split} split of its own")

    @property
    def is_split(self) -> bool:
        """Tells whether something is held out of what the source has to train on."""
        return any(getattr(self, name) is not None for _, name in self._sizes())

    def _sizes(self) -> list[tuple[str, str]]:
        """The splits that the section can hold out, and its fields that say how much."""
        return [(split, name) for split, name in self.held_out.items() if hasattr(self, name)]

    @classmethod
    def choices_of(cls, name: str) -> tuple[Any, ...]:
        return tuple(getattr(cls, "sources", ())) if name == "source" else super().choices_of(name)

    @classmethod
    def said_of_choices(cls, name: str) -> Mapping[str, str]:
        of_sources = {n: summary(getattr(source, "func", source)) for n, source in getattr(cls, "sources", {}).items()}
        return of_sources if name == "source" else super().said_of_choices(name)

    def read(self, say: Say = lambda line: None) -> Any:
        """Reads all that the source has, before anything is held out; `say` is told which files are not read.

        Raises:
          DataError: see `Sources.read`.
        """
        return self.sources.read(self, say)

    def streams(self, say: Say = lambda line: None) -> dict[str, Stream[Any]]:
        """Returns what the source has, by split, one example after the other.

        Raises:
          DataError: see `Sources.streams`.
        """
        return self.sources.streams(self, say)

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        """Returns the largest shapes of a training batch, and dtypes, as far as they are known without the data."""
        raise NotImplementedError

    @property
    def batch_seed(self) -> int:
        """The seed from which the order of training batches is drawn."""
        return self.seed if self.order_seed is None else self.order_seed


def check_goes_with(section: Component, name: str, other: str, value: str) -> None:
    """Refuses a field that is set unless another one has a value, or not set although it has."""
    if (getattr(section, name) is not None) != (getattr(section, other) == value):
        raise ConfigError(f"{name} goes with data.{other}={value!r}, and is needed there")


class Data:
    """The data of an experiment: read, split, and ready to be asked for batches.

    A subclass says how they are split, what batches need (`prepare`), and makes batches.

    Attributes:
      config: the `data` section.
      splits: examples by split: "train", "validation", "test".
      classes: the names of labels, in the order of their numbers; None: there are no labels.
      report: what a person should know of the data, a line each.
      progress: is told what takes long.
      unit: what examples are called.
    """

    unit: ClassVar[str]
    config: Any
    splits: dict[str, Any]
    classes: list[str] | None = None
    report: list[str]
    progress: Progress

    def __init__(self, config: DataConfig, directory: Path, progress: Progress = SILENT):
        """Args:
          config: as given.
          directory: of the run: keeps what the data were, the names of classes, and tokenizers.
          progress: is told what takes long.

        Raises:
          ConfigError: fields of the section do not go with what the source has.
          DataError: the data cannot be read, are not those that the run in `directory` began with, or nothing is left
            to train on.
        """
        self.config, self.progress, notes = config, progress, []
        with progress.phase("reading data"):
            self.splits = self.split(self.read(notes.append), notes.append)
            if self.classes is not None:
                keep_classes(self.classes, directory)
            # before a tokenizer is kept, which is of these data
            digest.keep_digests({name: self.digest_of(part) for name, part in self.splits.items()}, directory)
        sizes = ", ".join(f"{len(part):,} {name}{self.size_of(part)}" for name, part in self.splits.items())
        by = f", split by {config.split}" if hasattr(config, "split") and config.is_split else ""
        self.report = [f"{sizes} {self.unit} ({config.source}{by})", *notes]
        self.prepare(directory, progress)

    def train_batches(self, rows_multiple: int = 1) -> Batches:
        """Returns random-access training batches; adds what is to be said of them to the report.

        The rows of each are a multiple of `rows_multiple`, so that they can be split evenly.

        Raises:
          ConfigError: a batch as large as configured holds fewer rows than `rows_multiple`.
          DataError: the training split does not fill a batch.
        """
        raise NotImplementedError

    def evaluation_batches(self, split: str) -> Batches:
        """Returns the batches of one pass over a split, in order."""
        raise NotImplementedError

    def read(self, say: Say) -> Any:
        """Returns all that the source has."""
        return self.config.read(say)

    def split(self, found: Any, say: Say) -> dict[str, Any]:
        """Returns what the source has, by split; sets `classes`, where there are any."""
        raise NotImplementedError

    def prepare(self, directory: Path, progress: Progress) -> None:
        """Makes what batches need, such as a tokenizer, once the data are split."""

    def check_held_out(self, splits: Collection[str]) -> None:
        """Refuses fields that do not go with the splits of the source, which may be known only now."""
        try:
            self.config.check_held_out(splits)
        except ConfigError as error:
            raise ConfigError(f"data.{error}") from None

    def size_of(self, part: Any) -> str:
        """Returns what is said of a split beside the number of its examples."""
        return ""

    def digest_of(self, part: Any) -> digest.Digest:
        """Returns the digest of a split."""
        raise NotImplementedError


def in_order(data: Any, seed: int | None) -> Any:
    """Returns the same data, not read again, with training batches in the order of another `order_seed`."""
    other = copy.copy(data)
    other.config, other.report = dataclasses.replace(data.config, order_seed=seed), []
    return other
