"""The device's end of a line to the gateway: samples become batches, each kept until the gateway has it on disk.

    sample() → ring → poll(): batch in a slot → frame → port → … → ACK → slot free

`sample` allocates nothing. `poll` does everything else in small steps and is to be called often, every 10 to
50 ms; both from the same thread, never from an interrupt. Whatever the ring had to let go is counted and told
upstream, as tidegate.device.dropped.
"""

import struct

from .cbor import MAP, head_bytes, head_into, raw_into, text_into, typed_head_into
from .framing import ACK, CRC_BYTES, DATA, HELLO, NAK, TIME, VERSION, Receiver, frame, frame_into, wire_bytes
from .ring import Ring

try:
    from time import ticks_add, ticks_diff, ticks_ms
except ImportError:  # CPython, where this is tested: 30 bits, as on most boards

    def ticks_ms():
        import time

        return int(time.monotonic() * 1000) & 0x3FFFFFFF

    def ticks_add(ticks, ms):
        return (ticks + ms) & 0x3FFFFFFF

    def ticks_diff(end, start):
        return ((end - start + 0x20000000) & 0x3FFFFFFF) - 0x20000000


# How many samples the ring had to let go since the start: {"tidegate": {"device": {"dropped": [...]}}}.
DROPPED_PATH = ("tidegate", "device", "dropped")
RESEND_MS_MAX = 30000
HELLO_MS_MIN = 1000
HELLO_MS_MAX = 60000
# With the time known, it is asked for again now and then: boards drift.
HELLO_MS_SYNCED = 600000


def new_session():
    """Return 4 random bytes that tell this start of the device from every other."""
    try:
        from os import urandom

        return urandom(4)
    except ImportError:
        from random import getrandbits

        return struct.pack("<HH", getrandbits(16), getrandbits(16) ^ (ticks_ms() & 0xFFFF))


class _Slot:
    """One batch on its way. `sequence` is -1 while the slot is free."""

    def __init__(self, body_bytes):
        self.body = bytearray(body_bytes + CRC_BYTES)
        self.length = 0
        self.sequence = -1
        self.samples = 0
        self.low = self.high = 0  # the oldest sample's stamp: what the batch counts its times from
        self.now_at = 0  # where "now" stands: written anew each time the batch is sent
        self.dropped = -1
        self.due = 0  # ticks at which it is sent (again)
        self.tries = 0


