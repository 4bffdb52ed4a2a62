"""OTLP requests among a broker's messages are kept as they came, the rest goes the usual way, and nothing twice."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
import zlib

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs import zstd
from gateway.codecs.otlp_intake import Taken, open_request
from gateway.core.contracts import Accepted, Arrivals, FullError, Lost, Messages, Signal
from gateway.core.turns import TURN_S_MAX
from gateway.sources import mqtt_otlp
from gateway.sources.mqtt_otlp import OtlpTopics


def request(count: int) -> bytes:
    made = ExportMetricsServiceRequest()
    metric = made.resource_metrics.add().scope_metrics.add().metrics.add(name="n")
    for number in range(count):
        metric.gauge.data_points.add(time_unix_nano=1, as_int=number)
    return made.SerializeToString()


class Doors:
    """Both doors of a pipeline: they keep what comes, and are full as often as is said."""

    def __init__(self) -> None:
        self.arrivals: list[Arrivals] = []
        self.messages: list[Messages] = []
        self.full = 0

    def _look(self) -> None:
        if self.full:
            self.full -= 1
            raise FullError("full")

    async def accept(self, arrivals: Arrivals, /) -> Accepted:
        self._look()
        self.arrivals.append(arrivals)
        return Accepted(
            len(arrivals) - len(arrivals.lost), [lost for lost in arrivals.lost if lost.reason == "malformed"]
        )

    async def accept_messages(self, messages: Messages, /) -> None:
        self._look()
        self.messages.append(messages)


@pytest.fixture
def doors() -> Doors:
    return Doors()


@pytest.fixture
def door(doors: Doors) -> OtlpTopics:
    return make(doors)


def make(doors: Doors, *, bytes_max: int = 4 << 20, **more) -> OtlpTopics:
    parts = {"accept": doors.accept, "accept_messages": doors.accept_messages, **more}
    return OtlpTopics(["tidegate/+/{signal}"], bytes_max=bytes_max, **parts)


def came(*pairs: tuple[bytes, bytes], **more) -> Arrivals:
    return Arrivals("plant", [topic for topic, _ in pairs], [payload for _, payload in pairs], 7, **more)


async def test_requests_go_past_the_mappings(door, doors) -> None:
    """However they are packed, byte for byte; the others go on, and are counted together."""
    body = request(3)
    packer = zlib.compressobj(wbits=31)
    gzip = packer.compress(body) + packer.flush()
    arrivals = came(
        (b"plant/a", b"1"), (b"tidegate/g/metrics", body), (b"tidegate/g/other", b"2"),
        (b"tidegate/g/metrics", zstd.compress(body, level=3)), (b"tidegate/h/metrics", gzip), (b"tidegate/g/logs", b""),
    )  # fmt: skip
    accepted = await door(arrivals)
    assert (accepted.readings, accepted.malformed) == (2 + 9, [])
    assert [(m.source, m.records.signal, m.arrived_ns, len(m.records)) for m in doors.messages] == [
        ("plant", Signal.METRICS, 7, 9), ("plant", Signal.LOGS, 7, 0),
    ]  # fmt: skip
    whole = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].SerializeToString()
    assert doors.messages[0].records.bodies == (whole,) * 3
    (rest,) = doors.arrivals
    assert list(zip(rest.topics, rest.payloads, strict=True)) == [(b"plant/a", b"1"), (b"tidegate/g/other", b"2")]


async def test_arrivals_without_any_go_on_as_they_came(door, doors) -> None:
    """The same object."""
    arrivals = came((b"plant/a", b"1"))
    await door(arrivals)
    assert doors.arrivals == [arrivals]
    assert doors.arrivals[0] is arrivals


async def test_what_is_none_is_lost_with_its_reason(doors) -> None:
    """Beside what a source had found too large; each has the place that it had."""
    door = make(doors, bytes_max=1000)
    bomb = zstd.compress(bytes(100_000), level=3)
    arrivals = came(
        (b"tidegate/g/metrics", request(1)), (b"tidegate/g/metrics", b"\xff"), (b"tidegate/g/metrics", bomb),
        (b"tidegate/g/metrics", b"glimpse"), (b"plant/a", b"1"), (b"tidegate/g/metrics", bomb[:-5]),
        lost=[Lost(3, "oversize", "large")],
    )  # fmt: skip
    accepted = await door(arrivals)
    (rest,) = doors.arrivals
    assert [(lost.at, lost.reason) for lost in rest.lost] == [
        (0, "malformed"), (1, "oversize"), (2, "oversize"), (4, "malformed"),
    ]  # fmt: skip
    assert [lost.at for lost in accepted.malformed] == [1, 5]
    assert "no request of metrics in protobuf" in accepted.malformed[0].sentence
    assert accepted.readings == 2


async def test_what_was_kept_before_there_was_no_room_is_not_kept_again(door, doors) -> None:
    """The source offers the same arrivals until they are taken."""
    arrivals = came(
        (b"tidegate/g/metrics", request(1)), (b"tidegate/g/logs", b"\xff"), (b"tidegate/g/metrics", request(2)),
        (b"plant/a", b"1"),
    )  # fmt: skip
    offers = 0
    while True:
        offers += 1
        doors.full = offers % 2
        try:
            accepted = await door(arrivals)
        except FullError:
            assert len(arrivals) == 4
            continue
        break
    assert [len(m.records) for m in doors.messages] == [1, 2]
    assert accepted.readings == 4
    assert [lost.at for lost in accepted.malformed] == [1]
    assert [rest.topics for rest in doors.arrivals] == [[b"tidegate/g/logs", b"plant/a"]]


async def test_a_large_request_is_read_beside_the_loop(door, doors) -> None:
    """And what its source has dropped is told in any case."""
    await door(came((b"tidegate/g/metrics", request(20_000)), dropped={"no_room": 2}))
    assert sum(len(m.records) for m in doors.messages) == 20_000
    assert [(len(rest), rest.dropped) for rest in doors.arrivals] == [(0, {"no_room": 2})]


async def test_others_have_their_turn_between_requests_that_take_long(doors, monkeypatch) -> None:
    """A buffer of what is well-formed and holds nothing was a third of a second for everybody."""
    turn, opened = 0, []

    def open_slowly(body: bytes, signal: Signal) -> Taken:
        opened.append(turn)
        time.sleep(2 * TURN_S_MAX)
        return open_request(body, signal)

    async def others() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(mqtt_otlp, "open_request", open_slowly)
    task = asyncio.create_task(others())
    await make(doors)(came(*[(b"tidegate/g/metrics", b"\x0a\x02\x0b\x0c")] * 30))
    task.cancel()
    assert len(set(opened)) == 30


async def test_topics_are_remembered_in_a_bounded_number(door, doors, monkeypatch) -> None:
    """Devices choose them."""
    monkeypatch.setattr(mqtt_otlp, "TOPICS_KNOWN_MAX", 2)
    for number in range(5):
        await door(came((b"t/%d" % number, b"")))
    assert len(door._known) <= 2


async def test_long_topics_are_not_remembered(door, doors) -> None:
    """Four thousand of 64 KB, which whoever may publish to the broker can think of, would be a quarter of a gigabyte."""
    body = request(1)
    topics = [b"tidegate/" + b"x" * (60_000 + number) + b"/metrics" for number in range(20)]
    for _ in range(2):
        assert (await door(came(*[(topic, body) for topic in topics]))).readings == 20
    assert sum(map(len, door._known)) < 1000


async def test_small_messages_that_are_much_when_opened_are_never_open_at_once(doors) -> None:
    """A read of a broker's messages may hold hundreds of them, and several reads are under way."""
    made = ExportMetricsServiceRequest()
    for _ in range(32):
        metric = made.resource_metrics.add().scope_metrics.add().metrics.add(name="n" * 65_000)
        metric.gauge.data_points.add(time_unix_nano=1, as_int=1)
    body = made.SerializeToString()
    packed = zstd.compress(body, level=3)
    assert len(packed) < len(body) / 1000
    kept = []

    async def accept_messages(messages: Messages, /) -> None:
        await asyncio.sleep(0)
        kept.append(len(messages.records.bodies))

    door = make(doors, accept_messages=accept_messages)
    tracemalloc.start()
    try:
        await asyncio.gather(*(door(came(*[(b"tidegate/g/metrics", packed)] * 20)) for _ in range(4)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(kept) == 32 * 80
    assert peak < 10 * len(body)


@pytest.mark.parametrize("encoding", ["zstd", "gzip", ""])
async def test_what_would_be_too_large_is_not_unpacked(doors, encoding) -> None:
    """A few bytes that stand for hundreds of megabytes take little memory, and it says which limit that is."""
    door = make(doors, bytes_max=256 * 1024)
    body = bytes(1 << 26)
    if encoding == "gzip":
        packer = zlib.compressobj(wbits=31)
        body = packer.compress(body) + packer.flush()
    elif encoding:
        body = zstd.compress(body, level=3)
    tracemalloc.start()
    try:
        await door(came((b"tidegate/g/metrics", body), (b"tidegate/g/metrics", request(2))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Half a megabyte is what one of them takes; the classes that read them are as large when they are made.
    assert peak < 6 << 20
    (rest,) = doors.arrivals
    ((at, reason, sentence, readings),) = rest.lost
    assert (at, reason, readings) == (0, "oversize", 1)
    assert f"a request of {len(body)} bytes" in sentence
    assert "otlp_max" in sentence
    assert "256KiB" in sentence
    assert [len(messages.records) for messages in doors.messages] == [2]
