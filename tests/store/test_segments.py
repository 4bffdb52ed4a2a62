"""Checks for segments. `python tests/store/test_segments.py` adds vectors of a new format version."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import zstd
from gateway.core.batch import MONOTONIC, Batch, LogRecords, ResourceRecords
from gateway.core.contracts import BootId, Signal
from gateway.store import columns
from gateway.store.segments import (
    FIRST_HASH,
    FORMAT_VERSION,
    HEADER_BYTES,
    HEADER_BYTES_MAX,
    LOG_BYTES_MAX,
    ORIGIN_VERSION,
    READINGS_MAX,
    Ancestors,
    Form,
    SegmentError,
    check_link,
    decode,
    decode_logs,
    decode_metrics,
    decode_records,
    encode_logs,
    encode_metrics,
    press_logs,
    press_metrics,
    press_records,
    read_header,
    segment_hash,
)

VECTORS = Path(__file__).parent.parent / "vectors" / "segments.json"
T0 = 1_790_000_000 * 10**9
COLUMNS = ("series", "time_ns", "bits", "flags")


def same(one: Batch, other: Batch) -> bool:
    """Return whether two batches are equal, bit by bit."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in COLUMNS)


def sealed(batch: Batch, **changes: object) -> bytes:
    """Seal a batch."""
    return encode_metrics(batch, **{"sequence": 7, "boot": BootId(3), "previous_hash": bytes(range(16))} | changes)


def resealed(data: bytes, *, content: bytes | None = None, **fields: int) -> bytes:
    """Return a segment with other columns or header fields and a right checksum, as only malice makes it."""
    head, body = bytearray(data[:HEADER_BYTES]), data[HEADER_BYTES:]
    if content is not None:
        body = zstd.compress(content)
        struct.pack_into("<II", head, 56, len(content), len(body))
    places = {
        "signal": ("<B", 5),
        "form": ("<H", 6),
        "sequence": ("<Q", 8),
        "readings": ("<I", 20),
        "columns_bytes": ("<I", 56),
    }
    for name, value in fields.items():
        struct.pack_into(places[name][0], head, places[name][1], value)
    struct.pack_into("<I", head, 64, zlib.crc32(body, zlib.crc32(head[:64])))
    return bytes(head) + body


def mixed() -> Batch:
    """Return a batch that uses most of the format."""
    random = np.random.default_rng(1)
    beat = T0 + np.arange(300) * 10**9
    volts = random.integers(0, 9, 300) * 3.3 / 4096
    gaps = np.where(random.random(300) < 0.03, np.nan, np.round(random.normal(20, 3, 300), 2))
    return Batch.join(
        [
            Batch.of(1, beat, volts),
            Batch.of(2, beat, gaps),
            Batch.of(3, beat + 17, random.normal(size=300).astype(np.float32)),
            Batch.of(4, beat, random.normal(size=300)),
            Batch.of(5, np.arange(40), np.arange(40) % 7, flags=MONOTONIC),
            Batch.of(np.arange(6, 50), random.integers(0, 4, 44) * 10**6, np.round(random.normal(size=44), 1)),
            Batch.of(60, [1, 2], np.array([True, False])),
        ]
    )


def logs(*bodies: bytes) -> LogRecords:
    """Return log records one nanosecond apart."""
    count = len(bodies)
    return LogRecords(np.arange(count, dtype=np.uint32), np.arange(count, dtype=np.int64) + T0, bodies)


def messages(*bodies: bytes, signal: Signal = Signal.TRACES, counts: list[int] | None = None) -> ResourceRecords:
    """Return OTLP messages of one reading each, or so many."""
    count = len(bodies)
    times = np.arange(count, dtype=np.int64) + T0
    return ResourceRecords(signal, np.array(counts or [1] * count, np.int64), times, bodies)


def sealed_messages(records: ResourceRecords) -> bytes:
    """Press and seal."""
    return press_records(records).seal(sequence=7, boot=BootId(3), previous_hash=bytes(range(16)))


int64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9))
rows = st.lists(st.tuples(st.integers(0, 4), int64, int64, st.sampled_from([0, 1, 2, 4, 12])), min_size=1, max_size=40)


