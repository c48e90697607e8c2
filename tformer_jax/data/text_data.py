"""The base of all data that are texts: stores of them, splits, mixtures of sources, and what is too long for a model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from ..config import COUNT, ConfigError, field
from ..progress import SILENT, Progress
from . import digest
from .base import Data, DataConfig, check_goes_with
from .batches import Batches, RowBatches
from .batches.mixed import MixedBatches, MixedRows, as_many_rows
from .examples import Examples, are_among, kept_examples, kept_splits
from .files import DataError
from .mixtures import MIXTURE, Part, parts_of
from .ragged import Ragged, longest_sides
from .sources.registered import SPLITS, Say
from .sources.streams import Stream
from .unchanged import code_of
from .vocabularies import check_untrained

_Batches = TypeVar("_Batches", bound=Batches)


class TextDataConfig(DataConfig):
    """The fields that the `data` sections of texts share.

    Attributes:
      mixture: with source="mixture", the sources, what each is given, and its share of the rows that are trained on:
        "speeches:0.3,jsonl(path=books.jsonl,field=text):0.7". Those of batches in buckets are shares of the batches. What is
        held out is held out of all of them together, as if they were one; if one has a split of its own, all must have it.
      tokenizer_path: a `tokenizer.json`, as the library tokenizers saves it, or a folder with one, such as Hugging Face's
        or a run's: it is used as it is, and kept in the run's directory. Files beside it say which tokens are special.
        None: a tokenizer is trained, or that of the model which `task.init_from` names is taken over.
      tokenizer_sample: bytes of the training split that a BPE is trained on, in pieces that are spread evenly over it and
        drawn from the seed; None: all of it.
      others: see `DataConfig`.
    """

    mixture: str | None = field(None)
    tokenizer_path: str | None = field(None)
    tokenizer_sample: int | None = field(100_000_000, COUNT)

    def check(self) -> None:
        if self.tokenizer_path is not None:
            check_untrained(self, ("vocab_size", "tokenizer"), f"data.tokenizer_path={self.tokenizer_path!r}")
        check_goes_with(self, "mixture", "source", MIXTURE)
        if self.mixture is None:
            super().check()
            return
        for name in ("source_options", *self.inputs):
            if (value := getattr(self, name)) is not None:
                raise ConfigError(
                    f"{name} is of one source: give it as NAME({name}=...) in data.mixture, got {value!r}"
                )
        _ = self.parts

    @classmethod
    def choices_of(cls, name: str) -> tuple[Any, ...]:
        choices = super().choices_of(name)
        return (*choices, MIXTURE) if name == "source" and choices else choices

    @classmethod
    def said_of_choices(cls, name: str) -> Mapping[str, str]:
        said = super().said_of_choices(name)
        return said | {MIXTURE: "Reads several sources, by weights: see `mixture`."} if said else said

    @property
    def parts(self) -> list[Part[Self]]:
        """The sections of all sources, and their weights: of a mixture, or of one source alone."""
        return [Part(self, 1.0)] if self.mixture is None else parts_of(self.mixture, self)


class TextData(Data):
    """Data of which each example is a named tuple of texts: they lie in stores, and are read once.

    Attributes:
      text: the field of the main text of an example.
      others: see `Data`.
    """

    text: ClassVar[str]
    splits: dict[str, Examples]

    def read(self, say: Say) -> Any:
        return self.keep([part.section.streams(say) for part in self.config.parts], say)

    def keep(self, streams: Sequence[Mapping[str, Stream[Any]]], say: Say) -> dict[str, Examples]:
        """Returns all that the streams of each source have, by split, from stores."""
        sources, sections = self.config.sources, [part.section for part in self.config.parts]
        for of_one in streams:
            self.check_held_out(of_one)
        keys = [sources.key(*of) for of in zip(sections, streams, strict=True)]
        self._key = {name: [key.get(name) for key in keys] for name in ("files", "source")}
        how, found = {"say": say, "progress": self.progress}, {}
        for name in streams[0]:  # which all have
            parts, of = [of_one[name] for of_one in streams], self.of if name == "train" else f"{name} of {self.of}"
            found[name] = kept_examples(sources.gives, parts, self._key | {"split": name}, self.text, **how, of=of)
        return found

    def split(self, found: Mapping[str, Examples], say: Say) -> dict[str, Examples]:
        how, own = self.how_to_split(), {name: self.whole(part, say) for name, part in found.items() if name != "train"}

        def make(say: Say) -> dict[str, Examples]:
            train = self.whole(found["train"], say)
            made = self.make_splits(train, say, **how) if self.config.is_split else {"train": train[:]}
            for name, part in own.items():  # an official split stays as it is, whose numbers are compared
                if shared := int(are_among(made["train"].facts.same, part.facts.same).sum()):
                    say(f"{shared:,} training {self.unit} are also in the {name} split of the source; both keep them")
            return {name: part for name, part in made.items() if name.partition("_")[0] not in own}

        key = self._key | {"fields": how, "code": code_of(type(self).make_splits)}
        splits = own | kept_splits(found["train"], key, make, say, progress=self.progress, of=self.of)
        return {name: splits[name] for name in (*SPLITS, *splits) if name in splits}

    def whole(self, found: Examples, say: Say) -> Examples:
        """Returns the examples that can be learnt from: all, unless a subclass knows better; `say` is told of others."""
        return found

    @property
    def of(self) -> str:
        """The name of the data, by which stores of the same are known: their source and what it is given."""
        names = ("source", "source_options", "mixture", *self.config.inputs)
        given = {name: value for name in names if (value := getattr(self.config, name)) is not None}
        return ", ".join(given.values())

    def mixed_rows(
        self, part_of: np.ndarray | None, rows: int, make: Callable[[np.ndarray | None, int], RowBatches]
    ) -> Batches:
        """Returns training batches of so many rows: of a mixture, rows of each source by its weight.

        Args:
          part_of: of each example that is trained on, its `Facts.part`, [n]; None: it has none, and there is no mixture.
          rows: in a batch.
          make: gives batches of some of them, by their numbers, None: of all; of so many rows.

        Raises:
          DataError: a source has too little to train on (names it).
        """
        parts = self.config.parts
        if len(parts) == 1:
            return make(None, rows)
        sources = self._of_each(part_of, lambda some: as_many_rows(lambda n: make(some, n), rows))
        return MixedRows(sources, [part.weight for part in parts], rows, self.config.batch_seed)

    def mixed_batches(self, part_of: np.ndarray, make: Callable[[np.ndarray | None], Batches]) -> Batches:
        """Returns training batches: of a mixture, batches of each source by its weight; otherwise as `mixed_rows`."""
        parts = self.config.parts
        if len(parts) == 1:
            return make(None)
        sources = self._of_each(part_of, make)
        return MixedBatches(sources, [part.weight for part in parts], self.config.batch_seed)

    def _of_each(self, part_of: np.ndarray, make: Callable[[np.ndarray], _Batches]) -> list[_Batches]:
        """Returns the batches of each source of a mixture; reports of how much each is."""
        found = []
        for number, part in enumerate(self.config.parts):
            some = np.flatnonzero(part_of == number)
            name = f"{part.section.source} ({part.weight:.3g} of the mixture)"
            if not len(some):
                raise DataError(f"{name} has no {self.unit} left to train on; hold out less, or leave it out")
            self.report.append(f"{name}: {len(some):,} training {self.unit}")
            try:
                found.append(make(some))
            except DataError as error:
                raise DataError(f"{name} has too little to train on: {error}") from None
        return found

    def how_to_split(self) -> dict[str, Any]:
        """Returns the fields of the config that the splits follow from, by the names of arguments of `make_splits`."""
        raise NotImplementedError

    def make_splits(self, found: Examples, say: Say, **how: Any) -> Mapping[str, Examples]:
        """Returns "train", and what is held out of what the source has to train on, by `Examples.take` and `Examples.cut`.

        A split that the source has itself is asked for with a size of 0. `say` is told of what is left out.
        """
        raise NotImplementedError

    def digest_of(self, part: Examples) -> digest.Digest:
        return digest.of_facts(self.unit, part.facts)


class BoundedData(TextData):
    """Data of which a model can read no more than `max_length` tokens of an example; longer ones are left out whole."""

    def __init__(self, config: DataConfig, max_length: int, directory: Path, progress: Progress = SILENT):
        """`max_length`: of the model, in tokens; others, and errors: see `Data`."""
        self.max_length = max_length
        super().__init__(config, directory, progress)

    def fitting(self, split: str, limit: int, *sides: Ragged) -> np.ndarray | None:
        """Returns the numbers of the examples of a split that have at most `limit` tokens a side; reports the others once.

        None: all, with no list of them, 8 bytes an example.

        Args:
          split: its name.
          limit: in tokens.
          sides: the tokens of each example.

        Raises:
          DataError: none is left.
        """
        count, of = len(self.splits[split]), "" if len(sides) == 1 else " a side"
        kept = np.flatnonzero(longest_sides(sides) <= limit)
        if len(kept) == count:
            return None
        if not len(kept):
            raise DataError(
                f"none of the {count} {split} {self.unit} fits into {limit} tokens{of}; raise model.max_length"
            )
        self.say_left_out(split, count - len(kept), f"{limit} tokens{of}")
        return kept

    def say_left_out(self, split: str, count: int, limit: str) -> None:
        """Reports how many examples of a split are longer than a limit, once."""
        line = f"{count} of {len(self.splits[split]):,} {split} {self.unit} exceed {limit} and are left out"
        if count and line not in self.report:
            self.report.append(line)
