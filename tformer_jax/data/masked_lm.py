"""Pieces of documents, to mask some of their tokens."""

from ..config import ConfigError, field
from .batches import BatchShapes, rows_in_batch
from .batches.windows import Pieces
from .running_text import DocumentData, DocumentDataConfig
from .sources.documents import TOKENS
from .tokenizers import special


class MaskedLMDataConfig(DocumentDataConfig):
    """The `data` section of a masked language modelling experiment.

    Attributes:
      whole_words: mask all tokens of a word together, which batches then tell apart; with tokenizer="bpe", and not with
        source="tokens".
      others: see `DocumentDataConfig`; `row_length` includes start and end token.
    """

    mask = True

    whole_words: bool = field(False)

    def check(self) -> None:
        super().check()
        if self.whole_words and self.tokenizer != "bpe":
            raise ConfigError(f"whole_words needs data.tokenizer='bpe': with {self.tokenizer!r} there are no words")
        if self.whole_words and self.source == TOKENS:
            raise ConfigError(f"whole_words needs texts: of data.source={TOKENS!r} there are no words")
        if self.row_length < 3:
            raise ConfigError(f"row_length must exceed 2 (start and end token), got {self.row_length}")

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        rows = rows_in_batch(self.batch_tokens, self.row_length, rows_multiple)
        tokens, lengths = ((rows, self.row_length), "int32"), ((rows,), "int32")
        return {"tokens": tokens, "lengths": lengths} | ({"word_ids": tokens} if self.whole_words else {})


class MaskedLMData(DocumentData):
    """Pieces of documents, a row each, to mask some tokens of: see `Pieces`. The tokenizer has `<mask>`."""

    config: MaskedLMDataConfig
    roles = ("bos", "eos", "pad", "mask")

    @property
    def has_words(self) -> bool:
        return self.config.whole_words

    def prepare(self, directory, progress):
        super().prepare(directory, progress)
        if self.has_words and self.tokenizer.pre_tokenizer is None:
            raise ConfigError(
                "data.whole_words needs a tokenizer that tells words apart: this one takes a text for one"
            )

    def _batches(self, split, rows, seed, some=None):
        ends, (ids, words) = special(self.tokenizer, "bos", "eos", "pad"), self.tokens(split)
        ids = ids if some is None else ids.take(some)
        return Pieces(ids, words, self.config.row_length, rows, seed, *ends)