@given(rows)
def test_readings_come_back_sorted_and_bit_by_bit(readings: list[tuple[int, int, int, int]]) -> None:
    """In whatever order and with whatever bits they came."""
    dtypes = (np.uint32, np.int64, np.int64, np.uint8)
    batch = Batch(*(np.array(column, dtype) for column, dtype in zip(zip(*readings, strict=True), dtypes, strict=True)))
    data = sealed(batch)
    assert same(decode_metrics(data), batch.sorted())
    header = read_header(data)
    assert (header.readings, header.first_ns, header.last_ns) == (
        len(batch),
        int(batch.time_ns.min()),
        int(batch.time_ns.max()),
    )


def test_what_is_pressed_knows_its_series() -> None:
    """Each number once and in order, of readings and of log records, whatever their order was."""
    batch = Batch.join([Batch.of([9, 3, 9], T0, np.ones(3)), Batch.of([3, 7], T0, np.ones(2, np.int64))])
    assert press_metrics(batch).series.tolist() == [3, 7, 9]
    records = LogRecords(np.array([9, 3, 9], np.uint32), np.full(3, T0), (b"a", b"b", b"c"))
    assert press_logs(records).series.tolist() == [3, 9]


def test_a_large_batch_comes_back() -> None:
    """Long runs and many readings, in the order in which messages bring them."""
    random = np.random.default_rng(1)
    series = np.tile(np.repeat(np.arange(5), 800), 10)
    values = np.round(20 + np.cumsum(random.integers(-3, 4, 40_000)) / 100, 2)
    batch = Batch.of(series, T0 + np.arange(40_000) * 10**6, values)
    assert same(decode_metrics(sealed(batch)), batch.sorted())


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), int64, st.binary(max_size=30)), min_size=1, max_size=30))
def test_log_records_come_back_in_their_order(records: list[tuple[int, int, bytes]]) -> None:
    """Empty ones too."""
    series, times, bodies = zip(*records, strict=True)
    given_records = LogRecords(np.array(series, np.uint32), np.array(times, np.int64), tuple(bodies))
    data = encode_logs(given_records, sequence=1, boot=BootId(1), previous_hash=FIRST_HASH)
    read = decode_logs(data)
    assert read.bodies == given_records.bodies
    assert (read.series.tolist(), read.time_ns.tolist()) == ([*series], [*times])
    assert read_header(data).signal is Signal.LOGS


def test_a_header_says_what_it_was_given() -> None:
    """In numbers, and in a line for people."""
    data = sealed(Batch.of(1, [5, 9], np.array([1, 2])))
    header = read_header(data)
    assert (header.signal, header.sequence, header.boot, header.readings) == (Signal.METRICS, 7, 3, 2)
    assert header.previous_hash == bytes(range(16))
    assert repr(header) == (f"<segment 7: 2 metrics of boot 3, 5 to 9 ns, {len(data)} bytes, after 00010203>")


@given(st.data())
def test_no_damage_passes(data: st.DataObject) -> None:
    """One changed byte, a cut or a rest behind is always seen, and raises nothing but SegmentError."""
    whole = sealed(mixed())
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= data.draw(st.integers(1, 255))
    rest = data.draw(st.binary(min_size=1, max_size=9))
    for damaged in (bytes(flipped), whole[:place], whole + rest):
        with pytest.raises(SegmentError):
            decode_metrics(damaged)
        with pytest.raises(SegmentError):
            check_link(bytes(range(16)), damaged)


@given(st.data())
def test_malice_is_refused_or_harmless(data: st.DataObject) -> None:
    """Columns that were changed and given a right checksum raise SegmentError, or give as many readings."""
    batch = mixed()
    content = bytearray(b"".join(columns.encode(batch.sorted())))
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of the content is values; what steers the decoder stands at the front.
        place = data.draw(st.one_of(st.integers(0, len(content) - 1), st.integers(0, 400)))
        content[place] = data.draw(st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255)))
    with contextlib.suppress(SegmentError):
        assert len(decode_metrics(resealed(sealed(batch), content=bytes(content)))) == len(batch)


