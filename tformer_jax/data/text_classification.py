"""Labelled texts, from where they lie to batches of tokens."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ..config import ConfigError, check_choice, check_seed
from ..progress import SILENT, Progress
from . import digest, labelled, pipelines, tokenizers
from .classes import keep_classes
from .files import DataError
from .labelled import LabelledText
from .sources import Pair
from .tokenizers import BOS_ID, EOS_ID, PAD_ID


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassificationDataConfig:
    """The `data` section of a text classification experiment.

    Attributes:
      source: a domain of `labelled.rated_sentences`, or "files" for the user's own.
      path: a file of label, tab, text; with source="files".
      validation_size, test_size: least number of texts to hold out; whole documents where there are any.
      seed: random seed of split and shuffling.
      order_seed: random seed of shuffling alone; None: `seed`.
      vocab_size: vocabulary size of the BPE that is trained on the training split; None: the run's directory
        already holds a tokenizer, a pre-trained run's.
      batch_tokens: number of token slots of a training batch.
      num_buckets: the most bucket lengths.

    Raises:
      ConfigError: a value that is invalid, alone or beside another, by the field's name.
    """

    source: str
    path: str | None = None
    validation_size: int = 500
    test_size: int = 1000
    seed: int = 0
    order_seed: int | None = None
    vocab_size: int | None
    batch_tokens: int
    num_buckets: int = 4

    def __post_init__(self):
        check_choice("data.source", self.source, [*labelled.DOMAINS, "files"])
        if (self.path is not None) != (self.source == "files"):
            raise ConfigError("data.path goes with data.source='files', and is needed there")
        check_seed("data.seed", self.seed)
        if self.order_seed is not None:
            check_seed("data.order_seed", self.order_seed)
        tokenizers.check_vocab_size("data.vocab_size", self.vocab_size)
        for name in ("validation_size", "test_size", "batch_tokens", "num_buckets"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"data.{name} must be positive, got {value}")

    def largest_batch(self, max_length: int, rows_multiple: int) -> pipelines.BatchShapes:
        """Returns the largest shapes of a training batch, as far as they are known without the data."""
        rows = pipelines.least_rows(self.batch_tokens, max_length, rows_multiple)
        each = (rows,), "int32"
        return {"tokens": ((rows, max_length), "int32"), "lengths": each, "labels": each}

    def texts(self) -> list[LabelledText]:
        """All the texts, before the split.

        Raises:
          DataError: they cannot be read or fetched.
        """
        if self.source == "files":
            return labelled.read_labelled(Path(self.path))
        return labelled.rated_sentences(self.source)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledBuckets:
    """Buckets of token sequences with a class each, random-access like them: `batches.batch(i)`.

    Attributes:
      buckets: with one side, "tokens".
      labels: int32 [n], the class of each example.
    """

    buckets: pipelines.Buckets
    labels: np.ndarray

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.buckets)

    def indices(self, i: int) -> np.ndarray:
        """The examples in batch i, in the order of its rows."""
        return self.buckets.indices(i)[1]

    @property
    def one_shape(self) -> bool:
        """Returns whether all batches have the same shapes."""
        return self.buckets.one_shape

    def row_count(self, i: int) -> int:
        """The rows of batch i."""
        return self.buckets.row_count(i)

    def batch(self, i: int, rows: slice = pipelines.ALL_ROWS) -> pipelines.Batch:
        """Batch i: "tokens" int32 [B T], "lengths" int32 [B], "labels" int32 [B]; rows of padding have 0 and -1.

        `rows`: which of them to make.
        """
        batch = self.buckets.batch(i, rows)
        examples, _ = pipelines.picked(self.indices(i), self.row_count(i), rows)
        labels = np.full(len(batch["tokens"]), -1, np.int32)
        labels[: len(examples)] = self.labels[examples]
        return {"tokens": batch["tokens"], "lengths": batch["tokens_lengths"], "labels": labels}


class TextClassificationData:
    """The splits of one experiment, its classes, its tokenizer, and the batches of all.

    Attributes:
      splits: labelled texts by split: train, validation, test.
      classes: the labels, in the order of their numbers: sorted, or as saved.
      tokenizer: trained on the training split, or read from where it was saved.
      report: what a person should know of the data, a line each.
    """

    def __init__(
        self, config: TextClassificationDataConfig, max_length: int, directory: Path, progress: Progress = SILENT
    ):
        """Args:
          config: as given.
          max_length: of the model, in tokens.
          directory: keeps classes, tokenizer, and what the data were.
          progress: is told what takes long.

        Raises:
          DataError: the data cannot be read, are not those that the run in `directory` began with, nothing is left
            to train on, there is only one class, or a text has a label that is none of the classes.
          ConfigError: there is no tokenizer and none can be trained, or it is not the asked one.
        """
        self.config, self.max_length = config, max_length
        with progress.phase("reading data"):
            texts = config.texts()
            self.splits = split_texts(texts, config.validation_size, config.test_size, config.seed)
            found = {name: digest.of_texts("texts", (text[:2] for text in part)) for name, part in self.splits.items()}
        self.classes = self._kept_classes(directory)
        digest.keep_digests(found, directory)  # first: a tokenizer is of these data
        self.tokenizer = self._kept_tokenizer(directory / "tokenizer.json", progress)
        self._encoded: dict[str, tuple[list[LabelledText], list[list[int]]]] = {}
        sizes = ", ".join(f"{len(texts):,} {name}" for name, texts in self.splits.items())
        counts = Counter(text.label for text in self.splits["train"])
        shares = ", ".join(f"{counts[name]:,} {name}" for name in self.classes)
        self.report = [f"{sizes} texts ({config.source})", f"training texts by class: {shares}"]

    def train_batches(self, rows_multiple: int = 1) -> LabelledBuckets:
        """Random-access training batches; adds their padding, and what was too long, to the report.

        The rows of each are a multiple of `rows_multiple`, so that they can be split evenly.
        """
        config = self.config
        texts, tokens = self.encode("train")
        lengths = pipelines.choose_buckets([len(ids) for ids in tokens], config.num_buckets)
        seed = pipelines.order_seed(config)
        batches = self._batches(texts, tokens, lengths, config.batch_tokens, seed, rows_multiple)
        padding = 100 * batches.buckets.padding_share()
        self.report.append(f"{len(batches)} training batches an epoch, {padding:.1f} % padding")
        return batches

    def evaluation_batches(self, split: str) -> LabelledBuckets:
        """The batches of one pass over a split, in order."""
        texts, tokens = self.encode(split)
        lengths = pipelines.ladder(max(map(len, tokens)), self.max_length)
        return self._batches(texts, tokens, lengths, pipelines.EVALUATION_TOKENS, None)

    def encode(self, split: str) -> tuple[list[LabelledText], list[list[int]]]:
        """The texts of a split that the model can read whole, and their tokens from start to end.

        Those that are longer are counted in the report, once.

        Raises:
          DataError: none is left.
        """
        if split in self._encoded:
            return self._encoded[split]
        texts, limit = self.splits[split], self.max_length
        tokens = encode_texts(self.tokenizer, [text.text for text in texts])
        fits = [len(ids) <= limit for ids in tokens]
        if not any(fits):
            raise DataError(f"none of the {len(texts)} {split} texts fits into {limit} tokens; raise model.max_length")
        if not all(fits):
            count = fits.count(False)
            self.report.append(f"{count} of {len(texts):,} {split} texts exceed {limit} tokens and are left out")
        kept = tuple([x for x, ok in zip(side, fits, strict=True) if ok] for side in (texts, tokens))
        self._encoded[split] = kept
        return kept

    def _batches(self, texts, tokens, lengths, batch_tokens, seed, rows_multiple=1) -> LabelledBuckets:
        labels = np.asarray([self.classes.index(text.label) for text in texts], np.int32)
        return LabelledBuckets(
            pipelines.Buckets((tokens,), ("tokens",), lengths, batch_tokens, seed, PAD_ID, rows_multiple), labels
        )

    def _kept_classes(self, directory: Path) -> list[str]:
        classes = sorted({text.label for text in self.splits["train"]})
        if len(classes) < 2:
            raise DataError(
                f"all training texts have the label {classes[0]!r}; classification needs at least two labels"
            )
        for split, texts in self.splits.items():
            for text, label, _ in texts:
                if label not in classes:
                    raise DataError(
                        f"no training text has the label {label!r} of the {split} text {text[:40]!r}: "
                        f"give this label more texts, or leave it out"
                    )
        keep_classes(classes, directory)
        return classes

    def _kept_tokenizer(self, file: Path, progress: Progress) -> Tokenizer:
        size = self.config.vocab_size
        if size is None and not file.exists():
            raise ConfigError(f"data.vocab_size is needed to train a tokenizer: there is none in {file.parent}")
        texts = [text.text for text in self.splits["train"]]
        train = lambda: tokenizers.train_bpe(texts, size, lossless=True, mask=True)  # noqa: E731
        tokenizer = tokenizers.kept(file, train, progress)
        if size is not None and tokenizer.get_vocab_size() > size:
            raise ConfigError(
                f"data.vocab_size={size}, but the tokenizer in {file} has {tokenizer.get_vocab_size()}; leave it None"
            )
        return tokenizer


def split_texts(texts: Sequence[LabelledText], validation_size: int, test_size: int, seed: int):
    """ "train", "validation" and "test" texts; no training text stands in the other two.

    Where every text has a group, whole groups are held out.

    Raises:
      DataError: nothing would be left to train on.
    """
    by = "group" if all(text.group is not None for text in texts) else "sentence"
    pairs = [Pair(text.text, text.label, text.group) for text in texts]
    sizes = {"validation_size": validation_size, "test_size": test_size}
    splits = pipelines.split_pairs(pairs, by=by, **sizes, seed=seed, what="text")
    return {name: [LabelledText(*pair) for pair in part] for name, part in splits.items()}


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, between the start and the end token."""
    return [[BOS_ID, *ids, EOS_ID] for ids in tokenizers.encode(tokenizer, texts)]
