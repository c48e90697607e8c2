"""The base of tasks on text: a tokenizer that the data left, and predictions on texts."""

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ..config import COUNT, Component, ConfigError, field
from ..data import tokenizers
from ..data.batches.buckets import padded
from ..data.files import DataError, read_lines
from ..data.text import canonical
from ..data.vocabularies import check_there, planned_size
from ..nn import ModelConfig
from .base import Task
from .pictures import LONGEST_EXAMPLE, Example, Pictured, some_rows, text_side

# Placeholder for a vocabulary that only the text tells: any number will do to check the other fields.
SOME_TOKENS = 256


class TextPrediction(Component):
    """The texts to predict on: one, or a file of them."""

    text: str | None = field(None, help="Input text: a sentence, the beginning of a text, or a text with [MASK] in it.")
    input: str | None = field(None, help="UTF-8 file of input texts, one per line.")

    def texts(self) -> list[str]:
        """Returns the texts.

        Raises:
          ConfigError: there is neither a text nor a file, or both.
          DataError: the file cannot be read.
        """
        if (self.text is None) == (self.input is None):
            raise ConfigError("give --text or --input")
        return [self.text] if self.input is None else read_lines(Path(self.input))

    def placed_texts(self) -> list[tuple[str, str]]:
        """Returns each of the texts, and what to call it in an error."""
        if self.input is None:
            return [(text, "the text") for text in self.texts()]
        return [(text, f"line {number} of {self.input}") for number, text in enumerate(self.texts(), 1)]


class RankedPrediction(Component):
    """The number of guesses to show."""

    top: int = field(5, COUNT, help="Number of classes or tokens to show, most probable first.")


class TextTask(Task):
    """A task on texts, whose data have a `tokenizer`."""

    Prediction, typed = TextPrediction, "text"
    learnt = ("tokenizer",)

    tokenizer: Tokenizer

    @classmethod
    def inherit(cls, start: Path, directory: Path) -> None:
        tokenizers.inherit(start, directory)

    @classmethod
    def planned_fields(cls, data: Any) -> dict[str, Any]:
        size = planned_size(data.vocab_size, getattr(data, "tokenizer_path", None))
        return super().planned_fields(data) | {"vocab_size": size or SOME_TOKENS}

    @classmethod
    def planned(cls, config: Any, data: Any) -> Task:
        check_there(getattr(data, "tokenizer_path", None))
        return super().planned(config, data)

    @property
    def model_fields(self) -> dict[str, Any]:
        return super().model_fields | {"vocab_size": tokenizers.room(self.tokenizer)}

    def rows(self, texts: Sequence[str], limit: int) -> Iterator[dict[str, np.ndarray]]:
        """Returns a batch of one row for each text, "tokens" [1 T] and "lengths" [1], from start to end token.

        Raises:
          DataError: a text has more tokens than `limit` (says which and how many).
        """
        encoded = tokenizers.encode_framed(self.tokenizer, [canonical(text) for text in texts])
        for number, row in enumerate(encoded, 1):
            if len(row) > limit:
                raise DataError(f"text {number} has {len(row)} tokens, but the model reads at most {limit}; shorten it")
        return ({"tokens": padded(row, limit)[None], "lengths": np.int32([len(row)])} for row in encoded)

    def example(self, model: Any, of: Pictured) -> Example | None:
        """Returns rows of the split, if these are tokens, and the task reads them as every task does, or says how."""
        own_measure = type(self).measure is not Task.measure and type(self).read is Task.read
        batches = of.data.evaluation_batches(of.split)
        if own_measure or "tokens" not in batches.batch(0):
            return None
        batch = some_rows(batches)
        width = batch["tokens"].shape[1]
        lengths = batch.get("lengths", np.full(len(batch["tokens"]), width))
        note = "" if lengths[0] < LONGEST_EXAMPLE else f"the first {LONGEST_EXAMPLE} tokens of a text"
        return Example(batch, text_side(self.tokenizer, batch["tokens"], lengths), note)


class DocumentTask(TextTask):
    """A task on running text, in rows that the model can read."""

    def first_unknown(self, text: str) -> int | None:
        """Returns the index of the first character that the tokenizer does not have, in any Unicode form of the text.

        None of a BPE, which has every byte.
        """
        unknown = tokenizers.unknown_id(self.tokenizer)
        if unknown not in tokenizers.encode_typed(self.tokenizer, text):
            return None
        # A character of the text may be a part of one in another form: the shortest beginning that has an unknown one.
        begins = range(1, len(text) + 1)
        key = lambda n: unknown in tokenizers.encode_typed(self.tokenizer, text[:n])
        return bisect.bisect_left(begins, True, key=key)

    def known_texts(self, asked: TextPrediction) -> list[tuple[str, str]]:
        """Returns each of the texts, and what to call it in an error.

        Raises:
          DataError: the vocabulary cannot write one of them.
        """
        placed = asked.placed_texts()
        for text, where in placed:
            if (at := self.first_unknown(text)) is not None:
                raise DataError(f"{where} has {text[at]!r} at {at}, a character outside the model's vocabulary")
        return placed

    @classmethod
    def check(cls, data: Any, model: ModelConfig) -> None:
        if data.row_length > model.max_length:
            raise ConfigError(f"data.row_length={data.row_length} exceeds model.max_length={model.max_length}")
