"""Images in shards, files of many: which split a shard is of, and the classes of labels that are numbers or names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..encoded import Encoded, joined
from ..files import DataError, files_in, passed_over
from ..text import canonical
from .images import SPLIT_NAMES, ImageSource, LabelledImages, some
from .registered import Say

_SPLIT = re.compile(rf"(?:^|[-_./])({'|'.join(SPLIT_NAMES)})(?=[-_./\d])")


class Shard(NamedTuple):
    """The images of a file, and the label of each: a number, or the name of its class."""

    images: Encoded
    labels: Sequence[int | str]


def shards_in(path: Path, suffix: str, say: Say) -> dict[str, list[str]]:
    """Returns the paths of the shards of each split, sorted: the file itself, or those in a folder and its subfolders.

    A split is a word of a shard's path from the folder: "train-0001.tar", "validation/7.tar"; "val" will do. Where no
    shard has one, all are "train".

    Args:
      path: of a file or a folder.
      suffix: of a shard.
      say: is told which files are no shards, by suffix.

    Raises:
      DataError: there are none, none of "train", or one without a split beside some that have one.
    """
    if path.is_file():
        return {"train": [str(path)]}
    found = files_in(path, say)
    names = [name for name in found if name.lower().endswith(suffix)]
    for line in passed_over(path, {*found} - {*names}):
        say(line)
    if not names:
        raise DataError(f"{path} holds no *{suffix} file")
    splits: dict[str, list[str]] = {}
    for name in names:
        words = _SPLIT.findall(name)
        splits.setdefault(SPLIT_NAMES[words[0]] if words else "", []).append(str(path / name))
    if splits.keys() == {""}:
        return {"train": splits[""]}
    if "" in splits or "train" not in splits:
        what = f"{splits['']} say no split" if "" in splits else f"{path} has no training shard"
        raise DataError(f"{what}; name shards like train-0001{suffix}, by {', '.join(SPLIT_NAMES)}")
    return {split: splits[split] for split in dict.fromkeys(SPLIT_NAMES.values()) if split in splits}


def source_of(path: Path, splits: Mapping[str, Sequence[Shard]], names: Sequence[str] | None = None) -> ImageSource:
    """Puts the shards of each split together.

    Args:
      path: that errors name.
      splits: the shards of each.
      names: of the classes by number, where they are known; else they are the names that labels are in training,
        sorted, or the numbers from 0 that they are.

    Raises:
      DataError: no images; labels of a kind or of classes that training does not have, or numbers with a gap.
    """
    labels = {split: [label for shard in shards for label in shard.labels] for split, shards in splits.items()}
    for split, found in labels.items():
        if not found:
            raise DataError(f"the {split} shards in {path} hold no images with labels")
    named = any(isinstance(label, str) for label in labels["train"])
    if named:
        labels = {split: [canonical(str(label)) for label in found] for split, found in labels.items()}
    known = list(range(len(names))) if names is not None and not named else sorted(set(labels["train"]))
    if not named and known != list(range(len(known))):
        wanted = f"must be 0 .. {len(known) - 1}, without a gap"
        raise DataError(f"the training labels in {path} {wanted}; got {some(known)}")
    numbers, images = {label: number for number, label in enumerate(known)}, {}
    for split, found in labels.items():
        if unknown := sorted({*found} - {*known}, key=str):
            raise DataError(f"the {split} labels in {path} must be those of training; got {some(unknown)} too")
        encoded = joined([shard.images for shard in splits[split]])
        images[split] = LabelledImages(encoded, np.array([numbers[label] for label in found], np.int32))
    return ImageSource(list(names) if names is not None and not named else [str(label) for label in known], images)
