"""The base of the data of both kinds of language modelling: documents, split, and a tokenizer of their text."""

from typing import Any, ClassVar

import numpy as np
from tokenizers import Tokenizer

from ..config import COUNT, INSIDE, ConfigError, field
from . import tokenizers
from .base import VOCABULARY, check_goes_with
from .batches import RowBatches, rows_in_batch
from .batches.buckets import EVALUATION_TOKENS
from .document_splits import FileSplit, TextSplit
from .file_tokens import FileDocuments, read_token_files, split_tokens
from .ragged import Ragged
from .sampled import texts_to_train_on
from .sources.documents import DOCUMENTS, TOKENS, Yardstick
from .sources.token_files import TokenFiles
from .splits import split_documents
from .text_data import TextData, TextDataConfig
from .tokens import Tokens
from .vocabularies import check_untrained, learnt


class DocumentDataConfig(TextDataConfig):
    """The fields that both `data` sections of running text share.

    Attributes:
      path: a text file, or a folder of them, with source="files"; a file, a folder or a pattern of tables, with
        source="jsonl", "parquet", "arrow" or "huggingface", of which see `sources.tables`; a file of tokens, or a folder
        with train.bin and, if it is there, val.bin, with source="tokens", of which see `sources.token_files`; of a
        benchmark, a copy.
      split: hold out whole documents ("document"), or the end of each ("tail"); see `splits.split_documents`.
      validation_share, test_share: share of the characters, or of the tokens of a file, to hold out for that split; None
        exactly where the source has the split itself.
      tokenizer: "bpe" or "characters", of the training split; or "bytes", the 256 of UTF-8.
      vocab_size: vocabulary size of the BPE that is trained, with tokenizer="bpe"; None with a tokenizer_path, and with
        source="tokens", which needs one, or a task.init_from that brings one.
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
        if self.source == TOKENS:
            check_untrained(self, ("vocab_size", "tokenizer"), f"data.source={TOKENS!r}")
        elif self.tokenizer_path is None:
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
      splits: by name, `Examples` of documents, or `FileDocuments` that are tokens already.
      tokenizer: lossless (of characters, those of the training split) if it was trained on it; or read from a file.
      has_words: whether batches tell words apart.
      roles: special tokens that a tokenizer must have, see `tokenizers.special`.
      others: see `Data`.
    """

    unit, text = "documents", "text"
    has_words: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("bos", "eos", "pad")

    def read(self, say):
        found = [part.section.streams(say) for part in self.config.parts]
        if not any(isinstance(of_one, TokenFiles) for of_one in found):
            return self.keep(found, say)
        if len(found) > 1:
            raise ConfigError("data.mixture must be of sources of texts: files of tokens cannot be mixed with others")
        (files,) = found
        self.check_held_out(files.splits)
        return read_token_files(files, say, self.progress)

    def prepare(self, directory, progress):
        file = directory / tokenizers.FILE
        self.tokenizer = learnt(file, self.config.tokenizer_path, self.roles, self._trained, progress)
        how = {"say": self.report.append, "progress": progress}
        self._of: dict[str, TextSplit | FileSplit] = {}
        for name, part in self.splits.items():
            if isinstance(part, FileDocuments):
                self._of[name] = FileSplit(part, self.tokenizer, **how)
            else:
                self._of[name] = TextSplit(f"{name} of {self.of}", part, self.tokenizer, self.has_words, **how)

    def _trained(self) -> Tokenizer:
        config, train = self.config, self.splits["train"]
        if isinstance(train, FileDocuments):
            raise ConfigError(
                f"data.tokenizer_path is needed with data.source={config.source!r}, or task.init_from: tokens are numbers, "
                "and the tokenizer that made them says of what"
            )
        if config.tokenizer == "bytes":
            return tokenizers.make_bytes(mask=config.mask)
        most = None if config.tokenizer == "characters" else config.tokenizer_sample  # none should be unknown
        texts = texts_to_train_on(train, ["text"], most, config.seed, self.report.append)
        if config.tokenizer == "characters":
            return tokenizers.train_characters(texts, mask=config.mask)
        return tokenizers.train_bpe(texts, config.vocab_size, lossless=True, mask=config.mask)

    def train_batches(self, rows_multiple: int = 1) -> RowBatches:
        rows = rows_in_batch(self.config.batch_tokens, self.config.row_length, rows_multiple)
        make = lambda some, rows: self._batches("train", rows, self.config.batch_seed, some)
        train = self.splits["train"]
        part_of = None if isinstance(train, FileDocuments) else train.facts.part  # no mixture has files of tokens
        batches = self.mixed_rows(part_of, rows, make)
        self.report.append(
            f"{self._of['train'].said()}, vocabulary of {tokenizers.room(self.tokenizer):,}; "
            f"{len(batches):,} batches an epoch"
        )
        return batches

    def evaluation_batches(self, split: str) -> RowBatches:
        return self._batches(split, max(1, EVALUATION_TOKENS // self.config.row_length), None)

    def byte_count(self, split: str) -> int | None:
        """Returns the bytes of a split's text in UTF-8; None: only its tokens are known, which do not tell."""
        return self._of[split].byte_count()

    @property
    def yardstick(self) -> Yardstick | None:
        """The number by which the text of the source is compared in the literature; None: there is none, as of a mixture."""
        source = None if self.config.mixture is not None else self.config.sources[self.config.source]
        return getattr(source, "yardstick", None)

    def unknown_count(self, split: str) -> int:
        """Returns how many tokens of a split stand for what the vocabulary lacks: none of a BPE, which has every byte."""
        return self._of[split].unknown_count()

    def is_given_back(self, split: str) -> bool:
        """Returns whether the tokens say all of a text; of a tokenizer from elsewhere, of the beginning of the first one."""
        return self._of[split].is_given_back()

    def token_count(self, split: str) -> int:
        """Returns the number of tokens of a split, without those that are put around documents."""
        return self._of[split].token_count()

    def tokens(self, split: str) -> Tokens:
        """Returns the tokens of each document, without start and end; made once, see `kept_tokens`.

        Raises:
          DataError: a document is too long for its tokenizer.
        """
        return self._of[split].tokens

    def as_they_are(self, split: str) -> Ragged | None:
        """Returns the tokens of the documents of a file, start and end tokens of its own included; None: of texts."""
        return self._of[split].as_they_are

    def beginnings(self, split: str, count: int, characters: int) -> list[str]:
        """Returns the beginnings of the first documents of a split."""
        return self._of[split].beginnings(count, characters)

    def how_to_split(self):
        config = self.config
        shares = {"validation_share": config.validation_share or 0.0, "test_share": config.test_share or 0.0}
        return shares | {"seed": config.seed, "by": config.split}

    def split(self, found: Any, say):
        if isinstance(found["train"], FileDocuments):
            return split_tokens(found, **self.how_to_split())
        return super().split(found, say)

    def make_splits(self, found, say, **how):
        return split_documents(found, **how)

    def digest_of(self, part):
        return part.digest() if isinstance(part, FileDocuments) else super().digest_of(part)

    def size_of(self, part):
        if isinstance(part, FileDocuments):
            return f" ({part.token_count:,} tokens)"
        return f" ({int(part.facts.characters.sum()):,} characters)"

    def _batches(self, split: str, rows: int, seed: int | None, some: np.ndarray | None = None) -> RowBatches:
        """Returns the batches of a split; `some`: of these of its documents alone, by their numbers."""
        raise NotImplementedError
