"""Frames and lines: what is cut from a stream, what is dropped and why, what messages say, what repeats."""

from __future__ import annotations

import itertools
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.codecs import framing
from gateway.codecs.framing import (
    COMMITTED_MAX,
    SESSIONS_MAX,
    Ack,
    Data,
    FrameReader,
    Hello,
    LineReader,
    Nak,
    Plain,
    Sessions,
    Time,
    Verdict,
)
from gateway.core.contracts import MalformedError

ROOT = Path(__file__).parents[2]
VECTORS: dict[str, Any] = json.loads((ROOT / "tests/vectors/framing.json").read_text(encoding="utf-8"))
BYTES_MAX = 4096


def one_by_one(data: bytes) -> list[bytes]:
    """Cut into single bytes."""
    return [data[at : at + 1] for at in range(len(data))]


def read_all(reader: framing.Reader, pieces: list[bytes]) -> tuple[list[bytes], dict[str, int]]:
    """Feed `pieces`; return what came out and what was dropped."""
    return [item for piece in pieces for item in reader.feed(piece)], reader.take_rejected()


def reference_cobs(data: bytes) -> bytes:
    """COBS as the paper tells it, a byte at a time."""
    out, block = bytearray(), bytearray()
    for at, byte in enumerate(data):
        if byte:
            block.append(byte)
        if not byte or (len(block) == 254 and at + 1 < len(data)):
            out += bytes([len(block) + 1]) + block
            block.clear()
    if len(block) == 254:
        return bytes(out + b"\xff" + block)
    return bytes(out + bytes([len(block) + 1]) + block)


# COBS


@pytest.mark.parametrize("vector", VECTORS["cobs"])
def test_cobs_vectors(vector: dict[str, str]) -> None:
    """The published examples and the edges of a full run, both ways."""
    data, encoded = bytes.fromhex(vector["data"]), bytes.fromhex(vector["encoded"])
    assert framing.cobs_encode(data) == encoded
    assert framing.cobs_decode(encoded) == data


@given(st.lists(st.one_of(st.binary(max_size=20), st.integers(0, 520).map(lambda n: b"\x07" * n))).map(b"".join))
@example(b"\x01" * 254)
@example(b"\x01" * 508)
@example(b"\x01" * 254 + b"\0")
def test_cobs_comes_back_and_agrees_with_the_paper(data: bytes) -> None:
    """No zero inside, what the byte-by-byte rule gives, and the same data again."""
    encoded = framing.cobs_encode(data)
    assert 0 not in encoded
    assert len(encoded) <= len(data) + 1 + len(data) // 254
    assert encoded == reference_cobs(data)
    assert framing.cobs_decode(encoded) == data


def test_a_needless_last_code_is_understood() -> None:
    """Some encoders close a full run at the end with a code of 1."""
    assert framing.cobs_decode(b"\xff" + b"a" * 254 + b"\x01") == b"a" * 254


@pytest.mark.parametrize("block", [b"", b"\0", b"\x02a\0", b"\x05ab"])
def test_what_is_no_cobs_is_refused(block: bytes) -> None:
    """Empty, a zero inside, a code past the end."""
    with pytest.raises(MalformedError) as caught:
        framing.cobs_decode(block)
    assert caught.value.reason == "cobs"


@given(st.binary(max_size=600))
def test_any_bytes_decode_or_are_refused_by_reason(block: bytes) -> None:
    """A frame is a body, or one of three reasons; nothing else happens."""
    try:
        body = framing.decode_frame(block)
    except MalformedError as error:
        body, reason = None, error.reason
    if body is None:
        assert reason in {"cobs", "short", "crc"}
    else:
        assert framing.decode_frame(framing.encode_frame(body)[:-1]) == body


# frames


def message_of(vector: dict[str, Any]) -> framing.Message:
    """Build the message that a vector describes."""
    fields = {key: value for key, value in vector.items() if key not in {"kind", "wire"}}
    fields |= {key: bytes.fromhex(fields[key]) for key in ("payload",) if key in fields}
    fields |= {key: fields[key].encode() for key in ("topic",) if key in fields}
    kinds = {"plain": Plain, "data": Data, "ack": Ack, "nak": Nak, "hello": Hello, "time": Time}
    return kinds[vector["kind"]](**fields)


def encode(message: framing.Message) -> bytes:
    """Encode any message."""
    match message:
        case Plain(payload):
            return framing.encode_plain(payload)
        case Data(session, sequence, topic, payload):
            return framing.encode_data(payload, session=session, sequence=sequence, topic=topic)
        case Ack(session, sequence):
            return framing.encode_ack(session, sequence)
        case Nak(session, sequence, after_ms):
            return framing.encode_nak(session, sequence, after_ms=after_ms)
        case Hello(version, session, device_id):
            return framing.encode_hello(session, device_id, version=version)
        case Time(session, unix_ms, quality):
            return framing.encode_time(session, unix_ms=unix_ms, quality=quality)


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["kind"])
def test_message_vectors(vector: dict[str, Any]) -> None:
    """Each message has exactly these bytes on the wire and is read back from them."""
    message, wire = message_of(vector), bytes.fromhex(vector["wire"])
    assert encode(message) == wire
    (body,) = FrameReader(BYTES_MAX).feed(wire)
    assert framing.read_message(body) == message


