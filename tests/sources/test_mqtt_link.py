"""One connection: read at once when quiet, seldom when busy, and let go of before it is closed."""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from gateway.core.clock import FakeClock
from gateway.net.mqtt import VERSION_5, Publishes
from gateway.net.mqtt_fields import PacketType
from gateway.net.mqtt_packets import answer_bytes, publish_bytes
from gateway.net.paho_client import BulkClient
from gateway.sources import portion
from gateway.sources.mqtt_link import ANSWERS_MAX, PACE_S, UNSENT_BYTES_MAX, Link, LinkClosed, dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNACK = b"\x20\x03\x00\x00\x00"


class Far:
    """A link whose other end is in our hands."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        client = BulkClient(client_id="t", version=VERSION_5, transport="tcp", clean=True, tls=None, timeout_s=5)
        client._sock = self.near
        self.runs: list[Publishes] = []
        self.sizes: list[int] = []
        self.released: list[bytes] = []
        self.connected: list[tuple[bool, int]] = []
        self.link = Link(
            client=client,
            packet_bytes_max=10_000,
            clock=FakeClock(),
            on_publishes=self.note,
            on_release=self.released.append,
            on_connected=lambda present, code: self.connected.append((present, code)),
        )

    def note(self, publishes: Publishes, _arrived_ns: int, size_bytes: int) -> None:
        self.runs.append(publishes)
        self.sizes.append(size_bytes)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for run in self.runs for payload in run.payloads]

    def publish(self, payload: bytes) -> None:
        self.far.sendall(publish_bytes(b"t", payload, qos=1, packet_id=1, version=VERSION_5))


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    there = Far()
    there.link.open()
    yield there
    there.link.drop("end of test")
    there.far.close()


async def test_a_message_that_is_too_large_is_handed_out_as_lost(far: Far) -> None:
    """And what comes behind it like anything else."""
    for payload in (b"x" * 20_000, b"good"):
        far.publish(payload)
        await settle(PACE_S)
    assert [len(payload) for payload in far.payloads][1:] == [4]
    assert [one.sentence for run in far.runs for one in run.lost] == [
        "a packet of 20010 bytes; at most 10000 are taken (packet_max)"
    ]
    assert far.link.is_open


async def test_a_part_of_a_message_is_a_sign_of_life(far: Far) -> None:
    """A large one takes minutes over a slow link, and the answer to a ping has to wait behind it."""
    far.link.client._ping_t = 5.0
    far.far.sendall(publish_bytes(b"t", bytes(5000), version=VERSION_5)[:100])
    await settle()
    assert far.link.client._ping_t == 0


async def test_an_answer_that_is_too_large_is_named(far: Far) -> None:
    """It is our limit, and nothing that MQTT does not allow."""
    far.far.sendall(b"\x90" + b"\x80\x80\x08" + bytes(50))
    await settle()
    assert far.link.ended.result() == "the broker sent a packet of 131076 bytes; at most 10000 are taken (packet_max)"


async def settle(seconds: float = 0.0) -> None:
    """Let the loop take what is there."""
    await asyncio.sleep(seconds)
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_message_that_comes_alone_is_read_at_once(far: Far) -> None:
    """No pause before the first read."""
    far.publish(b"one")
    await settle()
    assert far.payloads == [b"one"]


async def test_a_busy_socket_is_read_in_few_large_buffers(far: Far) -> None:
    """Messages that trickle in are gathered: far fewer reads than messages."""
    for number in range(100):
        far.publish(b"%d" % number)
        await settle(PACE_S / 20)
    await settle(PACE_S * 3)
    assert far.payloads == [b"%d" % number for number in range(100)]
    assert far.link.reads < 50


async def test_as_much_is_read_at_a_time_as_is_taken_in_quickly(far: Far) -> None:
    """A full buffer means that there is more: no pause after it, however small it is, or some turns were not enough."""
    far.link.portion.size_bytes = 1000
    for number in range(10):
        far.publish(b"%d" % number * 500)
    for _ in range(12):
        await settle()
    assert far.payloads == [b"%d" % number * 500 for number in range(10)]
    assert far.link.reads >= 5


async def test_a_message_that_comes_in_parts_counts_with_all_of_them(far: Far) -> None:
    """What waits for the disk is bounded by its bytes, and not by those of its last part."""
    packet = publish_bytes(b"t", bytes(5000), version=VERSION_5)
    for part in (packet[:4000], packet[4000:-10], packet[-10:]):
        far.far.sendall(part)
        await settle(PACE_S)
    assert far.sizes == [len(packet)]


async def test_the_connack_is_known_before_what_stands_behind_it(far: Far) -> None:
    """The session's state decides what a QoS 2 message in the same buffer means."""
    far.far.sendall(CONNACK + publish_bytes(b"t", b"x", qos=1, packet_id=1, version=VERSION_5))
    await settle()
    assert far.connected == [(False, 0)]
    assert far.link.connected.result() == (0, "Success")
    assert far.payloads == [b"x"]


