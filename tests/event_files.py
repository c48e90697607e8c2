"""Event files, read as TensorBoard reads them."""

import struct

from tensorboardX.proto.event_pb2 import Event


def crc32c(data):
    """Castagnoli, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(directory):
    """Every event of every file, the records' checksums checked."""
    for file in sorted(directory.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            head = content[at : at + 8]
            (length,) = struct.unpack("<Q", head)
            data = content[at + 12 : at + 12 + length]
            assert struct.unpack("<I", content[at + 8 : at + 12]) == (masked(head),)
            assert struct.unpack("<I", content[at + 12 + length : at + 16 + length]) == (masked(data),)
            yield Event.FromString(data)
            at += 16 + length


def numbers(found):
    """The (step, name, number) that events hold, however often, sorted."""
    return sorted((event.step, value.tag, value.simple_value) for event in found for value in event.summary.value)


def shown(found):
    """What TensorBoard shows of events that it has read, in their order: a start hides all from its step on."""
    kept = []
    for event in found:
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            kept = [old for old in kept if old.step < event.step]
        kept.append(event)
    return numbers(kept)