class Uplink:
    """A line to the gateway on `port`, an object with any(), readinto(buffer) and write(data) like machine.UART.

    `fields` is ((name, code), …) with codes of struct: b B h H i I q Q f d. `records` samples fit into the ring.
    A frame has at most `frame_bytes` on the wire; `window` of them (1 to 4) may be unacknowledged. Samples
    wait at most `flush_ms` for company. A frame is sent again after `ack_ms` without an answer, then after
    twice that, and so on up to 30 s: `ack_ms` must be longer than the gateway's commit_interval plus the time
    on the wire. `on_time(unix_ms, quality)` hears what time it is.
    """

    def __init__(
        self,
        port,
        fields,
        topic="",
        device_id="",
        records=256,
        frame_bytes=256,
        window=2,
        flush_ms=1000,
        ack_ms=3000,
        on_time=None,
        session=None,
        ticks=ticks_ms,
    ):
        names = [name for name, _ in fields]
        if len(set(names) | {"t", "now", DROPPED_PATH[0]}) != len(names) + 3:
            raise ValueError("field names must differ, and t, now and " + DROPPED_PATH[0] + " are taken")
        if not 1 <= window <= 4:
            raise ValueError("window is 1 to 4")
        self.session = session or new_session()
        self._port = port
        self._names = names
        self._codes = [code for _, code in fields]
        self._formats = ["<" + code for code in self._codes]
        self._sizes = [struct.calcsize(shape) for shape in self._formats]
        self._topic = topic.encode()
        self._device_id = device_id.encode()[:64]
        self._flush_ms = flush_ms
        self._ack_ms = ack_ms
        self._on_time = on_time
        self._ticks = ticks
        self.ring = Ring(4 + sum(self._sizes), records)
        # COBS adds a byte in 254 and one more; the body must fit beside that and its CRC.
        body_bytes = frame_bytes - CRC_BYTES - 2 - frame_bytes // 254
        self._batch_max = self._samples_in(body_bytes, with_dropped=False)
        self._batch_max_dropped = self._samples_in(body_bytes, with_dropped=True)
        if self._batch_max_dropped < 1:
            raise ValueError("frame_bytes is too small for one sample of these fields")
        self._slots = [_Slot(body_bytes) for _ in range(window)]
        self._wire = bytearray(max(wire_bytes(body_bytes), wire_bytes(6 + 64)))
        self._wire_view = memoryview(self._wire)
        self._wire_at = self._wire_end = 0
        self._input = bytearray(64)
        self._receiver = Receiver(self._answer)
        self._sequence = 0
        self._dropped_told = 0
        self.acknowledged = 0  # samples that the gateway has on disk
        self.resent = 0  # frames that were sent more than once
        self.put_off = 0  # frames that the gateway had no room for
        self._last = ticks()
        for slot in self._slots:
            slot.due = self._last
        self._low = self._high = 0  # milliseconds since the start, in two halves of 16 bits: never a big integer
        self._hello_due = self._last
        self._hello_ms = HELLO_MS_MIN

    @property
    def dropped(self):
        """How many samples the ring had to let go since the start."""
        return self.ring.dropped

    @property
    def pending(self):
        """How many samples wait, in the ring or for their acknowledgement. 0: nothing is lost by sleeping now."""
        return self.ring.count + sum([slot.samples for slot in self._slots])

    @property
    def rejected(self):
        """How many damaged frames came from the gateway's side."""
        return self._receiver.rejected

    def sample(self, values):
        """Take one reading of each field, stamped now. Keep the list of `values` and use it again."""
        self._tick()
        ring = self.ring
        buffer = ring.buffer
        at = ring.free()
        struct.pack_into("<HH", buffer, at, self._low, self._high)
        at += 4
        for k in range(len(self._sizes)):
            struct.pack_into(self._formats[k], buffer, at, values[k])
            at += self._sizes[k]
        ring.push()

    def poll(self):
        """Do what is due: read answers, write on, begin the next frame."""
        now = self._tick()
        self._read()
        if not self._write():
            return
        if ticks_diff(now, self._hello_due) >= 0:
            self._hello(now)
        else:
            self._fill(now)
            slot = self._next_due(now)
            if slot is None:
                return
            self._send(slot, now)
        self._write()

    async def run(self, every_ms=20):
        """Poll for ever, as a task of asyncio."""
        from asyncio import sleep

        while True:
            self.poll()
            await sleep(every_ms / 1000)

    def _tick(self):
        """Move the clock of 32 bits on by what has passed. Wants to be called once in six days."""
        now = self._ticks()
        low = self._low + ticks_diff(now, self._last)
        # A step of more than 16 bits goes over in one go.
        self._high = (self._high + (low >> 16)) & 0xFFFF
        self._low = low & 0xFFFF
        self._last = now
        return now

    def _read(self):
        while self._port.any():
            count = self._port.readinto(self._input)
            if not count:
                return
            self._receiver.feed(self._input, count)

    def _write(self):
        """Write what is left of the frame under way; return whether it is all out."""
        if self._wire_at < self._wire_end:
            self._wire_at += self._port.write(self._wire_view[self._wire_at : self._wire_end]) or 0
        return self._wire_at >= self._wire_end

    def _answer(self, body, length):
        """A whole frame has come. Other devices' answers on the same wire are passed over."""
        kind = body[0]
        if kind not in (ACK, NAK, TIME) or length < 5 or bytes(memoryview(body)[1:5]) != self.session:
            return
        if kind == TIME and length == 14:
            self._hello_due = ticks_add(self._last, HELLO_MS_SYNCED)
            self._hello_ms = HELLO_MS_MIN
            if self._on_time:
                self._on_time(struct.unpack_from("<Q", body, 5)[0], body[13])
        elif kind == ACK and length == 7:
            slot = self._slot_of(body)
            if slot:
                self.acknowledged += slot.samples
                self._dropped_told = max(self._dropped_told, slot.dropped)
                slot.sequence = -1
                slot.samples = 0
                slot.due = self._last
        elif kind == NAK and length == 9:
            slot = self._slot_of(body)
            if slot:
                self.put_off += 1
                slot.tries = 0
                wait_ms = body[7] | body[8] << 8
                # There is no room for the others either.
                for other in self._slots:
                    other.due = ticks_add(self._last, wait_ms)

    def _slot_of(self, body):
        sequence = body[5] | body[6] << 8
        for slot in self._slots:
            if slot.sequence == sequence:
                return slot
        return None

    def _hello(self, now):
        hello = struct.pack("<BB", HELLO, VERSION) + self.session + self._device_id
        wire = frame(hello)
        raw_into(self._wire, 0, wire)
        self._wire_at, self._wire_end = 0, len(wire)
        self._hello_due = ticks_add(now, self._hello_ms)
        self._hello_ms = min(self._hello_ms * 2, HELLO_MS_MAX)

    def _fill(self, now):
        """Make a batch when there is enough for one, or something old enough, and a slot for it."""
        ring = self.ring
        if not ring.count:
            return
        with_dropped = ring.dropped != self._dropped_told
        count = self._batch_max_dropped if with_dropped else self._batch_max
        if ring.count < count:
            count = ring.count
            if self._since(*struct.unpack_from("<HH", ring.buffer, ring.offset(0))) < self._flush_ms:
                return
        for slot in self._slots:
            if slot.sequence < 0:
                self._build(slot, count, with_dropped)
                # After a NAK the gateway has no room for new ones either.
                if not 0 < ticks_diff(slot.due, now) <= 0xFFFF:
                    slot.due = now
                return

    def _build(self, slot, count, with_dropped):
        """Move the `count` oldest samples from the ring into `slot` as a DATA body with columns."""
        ring, body = self.ring, slot.body
        slot.low, slot.high = struct.unpack_from("<HH", ring.buffer, ring.offset(0))
        slot.sequence = self._sequence
        self._sequence = (self._sequence + 1) & 0xFFFF
        slot.samples = count
        slot.tries = 0
        body[0] = DATA
        raw_into(body, 1, self.session)
        struct.pack_into("<HB", body, 5, slot.sequence, len(self._topic))
        at = raw_into(body, 8, self._topic)
        at = head_into(body, at, MAP, 2 + len(self._names) + with_dropped)
        slot.now_at = text_into(body, at, "now")
        at = typed_head_into(body, text_into(body, slot.now_at + 5, "t"), "I", 4 * count)
        for k in range(count):
            low, high = struct.unpack_from("<HH", ring.buffer, ring.offset(k))
            struct.pack_into("<I", body, at, ((high - slot.high) << 16) + low - slot.low & 0xFFFFFFFF)
            at += 4
        start = 4
        for k in range(len(self._names)):
            size = self._sizes[k]
            at = typed_head_into(body, text_into(body, at, self._names[k]), self._codes[k], size * count)
            at = self._copy_column(body, at, start, size, count)
            start += size
        slot.dropped = -1
        if with_dropped:
            slot.dropped = ring.dropped
            for k in range(3):
                at = text_into(body, at if k == 0 else head_into(body, at, MAP, 1), DROPPED_PATH[k])
            at = typed_head_into(body, at, "I", 4 * count)
            for _ in range(count):
                struct.pack_into("<I", body, at, slot.dropped)
                at += 4
        slot.length = at
        ring.pop(count)

    def _copy_column(self, body, at, start, size, count):
        buffer = self.ring.buffer
        for k in range(count):
            source = self.ring.offset(k) + start
            for i in range(size):
                body[at + i] = buffer[source + i]
            at += size
        return at

    def _next_due(self, now):
        """Return the slot that has been due longest, or None."""
        chosen, longest = None, -1
        for slot in self._slots:
            if slot.sequence >= 0:
                late_ms = ticks_diff(now, slot.due)
                if late_ms > longest:
                    chosen, longest = slot, late_ms
        return chosen

    def _send(self, slot, now):
        """Begin to write the batch, with the moment of sending in it, and set when to do so again."""
        slot.body[slot.now_at] = 0x1A
        struct.pack_into(">I", slot.body, slot.now_at + 1, self._since(slot.low, slot.high))
        self._wire_at, self._wire_end = 0, frame_into(slot.body, slot.length, self._wire)
        self.resent += slot.tries > 0
        wait_ms = min(self._ack_ms << min(slot.tries, 8), max(self._ack_ms, RESEND_MS_MAX))
        # Several devices that lost the same gateway need not come back in step.
        slot.due = ticks_add(now, wait_ms + (self.session[0] & 63))
        slot.tries += 1

    def _since(self, low, high):
        """Return the milliseconds since a stamp."""
        return ((self._high - high) << 16) + self._low - low & 0xFFFFFFFF

    def _samples_in(self, body_bytes, with_dropped):
        """Return how many samples fit into a body of `body_bytes`."""
        count = 0
        while self._body_bytes(count + 1, with_dropped) <= body_bytes:
            count += 1
        return count

    def _body_bytes(self, count, with_dropped):
        entries = list(zip(self._names, self._sizes)) + [("t", 4)]
        extra = 0
        if with_dropped:
            entries.append((DROPPED_PATH[0], 4))
            extra = sum([2 + len(name) for name in DROPPED_PATH[1:]])
        total = extra + 8 + len(self._topic) + head_bytes(len(entries) + 1) + 4 + 5
        for name, size in entries:
            name_bytes = len(name.encode())
            total += head_bytes(name_bytes) + name_bytes + 2 + head_bytes(size * count) + size * count
        return total