async def test_pausing_stops_reading_and_resuming_loses_nothing(far: Far) -> None:
    """While paused the bytes stay in the kernel."""
    far.link.pause()
    far.publish(b"later")
    await settle(PACE_S * 2)
    assert not far.runs
    far.link.resume()
    far.link.resume()
    await settle(PACE_S)
    assert far.payloads == [b"later"]


async def test_a_release_is_handed_out(far: Far) -> None:
    """PUBREL is ours, not paho's."""
    far.far.sendall(b"\x62\x02\x00\x09")
    await settle()
    assert far.released == [b"\0\x09"]


async def test_a_broker_that_answers_what_nobody_asked_is_left(far: Far) -> None:
    """Each answer takes paho its time: of a buffer full of them everybody else would wait for seconds."""
    taken = 0
    take = far.link.client.take

    def count(first_byte: int, body: bytes) -> None:
        nonlocal taken
        taken += 1
        take(first_byte, body)

    far.link.client.take = count
    far.far.sendall(CONNACK + b"\xd0\x00" * 5000)
    await settle()
    assert far.link.ended.result() == "the broker sent what MQTT does not allow: answers that nobody asked for"
    assert taken == ANSWERS_MAX


async def test_less_is_read_at_a_time_of_releases_that_take_long(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is answered by itself, and a buffer holds tens of thousands."""
    monkeypatch.setattr(portion, "TAKE_S_MAX", 0.0)
    far.far.sendall(b"\x62\x02\x00\x07" * 3000)
    await settle()
    assert len(far.released) == 3000
    assert far.link.portion.size_bytes == portion.PORTION_BYTES_MIN


async def test_a_broker_that_does_not_answer_has_no_thread_of_all() -> None:
    """The disk waits for some of what those few do; as many brokers as threads, and nothing was kept any more."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    client = BulkClient(client_id="t", version=VERSION_5, transport="websockets", clean=True, tls=None, timeout_s=60)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dialling = asyncio.create_task(dial(client, *silent.getsockname(), keepalive_s=60, properties=None))
        while client._dialled is None:
            await asyncio.sleep(0.001)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "kept"), 20) == "kept"
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
    assert client.is_abandoned


