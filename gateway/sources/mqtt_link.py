"""One connection to a broker: reads in bulk, paces itself, hands out PUBLISHes, sends answers.

Must not decide when to connect again, and must not know what becomes of a message.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.net.mqtt import VERSION_5, Publishes, PublishScanner
from gateway.net.mqtt_fields import PacketType, ProtocolError, ReasonCode, protocol_error
from gateway.net.mqtt_packets import disconnect_bytes, read_answer
from gateway.sources.portion import Portion

if TYPE_CHECKING:
    from collections.abc import Callable

    from paho.mqtt.properties import Properties

    from gateway.core.clock import Clock
    from gateway.net.paho_client import BulkClient

RECEIVE_BYTES: Final = 256 * 1024
# Answers wait for a commit anyway, so a busy socket is read this often at most: fewer, larger buffers are
# what makes a message cheap. A message that comes alone is read at once.
PACE_S: Final = 0.005
MISC_S: Final = 1.0
# Of what paho takes, packet by packet, a buffer holds a few: who sends more answers what nobody asked.
ANSWERS_MAX: Final = 100
# A broker that lets so much of ours wait is not read from until it reads.
UNSENT_BYTES_MAX: Final = 256 * 1024
DISCONNECT_BYTES: Final = b"\xe0\x00"


async def dial(client: BulkClient, host: str, port: int, *, keepalive_s: int, properties: Properties | None) -> None:
    """Connect, in a thread of its own; raise OSError.

    There are few threads that all share, and the disk waits for some of what they do: brokers that do not answer, or
    take their time, must not have them all.
    """
    threads = ThreadPoolExecutor(1, thread_name_prefix="tidegate-dial")
    work = partial(client.dial, host, port, keepalive_s=keepalive_s, properties=properties)
    try:
        await asyncio.get_running_loop().run_in_executor(threads, work)
    except asyncio.CancelledError:
        client.abandon()
        raise
    finally:
        threads.shutdown(wait=False)


class LinkClosed(Exception):  # noqa: N818  an end is not always an error
    """The connection is over; the message says why."""


class Link:
    """A dialled client, served by the event loop until `ended`.

    `on_publishes(publishes, arrived_ns, size_bytes)` is called once for each run of PUBLISHes in a buffer,
    `on_release(packet_id)` for each PUBREL, `on_connected(session_present, code)` at the CONNACK, before
    anything behind it is read. `connected` becomes the CONNACK's reason code and its name.
    """

    def __init__(
        self,
        *,
        client: BulkClient,
        packet_bytes_max: int,
        clock: Clock,
        on_publishes: Callable[[Publishes, int, int], None],
        on_release: Callable[[bytes], None],
        on_connected: Callable[[bool, int], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.client = client
        self.connected: asyncio.Future[tuple[int, str]] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.reads = 0
        self.portion = Portion(RECEIVE_BYTES)
        self._loop = loop
        self._clock = clock
        self._on_publishes = on_publishes
        self._on_release = on_release
        self._on_connected = on_connected
        # A broker cannot be talked out of a message: left unanswered, it would be the first again in each session.
        self._scanner = PublishScanner(
            packet_bytes_max=packet_bytes_max, limit_name="packet_max", version=client.version, skips_oversize=True
        )
        self._asking: dict[int, asyncio.Future[list[int]]] = {}
        self._descriptor = -1
        self._is_reading = False
        self._is_writing = False
        self._is_paused = False
        self._is_clogged = False  # the broker does not read what we send
        self._is_closing = False
        self._gathered: list[bytes] | None = None  # what leaves together, while a buffer is handed out
        self._read_at_s = 0.0
        self._answers = 0  # of the buffer that is being handed out
        self._next_read: asyncio.TimerHandle | asyncio.Handle | None = None
        self._next_misc: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether anything can still be sent."""
        return not self.ended.done()

    def open(self) -> None:
        """Begin to read and to keep alive."""
        client = self.client
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_answer
        client.on_unsubscribe = self._on_answer
        client.on_disconnect = self._on_disconnect
        client.on_socket_close = lambda *_: self._detach()
        self._descriptor = client.fileno()
        if self._descriptor < 0:
            self._end("the broker closed the connection")
            return
        self._listen()
        self._keep_alive()
        self._write()

    def pause(self) -> None:
        """Stop reading: TCP then holds the broker back."""
        self._is_paused = True
        self._deaf()

    def resume(self) -> None:
        """Read again."""
        if self._is_paused and self.is_open:
            self._is_paused = False
            self._listen()

    async def subscribe(self, topics: list[tuple[str, int]]) -> list[int]:
        """Ask for `topics` (filter, QoS); return the broker's answer for each: the QoS granted, or ≥ 0x80."""
        return await self._ask(self.client.ask_for(topics))

    async def unsubscribe(self, topics: list[str]) -> list[int]:
        """Let go of `topics`; return the broker's answer for each: < 0x80 is gone. MQTT 3.1.1 has only that one."""
        return await self._ask(self.client.unsubscribe(topics)[1]) or [0] * len(topics)

    async def _ask(self, message_id: int | None) -> list[int]:
        """Return the reason codes of the answer to what was just sent."""
        if message_id is None:
            raise LinkClosed("the connection ended")
        answer: asyncio.Future[list[int]] = self._loop.create_future()
        self._asking[message_id] = answer
        self._write()
        try:
            ends: set[asyncio.Future[Any]] = {answer, self.ended}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._asking[message_id]
        if not answer.done():
            self.check()
        return answer.result()

    def check(self) -> None:
        """Raise LinkClosed once the connection is over."""
        if self.ended.done():
            raise LinkClosed(self.ended.result())

    def send(self, packets: bytes) -> None:
        """Send whole packets, behind what waits already. Into a closed link: nothing happens."""
        if self._gathered is not None:
            self._gathered.append(packets)
        elif packets and self.is_open:
            self.client.send_raw(packets)
            self._after_write()

    async def close(self, *, within_s: float) -> None:
        """Send what waits and DISCONNECT; wait until the broker has read it and hangs up, bounded; then close.

        mosquitto reads a packet at a time: a next connection of ours that came before the last PUBACK was read would
        be sent again what it acknowledges.
        """
        if self.is_open:
            self._is_closing = True
            self.send(DISCONNECT_BYTES)
            self.resume()
            await asyncio.wait({self.ended}, timeout=within_s)
        self.drop("closed")

    def drop(self, reason: str) -> None:
        """Close without a word."""
        self._end(reason)
        self.client.drop()

    # Reading

    def _listen(self) -> None:
        if not self._is_reading and not (self._is_paused or self._is_clogged) and self._descriptor >= 0:
            self._loop.add_reader(self._descriptor, self._on_readable)
            self._is_reading = True
            if self.client.pending():
                self._next_read = self._loop.call_soon(self._read)

    def _deaf(self) -> None:
        if self._is_reading:
            self._loop.remove_reader(self._descriptor)
            self._is_reading = False
        if self._next_read is not None:
            self._next_read.cancel()
            self._next_read = None

    def _on_readable(self) -> None:
        wait_s = self._read_at_s + PACE_S - self._loop.time()
        if wait_s <= 0:
            self._read()
            return
        self._deaf()
        self._next_read = self._loop.call_later(wait_s, self._read)

    def _read(self) -> None:
        """Take one buffer and hand out what is in it."""
        self._next_read = None
        portion_bytes = self.portion.size_bytes
        data = self.client.receive(portion_bytes)
        self._read_at_s = self._loop.time()
        if data == b"":
            wrong = self.client.wrong
            gone = f"the broker sent {wrong}" if wrong else "the broker closed the connection"
            self._end("closed" if self._is_closing else gone)
            return
        # What was on its way when we said goodbye is not acknowledged: it comes again.
        if data and not self._is_closing:
            self.reads += 1
            # The answer to our ping may stand behind a message that takes minutes over a slow link.
            self.client.forgive_silence()
            arrived_ns = self._clock.monotonic_ns()
            # A full buffer means that there is more: no pause after it.
            if len(data) >= portion_bytes:
                self._read_at_s = 0.0
            self._hand_out(data, arrived_ns)
        if self.is_open:
            self._listen()
            if self.client.pending() and self._is_reading and self._next_read is None:
                self._next_read = self._loop.call_soon(self._read)

    def _hand_out(self, data: bytes, arrived_ns: int) -> None:
        wrong: ProtocolError | None = None
        # Of a message that came in several parts all of them count.
        size_bytes = self._scanner.bytes_held + len(data)
        try:
            items = self._scanner.feed(data)
        except ProtocolError as error:
            items, wrong = error.before, error
        self._answers, took_s = 0, 0.0
        # A buffer holds tens of thousands of the shortest packets, each with an answer.
        gathered: list[bytes] = []
        self._gathered = gathered
        try:
            for item in items:
                if isinstance(item, Publishes):
                    self._on_publishes(item, arrived_ns, size_bytes)
                    size_bytes = 0
                    continue
                began_s = self._loop.time()
                self._take(item.first_byte, item.body)
                if not self.is_open:
                    return
                took_s += self._loop.time() - began_s
        except ProtocolError as error:
            wrong = error
        finally:
            self._gathered = None
            self.send(b"".join(gathered))
        self.portion.was_slow(len(data), took_s)
        if wrong is not None:
            # Told why, a broker can log it; what came before the mistake has been handed out.
            self.send(disconnect_bytes(version=self.client.version, code=wrong.code))
            is_ours = wrong.code == ReasonCode.PACKET_TOO_LARGE
            self._end(f"the broker sent {'' if is_ours else 'what MQTT does not allow: '}{wrong}")
            self.client.drop()

    def _take(self, first_byte: int, body: bytes) -> None:
        kind = first_byte >> 4
        if kind == PacketType.PUBREL:
            packet_id, _ = read_answer(body, self.client.version)
            self._on_release(packet_id)
            return
        if kind == PacketType.DISCONNECT and self.client.version == VERSION_5:
            self._end(f"the broker ended the connection: {_reason(body[0] if body else 0)}")
            self.client.drop()
            return
        self._answers += 1
        if self._answers > ANSWERS_MAX:
            raise protocol_error("answers that nobody asked for")
        self.client.take(first_byte, body)
        self._after_write()

    # Writing

    def _write(self) -> None:
        if self.is_open:
            if self._is_clogged:
                # The socket takes more, so the broker reads, however slowly.
                self.client.forgive_silence()
            self.client.loop_write()
            self._after_write()

    def _after_write(self) -> None:
        """Ask to be woken while something waits for the socket."""
        wants = self.is_open and self._descriptor >= 0 and self.client.want_write()
        if wants and not self._is_writing:
            self._loop.add_writer(self._descriptor, self._write)
        elif self._is_writing and not wants and self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)
        self._is_writing = wants
        if wants != self._is_clogged:
            self._weigh()
        if self._is_closing and not wants:
            self.client.end_writing()

    def _weigh(self) -> None:
        """Read only from who reads. One that never does is gone when its keep alive is over, as paho counts it."""
        was_clogged, self._is_clogged = self._is_clogged, self.client.unsent_bytes > UNSENT_BYTES_MAX
        if self._is_clogged:
            self._deaf()
        elif was_clogged:
            self._listen()

    def _keep_alive(self) -> None:
        if not self.is_open:
            return
        if self._is_paused:
            self.client.forgive_silence()
        self.client.loop_misc()
        self._after_write()
        self._next_misc = self._loop.call_later(MISC_S, self._keep_alive)

    # What paho says

    def _on_connect(self, _client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if not self.connected.done():
            self._on_connected(bool(flags.session_present), int(reason.value))
            self.connected.set_result((int(reason.value), str(reason)))

    def _on_answer(self, _client: Any, _data: Any, message_id: int, reasons: Any, _properties: Any) -> None:
        waiting = self._asking.get(message_id)
        if waiting is not None and not waiting.done():
            waiting.set_result([int(reason.value) for reason in reasons])

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        # 0x80 is what paho says for any socket error.
        why = "" if reason.value == ReasonCode.UNSPECIFIED_ERROR else f": {str(reason).lower()}"
        self._end(f"the connection was lost{why}" if reason.value else "closed")

    def _end(self, reason: str) -> None:
        self._detach()
        if not self.ended.done():
            self.ended.set_result(reason)

    def _detach(self) -> None:
        """Let go of the descriptor before it is closed: its number may be somebody else's a moment later."""
        self._deaf()
        if self._is_writing:
            self._loop.remove_writer(self._descriptor)
            self._is_writing = False
        if self._next_misc is not None:
            self._next_misc.cancel()
            self._next_misc = None
        self._descriptor = -1


def _reason(code: int) -> str:
    """Return a reason code in words."""
    try:
        return ReasonCode(code).name.lower().replace("_", " ")
    except ValueError:
        return f"reason {code:#04x}"
