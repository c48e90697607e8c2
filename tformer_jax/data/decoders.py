"""Processes that decode images beside this one: the threads of one would wait for their turns of the interpreter."""

import atexit
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import mmap
import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .crops import RandomCrop, centre
from .files import DataError, read_bytes
from .pixels import MOST_IMAGE_BYTES, shown

# Images that a process is given together: fewer messages, and still none waits long for the last ones of a batch.
_TOGETHER = 4
# What schedulers send to every process of a run, so that it ends in a checkpoint: it still needs batches for that.
_NOT_FOR_IT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Picture(NamedTuple):
    """An image file that is to be decoded.

    Attributes:
      content: its bytes; None: they are read where they are decoded.
      name: of the file, or what errors call it.
      crop: the part that is shown; None: the centre.
    """

    content: bytes | None
    name: str
    crop: RandomCrop | None = None

    def shown(self, image_size: int, num_channels: int) -> np.ndarray:
        """Returns uint8 [Y X C], see `pixels.shown`, of which the errors are too, and those of `read_bytes`."""
        content = read_bytes(Path(self.name), MOST_IMAGE_BYTES) if self.content is None else self.content
        return shown(content, self.name, image_size, num_channels, self.crop or centre)


class Decoders:
    """Processes that decode images into memory that they share with this one; they end with it, however it ends."""

    def __init__(self, count: int):
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(_Decoder())
        self._threads = concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="decoders")

    def put(self, picture: Callable[[int], Picture], found: np.ndarray) -> None:
        """Decodes the picture of each row of `found`, uint8 [B Y X C].

        Args:
          picture: gives that of a row; called in threads.
          found: is written to.

        Raises:
          DataError: an image cannot be read or decoded, the first such; by its name. Or a process was ended by others.
        """

        def put(at: int) -> None:
            rows = found[at : at + _TOGETHER]
            pictures = [picture(at + row) for row in range(len(rows))]
            decoder = self._idle.get()
            try:
                rows[:] = decoder.shown(pictures, *found.shape[2:])
            finally:
                if not decoder.lives:
                    decoder.close()
                    decoder = _Decoder()
                self._idle.put(decoder)

        list(self._threads.map(put, range(0, len(found), _TOGETHER)))  # a list, which raises what they raise

    def close(self) -> None:
        """Ends the processes, once they have done what they were given."""
        self._threads.shutdown()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


@functools.cache
def decoders(count: int, process: int) -> Decoders:
    """Returns the decoders of a process, by its number: those of another one would answer that one."""
    made = Decoders(count)
    atexit.register(made.close)
    return made


class _Decoder:
    """One of the processes, and the memory in which it leaves what it decodes."""

    def __init__(self):
        self._memory = _nameless()
        self._shared: mmap.mmap | None = None
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({self._memory})"
        # In a session of its own, so that Ctrl-C is for this process alone; it ends when nobody can write to it.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._memory],
            start_new_session=True,
        )

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def shown(self, pictures: Sequence[Picture], image_size: int, num_channels: int) -> np.ndarray:
        """Returns uint8 [B Y X C], which the next call overwrites."""
        size = len(pictures) * image_size * image_size * num_channels
        if self._shared is None or len(self._shared) < size:
            os.ftruncate(self._memory, size)
            self._shared = mmap.mmap(self._memory, size)
        answer = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(_question(pictures, image_size, num_channels))
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer.endswith(b"\n"):
            how = self._process.wait()
            how = f"by signal {-how}" if how < 0 else f"with {how}"
            where = f"at one of {len(pictures)} from {pictures[0].name} on"
            raise DataError(f"a process that decodes images ended {how}, {where}")
        if (error := json.loads(answer)) is not None:
            raise DataError(error)
        return np.frombuffer(self._shared, np.uint8, size).reshape(-1, image_size, image_size, num_channels)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        os.close(self._memory)


def _nameless() -> int:
    """Descriptor of a file without a name; in memory, where the system has that."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("images")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


# A question is a line of JSON, then the contents that it counts the bytes of; an answer is a line: null, or what is wrong.


def _question(pictures: Sequence[Picture], image_size: int, num_channels: int) -> bytes:
    contents = [picture.content for picture in pictures]
    sizes = [None if content is None else len(content) for content in contents]
    names, crops = [p.name for p in pictures], [p.crop and dataclasses.astuple(p.crop) for p in pictures]
    line = json.dumps((image_size, num_channels, names, sizes, crops), default=lambda number: number.item())
    return b"".join([line.encode(), b"\n", *filter(None, contents)])


def serve(memory: int) -> None:
    """Decodes what is asked for on standard input, until nobody can ask.

    Args:
      memory: descriptor of the file in which the pixels are left.
    """
    for number in _NOT_FOR_IT:
        signal.signal(number, signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    while (line := questions.readline()).endswith(b"\n"):
        image_size, num_channels, names, sizes, crops = json.loads(line)
        contents = [None if size is None else questions.read(size) for size in sizes]
        shared = mmap.mmap(memory, 0)  # as long as it is by now
        rows = np.frombuffer(shared, np.uint8, len(names) * image_size * image_size * num_channels)
        rows = rows.reshape(-1, image_size, image_size, num_channels)  # [B Y X C]
        error = None
        try:
            for row, content, name, crop in zip(rows, contents, names, crops, strict=True):
                row[:] = Picture(content, name, crop and RandomCrop(*crop)).shown(image_size, num_channels)
        except DataError as raised:
            error = str(raised)
        try:
            answers.write(json.dumps(error).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:
            return