@given(st.binary(max_size=200), st.integers(1, READINGS_MAX))
def test_any_columns_are_read_or_refused(content: bytes, readings: int) -> None:
    """Nothing but SegmentError comes out of bytes that never were columns."""
    for whole in (sealed(mixed()), LOGS, MESSAGES):
        with contextlib.suppress(SegmentError):
            assert len(decode(resealed(whole, content=content, readings=readings))) == readings


@given(st.binary(max_size=120))
def test_any_bytes_are_refused(data: bytes) -> None:
    """With or without the magic in front."""
    for bytes_ in (data, b"TGS1" + data, b"TGS1\x01" + data):
        with pytest.raises(SegmentError):
            decode_metrics(bytes_)


@given(
    st.lists(st.tuples(st.integers(1, 9), int64, st.binary(max_size=30)), min_size=1, max_size=30),
    st.sampled_from(Signal),
)
def test_otlp_messages_come_back_as_they_came(records: list[tuple[int, int, bytes]], signal: Signal) -> None:
    """Of all three signals, in their order, with how many readings each holds and when it came."""
    counts, times, bodies = zip(*records, strict=True)
    given_records = ResourceRecords(signal, np.array(counts, np.int64), np.array(times, np.int64), bodies)
    data = sealed_messages(given_records)
    header = read_header(data)
    assert (header.signal, header.form, header.readings) == (signal, Form.MESSAGES, sum(counts))
    assert (header.first_ns, header.last_ns) == (min(times), max(times))
    read = decode(data)
    assert isinstance(read, ResourceRecords)
    assert (read.signal, read.counts.tolist(), read.time_ns.tolist()) == (signal, list(counts), list(times))
    assert read.bodies == bodies


def test_whatever_a_segment_holds_is_read_by_its_header() -> None:
    """Columns as columns."""
    assert isinstance(decode(METRICS), Batch)
    assert isinstance(decode(LOGS), LogRecords)


@given(st.data())
def test_damaged_messages_are_refused(data: st.DataObject) -> None:
    """Whatever is behind a right checksum: SegmentError or messages that add up."""
    whole = sealed_messages(messages(b"one", b"two", b"three"))
    content = bytearray(zstd.decompress(whole[HEADER_BYTES:], bytes_max=1 << 10))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SegmentError):
        assert len(decode_records(resealed(whole, content=bytes(content)))) == 3


def test_another_version_is_named() -> None:
    """A segment from the future says so instead of looking damaged."""
    data = bytearray(sealed(Batch.of(1, [1], np.array([1.0]))))
    data[4] = 3
    with pytest.raises(
        SegmentError, match=f"format version 3, and only {FORMAT_VERSION} and {ORIGIN_VERSION} are known"
    ):
        decode_metrics(bytes(data))


METRICS = sealed(Batch.of(1, [1, 2], np.array([1.0, 2.0])))
LOGS = encode_logs(logs(b"one", b"two"), sequence=1, boot=BootId(1), previous_hash=FIRST_HASH)
MESSAGES = sealed_messages(messages(b"one", b"two"))


