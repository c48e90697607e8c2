"""Splits: which documents, sentences, texts or images are for validation and for test."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .files import DataError
from .sources.documents import Document
from .sources.images import LabelledImages
from .text import canonical

Splits = dict[str, Any]


def _dealt(
    things: Iterable[Any], sizes: Mapping[str, float], size_of: Callable, seed: int, name_of: Callable = str
) -> Splits:
    """Deals things out: at least so much to each of the splits of `sizes`, the rest to "train".

    In the order of a hash of their names, so that one more leaves the others where they were.
    """
    order = iter(sorted(things, key=lambda thing: hashlib.sha256(f"{seed}/{name_of(thing)}".encode()).digest()))
    splits: Splits = {"train": [], "validation": [], "test": []}
    for name, size in sizes.items():
        held_out = 0
        while held_out < size and (thing := next(order, None)) is not None:
            splits[name].append(thing)
            held_out += size_of(thing)
    splits["train"] = list(order)
    return splits


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
    sizes = {"test": test_size, "validation": validation_size}
    dealt = _dealt(groups, sizes, lambda group: len(groups[group]), seed)
    splits = {name: [x for group in part for x in groups[group]] for name, part in dealt.items()}
    held_out = {canonical(example[0]) for name in sizes for example in splits[name]}
    splits["train"] = [example for example in splits["train"] if canonical(example[0]) not in held_out]
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
    shares, documents = {"test": test_share, "validation": validation_share}, list(once.values())
    total = sum(len(document.text) for document in documents)
    if by == "document":
        sizes = {name: share * total for name, share in shares.items()}
        splits = _dealt(documents, sizes, lambda d: len(d.text), seed, lambda d: canonical(d.name))
    else:
        splits = _tails(documents, shares)
    for name, part in splits.items():
        if not part:
            hint = "; hold out the tail of every document (split='tail')" if by == "document" else ""
            size = f"{len(documents)} document(s) of {total:,} characters"
            raise DataError(f"{size} are too few for a {name} split{hint}")
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
