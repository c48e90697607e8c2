"""Running text, from where it lies to batches of tokens: for predicting what comes next, or what is masked."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..config import ConfigError, check_choice, check_seed
from ..progress import SILENT, Progress
from . import digest, documents, pipelines, tokenizers
from .documents import Document
from .pipelines import BatchShapes
from .tokenizers import BOS_ID, EOS_ID, PAD_ID
from .windows import Pieces, Windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentDataConfig:
    """The fields that both `data` sections of running text share.

    Attributes:
      source: a name in `documents.DOCUMENT_SOURCES`, or "files" for the user's own.
      path: a text file, or a folder of them; with source="files".
      split: hold out whole documents ("document"), or the end of each ("tail"); see
        `documents.split_documents`.
      validation_share, test_share: share of the characters to hold out for that split.
      seed: random seed of split, offsets and shuffling.
      order_seed: random seed of offsets and shuffling alone; None: `seed`.
      tokenizer: "bpe" or "characters", trained on the training split.
      vocab_size: vocabulary size of the BPE, with tokenizer="bpe".
      row_length: T, the number of tokens that the model reads in a row.
      batch_tokens: number of token slots of a training batch, which has as many rows of T as fit.

    Raises:
      ConfigError: a value that is invalid, alone or beside another, by the field's name.
    """

    source: str
    path: str | None = None
    split: str = "document"
    validation_share: float = 0.05
    test_share: float = 0.05
    seed: int = 0
    order_seed: int | None = None
    tokenizer: str = "bpe"
    vocab_size: int | None = None
    row_length: int
    batch_tokens: int

    def __post_init__(self):
        check_choice("data.source", self.source, [*documents.DOCUMENT_SOURCES, "files"])
        check_choice("data.split", self.split, ("document", "tail"))
        check_choice("data.tokenizer", self.tokenizer, ("bpe", "characters"))
        for name, other, value in (("path", "source", "files"), ("vocab_size", "tokenizer", "bpe")):
            if (getattr(self, name) is not None) != (getattr(self, other) == value):
                raise ConfigError(f"data.{name} goes with data.{other}={value!r}, and is needed there")
        tokenizers.check_vocab_size("data.vocab_size", self.vocab_size)
        for name in ("row_length", "batch_tokens"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"data.{name} must be positive, got {value}")
        check_seed("data.seed", self.seed)
        if self.order_seed is not None:
            check_seed("data.order_seed", self.order_seed)
        for name in ("validation_share", "test_share"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"data.{name} must be in (0, 1), got {getattr(self, name)}")
        if self.validation_share + self.test_share >= 1.0:
            raise ConfigError(
                f"data.validation_share and data.test_share must add up to less than 1, "
                f"got {self.validation_share} and {self.test_share}"
            )
        if self.batch_tokens < self.row_length:
            raise ConfigError(
                f"data.batch_tokens must be at least data.row_length={self.row_length}, got {self.batch_tokens}"
            )

    def documents(self, say: Callable[[str], None] = lambda line: None) -> list[Document]:
        """Returns all the documents, before the split; `say` is told which files are not read.

        Raises:
          DataError: they cannot be read or fetched.
        """
        if self.source != "files":
            return documents.DOCUMENT_SOURCES[self.source]()
        return documents.read_documents(Path(self.path), say)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLMDataConfig(DocumentDataConfig):
    """The `data` section of a language modelling experiment.

    Attributes:
      boundaries: "segments" (no document sees the one before it in its row) or "stream" (they run
        on, each from start to end token).
      others: see `DocumentDataConfig`.
    """

    boundaries: str = "segments"

    def __post_init__(self):
        super().__post_init__()
        check_choice("data.boundaries", self.boundaries, ("segments", "stream"))

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        """Returns the shapes and dtypes of every training batch, known without the data."""
        rows = pipelines.rows_in_batch(self.batch_tokens, self.row_length, rows_multiple)
        tokens = (rows, self.row_length + 1), "int32"
        return {"tokens": tokens} | ({"segments": tokens} if self.boundaries == "segments" else _lengths(rows))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLMDataConfig(DocumentDataConfig):
    """The `data` section of a masked language modelling experiment.

    Attributes:
      whole_words: mask all tokens of a word together, which batches then tell apart; not with
        tokenizer="characters".
      others: see `DocumentDataConfig`; `row_length` includes start and end token.
    """

    whole_words: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.whole_words, bool):
            raise ConfigError(f"data.whole_words must be True or False, got {self.whole_words!r}")
        if self.whole_words and self.tokenizer == "characters":
            raise ConfigError("data.whole_words needs data.tokenizer='bpe': with 'characters' there are no words")
        if self.row_length < 3:
            raise ConfigError(f"data.row_length must exceed 2 (start and end token), got {self.row_length}")

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        """Returns the shapes and dtypes of every training batch, known without the data."""
        rows = pipelines.rows_in_batch(self.batch_tokens, self.row_length, rows_multiple)
        tokens = (rows, self.row_length), "int32"
        return {"tokens": tokens} | _lengths(rows) | ({"word_ids": tokens} if self.whole_words else {})


class _DocumentData:
    """The splits of one experiment, its tokenizer, and the batches of both.

    Attributes:
      splits: documents by split: train, validation, test.
      tokenizer: lossless (of characters, those of the training split); trained on it, or read from where it was saved.
      report: what a person should know of the data, a line each.
    """

    _mask: bool

    def __init__(self, config: DocumentDataConfig, directory: Path, progress: Progress = SILENT):
        """`directory`: keeps the tokenizer, and what the data were. `progress`: is told what takes long.

        Raises:
          DataError: the data cannot be read, are not those that the run in `directory` began with, or
            a split would have no text.
        """
        self.config, passed_over = config, []
        with progress.phase("reading data"):
            self.splits = documents.split_documents(
                config.documents(passed_over.append),
                by=config.split,
                validation_share=config.validation_share,
                test_share=config.test_share,
                seed=config.seed,
            )
            found = {n: digest.of_documents([x.text for x in part]) for n, part in self.splits.items()}
        digest.keep_digests(found, directory)  # first: a tokenizer is of these data
        self.tokenizer = tokenizers.kept(directory / "tokenizer.json", self._train_tokenizer, progress)
        self._encoded: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        sizes = (f"{len(d):,} {name} ({sum(len(x.text) for x in d):,} characters)" for name, d in self.splits.items())
        self.report = [f"{', '.join(sizes)} documents ({config.source}, split by {config.split})", *passed_over]

    def train_batches(self, rows_multiple: int = 1) -> Windows | Pieces:
        """Random-access training batches; adds tokens and batches to the report.

        The rows of each are a multiple of `rows_multiple`, so that they can be split evenly.

        Raises:
          ConfigError: `batch_tokens` holds fewer rows than `rows_multiple`.
          DataError: the training split does not fill a batch.
        """
        config = self.config
        rows = pipelines.rows_in_batch(config.batch_tokens, config.row_length, rows_multiple)
        batches = self._batches("train", rows, pipelines.order_seed(config))
        tokens = sum(len(ids) for ids, _ in self.encode("train"))
        self.report.append(
            f"{tokens:,} training tokens of {self.byte_count('train') / tokens:.2f} bytes, "
            f"vocabulary of {self.tokenizer.get_vocab_size():,}; {len(batches):,} batches an epoch"
        )
        return batches

    def evaluation_batches(self, split: str) -> Windows | Pieces:
        """The batches of one pass over a split, in order."""
        return self._batches(split, max(1, pipelines.EVALUATION_TOKENS // self.config.row_length), None)

    def byte_count(self, split: str) -> int:
        """Bytes of a split's text in UTF-8."""
        return sum(len(document.text.encode("utf-8")) for document in self.splits[split])

    def unknown_count(self, split: str) -> int:
        """Characters of a split that the tokenizer does not have: none of a BPE, which has every byte."""
        unknown = tokenizers.unknown_id(self.tokenizer)
        return 0 if unknown is None else sum(int((ids == unknown).sum()) for ids, _ in self.encode(split))

    def encode(self, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Token ids and word numbers, int32 [n], of each document, without start and end; encoded once."""
        if split not in self._encoded:
            texts = [document.text for document in self.splits[split]]
            self._encoded[split] = tokenizers.encode_words(self.tokenizer, texts)
        return self._encoded[split]

    def _train_tokenizer(self):
        texts, config = [document.text for document in self.splits["train"]], self.config
        if config.tokenizer == "characters":
            return tokenizers.train_characters(texts, mask=self._mask)
        return tokenizers.train_bpe(texts, config.vocab_size, lossless=True, mask=self._mask)

    def _batches(self, split: str, rows: int, seed: int | None) -> Windows | Pieces:
        raise NotImplementedError


class CausalLMData(_DocumentData):
    """Documents as a stream of tokens, in windows: see `Windows`."""

    config: CausalLMDataConfig
    _mask = False

    def _batches(self, split, rows, seed):
        framed = [np.concatenate([[BOS_ID], ids, [EOS_ID]]).astype(np.int32) for ids, _ in self.encode(split)]
        tokens, numbers = np.concatenate(framed), _numbers(framed)
        return Windows(tokens, numbers, self.config.row_length, rows, seed, self.config.boundaries, PAD_ID)


class MaskedLMData(_DocumentData):
    """Pieces of documents, a row each, to mask some tokens of: see `Pieces`. The tokenizer has `<mask>`."""

    config: MaskedLMDataConfig
    _mask = True

    def _batches(self, split, rows, seed):
        encoded = self.encode(split)
        tokens = np.concatenate([ids for ids, _ in encoded])
        words = np.concatenate([words for _, words in encoded]) if self.config.whole_words else None
        numbers = _numbers([ids for ids, _ in encoded])
        return Pieces(tokens, numbers, words, self.config.row_length, rows, seed, BOS_ID, EOS_ID, PAD_ID)


def _lengths(rows: int) -> BatchShapes:
    return {"lengths": ((rows,), "int32")}


def _numbers(parts: list[np.ndarray]) -> np.ndarray:
    """The number of its part for every token, int32."""
    return np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
