"""COBS frames with CRC32 (docs/SERIAL_PROTOCOL.md): built in one buffer, received in another. Moves no bytes itself."""

import binascii
import struct

VERSION = 1
DATA, ACK, NAK, HELLO, TIME = 1, 2, 3, 4, 5
CRC_BYTES = 4


def wire_bytes(body_bytes):
    """Return how many bytes the frame of a body takes at most, with a 0x00 at both ends."""
    inside = body_bytes + CRC_BYTES
    return inside + inside // 254 + 3


def frame_into(body, length, wire):
    """Build the frame of `body[:length]` in `wire`; return its length. `body` has CRC_BYTES to spare behind that.

    It begins with a 0x00 too, which ends whatever noise the line had before.
    """
    struct.pack_into("<I", body, length, binascii.crc32(memoryview(body)[:length]))
    wire[0] = 0
    at = 2
    code_at = 1
    for k in range(length + CRC_BYTES):
        if at - code_at == 255:  # a full run: it stands for no zero, so a new one begins in any case
            wire[code_at] = 255
            code_at = at
            at += 1
        byte = body[k]
        if byte:
            wire[at] = byte
        else:
            wire[code_at] = at - code_at
            code_at = at
        at += 1
    wire[code_at] = at - code_at
    wire[at] = 0
    return at + 1


def frame(body):
    """Return the frame of `body` as new bytes, for what is sent rarely."""
    spare = bytearray(len(body) + CRC_BYTES)
    spare[: len(body)] = body
    wire = bytearray(wire_bytes(len(body)))
    length = frame_into(spare, len(body), wire)
    return bytes(memoryview(wire)[:length])


class Receiver:
    """Hands each whole body to `on_body(buffer, length)`; `buffer` is its own and is overwritten afterwards.

    Frames of more than `bytes_max`, and damaged ones, are dropped and counted in `rejected`.
    """

    def __init__(self, on_body, bytes_max=64):
        self.rejected = 0
        self._on_body = on_body
        self._buffer = bytearray(bytes_max)
        self._length = 0

    def feed(self, data, length):
        """Take `data[:length]`."""
        buffer = self._buffer
        for k in range(length):
            byte = data[k]
            if byte == 0:
                self._end()
                self._length = 0
            else:
                if self._length < len(buffer):
                    buffer[self._length] = byte
                self._length += 1

    def _end(self):
        if self._length == 0:
            return
        body_bytes = -1
        if self._length <= len(self._buffer):
            body_bytes = _decode(self._buffer, self._length) - CRC_BYTES
        if body_bytes < 1 or not _crc_fits(self._buffer, body_bytes):
            self.rejected += 1
        else:
            self._on_body(self._buffer, body_bytes)


def _decode(buffer, length):
    """Undo COBS in place; return the new length, 0 for codes that don't add up."""
    source = target = 0
    while source < length:
        code = buffer[source]
        end = source + code
        if end > length:
            return 0
        source += 1
        while source < end:
            buffer[target] = buffer[source]
            source += 1
            target += 1
        if code != 255 and source < length:
            buffer[target] = 0
            target += 1
    return target


def _crc_fits(buffer, body_bytes):
    return struct.unpack_from("<I", buffer, body_bytes)[0] == binascii.crc32(memoryview(buffer)[:body_bytes])
