"""Labelled texts, from where they lie to batches of tokens."""

import functools
from collections import Counter
from collections.abc import Mapping

import numpy as np
from tokenizers import Tokenizer

from ..config import COUNT, ConfigError, field
from . import tokenizers
from .base import VOCABULARY
from .batches import Batches, BatchShapes
from .batches.buckets import EVALUATION_TOKENS, LabelledBuckets, choose_buckets, ladder, least_rows
from .examples import Examples
from .files import DataError
from .ragged import Ragged
from .sampled import texts_to_train_on
from .sources.labelled_texts import LABELLED_TEXTS, LabelledText
from .sources.registered import Say
from .sources.streams import Stream
from .splits import split_examples
from .text import canonical
from .text_data import BoundedData, TextDataConfig
from .tokens import kept_rows
from .vocabularies import learnt


class TextClassificationDataConfig(TextDataConfig):
    """The `data` section of a text classification experiment.

    Attributes:
      path: a file of label, tab, text, with source="files"; a file, a folder or a pattern of tables, with
        source="jsonl", "parquet", "arrow" or "huggingface", of which see `sources.tables`; of a benchmark, a copy.
      validation_size, test_size: least number of texts to hold out, whole documents where there are any; None exactly
        where the source has the split itself.
      vocab_size: vocabulary size of the BPE that is trained on the training split; None: there is a tokenizer_path, or the
        tokenizer is that of the model which task.init_from names.
      batch_tokens: number of token slots of a training batch.
      num_buckets: the most bucket lengths.
      others: see `TextDataConfig`.
    """

    sources = LABELLED_TEXTS
    inputs = ("path",)

    path: str | None = field(None)
    validation_size: int | None = field(500, COUNT)
    test_size: int | None = field(1000, COUNT)
    vocab_size: int | None = field(None, VOCABULARY)
    batch_tokens: int = field(wanted=COUNT)
    num_buckets: int = field(4, COUNT)

    def streams(self, say: Say = lambda line: None) -> dict[str, Stream[LabelledText]]:
        return {name: _canonical(found) for name, found in super().streams(say).items()}

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        rows = least_rows(self.batch_tokens, max_length, rows_multiple)
        each = (rows,), "int32"
        return {"tokens": ((rows, max_length), "int32"), "lengths": each, "labels": each}


class TextClassificationData(BoundedData):
    """The splits of one experiment, its classes, its tokenizer, and the batches of all.

    Attributes:
      classes: the labels, in the order of their numbers: sorted, or as saved.
      tokenizer: trained on the training split, or read from where it was saved.
      others: see `BoundedData`.

    Raises:
      DataError: also, there is only one class, or a text has a label that no training text has.
      ConfigError: also, there is no tokenizer and none can be trained, or it is not the asked one.
    """

    unit, text = "texts", "text"

    def prepare(self, directory, progress):
        config, file, size = self.config, directory / tokenizers.FILE, self.config.vocab_size
        if size is None and config.tokenizer_path is None and not file.exists():
            raise ConfigError(
                f"data.vocab_size is needed to train a tokenizer, or data.tokenizer_path: there is none in {file.parent}"
            )

        def train() -> Tokenizer:
            sample = config.tokenizer_sample, config.seed, self.report.append
            texts = texts_to_train_on(self.splits["train"], ["text"], *sample)
            return tokenizers.train_bpe(texts, size, lossless=True, mask=True)

        self.tokenizer = learnt(file, config.tokenizer_path, ("bos", "eos", "pad"), train, progress)
        if size is not None and (found := self.tokenizer.get_vocab_size()) > size:
            raise ConfigError(f"data.vocab_size={size}, but the tokenizer in {file} has {found}; leave it None")
        self._encoded: dict[str, tuple[Examples, Ragged]] = {}

    def train_batches(self, rows_multiple: int = 1) -> Batches:
        config, (texts, tokens) = self.config, self.encode("train")
        how = (
            choose_buckets(tokens.lengths, config.num_buckets),
            config.batch_tokens,
            config.batch_seed,
            rows_multiple,
        )
        batches = self.mixed_batches(texts.facts.part, lambda some: self._batches("train", *how, some))
        self.report.append(f"{len(batches)} training batches an epoch, {100 * batches.padding_share():.1f} % padding")
        return batches

    def evaluation_batches(self, split: str) -> LabelledBuckets:
        lengths = ladder(int(self.encode(split)[1].lengths.max()), self.max_length)
        return self._batches(split, lengths, EVALUATION_TOKENS, None)

    def labels(self, texts: Examples) -> np.ndarray:
        """Returns what batches have as labels, [n]: the numbers of the classes, int32; -1 is for rows that fill up."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        return np.fromiter((numbers[label] for label in texts.text("label")), np.int32, len(texts))

    def encode(self, split: str) -> tuple[Examples, Ragged]:
        """Returns the texts of a split that the model can read whole, and their tokens from start to end.

        Those that are longer are counted in the report, once.

        Raises:
          DataError: none is left.
        """
        if split not in self._encoded:
            encode = functools.partial(tokenizers.encode_framed, self.tokenizer)
            how = {"what": f"tokenizing {split}", "say": self.report.append, "progress": self.progress}
            how |= {"of": f"{split} of {self.of}"}
            ends = tokenizers.special(self.tokenizer, "bos", "eos")
            tokens = kept_rows(self.splits[split], "text", self.tokenizer, encode, ends, **how)
            texts, kept = self.splits[split], self.fitting(split, self.max_length, tokens)
            self._encoded[split] = (texts, tokens) if kept is None else (texts.take(kept), tokens.take(kept))
        return self._encoded[split]

    def _batches(self, split, lengths, batch_tokens, seed, rows_multiple=1, some=None) -> LabelledBuckets:
        texts, tokens = self.encode(split) if some is None else (part.take(some) for part in self.encode(split))
        how = (lengths, batch_tokens, seed, *tokenizers.special(self.tokenizer, "pad"), rows_multiple)
        return LabelledBuckets((tokens,), ("tokens",), *how, labels=self.labels(texts))

    def how_to_split(self):
        config = self.config
        return {"validation_size": config.validation_size or 0, "test_size": config.test_size or 0, "seed": config.seed}

    def make_splits(self, found, say, **how):
        return split_examples(found, by=None, what="text", **how)

    def split(self, found, say):
        splits = super().split(found, say)
        self.name_classes(splits, say)
        return splits

    def name_classes(self, splits: Mapping[str, Examples], say: Say) -> None:
        """Sets the classes: the labels of training texts; says how many texts each has."""
        counts = Counter(splits["train"].text("label"))
        self.classes = sorted(counts)
        if len(self.classes) < 2:
            only = self.classes[0]
            raise DataError(f"all training texts have the label {only!r}; classification needs at least two labels")
        for split, texts in splits.items():
            for number, label in enumerate(texts.text("label")):
                if label not in counts:
                    raise DataError(
                        f"no training text has the label {label!r} of the {split} text {texts[number].text[:40]!r}: "
                        f"give this label more texts, or leave it out"
                    )
        say(f"training texts by class: {', '.join(f'{counts[name]:,} {name}' for name in self.classes)}")


def _canonical(texts: Stream[LabelledText]) -> Stream[LabelledText]:
    """Returns the texts with labels as classes are kept."""
    return Stream(lambda: (text._replace(label=canonical(text.label)) for text in texts), texts.files)
