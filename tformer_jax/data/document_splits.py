"""The documents of a split for language models: texts and a tokenizer of them, or tokens of a file."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from ..progress import Progress
from . import tokenizers
from .examples import Examples
from .file_tokens import FileDocuments
from .files import DataError
from .pieces import bytes_of_tokens, reads_pieces
from .ragged import Ragged
from .store import let_go
from .tokens import Tokens, kept_tokens

# Of a text that is encoded whole: its tokens take a hundred times as much memory meanwhile.
_WHOLE_BYTES = 16 << 20
_LOOKED_AT = 1_000  # characters
_BLOCK = 1 << 22  # tokens that are looked at together


@dataclasses.dataclass(eq=False)
class TextSplit:
    """Texts.

    Attributes:
      of: what people call the texts: "train of speeches".
      documents: of the split.
      tokenizer: of their text.
      words: whether to tell words apart.
      say: is told what a person should know.
      progress: is told what takes long.
    """

    of: str
    documents: Examples
    tokenizer: Tokenizer
    words: bool
    say: Callable[[str], None]
    progress: Progress

    as_they_are: ClassVar[None] = None  # tokens of texts are between start and end token

    @functools.cached_property
    def tokens(self) -> Tokens:
        """The tokens of each document, without start and end; made once, see `kept_tokens`.

        Raises:
          DataError: a document is too long for a tokenizer that must read it whole.
        """
        if not reads_pieces(self.tokenizer):
            sizes = self.documents.texts["text"].lengths
            if sizes.max() > _WHOLE_BYTES:
                (name,) = self.documents.take(np.array([sizes.argmax()])).text("name")
                raise DataError(
                    f"{name} has {sizes.max():,} bytes, and this tokenizer must read a text whole, of which at most "
                    f"{_WHOLE_BYTES:,} fit into memory: cut it into several documents"
                )
        how = {"words": self.words, "say": self.say, "progress": self.progress, "of": self.of}
        what = f"tokenizing {self.of.partition(' ')[0]}"
        return kept_tokens(self.documents, "text", self.tokenizer, what=what, **how)

    def token_count(self) -> int:
        """Returns the number of tokens, without start and end."""
        return int(self.tokens.ids.lengths.sum())

    def byte_count(self) -> int:
        """Returns the bytes of the texts in UTF-8."""
        return int(self.documents.texts["text"].lengths.sum())

    def unknown_count(self) -> int:
        """Returns how many tokens stand for what the vocabulary does not have."""
        return _count(self.tokens.ids, tokenizers.unknown_token(self.tokenizer))

    def beginnings(self, count: int, characters: int) -> list[str]:
        """Returns the beginnings of the first documents."""
        return [document.text[:characters] for document in self.documents[:count]]

    def is_given_back(self) -> bool:
        """Returns whether tokens say all of a text; of a tokenizer from elsewhere, of the beginning of the first one."""
        if reads_pieces(self.tokenizer):
            return True
        (text,) = self.beginnings(1, _LOOKED_AT)
        return tokenizers.decode(self.tokenizer, tokenizers.encode(self.tokenizer, [text])[0], strip=False) == text

    def said(self) -> str:
        """Returns how many training tokens these are, and of how many bytes."""
        count = self.token_count()
        return f"{count:,} training tokens of {self.byte_count() / count:.2f} bytes"


class FileSplit:
    """Tokens of a file; methods are those of `TextSplit`.

    Attributes:
      documents: of it.
      as_they_are: their tokens, with the start and the end tokens that they have in the file.
    """

    def __init__(self, documents: FileDocuments, tokenizer: Tokenizer, say: Callable[[str], None], progress: Progress):
        """Args:
          documents: of the split.
          tokenizer: that made the tokens.
          say, progress: see `TextSplit`.

        Raises:
          DataError: a token is beyond the vocabulary (says where).
        """
        documents.check_vocabulary(tokenizers.room(tokenizer))
        self.documents, self._tokenizer, self._how = documents, tokenizer, {"say": say, "progress": progress}

    @property
    def as_they_are(self) -> Ragged:
        return self.documents.ids

    @functools.cached_property
    def tokens(self) -> Tokens:
        """The tokens of each document, without a start and an end token of its own; found once, and then mapped."""
        ends = tokenizers.special(self._tokenizer, "bos", "eos")
        return Tokens(self.documents.without_ends(*ends, **self._how), None)

    def token_count(self) -> int:
        return self.documents.token_count

    def byte_count(self) -> int | None:
        """Returns the bytes of the texts that the tokens were made of; None: a token by itself does not tell."""
        sizes = bytes_of_tokens(self._tokenizer)
        return None if sizes is None else sum(int(sizes[part].sum()) for part in _parts(self.documents.ids))

    def unknown_count(self) -> int:
        return _count(self.documents.ids, tokenizers.unknown_token(self._tokenizer))

    def beginnings(self, count: int, characters: int) -> list[str]:
        some = (self.tokens.ids[i][:characters] for i in range(min(count, len(self.documents))))
        return [tokenizers.decode(self._tokenizer, ids, strip=False)[:characters] for ids in some]

    def is_given_back(self) -> bool:
        return True  # only of such are bytes counted

    def said(self) -> str:
        return f"{self.token_count():,} training tokens"


def _count(ids: Ragged, token: int | None) -> int:
    """Returns how often a token is among those of documents; None never is."""
    return 0 if token is None else sum(int(np.count_nonzero(part == token)) for part in _parts(ids))


def _parts(ids: Ragged) -> Iterator[np.ndarray]:
    """Yields the tokens of each document, of a long one some at a time; what was read is let go of."""
    read = 0
    for begin, length in zip(*ids.spans(np.arange(len(ids))), strict=True):
        for at in range(begin, begin + length, _BLOCK):
            part = ids.values[at : min(at + _BLOCK, begin + length)]
            yield part
            if (read := read + len(part)) >= _BLOCK:
                let_go()
                read = 0
