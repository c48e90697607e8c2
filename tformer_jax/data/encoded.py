"""Encoded images in files that hold many of them, read one at a time, at random."""

import dataclasses
import os

import numpy as np

from .files import DataError, reading


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """N images, each some bytes in a row of a file: only where they are is in memory, 20 bytes an image.

    Attributes:
      files: F paths.
      file: int32 [N], the number of the file that holds an image.
      start: int64 [N], the place of its first byte there.
      size: int64 [N], its number of bytes.
    """

    files: tuple[str, ...]
    file: np.ndarray
    start: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, indices: np.ndarray) -> "Encoded":
        """Returns the images at these places, in this order."""
        return Encoded(self.files, self.file[indices], self.start[indices], self.size[indices])

    def name(self, k: int) -> str:
        """Returns what errors call image k."""
        return f"the image in {self.files[self.file[k]]} at byte {self.start[k]:,}"

    def read(self, k: int) -> bytes:
        """Reads the bytes of image k.

        Raises:
          DataError: the file cannot be read, or has become shorter; by its name.
        """
        file = self.files[self.file[k]]
        with reading(file), open(file, "rb", buffering=0) as opened:
            content = os.pread(opened.fileno(), self.size[k], self.start[k])
        if len(content) < self.size[k]:
            raise DataError(f"{file} ends within {self.name(k)}: it was cut after it was first read; copy it again")
        return content


def joined(parts: list[Encoded]) -> Encoded:
    """Returns the images of all parts, one after the other."""
    before = np.cumsum([0, *(len(part.files) for part in parts)])
    numbers = [part.file + first for part, first in zip(parts, before, strict=False)]
    arrays = (numbers, [part.start for part in parts], [part.size for part in parts])
    file, start, size = map(np.concatenate, arrays)
    return Encoded(tuple(file for part in parts for file in part.files), file.astype(np.int32), start, size)
