"""What sends show of a way: lines of a known rate and delay, receivers that think, and links that are changed."""

from __future__ import annotations

import random

import pytest

from gateway.core.clock import SystemClock
from gateway.core.contracts import Signal
from gateway.uplinks.guards import Answer, Packed
from gateway.uplinks.senders import HttpSender
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.speed import WAYS_MAX, Speed, Speeds


def seconds(size_bytes: int, *, rate: float, each_s: float) -> float:
    return each_s + size_bytes / rate


@pytest.mark.parametrize(("rate", "each_s"), [(1000.0, 0.5), (8000.0, 2.0), (1e6, 0.05), (50_000.0, 0.0)])
def test_a_receiver_that_thinks_is_no_slow_line(rate: float, each_s: float) -> None:
    """Within a tenth, from requests of many sizes; bytes by seconds would be off by as much as it thinks."""
    speed, dice = Speed(), random.Random(1)
    for _ in range(60):
        size_bytes = dice.randrange(int(rate / 5) + 100, int(2 * rate) + 2000)
        speed.sent(size_bytes, Answer(seconds=seconds(size_bytes, rate=rate, each_s=each_s)))
    assert speed.goodput == pytest.approx(rate, rel=0.1)


def test_a_line_that_changes_is_known_soon() -> None:
    """From one request that took ten times as long as it should."""
    speed = Speed()
    for _ in range(20):
        speed.sent(100_000, Answer(seconds=1.0))
    assert speed.goodput == pytest.approx(100_000)
    speed.sent(100_000, Answer(seconds=10.0))
    assert speed.goodput == pytest.approx(10_000)


def test_nothing_is_known_at_first() -> None:
    """Nor of what took no time, or had no bytes."""
    speed = Speed()
    speed.sent(0, Answer(seconds=1.0))
    speed.sent(10, Answer(seconds=0.0))
    assert (speed.goodput, Speeds().told()) == (
        0.0,
        {"goodput_bytes_s": 0, "round_trip_s": 0.0, "request_fixed_s": 0.0},
    )


def test_each_link_has_its_own() -> None:
    """What was known of one is known when it is used again; the round trip is the kernel's last word."""
    speeds = Speeds()
    speeds.sent(100_000, Answer(seconds=1.0, link="ethernet", round_trip_s=0.012345))
    speeds.sent(100_000, Answer(seconds=1.0, link="ethernet"))
    assert speeds.told() == {"goodput_bytes_s": 100_000, "round_trip_s": 0.0123, "request_fixed_s": 0.0}
    speeds.sent(1000, Answer(seconds=1.0, link="lte", round_trip_s=0.25))
    assert speeds.told() == {"goodput_bytes_s": 1000, "round_trip_s": 0.25, "request_fixed_s": 0.0}
    speeds.sent(100_000, Answer(seconds=1.0, link="ethernet"))
    assert speeds.told() == {"goodput_bytes_s": 100_000, "round_trip_s": 0.0123, "request_fixed_s": 0.0}
    for number in range(10 * WAYS_MAX):
        speeds.sent(1000, Answer(seconds=1.0, link=f"link{number}"))
    assert len(speeds._by_link) <= WAYS_MAX + 1


def test_a_real_line_of_a_known_rate(otlp_sink, make_link) -> None:
    """Over a proxy of so many bytes a second: of that order, as far as a machine that does much else lets it be seen."""
    link = make_link(otlp_sink.address)
    link.up.rate = 100_000.0
    sender = HttpSender(OtlpUplinkSettings(name="cloud", endpoint=link.url), version="0.1.0", clock=SystemClock())
    speed, dice = Speed(), random.Random(1)
    for _ in range(12):
        # A field that no receiver knows, so that all of it is read and none of it is anything.
        filling = dice.randbytes(dice.randrange(2000, 20_000))
        body = (
            b"\xa2\x06" + bytes((len(filling) & 127 | 128, len(filling) >> 7 & 127 | 128, len(filling) >> 14)) + filling
        )
        speed.sent(len(body), sender.send(Packed(Signal.METRICS, body, "")))
    sender.close()
    assert 5000 < speed.goodput < 300_000
    assert 0 < speed.round_trip_s < 5


def test_it_is_told_what_a_request_takes_whatever_its_size() -> None:
    """Somebody on the way, as a satellite's modem is, acknowledges packets at once: the kernel knows of no delay."""
    speeds = Speeds()
    for size_bytes in (1000, 4000) * 10:
        speeds.sent(size_bytes, Answer(seconds=2.0 + size_bytes / 1000, round_trip_s=0.0004))
    assert speeds.told() == {"goodput_bytes_s": 1000, "round_trip_s": 0.0004, "request_fixed_s": 2.0}
