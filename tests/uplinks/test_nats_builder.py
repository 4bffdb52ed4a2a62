"""The same segments come to the same messages under the same ids, whatever lease they are in and however it is cut."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from gateway.codecs.otlp import encode_log_record
from gateway.core.batch import DEVICE_TIME_REJECTED, MONOTONIC, Batch, LogRecords, ResourceRecords, Series
from gateway.core.clock import Quality
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store.policy import Lane
from gateway.store.records import Lease, LeasedSegment
from gateway.store.segments import press_logs, press_metrics, press_records
from gateway.uplinks.bridge_encoder import BridgeEncoder
from gateway.uplinks.nats_builder import NatsBuilder
from gateway.uplinks.nats_pieces import READINGS_MAX, PiecesPart
from gateway.uplinks.nats_settings import NatsUplinkSettings, token_of
from gateway.uplinks.requests import Hand, NoClockError
from hil.otlp_readings import parse_metrics

GATEWAY = (("tidegate.gateway.id", "site.1"),)


class Times:
    """A timeline that knows nothing at first."""

    quality = Quality.SYNCED

    def repair(self, monotonic_ns, _boot):
        return monotonic_ns + 10**18, self.quality


def series(number: int) -> Series:
    return Series((("device.id", f"d{number}"),), "n")


def builder(times: Times | None = None, *, limit: int = 1 << 20, **settings) -> NatsBuilder:
    made = NatsUplinkSettings(name="s", url="nats://s", **settings)
    encoder = BridgeEncoder(made, series=series, gateway_attributes=GATEWAY, version="1", level_of=token_of)
    return NatsBuilder(
        made,
        timeline=times or Times(),
        encoder=encoder,
        gateway_attributes=GATEWAY,
        payload_bytes_max=lambda: limit,
        counts_series=True,
    )


def segment(sequence: int, start: int, count: int, *, flags: int = 0) -> LeasedSegment:
    numbers = np.arange(start, start + count)
    batch = Batch.of(
        (numbers % 5).astype(np.uint32), 10**18 + numbers, numbers.astype(np.float64), flags=flags
    ).sorted()
    return sealed(sequence, press_metrics(batch), count, Signal.METRICS)


def sealed(sequence: int, pressed, count: int, signal: Signal) -> LeasedSegment:
    boot = BootId(1)
    body = pressed.seal(sequence=sequence, boot=boot, previous_hash=bytes(16))
    return LeasedSegment(sequence, boot, signal, Priority.NORMAL, count, body)


def hand_of(*segments: LeasedSegment, lane: Lane = Lane.LIVE, step_s: float = 0.0) -> Hand:
    return Hand(Lease("s", lane, list(segments), segments[0].signal, step_s=step_s))


def messages(build: NatsBuilder, hand: Hand) -> dict[str, Counter[float]]:
    """Return the readings of each message, by its id."""
    found: dict[str, Counter[float]] = {}
    for part in build.open(hand):
        body = build.encode(part)
        for number in range(len(body.ends)):
            assert body.ident(number) not in found
            payload = body.payload(number)
            if body.places[number] < 0:
                found[body.ident(number)] = Counter(reading.value for reading in parse_metrics(payload))
            else:
                found[body.ident(number)] = Counter([msgspec.json.decode(payload)["value"]])
    return found


def total(found: dict[str, Counter[float]]) -> Counter[float]:
    return Counter(value for counter in found.values() for value in counter.elements())


@pytest.mark.parametrize("payload", ["otlp", "json"])
def test_ids_are_of_the_readings_and_of_nothing_else(payload: str) -> None:
    """Another process, other neighbours, another lane, better times, another order of leases."""
    segments = [segment(1, 0, 50), segment(2, 50, 9000), segment(3, 9050, 20, flags=MONOTONIC)]
    segments.append(segment(4, 9070, 20, flags=MONOTONIC | DEVICE_TIME_REJECTED))
    first = messages(builder(payload=payload), hand_of(*segments))
    again: dict[str, Counter[float]] = {}
    later = Times()
    later.quality = Quality.REPAIRED
    for one in reversed(segments):
        again |= messages(builder(later, payload=payload), hand_of(one, lane=Lane.BACKLOG))
    assert first == again
    assert total(first) == Counter(range(9090))
    assert len(first) == (9090 if payload == "json" else 1 + 4 + 1 + 1)


@pytest.mark.parametrize("step_s", [0, 60])
def test_a_device_time_that_was_rejected_is_told_whatever_the_clock(step_s: int) -> None:
    """In a stream as over HTTP, thinned too."""
    times = Times()
    times.quality = Quality.UNSYNCED
    rejected = segment(2, 5, 5, flags=MONOTONIC | DEVICE_TIME_REJECTED)
    hand = hand_of(segment(1, 0, 5, flags=MONOTONIC), rejected, step_s=step_s)
    builder(times).open(hand)
    pieces = [piece for part in hand.parts for piece in part.pieces]
    marks = {(marks.time_quality, marks.time_rejected, marks.diluted_s) for one in pieces for _, marks in one.groups}
    assert marks == {("unsynced", False, step_s), ("unsynced", True, step_s)}


def test_two_uplinks_have_ids_of_their_own() -> None:
    """Both may publish to one stream."""
    ids = [set(messages(builder(payload=payload), hand_of(segment(1, 0, 50)))) for payload in ("otlp", "json")]
    assert not ids[0] & ids[1]
    other = NatsUplinkSettings(name="t", url="nats://s")
    assert builder()._salt != builder(payload="json")._salt != repr(("site.1", other.name, "otlp")).encode()


def test_a_message_is_no_larger_than_may_be() -> None:
    """Halved by place until it fits; one reading alone goes whatever it takes."""
    whole = messages(builder(), hand_of(segment(1, 0, 3000)))
    small = messages(builder(limit=2000), hand_of(segment(1, 0, 3000)))
    assert len(whole) == 1
    assert len(small) > 10
    assert total(small) == Counter(range(3000))
    assert len(messages(builder(limit=1), hand_of(segment(1, 0, 3)))) == 3


def test_a_part_that_was_cut_comes_to_the_same_messages() -> None:
    """Between pieces, as the link asks for it."""
    build = builder()
    hand = hand_of(*(segment(number, 100 * number, 100) for number in range(1, 21)))
    whole = set(messages(build, hand))
    build.open(hand)
    assert hand.parts is not None
    random_ = random.Random(1)
    for _ in range(6):
        hand.parts.rotate(random_.randrange(5))
        hand.split()
    cut = [build.encode(part) for part in hand.parts if isinstance(part, PiecesPart)]
    assert {body.ident(number) for body in cut for number in range(len(body.ends))} == whole
    hand.lead(random_, readings_max=1)
    assert sum(map(len, hand.parts)) == 2000
    assert all(map(len, hand.parts))


def test_what_stands_for_more_has_ids_too() -> None:
    """Of all that it stands for, at that step."""
    hand = hand_of(segment(1, 0, 500), segment(2, 500, 500), lane=Lane.THINNED, step_s=60.0)
    first = messages(builder(), hand)
    assert first == messages(builder(), hand)
    assert 0 < sum(map(Counter.total, first.values())) < 1000
    assert hand.series == 5


@pytest.mark.parametrize("payload", ["otlp", "json"])
def test_other_readings_that_stand_for_more_have_other_ids(payload: str) -> None:
    """Which do depends on their time, and that is known better later: what the stream has is not what is sent then."""
    seconds = np.arange(0, 600, 7)
    batch = Batch.of(0, seconds * 10**9, np.sin(seconds.astype(np.float64)), flags=MONOTONIC)
    thinned = sealed(1, press_metrics(batch), len(batch), Signal.METRICS)

    class Later(Times):
        def repair(self, monotonic_ns, boot):
            found, quality = super().repair(monotonic_ns, boot)
            return found + 30 * 10**9, quality

    hand = hand_of(thinned, lane=Lane.THINNED, step_s=60.0)
    first, then = messages(builder(payload=payload), hand), messages(builder(Later(), payload=payload), hand)
    assert total(first) != total(then)
    for ident in set(first) & set(then):
        assert first[ident] == then[ident]


def test_nothing_leaves_while_no_time_is_known() -> None:
    """And what is of a boot that nobody remembers is counted."""
    times = Times()
    times.quality = Quality.UNKNOWN
    hand = hand_of(segment(1, 0, 10, flags=MONOTONIC))
    with pytest.raises(NoClockError):
        builder(times).open(hand)
    assert hand.parts is None
    whole = hand_of(segment(1, 0, 10), segment(2, 10, 10))
    builder().open(whole)
    assert whole.series == 5

    class Lost(Times):
        def repair(self, monotonic_ns, _boot):
            return monotonic_ns, Quality.UNKNOWN

    assert builder(Lost()).open(hand) == []
    assert hand.rejected == {"time_lost": 10}


def test_logs_and_messages_go_as_otlp_to_their_subject() -> None:
    """With the gateway's name as one token."""
    record = encode_log_record(
        time_ns=1, observed_ns=0, severity_number=9, severity_text="", body="hello", attributes=()
    )
    count = READINGS_MAX + 1
    logs = LogRecords(np.zeros(count, np.uint32), np.arange(count), (record,) * count)
    build = builder(payload="json")
    (part,) = build.open(hand_of(sealed(1, press_logs(logs), count, Signal.LOGS)))
    body = build.encode(part)
    assert [body.subject(number) for number in range(len(body.ends))] == [b"tidegate.site%2E1.logs"] * 2
    assert body.counts.tolist() == [2048, 2049]
    ones = np.ones(2, np.int64)
    spans = ResourceRecords(Signal.TRACES, ones, ones, (b"\x12\x02\x12\x00",) * 2)
    (part,) = build.open(hand_of(sealed(1, press_records(spans), 2, Signal.TRACES)))
    body = build.encode(part)
    assert (body.subject(0), body.ident(0)[-2:]) == (b"tidegate.site%2E1.traces", ".m")


def test_a_damaged_segment_is_counted_and_left_out() -> None:
    """Beside one that is whole."""
    bad = segment(1, 0, 10)
    bad = replace(bad, body=bad.body[:-5] + b"xxxxx")
    hand = hand_of(bad, segment(2, 10, 10))
    assert sum(map(Counter.total, messages(builder(), hand).values())) == 10
    assert hand.rejected == {"damaged": 10}
