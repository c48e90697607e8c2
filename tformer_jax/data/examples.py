"""Examples whose texts lie one after another in files, in place of Python's objects: memory does not grow with them.

Examples.of(Pair, pairs)        # of a few, in memory
kept_examples(Pair, [stream], key, text="source")   # of any number, in a store; read from their sources once
"""

import codecs
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from .files import DataError
from .ragged import Ragged
from .store import Writer, let_go, stored
from .text import canonical

_Example = TypeVar("_Example")

_BLOCK = 4096  # examples that are looked up together
_BLOCK_BYTES = 4 << 20  # of texts that are written together, or decoded
_HELD_BYTES = 64 << 20  # of texts that are read before they are let go of
# No text in UTF-8 has these bytes: one stands for None, the other ends a text in the sums.
_NONE, _END = b"\xff", b"\xfe"


class Facts(NamedTuple):
    """What is known of each example without a look at its texts.

    Attributes:
      characters: of its main text, int64 [m].
      same: a digest of the canonical form of its main text, the same for what is the same to a reader, S16 [m].
      part: the source that it is from, of a mixture's, uint16 [m].
      sums: a digest of its texts, and of which part of them it is where they were cut, uint64 [m 4].
    """

    characters: np.ndarray
    same: np.ndarray
    part: np.ndarray
    sums: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Examples(Sequence[_Example], Generic[_Example]):
    """Examples in an order, each a named tuple of texts, made when it is asked for.

    Attributes:
      kind: the class of one.
      texts: of each of its fields, the UTF-8 of all of them.
      facts: of each example.
    """

    kind: type[_Example]
    texts: Mapping[str, Ragged]
    facts: Facts

    @classmethod
    def of(cls, kind: type[_Example], examples: Iterable[_Example], text: str) -> "Examples[_Example]":
        """Returns examples in memory; `text`: the field of the main text."""
        written: dict[str, list[np.ndarray]] = {}
        _write(kind, [examples], text, lambda name, values: written.setdefault(name, []).append(values))
        return _read(kind, {name: np.concatenate(parts) for name, parts in written.items()})

    def __len__(self) -> int:
        return len(self.facts.characters)

    def __eq__(self, other: object) -> bool:
        """Says that they are the same examples in the same order, also of a list."""
        alike = isinstance(other, Sequence) and len(self) == len(other)
        return alike and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None

    def __repr__(self) -> str:
        return f"<{len(self):,} of {self.kind.__name__}>"

    def __getitem__(self, i: int | slice) -> Any:
        """Returns an example, or some as `Examples`."""
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        return self.kind(*(_decoded(texts[i].tobytes()) for texts in self.texts.values()))

    def __iter__(self) -> Iterator[_Example]:
        return (self.kind(*texts) for texts in zip(*map(self.text, self.texts), strict=True))

    def text(self, name: str) -> Iterator[str | None]:
        """Returns the text of each example in a field, in order, one after the other."""
        values = self.texts[name].values
        return (_decoded(values[begin:end].tobytes()) for begin, end in self._spans(name))

    def pieces(self, name: str) -> Iterator[tuple[int, str]]:
        """Yields the number of an example and a piece of its text in a field, in order, as long as a long one has more."""
        values = self.texts[name].values
        for number, (begin, end) in enumerate(self._spans(name)):
            decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
            for at in range(begin, end, _BLOCK_BYTES):
                yield number, decoder.decode(values[at : min(at + _BLOCK_BYTES, end)].tobytes())
                if (at - begin) % _HELD_BYTES >= _HELD_BYTES - _BLOCK_BYTES:
                    let_go()

    def _spans(self, name: str) -> Iterator[tuple[int, int]]:
        """Yields where the text of each example in a field begins and ends, in bytes; what was read is let go of."""
        column, read = self.texts[name], 0
        for at in range(0, len(column), _BLOCK):
            begins, lengths = column.spans(np.arange(at, min(at + _BLOCK, len(column))))
            yield from zip(begins.tolist(), (begins + lengths).tolist(), strict=True)
            if (read := read + int(lengths.sum())) >= _HELD_BYTES:
                let_go()
                read = 0

    def cut(self, name: str, ends: np.ndarray) -> list["Examples[_Example]"]:
        """Returns the examples cut into k parts each, the first parts, the second parts and so on; empty ones are left out.

        Args:
          name: the field that is cut; the others are those of the whole.
          ends: in characters, of all parts but the last, int64 [m k-1], ascending.
        """
        column, count = self.texts[name], ends.shape[1] + 1
        begins, lengths = column.spans(np.arange(len(self)))
        edges = np.concatenate(
            [begins[:, None], begins[:, None] + self._places(name, ends), (begins + lengths)[:, None]], 1
        )
        characters = np.diff(ends, axis=1, prepend=0, append=self.facts.characters[:, None])  # [m k]
        parts = []
        for i in range(count):
            some = np.flatnonzero(characters[:, i])
            part = self.take(some)
            places = edges[some, i : i + 2]
            cut = Ragged(column.values, places.reshape(-1), 2 * np.arange(len(some)))
            facts = part.facts._replace(
                characters=characters[some, i], sums=_sums_of_parts(part.facts.sums, places - begins[some, None])
            )
            parts.append(dataclasses.replace(part, texts={**part.texts, name: cut}, facts=facts))
        return parts

    def _places(self, name: str, ends: np.ndarray) -> np.ndarray:
        """The bytes at which so many characters of each text end, [m k], as `ends` is."""
        places = np.zeros_like(ends)
        for number, wanted in enumerate(ends):
            text, done, at = self.texts[name][number], 0, 0
            while done <= wanted[-1] and at < len(text):
                block = text[at : at + _BLOCK_BYTES]
                starts = np.flatnonzero((block & 0xC0) != 0x80)  # of a character, its first byte
                here = (wanted >= done) & (wanted < done + len(starts))
                places[number, here] = at + starts[wanted[here] - done]
                done, at = done + len(starts), at + len(block)
                if not at % _HELD_BYTES:
                    let_go()
            places[number, wanted == done] = at
        return places

    def take(self, numbers: np.ndarray) -> "Examples[_Example]":
        """Returns some of the examples, in that order, without a copy of their texts."""
        texts = {name: column.take(numbers) for name, column in self.texts.items()}
        return dataclasses.replace(self, texts=texts, facts=Facts(*(fact[numbers] for fact in self.facts)))