@pytest.mark.parametrize("vector", VECTORS["rejected"], ids=lambda vector: vector["name"])
def test_damaged_frames_are_dropped_by_reason_and_the_next_is_read(vector: dict[str, str]) -> None:
    """One bad frame costs itself alone."""
    good = framing.encode_plain(b"{}")
    found, rejected = read_all(FrameReader(BYTES_MAX), [good + bytes.fromhex(vector["wire"]) + good])
    assert found == [b"{}", b"{}"]
    assert rejected == {vector["reason"]: 1}


bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


@given(bodies, st.lists(st.integers(0, 400), max_size=6), st.binary(max_size=20))
def test_frames_do_not_depend_on_how_bytes_were_cut(wanted: list[bytes], cuts: list[int], tail: bytes) -> None:
    """Fed whole, in pieces, byte by byte, with trailing bytes: the same bodies and the same counts."""
    wire = b"".join(framing.encode_frame(body) for body in wanted)
    whole = wire + tail.replace(b"\0", b"\x01")
    edges = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    pieces = [whole[start:end] for start, end in itertools.pairwise(edges)]
    expected = read_all(FrameReader(64), [whole])
    assert expected[0] == wanted
    assert read_all(FrameReader(64), pieces) == expected
    assert read_all(FrameReader(64), one_by_one(whole)) == expected


@given(st.binary(max_size=300), bodies, st.integers(8, 64))
def test_after_any_garbage_the_next_frame_is_read(garbage: bytes, wanted: list[bytes], bytes_max: int) -> None:
    """Noise ends at the next 0x00; cut as it may be, the counts agree."""
    fitting = [body for body in wanted if len(framing.encode_frame(body)) - 1 <= bytes_max]
    wire = garbage + b"\0" + b"".join(framing.encode_frame(body) for body in fitting)
    found, rejected = read_all(FrameReader(bytes_max), [wire])
    assert found[len(found) - len(fitting) :] == fitting
    assert read_all(FrameReader(bytes_max), one_by_one(wire)) == (found, rejected)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 10_000))
def test_a_flipped_bit_never_passes(body: bytes, place: int) -> None:
    """What was damaged on the way does not come out as a body of this frame."""
    wire = bytearray(framing.encode_frame(body))
    bit = place % (8 * (len(wire) - 1))
    wire[bit // 8] ^= 1 << bit % 8
    found, rejected = read_all(FrameReader(BYTES_MAX), [bytes(wire)])
    assert found == []
    assert sum(rejected.values()) >= 1


def test_an_overlong_frame_is_dropped_and_counted_once() -> None:
    """Whole or in pieces; memory stays bounded; the next frame is read."""
    long, good = framing.encode_frame(b"x" * 500), framing.encode_frame(b"good")
    wire = good + long + good
    for pieces in ([wire], [long + good], one_by_one(wire), [wire[:3], wire[3:80], wire[80:]]):
        reader = FrameReader(64)
        found, rejected = read_all(reader, pieces)
        assert found[-1] == b"good"
        assert rejected == {"overlong": 1}


def test_a_sender_that_never_ends_its_frame_is_counted_while_it_talks() -> None:
    """The count does not wait for a delimiter that never comes, and nothing is held."""
    reader = FrameReader(64)
    for _ in range(100):
        reader.feed(b"x" * 50)
    assert reader.take_rejected() == {"overlong": 1}
    assert reader.held_bytes == 0


def test_the_longest_frame_passes_and_one_more_byte_does_not() -> None:
    """The bound is what stands between two 0x00."""
    wire = framing.encode_frame(b"x" * 59)
    assert len(wire) == 65
    assert FrameReader(64).feed(wire) == [b"x" * 59]
    assert FrameReader(63).feed(wire) == []


def test_half_a_frame_is_forgotten_when_the_stream_breaks_off() -> None:
    """It is counted, and does not spoil what comes after."""
    reader = FrameReader(64)
    reader.feed(framing.encode_frame(b"lost")[:4])
    assert reader.held_bytes == 4
    reader.abandon()
    assert reader.feed(framing.encode_frame(b"good")) == [b"good"]
    assert reader.take_rejected() == {"cut_off": 1}


def test_nothing_is_counted_when_the_stream_breaks_off_between_frames() -> None:
    """A clean end is no loss."""
    reader = FrameReader(64)
    reader.feed(framing.encode_frame(b"good"))
    reader.abandon()
    assert reader.take_rejected() == {}


def test_empty_frames_are_ignored() -> None:
    """Zeros in front end garbage and mean nothing."""
    assert read_all(FrameReader(64), [b"\0\0" + framing.encode_frame(b"a") + b"\0\0"]) == ([b"a"], {})


def test_the_crc_is_the_common_one() -> None:
    """A body's CRC32 is zlib's, in little-endian order."""
    wire = framing.encode_frame(b"abc")
    assert framing.cobs_decode(wire[:-1]) == b"abc" + zlib.crc32(b"abc").to_bytes(4, "little")


# messages


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "kind"),
        (b"\0", "kind"),
        (b"\x06abc", "kind"),
        (b"\x1f", "kind"),
        (b"\x01\0\0\0\0\0\0", "header"),
        (b"\x01\0\0\0\0\0\0\x05abcd", "header"),
        (b"\x02\0\0\0\0\0", "header"),
        (b"\x02\0\0\0\0\0\0\0", "header"),
        (b"\x03\0\0\0\0\0\0\0", "header"),
        (b"\x04\x01\0\0\0", "header"),
        (b"\x05\0\0\0\0", "header"),
    ],
)
def test_what_is_no_message_is_refused_by_reason(body: bytes, reason: str) -> None:
    """A kind of a later version and a header cut short have their own words."""
    with pytest.raises(MalformedError) as caught:
        framing.read_message(body)
    assert caught.value.reason == reason


