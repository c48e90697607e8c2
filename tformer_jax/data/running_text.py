"""The base of the data of both kinds of language modelling: documents, split, and a tokenizer of their text."""

from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from ..config import COUNT, INSIDE, ConfigError, field
from . import tokenizers
from .base import VOCABULARY, check_goes_with
from .batches import RowBatches, rows_in_batch
from .batches.buckets import EVALUATION_TOKENS
from .sources.documents import DOCUMENTS, Yardstick
from .splits import split_documents
from .text_data import TextData, TextDataConfig
from .tokens import Tokens, kept_tokens


class DocumentDataConfig(TextDataConfig):
    """The fields that both `data` sections of running text share.

    Attributes:
      path: a text file, or a folder of them, with source="files"; a file, a folder or a pattern of tables, with
        source="jsonl", "parquet", "arrow" or "huggingface", of which see `sources.tables`; of a benchmark, a copy.
      split: hold out whole documents ("document"), or the end of each ("tail"); see `splits.split_documents`.
      validation_share, test_share: share of the characters to hold out for that split; None exactly where the source has
        the split itself.
      tokenizer: "bpe" or "characters", of the training split; or "bytes", the 256 of UTF-8.
      vocab_size: vocabulary size of the BPE, with tokenizer="bpe".
      row_length: T, the number of tokens that the model reads in a row.
      batch_tokens: number of token slots of a training batch, which has as many rows of T as fit.
      others: see `TextDataConfig`; the order of batches has offsets in the text, too.
      mask: whether the vocabulary has `<mask>`.
    """

    mask: ClassVar[bool] = False
    sources = DOCUMENTS
    inputs = ("path",)
    held_out = {"validation": "validation_share", "test": "test_share"}

    path: str | None = field(None)
    split: str = field("document", among=("document", "tail"))
    validation_share: float | None = field(0.05, INSIDE)
    test_share: float | None = field(0.05, INSIDE)
    tokenizer: str = field("bpe", among=("bpe", "bytes", "characters"))
    vocab_size: int | None = field(None, VOCABULARY)
    row_length: int = field(wanted=COUNT)
    batch_tokens: int = field(wanted=COUNT)

    def check(self) -> None:
        super().check()
        check_goes_with(self, "vocab_size", "tokenizer", "bpe")
        tokenizers.check_bpe_size("vocab_size", self.vocab_size, mask=self.mask)
        if (self.validation_share or 0) + (self.test_share or 0) >= 1.0:
            raise ConfigError(
                f"validation_share and data.test_share must add up to less than 1, "
                f"got {self.validation_share} and {self.test_share}"
            )
        if self.batch_tokens < self.row_length:
            raise ConfigError(
                f"batch_tokens must be at least data.row_length={self.row_length}, got {self.batch_tokens}"
            )


class DocumentData(TextData):
    """The documents of one experiment, its tokenizer, and the batches of both.

    Attributes:
      tokenizer: lossless (of characters, those of the training split); trained on it, or read from where it was saved.
      has_words: whether batches tell words apart.
      others: see `Data`.
    """

    unit, text = "documents", "text"
    has_words: ClassVar[bool] = False

    def prepare(self, directory, progress):
        config = self.config

        def train() -> Tokenizer:
            texts = (piece for _, piece in self.splits["train"].pieces("text"))
            if config.tokenizer == "bytes":
                return tokenizers.make_bytes(mask=config.mask)
            if config.tokenizer == "characters":
                return tokenizers.train_characters(texts, mask=config.mask)
            return tokenizers.train_bpe(texts, config.vocab_size, lossless=True, mask=config.mask)

        self.tokenizer = tokenizers.kept(directory / tokenizers.FILE, train, progress)
        self._tokens: dict[str, Tokens] = {}

    def train_batches(self, rows_multiple: int = 1) -> RowBatches:
        rows = rows_in_batch(self.config.batch_tokens, self.config.row_length, rows_multiple)
        make = lambda some, rows: self._batches("train", rows, self.config.batch_seed, some)
        batches = self.mixed_rows(self.splits["train"], rows, make)
        tokens = len(self.tokens("train").ids.values)
        self.report.append(
            f"{tokens:,} training tokens of {self.byte_count('train') / tokens:.2f} bytes, "
            f"vocabulary of {self.tokenizer.get_vocab_size():,}; {len(batches):,} batches an epoch"
        )
        return batches

    def evaluation_batches(self, split: str) -> RowBatches:
        return self._batches(split, max(1, EVALUATION_TOKENS // self.config.row_length), None)

    def byte_count(self, split: str) -> int:
        """Returns the bytes of a split's text in UTF-8."""
        return int(self.splits[split].texts["text"].lengths.sum())

    @property
    def yardstick(self) -> Yardstick | None:
        """The number by which the text of the source is compared in the literature; None: there is none, as of a mixture."""
        source = None if self.config.mixture is not None else self.config.sources[self.config.source]
        return getattr(source, "yardstick", None)

    def unknown_count(self, split: str) -> int:
        """Returns how many characters of a split the tokenizer does not have: none of a BPE, which has every byte."""
        unknown = tokenizers.unknown_id(self.tokenizer)
        return 0 if unknown is None else int(np.count_nonzero(self.tokens(split).ids.values == unknown))

    def tokens(self, split: str) -> Tokens:
        """Returns the tokens of each document, without start and end; made once, see `kept_tokens`."""
        if split not in self._tokens:
            how = {"words": self.has_words, "what": f"tokenizing {split}", "progress": self.progress}
            how |= {"say": self.report.append, "of": f"{split} of {self.of}"}
            self._tokens[split] = kept_tokens(self.splits[split], "text", self.tokenizer, **how)
        return self._tokens[split]

    def how_to_split(self):
        config = self.config
        shares = {"validation_share": config.validation_share or 0.0, "test_share": config.test_share or 0.0}
        return shares | {"seed": config.seed, "by": config.split}

    def make_splits(self, found, say, **how):
        return split_documents(found, **how)

    def size_of(self, part) -> str:
        return f" ({int(part.facts.characters.sum()):,} characters)"

    def _batches(self, split: str, rows: int, seed: int | None, some: np.ndarray | None = None) -> RowBatches:
        """Returns the batches of a split; `some`: of these of its documents alone, by their numbers."""
        raise NotImplementedError