async def test_a_broker_that_does_not_read_its_answers_is_not_read(far: Far) -> None:
    """Its releases are four bytes each, and what waits for it took a hundred times that, without a bound."""
    link, sent = far.link, 0
    link._on_release = lambda packet_id: link.send(answer_bytes(PacketType.PUBCOMP, packet_id))
    release = answer_bytes(PacketType.PUBREL, b"\0\x07") * 5000
    most = idle = 0
    while idle < 200:
        try:
            sent += far.far.send(release[sent % 4 :])
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(PACE_S / 10)
        most = max(most, link.client.unsent_bytes)
        assert sent < 32 << 20, "without a bound"
    assert most < 2 * UNSENT_BYTES_MAX
    # Once it reads, it is read, and has an answer to each.
    got = bytearray()
    while len(got) < sent // 4 * 4:
        await asyncio.sleep(0)
        try:
            got += far.far.recv(1 << 20)
        except BlockingIOError:
            continue
    assert got == answer_bytes(PacketType.PUBCOMP, b"\0\x07") * (sent // 4)
    assert link.is_open


async def test_what_the_socket_does_not_take_is_sent_later(far: Far) -> None:
    """A full socket wakes us when it has room; the order stays."""
    acks = b"".join(b"\x40\x02" + number.to_bytes(2, "big") for number in range(1, 65_000)) * 4
    far.link.send(acks)
    got = bytearray()
    while len(got) < len(acks):
        await asyncio.sleep(0)
        try:
            got += far.far.recv(65536)
        except BlockingIOError:
            continue
    assert got == acks
    await settle()
    assert not far.link.client.want_write()


async def test_an_end_is_told_once_and_the_descriptor_is_let_go(far: Far) -> None:
    """Its number may be another file's at once: nothing of ours may watch it then."""
    descriptor = far.near.fileno()
    far.far.close()
    await settle()
    assert far.link.ended.result() == "the broker closed the connection"
    assert not asyncio.get_running_loop().remove_reader(descriptor)
    far.link.drop("again")
    with pytest.raises(LinkClosed, match="the broker closed"):
        far.link.check()
    with pytest.raises(OSError):
        os.fstat(descriptor)


async def test_a_closed_link_takes_nothing(far: Far) -> None:
    """Answers for it are dropped silently; a subscription says why it cannot be."""
    far.link.drop("gone")
    far.link.send(b"\x40\x02\x00\x01")
    far.link.resume()
    with pytest.raises(LinkClosed):
        await far.link.subscribe([("a", 1)])


async def test_a_close_says_goodbye(far: Far) -> None:
    """DISCONNECT behind everything that waits."""
    far.link.send(b"\x40\x02\x00\x01")
    closing = asyncio.create_task(far.link.close(within_s=5))
    await settle()
    assert far.far.recv(100) == b"\x40\x02\x00\x01\xe0\x00"
    assert far.far.recv(100) == b""
    assert not closing.done()
    # What was on its way meanwhile is nobody's any more.
    far.publish(b"late")
    await settle(0.02)
    far.far.close()
    await closing
    assert far.link.ended.result() == "closed"
    assert far.payloads == []


async def test_a_close_does_not_wait_for_ever(far: Far) -> None:
    """For a broker that does not hang up."""
    await far.link.close(within_s=0.01)
    assert not far.link.is_open


async def test_a_subscription_ends_with_the_connection(far: Far) -> None:
    """No answer will come any more."""
    asking = asyncio.create_task(far.link.subscribe([("a", 1)]))
    await settle()
    far.far.close()
    with pytest.raises(LinkClosed, match="closed"):
        await asking


async def test_a_link_that_was_never_dialled_ends_at_once() -> None:
    """paho may have lost it before we could look."""
    there = Far()
    there.link.client.drop()
    there.link.open()
    assert there.link.ended.done()
    there.far.close()


async def test_a_filter_is_let_go(far: Far) -> None:
    """UNSUBSCRIBE with its answer for each filter."""
    await settle()
    asked = asyncio.create_task(far.link.unsubscribe(["a", "b"]))
    await settle(0.02)
    packet = far.far.recv(1000)
    assert packet[0] == 0xA2
    assert packet.endswith(b"\x00\x01a\x00\x01b")
    far.far.sendall(b"\xb0\x05" + packet[2:4] + b"\x00\x00\x11")
    assert await asyncio.wait_for(asked, 5) == [0x00, 0x11]