@given(st.binary(max_size=40))
def test_any_body_is_a_message_or_refused(body: bytes) -> None:
    """Nothing but MalformedError comes out of a body that is none, and what is one encodes to itself."""
    try:
        message = framing.read_message(body)
    except MalformedError:
        return
    if not isinstance(message, Hello):  # names that are no UTF-8 are replaced, long ones cut
        assert framing.decode_frame(encode(message)[:-1]) == body


def test_the_first_byte_of_cbor_json_and_text_is_plain() -> None:
    """CBOR maps and arrays, JSON and printable text need no header."""
    for first in (*range(0x80, 0xC0), ord("{"), ord("["), ord("2"), ord(" "), 0xFF):
        assert framing.read_message(bytes([first])) == Plain(bytes([first]))


@pytest.mark.parametrize("payload", [b"", b"\x01abc", b"\x1f"])
def test_a_plain_payload_must_not_look_like_a_message(payload: bytes) -> None:
    """Refused on the sender's side."""
    with pytest.raises(ValueError, match="plain payload begins"):
        framing.encode_plain(payload)


def test_senders_refuse_what_does_not_fit() -> None:
    """Topics and names have bounds; a long wait is cut to what fits."""
    with pytest.raises(ValueError, match="at most 255 bytes, got 256"):
        framing.encode_data(b"", session=1, sequence=1, topic=b"t" * 256)
    with pytest.raises(ValueError, match="at most 64 bytes, got 65"):
        framing.encode_hello(1, "n" * 65)
    (body,) = FrameReader(64).feed(framing.encode_nak(1, 2, after_ms=10**9))
    assert framing.read_message(body) == Nak(1, 2, 65_535)


def test_an_odd_device_id_is_shown_as_it_can_be() -> None:
    """Bytes that are no UTF-8 are replaced, more than 64 are cut."""
    assert framing.read_message(b"\x04\x01\0\0\0\0\xffx") == Hello(1, 0, "\N{REPLACEMENT CHARACTER}x")
    assert framing.read_message(b"\x04\x01\0\0\0\0" + b"n" * 99) == Hello(1, 0, "n" * 64)


# lines


@given(st.lists(st.binary(max_size=12)), st.integers(1, 8))
def test_lines_do_not_depend_on_how_bytes_were_cut(chunks: list[bytes], line_bytes_max: int) -> None:
    """Fed whole, in pieces, or one byte at a time: the same lines, the same counts."""
    whole = b"".join(chunks)
    pieces = [line for line in whole.split(b"\n")[:-1] if len(line) <= line_bytes_max]
    expected = [line for piece in pieces if (line := piece.removesuffix(b"\r"))]
    found = read_all(LineReader(line_bytes_max), [whole])
    assert found[0] == expected
    assert read_all(LineReader(line_bytes_max), chunks) == found
    assert read_all(LineReader(line_bytes_max), one_by_one(whole)) == found


def test_lines_end_in_lf_or_crlf_wherever_the_cut_falls() -> None:
    """A CR that came with the buffer before belongs to its LF; empty lines mean nothing."""
    assert LineReader(80).feed(b"a\r\nb\n\r\n\nc\r\n") == [b"a", b"b", b"c"]
    assert read_all(LineReader(80), [b"one\r", b"\ntwo\n"]) == ([b"one", b"two"], {})