@pytest.mark.parametrize(
    ("read", "data", "says"),
    [
        (decode_metrics, METRICS[:50], "at least 68 bytes, this has 50"),
        (decode_metrics, b"XXXX" + METRICS[4:], "not a segment: it begins with b'XXXX'"),
        (decode_metrics, METRICS[:-1], "has .* bytes where its header says"),
        (decode_metrics, resealed(METRICS, signal=2), "signal 2 is not known"),
        (decode_metrics, resealed(METRICS, readings=0), "this says 0"),
        (decode_metrics, resealed(METRICS, readings=READINGS_MAX + 1), "1 to 262144 readings"),
        (decode_metrics, resealed(METRICS, sequence=0), "starts at 1"),
        (decode_metrics, resealed(METRICS, columns_bytes=2**32 - 1), "holds 4294967295 bytes"),
        (decode_metrics, resealed(METRICS, columns_bytes=5), "cannot be decompressed"),
        (decode_metrics, resealed(METRICS, columns_bytes=150), "bytes of columns, not 150"),
        (decode_metrics, LOGS, "holds logs, not metrics"),
        (decode_logs, METRICS, "holds metrics, not logs"),
        (decode_metrics, resealed(METRICS, form=3), "signal 0 is not known here in form 3"),
        (decode_records, METRICS, "holds columns, not messages"),
        (decode_logs, sealed_messages(messages(b"a", signal=Signal.LOGS)), "holds messages, not columns"),
        (decode_records, resealed(MESSAGES, content=b"\x00"), "2 readings cannot stand in 0 messages"),
        (decode_records, resealed(MESSAGES, content=b"\x03"), "2 readings cannot stand in 3 messages"),
        (decode_records, resealed(MESSAGES, content=b"\x02\x01\x02\x00"), "do not hold the 2 readings"),
        (decode_records, resealed(MESSAGES, content=b"\x02\x01\x02\x01"), "do not hold the 2 readings"),
        (decode_records, resealed(MESSAGES, content=b"\x02\x08" + b"\xff" * 16), "do not hold the 2 readings"),
        (
            decode_records,
            resealed(MESSAGES, content=b"\x02\x01\x01\x01\x00\x00\x00\x04" + b"\xff" * 8),
            "more than 16777216 bytes",
        ),
        (decode_logs, resealed(LOGS, content=b"\x00\x01\x01\x00\x01"), "series out of range"),
        (decode_logs, resealed(LOGS, content=bytes(6) + b"\x04" + b"\xff" * 8), "more than 16777216 bytes"),
        (decode_logs, resealed(LOGS, content=bytes(6) + b"\x08" + b"\x80" * 16), "more than 16777216 bytes"),
    ],
)
def test_what_is_wrong_is_said(read: object, data: bytes, says: str) -> None:
    """Each way of being wrong has its sentence."""
    with pytest.raises(SegmentError, match=says):
        read(data)


def test_segments_are_linked_by_their_hashes() -> None:
    """A segment follows the one whose hash it carries, and no other."""
    first = sealed(Batch.of(1, [1], np.array([1.0])), sequence=1, previous_hash=FIRST_HASH)
    second = sealed(Batch.of(1, [2], np.array([2.0])), sequence=2, previous_hash=segment_hash(first))
    check_link(FIRST_HASH, first)
    check_link(segment_hash(first), second)
    with pytest.raises(SegmentError, match="segment 2 follows"):
        check_link(FIRST_HASH, second)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: sealed(Batch.empty()),
        lambda: sealed(Batch.of(1, [1], np.array([1.0])), sequence=0),
        lambda: sealed(Batch.of(1, [1], np.array([1.0])), previous_hash=b"short"),
        lambda: press_records(messages()),
        lambda: press_records(messages(b"a", b"b", counts=[2, 0])),
        lambda: press_records(messages(b"a", counts=[READINGS_MAX + 1])),
        lambda: press_records(messages(bytes(LOG_BYTES_MAX + 1))),
        lambda: encode_logs(logs(), sequence=1, boot=BootId(1), previous_hash=FIRST_HASH),
        lambda: encode_logs(logs(bytes(LOG_BYTES_MAX + 1)), sequence=1, boot=BootId(1), previous_hash=FIRST_HASH),
    ],
)
def test_what_must_never_be_stored_is_our_mistake(wrong: object) -> None:
    """Empty and oversize segments, and those without a place in the chain, trip an assertion."""
    with pytest.raises(AssertionError):
        wrong()


def apart(kind: str, origin: int = 77) -> bytes:
    """Return a segment that tells its origin."""
    place = {"sequence": 7, "boot": BootId(2), "previous_hash": bytes(range(16))}
    if kind == "logs":
        return encode_logs(replace(logs(b"a", b"bb"), origin=origin), **place)
    batch = mixed() if kind == "many" else Batch.of(1, [T0], np.array([20.5]))
    return encode_metrics(replace(batch, origin=origin), **place)


@pytest.mark.parametrize("kind", ["many", "few", "logs"])
@pytest.mark.parametrize("origin", [1, 77, 2**32 - 1])
def test_an_origin_is_told_in_four_bytes(kind: str, origin: int) -> None:
    """All else is as it is without."""
    data, plain = apart(kind, origin), apart(kind, 0)
    assert (read_header(data).origin, read_header(plain).origin) == (origin, 0)
    assert (data[4], plain[4]) == (ORIGIN_VERSION, FORMAT_VERSION)
    assert data[HEADER_BYTES_MAX:] == plain[HEADER_BYTES:]
    assert replace(read_header(data), origin=0, crc32=0) == replace(read_header(plain), crc32=0)
    assert f"{len(data)} bytes" in repr(read_header(data))
    check_link(bytes(range(16)), data)
    if kind == "logs":
        assert decode_logs(data).bodies == (b"a", b"bb")
    else:
        assert same(decode_metrics(data), decode_metrics(plain))


