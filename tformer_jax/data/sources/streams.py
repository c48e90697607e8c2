"""Examples that are read one after the other, as often as they are asked for, and never all at once."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

_Example = TypeVar("_Example")


class Stream(Generic[_Example]):
    """Examples that are read anew each time that they are iterated: memory does not grow with their number.

    Attributes:
      files: the files that they are read from, in order; none: they are made, or nobody knows from what.
    """

    def __init__(self, read: Callable[[], Iterator[_Example]], files: Iterable[Path] = ()):
        """Args:
        read: begins a pass over the examples.
        files: see the class.
        """
        self._read, self.files = read, tuple(files)

    def __iter__(self) -> Iterator[_Example]:
        return self._read()
