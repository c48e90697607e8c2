"""A sample of texts, spread evenly over them: what a tokenizer is trained on where there is more than that needs."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .examples import Examples
from .ragged import Ragged
from .store import let_go

# Bytes that are read in one place: the thousandth part of a sample, but not fewer or more than these.
_LEAST, _MOST = 1 << 8, 1 << 14
_HELD = 500  # runs that are read before they are let go of
_LOOKED_AT = 1 << 10  # bytes in which white space is looked for
# Of each byte, whether a text may be cut before it, and whether it is white space.
_SPACE, _BLANK = (np.isin(np.arange(256), [*some]) for some in (b" \n", b" \n\t\r\v\f"))


def texts_to_train_on(
    examples: Examples, names: Sequence[str], most: int | None, seed: int, say: Callable[[str], None]
) -> Iterator[str]:
    """Yields all texts of examples, or a sample of them; of a long text by pieces.

    Args:
      examples: of the training split.
      names: of the fields with texts, one after the other.
      most: bytes of a sample; None, or no more than there are: all texts.
      seed: of the sample.
      say: is told how large a sample is, once it is over.
    """
    columns = [examples.texts[name] for name in names]
    total = sum(int(column.lengths.sum()) for column in columns)
    if most is None or total <= most:
        for name in names:
            yield from (piece for _, piece in examples.pieces(name))
        return
    size = 0
    for piece in sampled(columns, most, seed):
        size += len(piece)
        yield piece.decode("utf-8", "surrogatepass")
    say(f"the tokenizer is trained on {size:,} of {total:,} bytes of the training split (data.tokenizer_sample)")


def sampled(columns: Sequence[Ragged], most: int, seed: int) -> Iterator[bytes]:
    """Yields pieces of texts, about `most` bytes in all, in their order.

    All texts, one after another, are cut into equal parts, and from each a run is taken, in a place that is drawn: long
    texts and short ones have their share. A text of which a run has a part is cut before white space, or between two
    characters where there is none.

    Args:
      columns: texts in UTF-8, fewer than `most` bytes of which would be all of them.
      most: bytes.
      seed: of the places.
    """
    lengths = np.concatenate([column.lengths for column in columns])
    ends, firsts = np.cumsum(lengths), np.cumsum([0, *map(len, columns)])
    run = min(max(most // 1000, _LEAST), _MOST)
    count, total, rng = max(1, most // run), int(ends[-1]), np.random.default_rng(seed)
    for k in range(count):
        part, size = (whole * (k + 1) // count - whole * k // count for whole in (total, most))
        begin = total * k // count + int(rng.integers(max(part - size, 0) + 1))
        first, last = np.searchsorted(ends, [begin, begin + size - 1], "right")
        for number, text in _texts(columns, firsts, int(first), int(last)):
            if first < number < last:
                yield text.tobytes()
                continue
            starts = int(ends[number] - lengths[number])
            piece = text[_gap(text, begin - starts) : _gap(text, begin + size - starts)]
            if len(piece):
                yield piece.tobytes()
        if not k % _HELD:
            let_go()


def _texts(columns: Sequence[Ragged], firsts: np.ndarray, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the numbers of texts of all columns, from the first to the last of a run, and their bytes."""
    for column, begin, end in zip(columns, firsts, firsts[1:], strict=False):
        numbers = np.arange(max(first, begin), min(last + 1, end))
        places, lengths = column.spans(numbers - begin)
        for number, place, length in zip(numbers.tolist(), places.tolist(), lengths.tolist(), strict=True):
            yield number, column.values[place : place + length]


def _gap(text: np.ndarray, at: int) -> int:
    """Returns the first place from `at` on where a text may be cut: its ends, before white space, or before a character."""
    if at <= 0 or at >= len(text):
        return min(max(at, 0), len(text))
    near = text[at - 1 : at + _LOOKED_AT]
    cuts = _SPACE[near[1:]] & ~_BLANK[near[:-1]]
    if not cuts.any():
        if len(text) - at <= _LOOKED_AT:
            return len(text)
        cuts = (near[1:] & 0xC0) != 0x80
    return at + int(np.argmax(cuts))