@given(st.data())
def test_no_damage_to_what_tells_its_origin_passes(data: st.DataObject) -> None:
    """Neither in the header nor behind it; a cut one neither."""
    whole = apart("few")
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(damaged), whole[:at], whole + b"x"):
        with pytest.raises(SegmentError):
            decode(wrong)


def test_an_origin_that_is_to_be_told_is_one() -> None:
    """0 is what nobody tells apart, and that has the other version."""
    whole = bytearray(apart("few"))
    whole[HEADER_BYTES - 4 : HEADER_BYTES] = bytes(4)
    with pytest.raises(SegmentError, match="tells none"):
        read_header(bytes(whole))
    with pytest.raises(SegmentError, match="at least 72 bytes"):
        read_header(apart("few")[: HEADER_BYTES + 2])


def test_small_segments_are_small() -> None:
    """A second of a thousand readings stays well under 2,000 bytes, and a decimal reading under 1.2."""
    random = np.random.default_rng(1)
    walk = np.round(20 + np.cumsum(random.choice([-0.01, 0.01], 10_000)), 2)
    assert len(sealed(Batch.of(1, T0 + np.arange(10_000) * 10**9, walk))) < 1.2 * 10_000
    beat = np.tile(T0 + np.arange(20) * 5 * 10**7, 50)
    walks = np.round(20 + np.cumsum(random.integers(-3, 4, (50, 20)), axis=1) / 100, 2)
    assert len(sealed(Batch.of(np.repeat(np.arange(50), 20), beat, walks.ravel()))) < 700
    assert len(sealed(Batch.of(np.arange(1000), T0, np.round(random.normal(20, 3, 1000), 2)))) < 1700
    assert len(sealed(Batch.of(1, [T0], np.array([20.5])))) < HEADER_BYTES + 50


def test_levels_differ_in_size_alone() -> None:
    """A segment says nothing of how hard it was compressed, and need not."""
    batch = mixed()
    assert all(same(decode_metrics(sealed(batch, level=level)), batch.sorted()) for level in (1, 3, 19))


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text()), ids=lambda vector: vector["name"])
def test_segments_of_every_version_are_read(vector: dict[str, object]) -> None:
    """What was written once is read for ever; vectors are added, never changed."""
    data = bytes.fromhex(vector["segment"])
    header = read_header(data)
    assert (header.sequence, header.boot, header.readings) == (
        vector["sequence"],
        vector["boot"],
        vector["readings"],
    )
    assert segment_hash(data).hex() == vector["hash"]
    if header.form is Form.MESSAGES:
        records = decode_records(data)
        assert [body.hex() for body in records.bodies] == vector["bodies"]
        assert [records.counts.tolist(), records.time_ns.tolist()] == [vector["counts"], vector["times"]]
    elif header.signal is Signal.LOGS:
        assert [body.hex() for body in decode_logs(data).bodies] == vector["bodies"]
    else:
        batch = decode_metrics(data)
        assert {name: getattr(batch, name).tolist() for name in COLUMNS} == vector["columns"]


