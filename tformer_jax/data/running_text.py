"""The base of the data of both kinds of language modelling: documents, split, and a tokenizer of their text."""

from typing import ClassVar

import numpy as np

from ..config import COUNT, INSIDE, ConfigError, field
from . import digest, tokenizers
from .base import VOCABULARY, Data, DataConfig, check_goes_with
from .batches import RowBatches, rows_in_batch
from .batches.buckets import EVALUATION_TOKENS
from .ragged import Ragged
from .sources.documents import DOCUMENTS
from .splits import split_documents


class DocumentDataConfig(DataConfig):
    """The fields that both `data` sections of running text share.

    Attributes:
      path: a text file, or a folder of them; with source="files".
      split: hold out whole documents ("document"), or the end of each ("tail"); see `splits.split_documents`.
      validation_share, test_share: share of the characters to hold out for that split.
      tokenizer: "bpe" or "characters", trained on the training split.
      vocab_size: vocabulary size of the BPE, with tokenizer="bpe".
      row_length: T, the number of tokens that the model reads in a row.
      batch_tokens: number of token slots of a training batch, which has as many rows of T as fit.
      others: see `DataConfig`; the order of batches has offsets in the text, too.
      mask: whether the vocabulary has `<mask>`.
    """

    mask: ClassVar[bool] = False
    sources = DOCUMENTS
    inputs = ("path",)

    path: str | None = field(None)
    split: str = field("document", among=("document", "tail"))
    validation_share: float = field(0.05, INSIDE)
    test_share: float = field(0.05, INSIDE)
    tokenizer: str = field("bpe", among=("bpe", "characters"))
    vocab_size: int | None = field(None, VOCABULARY)
    row_length: int = field(wanted=COUNT)
    batch_tokens: int = field(wanted=COUNT)

    def check(self) -> None:
        super().check()
        check_goes_with(self, "vocab_size", "tokenizer", "bpe")
        tokenizers.check_bpe_size("vocab_size", self.vocab_size, mask=self.mask)
        if self.validation_share + self.test_share >= 1.0:
            raise ConfigError(
                f"validation_share and data.test_share must add up to less than 1, "
                f"got {self.validation_share} and {self.test_share}"
            )
        if self.batch_tokens < self.row_length:
            raise ConfigError(
                f"batch_tokens must be at least data.row_length={self.row_length}, got {self.batch_tokens}"
            )


class DocumentData(Data):
    """The documents of one experiment, its tokenizer, and the batches of both.

    Attributes:
      tokenizer: lossless (of characters, those of the training split); trained on it, or read from where it was saved.
      others: see `Data`.
    """

    unit = "documents"

    def prepare(self, directory, progress):
        texts, config = [document.text for document in self.splits["train"]], self.config
        if config.tokenizer == "characters":
            train = lambda: tokenizers.train_characters(texts, mask=config.mask)
        else:
            train = lambda: tokenizers.train_bpe(texts, config.vocab_size, lossless=True, mask=config.mask)
        self.tokenizer = tokenizers.kept(directory / tokenizers.FILE, train, progress)
        self._encoded: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def train_batches(self, rows_multiple: int = 1) -> RowBatches:
        rows = rows_in_batch(self.config.batch_tokens, self.config.row_length, rows_multiple)
        batches = self._batches("train", rows, self.config.batch_seed)
        tokens = sum(len(ids) for ids, _ in self.encode("train"))
        self.report.append(
            f"{tokens:,} training tokens of {self.byte_count('train') / tokens:.2f} bytes, "
            f"vocabulary of {self.tokenizer.get_vocab_size():,}; {len(batches):,} batches an epoch"
        )
        return batches

    def evaluation_batches(self, split: str) -> RowBatches:
        return self._batches(split, max(1, EVALUATION_TOKENS // self.config.row_length), None)

    def byte_count(self, split: str) -> int:
        """Returns the bytes of a split's text in UTF-8."""
        return sum(len(document.text.encode("utf-8")) for document in self.splits[split])

    def unknown_count(self, split: str) -> int:
        """Returns how many characters of a split the tokenizer does not have: none of a BPE, which has every byte."""
        unknown = tokenizers.unknown_id(self.tokenizer)
        return 0 if unknown is None else sum(int((ids == unknown).sum()) for ids, _ in self.encode(split))

    def encode(self, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns token ids and word numbers, int32 [n], of each document, without start and end; encoded once."""
        if split not in self._encoded:
            texts = [document.text for document in self.splits[split]]
            self._encoded[split] = tokenizers.encode_words(self.tokenizer, texts)
        return self._encoded[split]

    def documents(self, split: str) -> Ragged:
        """Returns the token ids of each document, without start and end."""
        ids = [ids for ids, _ in self.encode(split)]
        return Ragged(np.concatenate(ids), np.cumsum([0, *map(len, ids)]))

    def split(self, found, say):
        shares = {name: getattr(self.config, name) for name in ("validation_share", "test_share", "seed")}
        return split_documents(found, by=self.config.split, **shares)

    def size_of(self, part) -> str:
        return f" ({sum(len(document.text) for document in part):,} characters)"

    def digest_of(self, part) -> digest.Digest:
        characters = sum(len(document.text) for document in part)
        return digest.of_texts(self.unit, [(document.text,) for document in part], characters=characters)

    def _batches(self, split: str, rows: int, seed: int | None) -> RowBatches:
        raise NotImplementedError
