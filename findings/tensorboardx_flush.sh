#!/usr/bin/env bash
# tensorboardX 2.6.5, 28 November 2026
#
# Expected: after `SummaryWriter.flush()` ("Call this method to make sure that all pending events have been written to
# disk") the file holds every event.
# Seen: it does not. Events go to a queue that a thread empties into the file's buffer; flush() flushes the buffer and
# does not wait for the queue. Of steps of 20 scalars, each flushed, some 10 scalars are not in the file, and a second
# later they still are not: they lie in the buffer until the next flush, two minutes, or close().
#
# Why it matters: a process that is killed loses scalars that were flushed before its checkpoint was written, and the
# resumed run does not write them again: curves with holes. After a close() the file is whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet tensorboardX==2.6.5
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import struct
import time
from pathlib import Path

import tensorboardX
from tensorboardX.proto import event_pb2


def scalars(folder):
    """How many scalars the event files of a folder hold."""
    found = 0
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            size = struct.unpack("<Q", data[at : at + 8])[0]  # length, its checksum, the event, its checksum
            if at + 16 + size > len(data):
                break
            found += len(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]).summary.value)
            at += 16 + size
    return found


folder = Path("events")
writer = tensorboardX.SummaryWriter(str(folder))
missing = 0
for step in range(1, 21):
    for name in range(20):
        writer.add_scalar(f"metric {name}", 1.0, step)
    writer.flush()
    time.sleep(0.2)
    missing = max(missing, 20 * step - scalars(folder))
time.sleep(1)
print(f"flushed 20 times, 20 scalars each; a second after the last flush {scalars(folder)} of 400 are in the file; "
      f"at most {missing} were missing on the way")
writer.close()
print(f"after close(): {scalars(folder)}")

assert missing > 0 and scalars(folder) == 400
PYTHON