def test_a_long_line_is_dropped_and_counted() -> None:
    """The next one is read; an unfinished one is counted when the stream breaks off."""
    reader = LineReader(4)
    assert reader.feed(b"12345\n1234\n12345678") == [b"1234"]
    assert reader.take_rejected() == {"overlong": 2}
    assert reader.feed(b"9\nab") == []
    assert reader.held_bytes == 2
    reader.abandon()
    assert reader.take_rejected() == {"cut_off": 1}


@pytest.mark.parametrize("data", [b"625\n20.5\n", b"\n20.5\n"])
def test_a_line_that_began_unheard_is_dropped_to_its_end(data: bytes) -> None:
    """However it comes; an end alone is nothing."""
    for chunks in ([data], one_by_one(data)):
        reader = LineReader(80)
        reader.join_late()
        found, rejected = read_all(reader, chunks)
        assert found == [b"20.5"]
        assert rejected == ({} if data.startswith(b"\n") else {"cut_off": 1})


def test_who_joined_late_and_heard_no_end_begins_anew() -> None:
    """What breaks off is counted once, and the next stream is not late."""
    reader = LineReader(80)
    reader.join_late()
    assert reader.feed(b"12") == []
    reader.abandon()
    assert reader.take_rejected() == {"cut_off": 1}
    assert reader.feed(b"3\n") == [b"3"]


@pytest.mark.parametrize(("make", "wire"), [(FrameReader, framing.encode_frame(b"whole")), (LineReader, b"whole\n")])
def test_another_reader_goes_on_where_one_has_stopped(make, wire) -> None:
    """What the first one held comes whole, and is no loss."""
    first, second = make(64), make(64)
    first.feed(wire[:3])
    second.feed(first.take_held())
    assert second.feed(wire[3:]) == [b"whole"]
    first.abandon()
    assert first.take_rejected() == second.take_rejected() == {}


# what is taken twice


def test_a_frame_is_new_then_pending_then_committed() -> None:
    """Sent again while it is being written nothing is said; later it is acknowledged again."""
    sessions = Sessions()
    assert sessions.judge(7, 1) is Verdict.NEW
    assert sessions.judge(7, 1) is Verdict.PENDING
    sessions.commit(7, 1)
    assert sessions.judge(7, 1) is Verdict.COMMITTED
    assert sessions.judge(8, 1) is Verdict.NEW


def test_a_frame_that_was_not_kept_is_new_again() -> None:
    """After a NAK the device offers it again."""
    sessions = Sessions()
    sessions.judge(7, 1)
    sessions.release(7, 1)
    assert sessions.judge(7, 1) is Verdict.NEW


def test_only_the_newest_sequences_are_remembered() -> None:
    """Bounded, so that a sequence number may come round again."""
    sessions = Sessions()
    for sequence in range(COMMITTED_MAX + 1):
        sessions.judge(7, sequence)
        sessions.commit(7, sequence)
    assert sessions.judge(7, 0) is Verdict.NEW
    assert sessions.judge(7, 1) is Verdict.COMMITTED


def test_only_the_sessions_heard_last_are_remembered() -> None:
    """One that speaks stays; the one that was silent longest goes, and its late commit does no harm."""
    sessions = Sessions()
    sessions.judge(0, 1)
    for session in range(1, SESSIONS_MAX + 1):
        sessions.judge(1, 1)
        sessions.judge(session, 1)
    assert len(sessions) == SESSIONS_MAX
    sessions.commit(0, 1)
    sessions.release(0, 1)
    assert sessions.judge(1, 1) is Verdict.PENDING
    assert sessions.judge(0, 1) is Verdict.NEW


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from(["judge", "commit", "release"]))))
def test_sessions_agree_with_two_sets(actions: list[tuple[int, int, str]]) -> None:
    """While nothing is forgotten, the window is a set of what is pending and one of what is committed."""
    sessions, pending, committed = Sessions(), set(), set()
    for session, sequence, action in actions:
        key = (session, sequence)
        if action == "judge":
            wanted = Verdict.COMMITTED if key in committed else Verdict.PENDING if key in pending else Verdict.NEW
            assert sessions.judge(*key) is wanted
            if wanted is Verdict.NEW:
                pending.add(key)
        elif key in pending:
            pending.discard(key)
            getattr(sessions, action)(*key)
            if action == "commit":
                committed.add(key)


def test_the_manual_shows_the_table_of_the_module() -> None:
    """docs/SERIAL_PROTOCOL.md and the docstring say the same."""
    page = (ROOT / "docs/SERIAL_PROTOCOL.md").read_text(encoding="utf-8")
    table = [line for line in (framing.__doc__ or "").splitlines() if line.startswith("|")]
    assert len(table) == 8
    assert "\n".join(table) in page
