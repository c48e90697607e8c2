"""Sentence pairs, from where they lie to batches of tokens."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from ..config import COUNT, ConfigError, field
from . import tokenizers
from .base import VOCABULARY, check_goes_with
from .batches import Batches, BatchShapes, rows_in_batch
from .batches.buckets import EVALUATION_TOKENS, Buckets, choose_buckets, ladder, least_rows
from .batches.packed import Packed
from .examples import Examples
from .files import DataError, write_whole
from .ragged import Ragged, longest_sides
from .sampled import texts_to_train_on
from .sources.pairs import PAIRS, Pair
from .splits import split_examples
from .text_data import BoundedData, TextDataConfig
from .tokens import kept_rows
from .vocabularies import check_untrained, learnt

_NAMES = ("source", "target")
_SOURCE_FILE, _TARGET_FILE = "source_tokenizer.json", tokenizers.FILE


class TranslationDataConfig(TextDataConfig):
    """The `data` section of a translation experiment.

    Attributes:
      source_file, target_file: two line-aligned text files; with source="files".
      tsv_file: one file of source, tab, target, in place of source_file and target_file; with source="files".
      path: a file, a folder or a pattern of tables; with source="jsonl", "parquet", "arrow" or "huggingface", of which
        see `sources.tables`; of a benchmark, a copy.
      split: hold out whole documents ("group"), single sentences ("sentence"), or test on each
        ("both": two of each); see `splits.split_examples`.
      validation_size, test_size: least number of pairs to hold out; None exactly where the source has the split itself.
      vocab_size: vocabulary size of the BPE that is trained on the training split; None with a tokenizer_path.
      source_vocab_size: vocabulary size of a second BPE for the source side.
      source_tokenizer_path: of a second tokenizer, that of the source side, see tokenizer_path. With neither this nor
        source_vocab_size, both sides share one.
      batch_tokens: number of token slots of the target side of a training batch.
      batching: "buckets" (a row a pair, rows of like length together) or "packed" (several pairs
        to a row: less padding and one compiled program, for short sentences).
      num_buckets: the most bucket lengths, with batching="buckets".
      row_length: number of target tokens in a row, with batching="packed"; source rows have as many more or
        less as their share of all tokens, and pairs that are longer are left out.
      others: see `TextDataConfig`.
    """

    sources = PAIRS
    inputs = ("source_file", "target_file", "tsv_file", "path")

    source_file: str | None = field(None)
    target_file: str | None = field(None)
    tsv_file: str | None = field(None)
    path: str | None = field(None)
    split: str = field("group", among=("both", "group", "sentence"))
    validation_size: int | None = field(500, COUNT)
    test_size: int | None = field(1000, COUNT)
    vocab_size: int | None = field(None, VOCABULARY)
    source_vocab_size: int | None = field(None, VOCABULARY)
    source_tokenizer_path: str | None = field(None)
    batch_tokens: int = field(wanted=COUNT)
    batching: str = field("buckets", among=("buckets", "packed"))
    num_buckets: int | None = field(None, COUNT)
    row_length: int | None = field(None, COUNT)

    def check(self) -> None:
        super().check()
        check_goes_with(self, "num_buckets", "batching", "buckets")
        check_goes_with(self, "row_length", "batching", "packed")
        if self.vocab_size is None and self.tokenizer_path is None:
            raise ConfigError("vocab_size is needed to train a tokenizer, or data.tokenizer_path, which names one")
        if self.source_tokenizer_path is not None:
            there = f"data.source_tokenizer_path={self.source_tokenizer_path!r}"
            check_untrained(self, ("source_vocab_size",), there)
        for name in ("vocab_size", "source_vocab_size"):
            tokenizers.check_bpe_size(name, getattr(self, name))
        given = tuple(file is not None for file in (self.source_file, self.target_file, self.tsv_file))
        if self.source == "files" and given not in ((True, True, False), (False, False, True)):
            raise ConfigError("source='files' needs source_file and target_file, or tsv_file alone")

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        if self.batching == "packed":
            length = min(max_length, self.row_length)
            rows = rows_in_batch(self.batch_tokens, self.row_length, rows_multiple)
            source, target = ((rows, length), "int32"), ((rows, length + 1), "int32")
            return {"source": source, "source_segments": source, "target": target, "target_segments": target}
        rows = least_rows(self.batch_tokens, max_length, rows_multiple)
        tokens, lengths = ((rows, max_length), "int32"), ((rows,), "int32")
        return {"source": tokens, "source_lengths": lengths, "target": tokens, "target_lengths": lengths}


class Tokenizers(NamedTuple):
    """One tokenizer for each side; the same one when the sides share a vocabulary."""

    source: Tokenizer
    target: Tokenizer

    @classmethod
    def load(cls, directory: Path) -> "Tokenizers":
        """Loads tokenizer.json, and source_tokenizer.json where the source has its own, that `TranslationData` kept.

        Raises:
          ConfigError: it is not there.
        """
        target, own = tokenizers.load(directory / _TARGET_FILE), directory / _SOURCE_FILE
        return cls(tokenizers.load(own) if own.exists() else target, target)

    @property
    def start(self) -> int:
        """The token that a target starts with: what a file says beside a tokenizer from elsewhere, or the start of a text."""
        said = tokenizers.said_of(self.target).ids.get(tokenizers.START)
        return tokenizers.special(self.target, "bos")[0] if said is None else said

    @property
    def pad(self) -> int:
        """The token that fills up rows of either side, none of which is read."""
        return tokenizers.special(self.target, "pad")[0]

    def encode_sources(self, texts: list[str]) -> list[list[int]]:
        """Returns token ids, without start or end, unless the tokenizer has them: the encoder sees the sentence at once."""
        encode = tokenizers.encode_framed if tokenizers.frames(self.source) else tokenizers.encode
        return encode(self.source, texts)

    def encode_targets(self, texts: list[str]) -> list[list[int]]:
        """Returns token ids after the start token, up to the end token."""
        rows = tokenizers.encode_framed(self.target, texts)
        if not tokenizers.frames(self.target):
            return rows
        (end,) = tokenizers.special(self.target, "eos")  # which some that frame a text leave out
        return [[self.start, *row, *([] if row[-1:] == [end] else [end])] for row in rows]


def inherit_tokenizers(start: Path, directory: Path) -> None:
    """Takes the tokenizers of another directory over into one, and what is said of the target's.

    Raises:
      DataError: there are none, or a file is damaged.
    """
    tokenizers.inherit(start, directory)
    if (start / _SOURCE_FILE).exists():
        write_whole(directory / _SOURCE_FILE, (start / _SOURCE_FILE).read_bytes())


class TranslationData(BoundedData):
    """The splits of one experiment, its tokenizers, and the batches of both.

    Attributes:
      splits: pairs of text by split: train, validation, test (and two more, with split="both").
      tokenizers: trained on the training split, or read from files.
      others: see `BoundedData`.
    """

    unit, text = "pairs", "source"

    def how_to_split(self):
        config = self.config
        sizes = {"validation_size": config.validation_size or 0, "test_size": config.test_size or 0}
        return sizes | {"seed": config.seed, "by": config.split}

    def whole(self, found, say):
        both = zip(found.text("source"), found.text("target"), strict=True)
        whole = np.fromiter((bool(source.strip() and target.strip()) for source, target in both), bool, len(found))
        if not whole.any():
            raise DataError(f"none of the {len(found):,} pairs has a text on both sides: nothing is left to train on")
        if blank := len(found) - int(whole.sum()):
            say(f"{blank:,} of {len(found):,} pairs have an empty side and are left out")
        return found.take(np.flatnonzero(whole)) if blank else found

    def make_splits(self, found, say, **how):
        return split_examples(found, **how)

    def prepare(self, directory, progress):
        config = self.config

        def of(name: str, path: str | None, size: int | None, roles: tuple[str, ...], *sides: str) -> Tokenizer:
            sample = config.tokenizer_sample, config.seed, self.report.append
            train = lambda: tokenizers.train_bpe(texts_to_train_on(self.splits["train"], sides, *sample), size)
            return learnt(directory / name, path, roles, train, progress)

        roles = ("bos", "eos", "pad")
        if config.source_vocab_size is None and config.source_tokenizer_path is None:
            shared = of(_TARGET_FILE, config.tokenizer_path, config.vocab_size, roles, "source", "target")
            self.tokenizers = Tokenizers(shared, shared)
        else:
            own = of(_SOURCE_FILE, config.source_tokenizer_path, config.source_vocab_size, (), "source")
            target = of(_TARGET_FILE, config.tokenizer_path, config.vocab_size, roles, "target")
            self.tokenizers = Tokenizers(own, target)
            if self.tokenizers.pad >= tokenizers.room(own):
                raise ConfigError(
                    f"data.source_tokenizer_path: rows are filled up with the target's token {self.tokenizers.pad}, and "
                    f"the source has {tokenizers.room(own):,} tokens; name a pad_token beside the target's tokenizer"
                )

    def train_batches(self, rows_multiple: int = 1) -> Batches:
        config, seed = self.config, self.config.batch_seed
        limit = self.max_length if config.row_length is None else min(self.max_length, config.row_length)
        kept, source, target = self.encode("train", limit)
        part_of = _some(self.splits["train"].facts.part, kept)
        sides = lambda some: (_some(source, some), _some(target, some))  # of those that are left by then
        if config.batching == "packed":
            source_row = min(_source_row(source, target, limit), self.max_length)
            fit = np.flatnonzero(source.lengths <= source_row)
            self.say_left_out("train", len(source) - len(fit), f"{source_row} source tokens")
            part_of, source, target = (x.take(fit) for x in (part_of, source, target))
            how = (_NAMES, (source_row, limit + 1))
            make = lambda some, rows: Packed(sides(some), *how, rows, seed, self.tokenizers.pad)
            rows = rows_in_batch(config.batch_tokens, config.row_length, rows_multiple)
            batches = self.mixed_rows(part_of, rows, make)
        else:
            lengths = choose_buckets(longest_sides((source, target)), config.num_buckets)
            how = (_NAMES, lengths, config.batch_tokens, seed, self.tokenizers.pad, rows_multiple)
            batches = self.mixed_batches(part_of, lambda some: Buckets(sides(some), *how))
        self.report.append(f"{len(batches)} training batches an epoch, {100 * batches.padding_share():.1f} % padding")
        return batches

    def evaluation_batches(self, split: str) -> Buckets:
        _, source, target = self.encode(split, self.max_length)
        lengths = ladder(int(longest_sides((source, target)).max()), self.max_length)
        return Buckets((source, target), _NAMES, lengths, EVALUATION_TOKENS, None, self.tokenizers.pad)

    def pairs(self, split: str) -> Examples[Pair]:
        """Returns the pairs of a split that the model can read whole; errors: see `encode`."""
        kept, *_ = self.encode(split, self.max_length)
        return _some(self.splits[split], kept)

    def encode(self, split: str, limit: int) -> tuple[np.ndarray | None, Ragged, Ragged]:
        """Returns the pairs of a split whose sides have at most `limit` tokens: their numbers, None: all; and their tokens.

        Pairs that are longer are counted in the report, once.

        Raises:
          DataError: none is left.
        """
        of = self.tokenizers
        source = self._rows(split, "source", of.source, of.encode_sources, tokenizers.frames(of.source))
        ends = (of.start, *tokenizers.special(of.target, "bos", "eos"), tokenizers.frames(of.target))
        target = self._rows(split, "target", of.target, of.encode_targets, ends)
        kept = self.fitting(split, limit, source, target)
        return kept, _some(source, kept), _some(target, kept)

    def _rows(self, split: str, side: str, tokenizer: Tokenizer, encode: Any, about: Any) -> Ragged:
        what = f"tokenizing the {side}s of {split}"
        how = {
            "what": what,
            "say": self.report.append,
            "progress": self.progress,
            "of": f"{side}s of {split} of {self.of}",
        }
        return kept_rows(self.splits[split], side, tokenizer, encode, about, **how)


def _some(things: Any, numbers: np.ndarray | None) -> Any:
    """Some of an array, examples or sequences, by their numbers; None: all."""
    return things if numbers is None else things.take(numbers)


def _source_row(source: Ragged, target: Ragged, row_length: int) -> int:
    """Returns the length of a source row: its share of the tokens, and 5 % for uneven packing."""
    share = source.lengths.sum() / target.lengths.sum()
    return math.ceil(1.05 * share * row_length)
