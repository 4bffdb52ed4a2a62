"""Real requests over a real socket, which take the time of a line that there is not."""

from __future__ import annotations

import asyncio
import http.client
import random

import pytest

from gateway.bench.line import Line, LineWorker, Received, Receiver
from gateway.bench.virtual_time import VirtualClock, run
from gateway.codecs.zstd import compress
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Signal, TryLaterError
from gateway.uplinks.guards import Answer, Packed
from gateway.uplinks.settings import OtlpUplinkSettings

BODY = random.Random(1).randbytes(20_000)


def make_line(receiver: Receiver, clock: VirtualClock, *, rate: float) -> tuple[Line, list[tuple[Received, float]]]:
    came: list[tuple[Received, float]] = []
    line = Line(
        OtlpUplinkSettings(name="cloud", endpoint=receiver.endpoint),
        receiver=receiver,
        take=lambda request, at_s: came.append((request, at_s)),
        clock=clock,
        random=random.Random(1),
        rate=rate,
        rtt_s=0.5,
    )
    return line, came


def test_a_request_takes_the_time_of_its_bytes_and_a_round_trip() -> None:
    """Its last byte is there half a round trip before its answer; packets count, and the sender's kernel agrees."""

    async def main() -> None:
        clock = VirtualClock(1_790_000_000 * NS_PER_S)
        with Receiver() as receiver:
            receiver.open()
            line, came = make_line(receiver, clock, rate=1000)
            worker, loop = LineWorker(clock), asyncio.get_running_loop()
            packed = Packed(Signal.METRICS, compress(BODY, level=3), "zstd")
            answers = [worker.submit(lambda: line.send(packed)) for _ in range(2)]
            first = await answers[0]
            assert isinstance(first, Answer)
            assert loop.time() == pytest.approx(first.seconds)
            await answers[1]
            (one, one_s), (two, two_s) = came
            assert one.body == two.body == BODY
            assert one.path == "/v1/metrics"
            # With headers, and some 15 packets each way at most.
            assert 20_000 + 15 * 52 < one.wire_bytes < 20_000 + 500 + 40 * 52
            assert one_s == pytest.approx(one.wire_bytes / 1000 + 0.25)
            assert two_s == pytest.approx(first.seconds + two.wire_bytes / 1000 + 0.25)
            assert one.wire_bytes + two.wire_bytes == pytest.approx(line.wire_bytes, rel=0.02)
            assert worker.close()
            line.close()

    run(main())


def test_who_does_not_listen_is_not_reached_and_a_rate_is_waited_for() -> None:
    """A refused connection costs no time; a pause in the sender's thread does."""

    async def main() -> None:
        clock = VirtualClock(1_790_000_000 * NS_PER_S)
        with Receiver() as receiver:
            line, came = make_line(receiver, clock, rate=1e6)
            worker, loop = LineWorker(clock), asyncio.get_running_loop()
            with pytest.raises(TryLaterError, match="no connection"):
                await worker.submit(lambda: line.send(Packed(Signal.METRICS, b"x", "")))
            assert loop.time() < 1
            before_s = loop.time()
            await worker.submit(lambda: line.pause(30.0))
            assert loop.time() - before_s == pytest.approx(30.0)
            assert not came
            worker.submit(lambda: 1).cancel()
            await asyncio.sleep(1)
            line.close()

    run(main())


def test_the_receiver_takes_gzip_and_requests_that_come_together() -> None:
    """And hangs up on nobody."""
    import gzip

    with Receiver() as receiver:
        receiver.open()
        connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=60)
        for _ in range(2):
            connection.request("POST", "/v1/logs", gzip.compress(b"abc"), {"Content-Encoding": "gzip"})
            assert connection.getresponse().read() == b""
        connection.close()
        assert [(one.path, one.body) for one in receiver.taken()] == [("/v1/logs", b"abc")] * 2
        assert not receiver.taken()