def are_among(same: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns which `Facts.same` are among others, bool [n]: by their first halves, which are numbers and sort ten times as fast
    as bytes, and then those alone as a whole."""
    half = lambda digests: np.ascontiguousarray(digests).view(np.uint64)[::2]
    found = np.isin(half(same), half(others))
    found[found] = np.isin(same[found], others)
    return found


def kept_examples(
    kind: type[_Example],
    parts: Sequence[Iterable[_Example]],
    key: Any,
    text: str,
    **telling: Any,
) -> Examples[_Example]:
    """Returns examples that are kept on the disk: read once, and then only mapped into memory.

    Args:
      kind: the class of one, a named tuple of texts.
      parts: the examples of each source, read if there is no store yet.
      key: all that they follow from, see `stored`.
      text: the field of the main text.
      telling: `say`, `progress` and `of`, see `stored`.

    Raises:
      DataError: a value is no text; whatever `parts` raise.
      WriteError: see `stored`.
    """

    def make(writer: Writer) -> None:
        # Nothing is committed: who was killed here begins again, and reading takes little of the time.
        _write(kind, parts, text, writer.append)

    found = stored("examples", key, make, **telling)
    return _read(kind, {name: found[name] for name in _arrays(kind)})


def kept_splits(
    examples: Examples[_Example],
    key: Any,
    split: Callable[[Callable[[str], None]], Mapping[str, Examples[_Example]]],
    say: Callable[[str], None] = lambda line: None,
    **telling: Any,
) -> dict[str, Examples[_Example]]:
    """Returns examples by split, which is kept on the disk too: of millions it takes a while.

    Args:
      examples: as they were read, from `kept_examples`.
      key: all that the splits follow from, see `stored`.
      split: makes them, of `Examples.take` or `Examples.cut`, if there is no store yet; what it says to its argument is
        said again whenever the store is read.
      say: is told that, and see `stored`.
      telling: `progress` and `of`, see `stored`.
    """

    def make(writer: Writer) -> dict[str, list[str]]:
        notes: list[str] = []
        made = split(notes.append)
        for name, part in made.items():
            for field, column in part.texts.items():
                writer.append(f"{name}.{field}.chosen", np.asarray(column.chosen, np.int64))
                if column.offsets is not examples.texts[field].offsets:
                    writer.append(f"{name}.{field}.offsets", column.offsets)
            for fact, values in part.facts._asdict().items():
                writer.append(f"{name}.{fact}", values.reshape(-1))
        return {"splits": list(made), "notes": notes}

    found = stored("splits", key, make, say, **telling)
    for note in found.about["notes"]:
        say(note)

    def part(name: str) -> Examples:
        def texts(field: str, column: Ragged) -> Ragged:
            offsets = found[place] if (place := f"{name}.{field}.offsets") in found else column.offsets
            return Ragged(column.values, offsets, found[f"{name}.{field}.chosen"])

        columns = {field: texts(field, column) for field, column in examples.texts.items()}
        return Examples(examples.kind, columns, _facts({fact: found[f"{name}.{fact}"] for fact in Facts._fields}))

    return {name: part(name) for name in found.about["splits"]}


def _facts(arrays: Mapping[str, np.ndarray]) -> Facts:
    return Facts(**{**arrays, "sums": arrays["sums"].reshape(-1, 4)})


def _sums_of_parts(sums: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns the digests of parts of texts, given those of the whole and where each begins and ends, in bytes, [m 2]."""
    where = places.astype("<u8").view("S16")[:, 0]
    ours = np.frombuffer(b"".join(hashlib.sha256(bytes(at).ljust(16, b"\0")).digest() for at in where), np.uint64)
    return sums ^ ours.reshape(-1, 4)


def _arrays(kind: type) -> list[str]:
    columns = itertools.chain.from_iterable((f"{name}.utf8", f"{name}.offsets") for name in kind._fields)
    return [*columns, *Facts._fields]


def _read(kind: type, arrays: Mapping[str, np.ndarray]) -> Examples:
    texts = {name: Ragged(arrays[f"{name}.utf8"], arrays[f"{name}.offsets"]) for name in kind._fields}
    return Examples(kind, texts, _facts({fact: arrays[fact] for fact in Facts._fields}))


def _write(kind: type, parts: Sequence[Iterable], text: str, append: Callable[[str, np.ndarray], None]) -> None:
    """Hands the arrays of the examples of all parts over piece by piece."""
    columns = {name: _Column(name, append) for name in kind._fields}
    facts = _Numbers(append)
    for part, example in ((number, example) for number, examples in enumerate(parts) for example in examples):
        whole = hashlib.sha256()
        for name, value in zip(kind._fields, example, strict=True):
            count, same = 0, hashlib.sha256() if name == text else None
            for piece in _pieces(value, name):
                columns[name].add(piece)
                whole.update(piece)
                if same is not None:
                    written = piece.decode("utf-8", "surrogatepass")
                    count += len(written)
                    same.update(canonical(written).encode("utf-8", "surrogatepass"))
            whole.update(_END)
            columns[name].end()
            if same is not None:
                characters, alike = count, same.digest()[:16]
        facts.add(Facts(characters, alike, part, whole.digest()))
    for gathered in (*columns.values(), facts):
        gathered.flush()


class _Column:
    """The texts of a field, gathered until they are worth writing."""

    def __init__(self, name: str, append: Callable[[str, np.ndarray], None]):
        self._name, self._append, self._parts, self._size = name, append, [], 0
        self._all, self._ends = 0, [0]

    def add(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._size += len(piece)
        self._all += len(piece)
        if self._size > _BLOCK_BYTES:
            self.flush()

    def end(self) -> None:
        """Ends a text."""
        self._ends.append(self._all)
        if len(self._ends) >= _BLOCK:  # of texts that are short or not there
            self.flush()

    def flush(self) -> None:
        self._append(f"{self._name}.utf8", np.frombuffer(b"".join(self._parts), np.uint8))
        self._append(f"{self._name}.offsets", np.asarray(self._ends, np.int64))
        self._parts, self._size, self._ends = [], 0, []


class _Numbers:
    """The facts of examples, gathered until they are worth writing."""

    def __init__(self, append: Callable[[str, np.ndarray], None]):
        self._append, self._rows = append, []

    def add(self, of_one: Facts) -> None:
        self._rows.append(of_one)
        if len(self._rows) >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        characters, same, part, sums = zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        self._append("characters", np.asarray(characters, np.int64))
        self._append("same", np.frombuffer(b"".join(same), "S16"))
        self._append("part", np.asarray(part, np.uint16))
        self._append("sums", np.frombuffer(b"".join(sums), np.uint64))
        self._rows = []


def _pieces(value: Any, name: str) -> Iterable[bytes]:
    """A text's UTF-8, of a text in a file by pieces."""
    if value is None:
        return [_NONE]
    pieces = [value] if isinstance(value, str) else getattr(value, "pieces", lambda: None)()
    if pieces is None:
        raise DataError(f"{name} must be a text, got {value!r:.60}")
    return (piece.encode("utf-8", "surrogatepass") for piece in pieces)


def _decoded(utf8: bytes) -> str | None:
    return None if utf8 == _NONE else utf8.decode("utf-8", "surrogatepass")