def make_vectors() -> list[dict[str, object]]:
    """Return vectors of this version."""
    random = np.random.default_rng(2)
    volts = np.repeat(random.integers(0, 5, 32), 9)[:257] * 3.3 / 4096
    batches = {
        "one reading": Batch.of(1, [T0], np.array([20.5])),
        "decimals on one beat": Batch.of(
            np.repeat([3, 4], 12), np.tile(T0 + np.arange(12) * 10**9, 2), np.arange(24) / 100 + 20
        ),
        "odd doubles": Batch.of(1, np.arange(5), np.array([np.nan, -0.0, np.inf, 5e-324, 0.1 + 0.2])),
        "a decimal run with a gap": Batch.of(1, np.arange(12), np.array([20.51] * 5 + [np.nan] + [20.5] * 6)),
        "singles": Batch.of(1, np.arange(6), np.float32([20.51, 20.5, 20.25, 1e-30, 7.1e20, -3.3])),
        "decimal singles": Batch.of(1, np.arange(6), np.float32([20.51, 20.5, 20.25, 19.99, 20.01, 20.1])),
        "ends of 64 bits": Batch.of([1, 1, 2], [-(2**63), 2**63 - 1, 0], np.array([2**63 - 1, -(2**63), 5])),
        "booleans and arrival times": Batch.of(9, [5, 5, 6], np.array([True, False, True]), flags=MONOTONIC),
        "ranked volts, divided counts, noise": Batch.join(
            [
                Batch.of(1, np.arange(257), volts),
                Batch.of(2, np.arange(40) ** 2, np.arange(40) * 2500),
                Batch.of(3, np.arange(40), random.integers(1000, 1200, 40)),
            ]
        ),
        "ranked times": Batch.of(np.arange(80), random.choice([17, 10**9 + 3, 2 * 10**9], 80), np.zeros(80, int)),
    }
    made = []
    for sequence, (name, batch) in enumerate(batches.items(), 1):
        data = encode_metrics(batch, sequence=sequence, boot=BootId(2), previous_hash=bytes(range(16)))
        read = decode_metrics(data)
        assert same(read, batch.sorted())
        made.append((name, data, {"columns": {column: getattr(read, column).tolist() for column in COLUMNS}}))
    records = logs(b"one", b"", b"three")
    data = encode_logs(records, sequence=99, boot=BootId(2), previous_hash=bytes(range(16)))
    made.append(("log records", data, {"bodies": [body.hex() for body in records.bodies]}))
    whole = messages(b"one", b"", b"three", counts=[7, 1, 300])
    data = press_records(whole).seal(sequence=100, boot=BootId(2), previous_hash=bytes(range(16)))
    content = {"bodies": [body.hex() for body in whole.bodies], "counts": [7, 1, 300], "times": whole.time_ns.tolist()}
    made.append(("messages of spans", data, content))
    data = apart("few")
    read = decode_metrics(data)
    made.append(("an origin", data, {"columns": {column: getattr(read, column).tolist() for column in COLUMNS}}))
    return [
        {
            "name": f"version {data[4]}: {name}",
            "sequence": read_header(data).sequence,
            "boot": 2,
            "readings": read_header(data).readings,
            "hash": segment_hash(data).hex(),
            "segment": data.hex(),
        }
        | content
        for name, data, content in made
    ]


if __name__ == "__main__":
    kept = json.loads(VECTORS.read_text()) if VECTORS.exists() else []
    known = {vector["name"] for vector in kept}
    kept += [vector for vector in make_vectors() if vector["name"] not in known]
    VECTORS.write_text("[\n" + ",\n".join(json.dumps(vector) for vector in kept) + "\n]\n")


@pytest.mark.parametrize(
    ("ancestors", "says"),
    [
        (Ancestors(bytes(16), bytes(16), 0, 9, 3, 10), "cannot stand for what it says"),
        (Ancestors(bytes(16), bytes(16), 1, 6, 3, 10), "cannot stand for what it says"),
        (Ancestors(bytes(16), bytes(16), 1, 9, 2, 10), "cannot stand for what it says"),
        (Ancestors(bytes(16), bytes(16), 1, 9, 4, 0), "has 3 readings and says that 4 are there"),
    ],
)
def test_what_a_segment_says_of_those_it_stands_for_must_be_possible(ancestors, says) -> None:
    """Else it is no segment of ours."""
    pressed = press_metrics(Batch.of(1, [1, 2, 3], np.arange(3)))
    good = pressed.seal(
        sequence=7, boot=BootId(1), previous_hash=bytes(16), ancestors=Ancestors(bytes(16), bytes(16), 1, 9, 4, 10)
    )
    assert len(decode_metrics(good)) == 3
    assert (read_header(good).step_s, read_header(METRICS).step_s) == (10, 0)
    with pytest.raises(SegmentError, match="at least 128 bytes, this has 100"):
        read_header(good[:100])
    with pytest.raises(SegmentError, match=says):
        read_header(pressed.seal(sequence=7, boot=BootId(1), previous_hash=bytes(16), ancestors=ancestors))
