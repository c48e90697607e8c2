"""Splits: which documents, sentences, texts or images are for validation and for test."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .files import DataError
from .sources.documents import Document
from .sources.images import LabelledImages
from .text import canonical

Splits = dict[str, Any]


def _shuffled(things: Iterable[Any], seed: int, name: Callable[[Any], str] = str) -> Iterator[Any]:
    """Yields things in the order of a hash of their names, so that one more leaves the others where they were."""
    key = lambda thing: hashlib.sha256(f"{seed}/{name(thing)}".encode()).digest()
    return iter(sorted(things, key=key))


def split_examples(
    examples: Sequence[Any], *, by: str | None, validation_size: int, test_size: int, seed: int, what: str = "pair"
) -> Splits:
    """Returns "train", "validation" and "test" examples; no training text is in the other two, in any Unicode form.

    Args:
      examples: all of them, each a text, what belongs to it, and a group: `Pair` or `LabelledText`.
      by: "group" holds out whole documents (components, books); "sentence" holds out single texts, with all their
        translations; "both" does the first and then, as splits "validation_sentences" and "test_sentences", the
        second: unseen documents beside unseen sentences of documents that were seen; None: "group" where all have one,
        else "sentence".
      validation_size, test_size: at least this many examples each, as whole groups come.
      seed: decides the order in which groups are taken, by a hash, so that one more example
        leaves the other groups where they were.
      what: people call an example, for messages.

    Raises:
      DataError: nothing would be left to train on, or groups are asked of examples without any.
    """
    how = {"validation_size": validation_size, "test_size": test_size, "seed": seed, "what": what}
    if by == "both":
        splits = split_examples(examples, by="group", **how)
        sentences = split_examples(splits.pop("train"), by="sentence", **how)
        return {"train": sentences.pop("train"), **splits} | {f"{n}_sentences": part for n, part in sentences.items()}
    if by is None:
        by = "sentence" if any(example.group is None for example in examples) else "group"
    if by == "group" and any(example.group is None for example in examples):
        raise DataError(f"these {what}s have no groups to split by; set data.split='sentence'")
    groups: dict[str, list[Any]] = {}
    for example in examples:
        groups.setdefault(canonical(example.group if by == "group" else example[0]), []).append(example)
    order = _shuffled(groups, seed)
    splits: Splits = {"train": [], "validation": [], "test": []}
    for name, size in (("test", test_size), ("validation", validation_size)):
        while len(splits[name]) < size and (group := next(order, None)) is not None:
            splits[name] += groups[group]
    held_out = {canonical(example[0]) for part in splits.values() for example in part}
    splits["train"] = [x for group in order for x in groups[group] if canonical(x[0]) not in held_out]
    if not splits["train"]:
        raise DataError(
            f"no {what} is left to train on: {len(examples)} {what}s, test_size={test_size}, "
            f"validation_size={validation_size}, and what is alike ({len(groups)} different {by}s) stays together; "
            f"lower these sizes of the data section, or give more {what}s"
        )
    return splits


def split_documents(
    documents: Sequence[Document], *, by: str, validation_share: float, test_share: float, seed: int
) -> Splits:
    """Returns "train", "validation" and "test" documents; a text that several documents have counts once.

    Args:
      documents: all of them.
      by: "document" holds out whole documents; "tail" cuts the last shares off every document,
        validation before test.
      validation_share, test_share: of the characters; at least, as whole documents come.
      seed: decides the order in which documents are taken, by a hash of their names, so that one
        more document moves few of the others.

    Raises:
      DataError: a split would have no text.
    """
    once: dict[str, Document] = {}
    for document in documents:
        once.setdefault(canonical(document.text), document)
    shares = {"validation": validation_share, "test": test_share}
    splits = _whole(list(once.values()), shares, seed) if by == "document" else _tails(once.values(), shares)
    for name, part in splits.items():
        if not part:
            hint = "; hold out the tail of every document (split='tail')" if by == "document" else ""
            size = f"{len(once)} document(s) of {sum(len(d.text) for d in once.values()):,} characters"
            raise DataError(f"{size} are too few for a {name} split{hint}")
    return splits


def _whole(documents: Sequence[Document], shares: dict[str, float], seed: int) -> Splits:
    total = sum(len(document.text) for document in documents)
    order = _shuffled(documents, seed, lambda document: canonical(document.name))
    splits: Splits = {"train": [], "validation": [], "test": []}
    for name in ("test", "validation"):
        held_out = 0
        while held_out < shares[name] * total and (document := next(order, None)) is not None:
            splits[name].append(document)
            held_out += len(document.text)
    splits["train"] = list(order)
    return splits


def _tails(documents: Iterable[Document], shares: dict[str, float]) -> Splits:
    splits: Splits = {"train": [], "validation": [], "test": []}
    for name, text in documents:
        test = len(text) - int(shares["test"] * len(text))
        validation = test - int(shares["validation"] * len(text))
        parts = {"train": text[:validation], "validation": text[validation:test], "test": text[test:]}
        for split, part in parts.items():
            if part:
                splits[split].append(Document(name, part))
    return splits


def hold_out(data: LabelledImages, size: int, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Returns all images but `size`, and those: each class gives its share, rounded so that the sum is exact.

    Both keep the order. Which images of a class are held out is drawn from the seed.

    Raises:
      DataError: nothing would be left.
    """
    if size >= len(data):
        raise DataError(f"no image is left to train on: {size:,} of {len(data):,} images are held out; lower the sizes")
    counts = np.bincount(data.labels)
    shares, remainders = np.divmod(size * counts, len(data))
    # The largest remainders are rounded up, as with seats and votes.
    shares[np.argsort(-remainders, kind="stable")[: size - shares.sum()]] += 1
    order = np.random.default_rng(seed).permutation(len(data))
    order = order[np.argsort(data.labels[order], kind="stable")]
    place_in_class = np.arange(len(data)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.zeros(len(data), bool)
    held[order[place_in_class < np.repeat(shares, counts)]] = True
    return data.take(np.flatnonzero(~held)), data.take(np.flatnonzero(held))
