"""Digests of a run's data, kept with it: how many examples each split had, and a sum of them in order."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .encoded import Encoded
from .examples import Facts
from .files import DataError, file_sha256, in_threads, reading, write_whole
from .sources.images import LabelledImages
from .unchanged import remembered

FILE = "data.json"

# Of a split: its sizes by unit, and its sums, "in_order" and "in_any_order".
Digest = dict[str, Any]
_SUMS = ("in_order", "in_any_order")
_HINT = "put it back, or choose another --workdir"


class OtherData(DataError):
    """The data are not those that a run began with."""


def of_texts(unit: str, examples: Iterable[Sequence[str]], **counts: int) -> Digest:
    """Returns the digest of examples that are several texts each.

    Args:
      unit: what they are called, in the plural.
      examples: the texts of each.
      counts: of something else in them, such as characters, where examples may be few and long.
    """
    whole = ("".join(f"{len(text)} {text}" for text in texts).encode("utf-8", "surrogatepass") for texts in examples)
    return _digest(unit, [hashlib.sha256(text).digest() for text in whole], **counts)


def of_facts(unit: str, facts: Facts) -> Digest:
    """Returns the digest of examples of which facts are known."""
    rows = np.concatenate([facts.sums, facts.characters[:, None].astype(np.uint64)], 1)  # [m 5]
    sums = dict(zip(_SUMS, (rows, rows.sum(0, dtype=np.uint64)), strict=True))  # modulo 2**64
    counts = {unit: len(rows), "characters": int(facts.characters.sum())}
    return counts | {name: hashlib.sha256(np.ascontiguousarray(x, "<u8")).hexdigest() for name, x in sums.items()}


def of_images(images: LabelledImages) -> Digest:
    """Returns the digest of pixels, or of the bytes of files, and of labels.

    Files that have not changed since they were last read are not read again: see `unchanged.remembered`.

    Raises:
      DataError: a file cannot be read.
    """

    def of(contents: Iterable[bytes]) -> Digest:
        labelled = zip(images.labels.tolist(), contents, strict=True)
        return _digest("images", [hashlib.sha256(b"%d %b" % example).digest() for example in labelled])

    found = images.images
    if images.decoded:
        return of(f"{image.shape}".encode() + image.tobytes() for image in found)
    if isinstance(found, Encoded):
        within = b"".join(x.tobytes() for x in (found.file, found.start, found.size, images.labels))
        read = lambda: of(in_threads(lambda k: hashlib.sha256(found.read(k)).digest(), range(len(found))))
        return remembered(found.files, within, read)
    read = lambda: of(map(bytes.fromhex, in_threads(file_sha256, found)))
    return remembered(found, images.labels.tobytes(), read)


def _digest(unit: str, sums: Sequence[bytes], **counts: int) -> Digest:
    both = zip(_SUMS, (sums, sorted(sums)), strict=True)
    return {unit: len(sums), **counts} | {name: hashlib.sha256(b"".join(x)).hexdigest() for name, x in both}


def keep_digests(found: Mapping[str, Digest], directory: Path) -> None:
    """Writes the digests of the splits; a run that goes on must find the examples that it started with.

    Raises:
      OtherData: other ones were there (says of which splits, and in what they differ).
      DataError: what was written down is damaged.
    """
    file = Path(directory) / FILE
    if not file.exists():
        write_whole(file, json.dumps(found, indent=2))
        return
    kept = _load(file)
    differing = [_difference(split, kept.get(split), found.get(split)) for split in {**found, **kept}]
    if differing := [line for line in differing if line]:
        raise OtherData(
            f"the data are not those of {file}: {'; '.join(differing)}. "
            f"Put them back as they were, or choose another --workdir"
        )


def check_kept(directory: Path) -> None:
    """Refuses a directory that does not say what data were trained on there.

    Raises:
      DataError: its file is not there, or damaged.
    """
    file = Path(directory) / FILE
    if not file.exists():
        raise DataError(f"{file} is missing, so nothing says whether the data are those that were trained on: {_HINT}")
    _load(file)


def _load(file: Path) -> dict[str, Digest]:
    with reading(file):
        content = file.read_bytes()
    try:
        kept = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged: {error}; {_HINT}") from None
    if not isinstance(kept, dict) or not kept or not all(map(_is_digest, kept.values())):
        raise DataError(f"{file} is damaged: it must hold sizes and sums of each split; {_HINT}")
    return kept


def _is_digest(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(type(x) is (str if name in _SUMS else int) for name, x in value.items()) and {*_SUMS} < {*value}


def _difference(split: str, kept: Digest | None, found: Digest | None) -> str | None:
    """Returns in words how a split differs, or None if it does not."""
    if kept == found:
        return None
    if kept is None or found is None:
        return f"there {'was no' if kept is None else 'is no'} {split} split"
    units = [name for name in found if name not in _SUMS]
    for unit in units:
        if found[unit] != kept.get(unit):
            return f"{split} has {found[unit]:,} {unit}, but had {kept.get(unit, 0):,}"
    same = found["in_any_order"] == kept["in_any_order"]
    number, others = ("", " in another order") if same else (" number of", ", but other ones")
    return f"{split} has the same{number} {units[0]}{others}"
