"""Long texts in pieces, which have the tokens of the whole; and how many bytes of text a token is of."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer, models

from . import byte_tokens

_BEFORE_SPACE = re.compile(r"(?<=\S)(?=[ \n])")
# Pre-tokenizers, as files have them: of `train_characters`, and of a lossless `train_bpe`, which is GPT-2's.
_SINGLE = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def cut(text: str, size: int = 4_000) -> Iterator[str]:
    """Yields the text in pieces of `size` characters or somewhat more; all but the first begin with white space.

    A lossless tokenizer never joins white space to what stands before it.
    """
    start = 0
    while start < len(text):
        match = _BEFORE_SPACE.search(text, start + size)
        end = match.start() if match else len(text)
        yield text[start:end]
        start = end


def reads_pieces(tokenizer: Tokenizer) -> bool:
    """Returns whether the pieces that `cut` makes of a text are known to have the tokens of the whole text.

    So it is with those that are trained here and lossless, and with GPT-2's: nothing is changed before words are told
    apart, and none has white space behind its first character. Of others (of which some join a line's end to what stands
    before it, or put something before a text) nobody knows.
    """
    return _is_plain(tokenizer) and _state(tokenizer.pre_tokenizer) in (_BYTES, _SINGLE)


class Encoded(NamedTuple):
    """The tokens of pieces of text, one after another.

    Attributes:
      ids: int64 [n].
      lengths: the number of tokens of each piece, int64 [k].
      begins_word: whether a token is the first of a word, bool [n]; a word is what the tokenizer never joins to its
        neighbours. None: nobody asked.
    """

    ids: np.ndarray
    lengths: np.ndarray
    begins_word: np.ndarray | None


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[str], *, words: bool = False) -> Encoded:
    """Returns the tokens of pieces of text, see `cut`, without special tokens; `words`: and which of them begin a word.

    For lossless tokenizers.
    """
    if _of_characters(tokenizer):
        return _encode_characters(tokenizer, pieces, words)
    if reads_pieces(tokenizer) and byte_tokens.are_all(tokenizer):
        ids, lengths = byte_tokens.encoded(tokenizer, pieces)
        return Encoded(ids, lengths, np.ones(len(ids), bool) if words else None)
    tokenizer.encode_special_tokens = True
    encodings = tokenizer.encode_batch(list(pieces), add_special_tokens=False)
    joined = lambda of: np.concatenate([np.zeros(0, np.int64), *(np.asarray(x, np.int64) for x in of)])
    ids, lengths = joined(e.ids for e in encodings), np.asarray([len(e) for e in encodings], np.int64)
    if not words:  # which take as long to ask for as the tokens
        return Encoded(ids, lengths, None)
    begins = np.diff(joined(e.word_ids for e in encodings), prepend=-1) != 0
    begins[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    return Encoded(ids, lengths, begins)


def _of_characters(tokenizer: Tokenizer) -> bool:
    """Says that tokens are characters, as those of `train_characters` are; one from elsewhere may have words."""
    if not isinstance(tokenizer.model, models.WordLevel) or _state(tokenizer.pre_tokenizer) != _SINGLE:
        return False
    return _is_plain(tokenizer) and tokenizer.token_to_id(tokenizer.model.unk_token) is not None


def _encode_characters(tokenizer: Tokenizer, pieces: Sequence[str], words: bool) -> Encoded:
    # A look-up: a hundred times as fast as a regular expression for each character.
    table = np.full(0x110000, tokenizer.token_to_id(tokenizer.model.unk_token), np.int64)
    for token, number in tokenizer.get_vocab().items():
        if len(token) == 1:
            table[ord(token)] = number
    ids = table[np.frombuffer("".join(pieces).encode("utf-32-le"), np.uint32)]
    begins = np.ones(len(ids), bool) if words else None
    return Encoded(ids, np.asarray([len(piece) for piece in pieces], np.int64), begins)


def bytes_of_tokens(tokenizer: Tokenizer) -> np.ndarray | None:
    """Returns how many bytes of text each token stands for, int64 [V], special ones for none; None: not each by itself."""
    if _state(tokenizer.decoder).get("type") != "ByteLevel":
        return None
    vocabulary = tokenizer.get_vocab()
    sizes = np.zeros(1 + max(vocabulary.values()), np.int64)
    for token, number in vocabulary.items():
        sizes[number] = len(token)  # a character stands for a byte
    for number, token in tokenizer.get_added_tokens_decoder().items():
        sizes[number] = 0 if token.special else len(token.content.encode())
    return sizes


def _is_plain(tokenizer: Tokenizer) -> bool:
    """Says that a text is told apart as it is: nothing changes it, and no token is looked for in it before."""
    looked_for = any(not token.special for token in tokenizer.get_added_tokens_decoder().values())
    return tokenizer.normalizer is None and not looked_for


def _state(part: Any) -> dict[str, Any]:
    """A part of a tokenizer, such as its pre-tokenizer, as its file has it, but for offsets; {}: there is none."""
    state = {} if part is None else json.loads(part.__getstate__())
    return {name: x for name, x in state.items() if name != "trim_offsets"}
