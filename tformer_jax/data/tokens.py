"""Tokens of texts, made once and kept on the disk."""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tokenizers import Tokenizer

from ..progress import SILENT, Progress
from .examples import Examples
from .pieces import Encoded, cut, encode_pieces, reads_pieces
from .ragged import Ragged
from .store import Store, Writer, stored
from .tokenizers import room

_Given, _Made = TypeVar("_Given"), TypeVar("_Made")

_TOGETHER = 1 << 20  # characters that are encoded at once
_COMMIT_EVERY = 1 << 25  # characters, after which a killed process need not encode them again


class Tokens(NamedTuple):
    """The tokens of texts.

    Attributes:
      ids: of each text, uint16, or uint32 where the vocabulary has more than 65,536.
      words: 0 or 1 for each of `ids.values`, another one wherever a word begins; None: nobody asked.
    """

    ids: Ragged
    words: np.ndarray | None


def kept_tokens(
    examples: Examples,
    name: str,
    tokenizer: Tokenizer,
    *,
    words: bool = False,
    what: str = "tokenizing",
    progress: Progress = SILENT,
    **telling: Any,
) -> Tokens:
    """Returns the tokens of texts, without special ones, from a store of theirs.

    Texts may be of any length where that changes none of their tokens, see `reads_pieces`: they are encoded in pieces.
    Else each is in memory as a whole.

    Args:
      examples: whose texts.
      name: of the field with the text.
      tokenizer: any.
      words: whether to tell words apart.
      what: is done, for the progress.
      progress, telling: also `say` and `of`, see `stored`.

    Raises:
      WriteError: see `stored`.
    """
    encode = lambda pieces: encode_pieces(tokenizer, pieces, words=words)
    if reads_pieces(tokenizer):
        how = _How(lambda: _pieces(examples, name), encode, {"words": words})
    else:
        how = _How(lambda: _whole(examples, name), encode, {"words": words, "whole": True})
    found = _kept(examples, name, tokenizer, how, what, progress, **telling)
    return Tokens(Ragged(found.at_random("ids"), found["offsets"]), found.at_random("words") if words else None)


def kept_rows(
    examples: Examples,
    name: str,
    tokenizer: Tokenizer,
    encode: Callable[[list[str]], list[list[int]]],
    about: Any,
    *,
    what: str = "tokenizing",
    progress: Progress = SILENT,
    **telling: Any,
) -> Ragged:
    """Returns the tokens of short texts, each encoded whole, from a store of theirs.

    Args:
      encode: gives the tokens of some texts, special ones included.
      about: all that these follow from, beside the tokenizer; JSON can hold it.
      others, errors: see `kept_tokens`.
    """

    def encoded(texts: list[str]) -> Encoded:
        rows = encode(texts)
        lengths = np.asarray([len(row) for row in rows], np.int64)
        return Encoded(np.fromiter(itertools.chain.from_iterable(rows), np.int64, lengths.sum()), lengths, None)

    how = _How(lambda: _whole(examples, name), encoded, {"rows": about})
    found = _kept(examples, name, tokenizer, how, what, progress, **telling)
    return Ragged(found.at_random("ids"), found["offsets"])


class _How(NamedTuple):
    """A way to encode texts.

    Attributes:
      pieces: gives the pieces of all texts, in order.
      encode: the pieces of some.
      about: all that the tokens follow from, beside the texts and the tokenizer.
    """

    pieces: Callable[[], Iterator["_Piece"]]
    encode: Callable[[list[str]], Encoded]
    about: Any


def _kept(
    examples: Examples, name: str, tokenizer: Tokenizer, how: _How, what: str, progress: Progress, **telling: Any
) -> Store:
    texts = hashlib.sha256()
    for facts in (examples.facts.sums, examples.facts.characters):
        texts.update(np.ascontiguousarray(facts))
    vocabulary = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    key = {"texts": texts.hexdigest(), "field": name, "tokenizer": vocabulary, "way of encoding": how.about}
    dtype = np.uint16 if room(tokenizer) <= 1 << 16 else np.uint32

    def make(writer: Writer) -> None:
        with progress.phase(what, int(examples.texts[name].lengths.sum()), "bytes") as advance:
            _write(how, dtype, writer, advance)

    return stored("tokens", key, make, progress=progress, **telling)


class _Piece(NamedTuple):
    """A piece of a text, and whether it is the last one of its text."""

    text: str
    last: bool


def _write(how: _How, dtype: Any, writer: Writer, advance: Callable[[int], None]) -> None:
    done, total, parity = writer.state or (0, 0, 0)
    pieces = how.pieces()
    for piece in itertools.islice(pieces, done):  # of a process that was killed
        advance(_size(piece))
    if not done:
        writer.append("offsets", np.zeros(1, np.int64))
    encode = lambda group: (group, how.encode([piece.text for piece in group]))
    fresh = 0
    for group, encoded in _ahead(encode, _groups(pieces)):
        ends, last = total + np.cumsum(encoded.lengths), [piece.last for piece in group]
        writer.append("ids", encoded.ids.astype(dtype))
        writer.append("offsets", ends[last])
        if encoded.begins_word is not None:
            numbers = parity + np.cumsum(encoded.begins_word)
            writer.append("words", (numbers & 1).astype(np.uint8))
            parity = int(numbers[-1] & 1) if len(numbers) else parity
        done, total, fresh = done + len(group), int(ends[-1]), fresh + sum(len(piece.text) for piece in group)
        advance(sum(map(_size, group)))
        if fresh >= _COMMIT_EVERY:
            writer.commit((done, total, parity))
            fresh = 0


def _size(piece: _Piece) -> int:
    return len(piece.text.encode("utf-8", "surrogatepass"))


def _whole(examples: Examples, name: str) -> Iterator[_Piece]:
    return (_Piece(text, True) for text in examples.text(name))


def _pieces(examples: Examples, name: str) -> Iterator[_Piece]:
    """Yields the pieces that `cut` makes of each text, never more than a part of which is in memory."""
    parts = examples.pieces(name)
    part = next(parts, None)
    for number in range(len(examples)):
        held = ""
        while part is not None and part[0] == number:
            *whole, held = [*cut(held + part[1])] or [""]  # the last piece may go on
            yield from (_Piece(text, False) for text in whole)
            part = next(parts, None)
        yield _Piece(held, True)


def _groups(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    group, size = [], 0
    for piece in pieces:
        group.append(piece)
        size += len(piece.text) + 1
        if size >= _TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group


def _ahead(work: Callable[[_Given], _Made], things: Iterable[_Given]) -> Iterator[_Made]:
    """Yields `work(thing)` of each, in order; the next one is worked on meanwhile."""
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokens") as threads:
        waiting: collections.deque[Any] = collections.deque()
        for thing in things:
            waiting.append(threads.submit(work, thing))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
