"""Splits: which documents, sentences, texts or images are for validation and for test."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .examples import Examples, are_among
from .files import DataError
from .sources.documents import Document
from .sources.images import LabelledImages
from .sources.pairs import Pair
from .text import canonical

Splits = dict[str, Any]


def split_examples(
    examples: Sequence[Any], *, by: str | None, validation_size: int, test_size: int, seed: int, what: str = "pair"
) -> Splits:
    """Returns "train", "validation" and "test" examples; no training text is in the other two, in any Unicode form.

    Those to train on are in their order, the others in that in which they were taken.

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
    if not isinstance(examples, Examples):
        kind = type(examples[0]) if examples else Pair  # of none, which are refused below
        examples = Examples.of(kind, examples, kind._fields[0])
    if by == "both":
        splits = split_examples(examples, by="group", **how)
        sentences = split_examples(splits.pop("train"), by="sentence", **how)
        return {"train": sentences.pop("train"), **splits} | {f"{n}_sentences": part for n, part in sentences.items()}
    text, *_, group = examples.texts
    if by != "sentence":
        alone = any(name is None for name in examples.text(group))
        if by is None:
            by = "sentence" if alone else "group"
        elif alone:
            raise DataError(f"these {what}s have no groups to split by; set data.split='sentence'")
    order, sizes = _groups(examples.text(group if by == "group" else text), len(examples), seed)
    dealt = dealt_out(sizes, {"test": test_size, "validation": validation_size})
    edges = np.concatenate([[0], np.cumsum(sizes)])  # of groups in the order
    splits = {name: order[edges[first] : edges[last]] for name, (first, last) in dealt.items()}
    held_out = np.concatenate([splits["test"], splits["validation"]])
    train = np.sort(splits["train"])
    splits["train"] = train[~are_among(examples.facts.same[train], examples.facts.same[held_out])]
    if not len(splits["train"]):
        raise DataError(
            f"no {what} is left to train on: {len(examples)} {what}s, test_size={test_size}, "
            f"validation_size={validation_size}, and what is alike ({len(sizes)} different {by}s) stays together; "
            f"lower these sizes of the data section, or give more {what}s"
        )
    return {name: examples.take(splits[name]) for name in ("train", "validation", "test")}


def _groups(names: Iterable[str], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of things, group after group, and the sizes of groups: of things with one name, in any form.

    Groups are in the order of a hash of their names, so that one more leaves the others where they were.
    """
    sums = np.empty(count, "S32")
    for i, name in enumerate(names):
        sums[i] = hashlib.sha256(f"{seed}/{canonical(name)}".encode("utf-8", "surrogatepass")).digest()
    _, inverse, sizes = np.unique(sums, return_inverse=True, return_counts=True)
    return np.argsort(inverse, kind="stable"), sizes


def dealt_out(sizes: np.ndarray, wanted: Mapping[str, float]) -> dict[str, tuple[int, int]]:
    """Returns the first thing of each split, and that behind its last: so much to each of `wanted`, the rest to "train"."""
    ends, at, dealt = np.cumsum(sizes), 0, {}
    for name, size in wanted.items():
        before = ends[at - 1] if at else 0
        # The first that make it up, the last of which may go beyond it.
        end = min(len(sizes), int(np.searchsorted(ends, before + size)) + 1) if size > 0 else at
        dealt[name], at = (at, end), end
    return dealt | {"train": (at, len(sizes))}


def tails(sizes: np.ndarray, shares: Mapping[str, float]) -> np.ndarray:
    """Returns where the validation tail of each document begins, and where the test tail behind it does, int64 [m 2]."""
    test = sizes - (shares["test"] * sizes).astype(np.int64)
    return np.stack([test - (shares["validation"] * sizes).astype(np.int64), test], 1)


def split_documents(
    documents: Sequence[Document], *, by: str, validation_share: float, test_share: float, seed: int
) -> dict[str, Examples[Document]]:
    """Returns "train", "validation" and "test" documents; a text that several documents have counts once.

    Those to train on are in their order, the others in that in which they were taken.

    Args:
      documents: all of them.
      by: "document" holds out whole documents; "tail" cuts the last shares off every document,
        validation before test.
      validation_share, test_share: of the characters; at least, as whole documents come; 0: that split stays empty.
      seed: decides the order in which documents are taken, by a hash of their names, so that one
        more document moves few of the others.

    Raises:
      DataError: a split that is asked for would have no text.
    """
    all_of_them = documents if isinstance(documents, Examples) else Examples.of(Document, documents, "text")
    once = all_of_them.take(np.sort(np.unique(all_of_them.facts.same, return_index=True)[1]))
    shares, sizes = {"test": test_share, "validation": validation_share}, once.facts.characters
    if by == "document":
        wanted = {name: share * sizes.sum() for name, share in shares.items()}
        order, _ = _groups(once.text("name"), len(once), seed)
        dealt = {name: order[first:last] for name, (first, last) in dealt_out(sizes[order], wanted).items()}
        dealt["train"].sort()
        splits = {name: once.take(dealt[name]) for name in ("train", "validation", "test")}
    else:
        parts = once.cut("text", tails(sizes, shares))
        splits = dict(zip(("train", "validation", "test"), parts, strict=True))
    for name, part in splits.items():
        if not len(part) and shares.get(name, 1):
            hint = "; hold out the tail of every document (split='tail')" if by == "document" else ""
            size = f"{len(once)} document(s) of {sizes.sum():,} characters"
            raise DataError(f"{size} are too few for a {name} split{hint}")
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
