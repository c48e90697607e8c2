"""The event file of a run, for TensorBoard: the rows of its metrics.jsonl, whatever ended the processes that wrote them.

A file of TFRecords: of each event the length, its masked CRC-32C, the event as a protocol buffer, and the CRC of that.
"""

import functools
import math
import socket
import struct
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.files import GrowingFile, write_whole, writing

_NAME, _VERSION = "events.out.tfevents", "brain.Event:2"


class EventFile:
    """The one event file of a directory.

    It begins anew whenever a process begins: with the rows that there are, each at the time at which it was written
    first, so that nothing is missing that an earlier process left unwritten, and no step is there twice. A TensorBoard
    that is open meanwhile is told to forget what it has read before.
    """

    def __init__(self, directory: Path, rows: Sequence[Mapping[str, Any]]):
        """`rows`: of metrics.jsonl.

        Raises:
          WriteError: the file cannot be written; so does `write`.
        """
        before = sorted(file for file in directory.glob(f"{_NAME}.*") if file.is_file())
        now, known = time.time(), {_key(event): event.wall_time for file in before for event in _events(file)}
        events = [_event(row, now) for row in rows]
        for event in events:
            event.wall_time = known.get(_key(event), now)
        x, file = _tensorboardx(), _next(directory, before, now)
        version = x.Event(wall_time=now, file_version=_VERSION)
        forget = x.Event(wall_time=now, step=0, session_log=x.SessionLog(status=x.SessionLog.START))  # all read before
        with writing(directory):
            directory.mkdir(exist_ok=True)
        write_whole(file, b"".join(map(_record, [version, forget, *events])))
        for old in before:
            old.unlink(missing_ok=True)
        self._file = GrowingFile(file)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row: "step" and its numbers, of which None is not a number."""
        self._file.write(_record(_event(row, time.time())))

    def close(self) -> None:
        self._file.close()


@functools.cache
def _tensorboardx() -> types.SimpleNamespace:
    """Needed parts, without PyTorch: where that is installed, it would be loaded, and takes longer than JAX."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import masked_crc32c
    finally:
        if hidden:
            del sys.modules["torch"]
    return types.SimpleNamespace(Event=Event, SessionLog=SessionLog, Summary=Summary, masked_crc32c=masked_crc32c)


def _next(directory: Path, before: Sequence[Path], now: float) -> Path:
    """A file whose name comes after those before, however many begin in a second: TensorBoard goes on with the next."""
    numbers = [file.name.removeprefix(f"{_NAME}.").partition(".")[0] for file in before]
    number = max(int(now), *(int(n) + 1 for n in numbers if n.isdecimal()), 0)
    return directory / f"{_NAME}.{number:010d}.{socket.gethostname()}"


def _event(row: Mapping[str, Any], when: float) -> Any:
    """A row at a time; None is NaN, which TensorBoard marks."""
    x = _tensorboardx()
    numbers = {tag: math.nan if value is None else value for tag, value in row.items() if tag != "step"}
    known = [(tag, value) for tag, value in numbers.items() if isinstance(value, int | float)]
    values = [x.Summary.Value(tag=tag, simple_value=value) for tag, value in known]
    return x.Event(wall_time=when, step=row["step"], summary=x.Summary(value=values))


def _record(event: Any) -> bytes:
    masked, data = _tensorboardx().masked_crc32c, event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def _events(file: Path) -> Iterator[Any]:
    """The events in a file, up to the first that is cut off or damaged."""
    x, content, at = _tensorboardx(), file.read_bytes(), 0
    while at + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        data, after = content[at + 12 : at + 12 + length], at + 12 + length
        if content[after : after + 4] != struct.pack("<I", x.masked_crc32c(data)):
            return
        yield x.Event.FromString(data)
        at = after + 4


def _key(event: Any) -> tuple[int, str]:
    """Key that tells a row from others: its step, and whether it is of training or of validation."""
    return event.step, event.summary.value[0].tag if event.summary.value else ""
