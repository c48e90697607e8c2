"""Sentence pairs, from where they lie to batches of tokens."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from ..config import ConfigError, check_choice, check_seed
from ..progress import SILENT, Progress
from . import digest, pipelines, sources, tokenizers
from .files import DataError
from .sources import Pair

_NAMES = ("source", "target")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationDataConfig:
    """The `data` section of a translation experiment.

    Attributes:
      source: a name in `sources.SOURCES`, or "files" for the user's own.
      source_file, target_file: two line-aligned text files; with source="files".
      tsv_file: or one file of source, tab, target; with source="files".
      split: hold out whole documents ("group"), single sentences ("sentence"), or test on each
        ("both": two of each); see `pipelines.split_pairs`.
      validation_size, test_size: least number of pairs to hold out.
      seed: random seed of split, packing and shuffling.
      order_seed: random seed of packing and shuffling alone; None: `seed`.
      vocab_size: vocabulary size of the BPE that is trained on the training split.
      source_vocab_size: vocabulary size of a second BPE for the source side; None: both sides share one.
      batch_tokens: number of token slots of the target side of a training batch.
      batching: "buckets" (a row a pair, rows of like length together) or "packed" (several pairs
        to a row: less padding and one compiled program, for short sentences).
      num_buckets: the most bucket lengths, with batching="buckets".
      row_length: number of target tokens in a row, with batching="packed"; source rows have as many more or
        less as their share of all tokens, and pairs that are longer are left out.

    Raises:
      ConfigError: a value that is invalid, alone or beside another, by the field's name.
    """

    source: str
    source_file: str | None = None
    target_file: str | None = None
    tsv_file: str | None = None
    split: str = "group"
    validation_size: int = 500
    test_size: int = 1000
    seed: int = 0
    order_seed: int | None = None
    vocab_size: int
    source_vocab_size: int | None = None
    batch_tokens: int
    batching: str = "buckets"
    num_buckets: int | None = None
    row_length: int | None = None

    def __post_init__(self):
        check_choice("data.source", self.source, [*sources.SOURCES, "files"])
        check_choice("data.split", self.split, ("both", "group", "sentence"))
        check_choice("data.batching", self.batching, ("buckets", "packed"))
        for name, batching in (("num_buckets", "buckets"), ("row_length", "packed")):
            if (getattr(self, name) is not None) != (self.batching == batching):
                raise ConfigError(f"data.{name} goes with data.batching={batching!r}, and is needed there")
        for name in ("validation_size", "test_size", "batch_tokens", "num_buckets", "row_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"data.{name} must be positive, got {value}")
        tokenizers.check_vocab_size("data.vocab_size", self.vocab_size)
        tokenizers.check_vocab_size("data.source_vocab_size", self.source_vocab_size)
        check_seed("data.seed", self.seed)
        if self.order_seed is not None:
            check_seed("data.order_seed", self.order_seed)
        given = tuple(file is not None for file in (self.source_file, self.target_file, self.tsv_file))
        if self.source != "files" and any(given):
            raise ConfigError(f"data.source_file, target_file and tsv_file go with source='files', not {self.source!r}")
        if self.source == "files" and given not in ((True, True, False), (False, False, True)):
            raise ConfigError("data.source='files' needs source_file and target_file, or tsv_file alone")

    def pairs(self) -> list[Pair]:
        """All the pairs, before the split.

        Raises:
          DataError: they cannot be read or fetched.
        """
        if self.source != "files":
            return sources.SOURCES[self.source]()
        if self.tsv_file is not None:
            return sources.read_tsv(Path(self.tsv_file))
        return sources.read_parallel(Path(self.source_file), Path(self.target_file))


    def largest_batch(self, max_length: int, rows_multiple: int) -> pipelines.BatchShapes:
        """Returns the largest shapes of a training batch, as far as they are known without the data."""
        if self.batching == "packed":
            length = min(max_length, self.row_length)
            rows = pipelines.rows_in_batch(self.batch_tokens, self.row_length, rows_multiple)
            source, target = ((rows, length), "int32"), ((rows, length + 1), "int32")
            return {"source": source, "source_segments": source, "target": target, "target_segments": target}
        rows = pipelines.least_rows(self.batch_tokens, max_length, rows_multiple)
        tokens, lengths = ((rows, max_length), "int32"), ((rows,), "int32")
        return {"source": tokens, "source_lengths": lengths, "target": tokens, "target_lengths": lengths}


class Tokenizers(NamedTuple):
    """One tokenizer for each side; the same one when the sides share a vocabulary."""

    source: Tokenizer
    target: Tokenizer

    @classmethod
    def train(cls, pairs: Sequence[Pair], config: TranslationDataConfig) -> "Tokenizers":
        """Trains on both sides together, or on each alone."""
        source, target = [p.source for p in pairs], [p.target for p in pairs]
        if config.source_vocab_size is None:
            shared = tokenizers.train_bpe(source + target, config.vocab_size)
            return cls(shared, shared)
        return cls(
            tokenizers.train_bpe(source, config.source_vocab_size), tokenizers.train_bpe(target, config.vocab_size)
        )

    def save(self, directory: Path) -> None:
        """Saves tokenizer.json, and source_tokenizer.json where the source has its own."""
        if self.source is not self.target:
            tokenizers.save(self.source, directory / "source_tokenizer.json")
        tokenizers.save(self.target, directory / "tokenizer.json")

    @classmethod
    def load(cls, directory: Path) -> "Tokenizers":
        """Loads what `save` wrote.

        Raises:
          ConfigError: it is not there.
        """
        target = tokenizers.load(directory / "tokenizer.json")
        own = directory / "source_tokenizer.json"
        return cls(tokenizers.load(own) if own.exists() else target, target)

    def encode_sources(self, texts: list[str]) -> list[list[int]]:
        """Token ids, without start or end: the encoder sees the whole sentence at once."""
        return tokenizers.encode(self.source, texts)

    def encode_targets(self, texts: list[str]) -> list[list[int]]:
        """Token ids between the start and the end token."""
        return [[tokenizers.BOS_ID, *ids, tokenizers.EOS_ID] for ids in tokenizers.encode(self.target, texts)]


class TranslationData:
    """The splits of one experiment, its tokenizers, and the batches of both.

    Attributes:
      splits: pairs of text by split: train, validation, test (and two more, with split="both").
      tokenizers: trained on the training split, or read from where they were saved.
      report: what a person should know of the data, a line each.
    """

    def __init__(
        self, config: TranslationDataConfig, max_length: int, directory: Path, progress: Progress = SILENT
    ):
        """Args:
          config: as given.
          max_length: of the model, in tokens.
          directory: keeps the tokenizers, and what the data were.
          progress: is told what takes long.

        Raises:
          DataError: the data cannot be read, are not those that the run in `directory` began with, or
            nothing is left to train on.
        """
        self.config, self.max_length = config, max_length
        with progress.phase("reading data"):
            pairs = config.pairs()
            whole = [pair for pair in pairs if pair.source.strip() and pair.target.strip()]
            if not whole:
                raise DataError(f"none of the {len(pairs):,} pairs has a text on both sides: nothing is left to train on")
            self.splits = pipelines.split_pairs(
                whole,
                by=config.split,
                validation_size=config.validation_size,
                test_size=config.test_size,
                seed=config.seed,
            )
            found = {name: digest.of_texts("pairs", (pair[:2] for pair in part)) for name, part in self.splits.items()}
        digest.keep_digests(found, directory)  # first: a tokenizer is of these data
        names = ["tokenizer.json"] + ["source_tokenizer.json"] * (config.source_vocab_size is not None)
        if all((directory / name).exists() for name in names):
            self.tokenizers = Tokenizers.load(directory)
        else:
            with progress.phase("training a tokenizer"):
                self.tokenizers = Tokenizers.train(self.splits["train"], config)
            self.tokenizers.save(directory)
        sizes = ", ".join(f"{len(pairs):,} {name}" for name, pairs in self.splits.items())
        self.report = [f"{sizes} pairs ({config.source}, split by {config.split})"]
        if blank := len(pairs) - len(whole):
            self.report.append(f"{blank:,} of {len(pairs):,} pairs have an empty side and are left out")

    def train_batches(self, rows_multiple: int = 1) -> pipelines.Buckets | pipelines.Packed:
        """Random-access training batches; adds their padding, and what was too long, to the report.

        The rows of each are a multiple of `rows_multiple`, so that they can be split evenly.
        """
        config, seed = self.config, pipelines.order_seed(self.config)
        limit = self.max_length if config.row_length is None else min(self.max_length, config.row_length)
        _, source, target = self.encode("train", limit)
        if config.batching == "packed":
            source_row = min(_source_row(source, target, limit), self.max_length)
            kept = [i for i, tokens in enumerate(source) if len(tokens) <= source_row]
            self._say_left_out("train", len(source) - len(kept), f"{source_row} source tokens")
            source, target = [source[i] for i in kept], [target[i] for i in kept]
            lengths = (source_row, limit + 1)
            rows = pipelines.rows_in_batch(config.batch_tokens, config.row_length, rows_multiple)
            batches = pipelines.Packed((source, target), _NAMES, lengths, rows, seed, tokenizers.PAD_ID)
        else:
            longest = [max(map(len, pair)) for pair in zip(source, target, strict=True)]
            lengths = pipelines.choose_buckets(longest, config.num_buckets)
            batches = _buckets(source, target, lengths, config.batch_tokens, seed, rows_multiple)
        self.report.append(f"{len(batches)} training batches an epoch, {100 * batches.padding_share():.1f} % padding")
        return batches

    def evaluation_batches(self, split: str) -> pipelines.Buckets:
        """The batches of one pass over a split, in order."""
        _, source, target = self.encode(split, self.max_length)
        lengths = pipelines.ladder(max(map(len, source + target)), self.max_length)
        return _buckets(source, target, lengths, pipelines.EVALUATION_TOKENS, seed=None)

    def encode(self, split: str, limit: int) -> tuple[list[Pair], list[list[int]], list[list[int]]]:
        """The pairs of a split whose sides have at most `limit` tokens, as text and as tokens.

        Pairs that are longer are counted in the report, once.

        Raises:
          DataError: none is left.
        """
        pairs = self.splits[split]
        source = self.tokenizers.encode_sources([p.source for p in pairs])
        target = self.tokenizers.encode_targets([p.target for p in pairs])
        fits = [max(len(s), len(t)) <= limit for s, t in zip(source, target, strict=True)]
        if not any(fits):
            raise DataError(
                f"none of the {len(pairs)} {split} pairs fits into {limit} tokens a side; raise model.max_length"
            )
        self._say_left_out(split, fits.count(False), f"{limit} tokens a side")
        return tuple([x for x, ok in zip(side, fits, strict=True) if ok] for side in (pairs, source, target))

    def _say_left_out(self, split: str, count: int, limit: str) -> None:
        line = f"{count} of {len(self.splits[split]):,} {split} pairs exceed {limit} and are left out"
        if count and line not in self.report:
            self.report.append(line)


def _buckets(source, target, lengths, batch_tokens: int, seed: int | None, rows_multiple: int = 1):
    sides = (source, target)
    return pipelines.Buckets(sides, _NAMES, lengths, batch_tokens, seed, tokenizers.PAD_ID, rows_multiple)


def _source_row(source, target, row_length: int) -> int:
    """A source row as long as its share of the tokens, and 5 % for uneven packing."""
    share = sum(map(len, source)) / sum(map(len, target))
    return math.ceil(1.05 * share * row_length)
